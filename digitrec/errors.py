"""Errors that a person can mend, exit codes, and what is said about a Ctrl-C."""

COMPLETE, UNFINISHED, WRONG_INPUT = 0, 1, 2  # exit codes

STOPPED = "digitrec: stopped."


class InputError(ValueError):
    """The command or its input is wrong; the message says what, where, and what would be right."""
