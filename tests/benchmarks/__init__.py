"""Benchmarks of digitrec against other programs; see `bench.py`, which runs all of them."""
