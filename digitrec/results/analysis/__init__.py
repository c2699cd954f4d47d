"""Ranking, statistics, evidence and the verdict."""
