"""How fast digitrec is, and against what; see `bench.py`, which runs everything here."""
