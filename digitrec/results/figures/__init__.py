"""The report's figures, a noun per file.

Each takes the steps of `plots.py`: `summarise_*` makes the frame that holds all that will be seen,
`draw_*` draws it, and `describe_*` says it in words and numbers, for those who cannot see it.
"""
