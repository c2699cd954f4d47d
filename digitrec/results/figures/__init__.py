"""The figures of the report, a noun per file.

Each file has `summarise_*`, which makes the table of everything that a figure shows, `draw_*`,
which draws it, `describe_*`, which says it in words and numbers for those who cannot see it, the
title and the caption, and `make_*`, which puts them together.
"""
