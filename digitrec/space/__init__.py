"""Hyperparameters, points and stacks; standard library only."""
