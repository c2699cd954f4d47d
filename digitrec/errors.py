"""The error that a person can mend, and what is said of a Ctrl-C."""

STOPPED = "digitrec: stopped. The same command goes on."


class InputError(ValueError):
    """The command or its input is wrong; the message says what, where, and what would be right."""
