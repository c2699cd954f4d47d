"""The figures of the report, a noun per file.

Each file has `summarise_*`, which makes the table of everything that a figure shows, `draw_*`,
which draws this table, `describe_*`, which says it in words and numbers for those who cannot see
it, the title and the caption, and `make_*`, which puts them together or says why there is nothing
to draw.

Everywhere, `winner` is the name of a trial, or None where there is no winner, and `encoding` is
that of all configurations of the study.
"""
