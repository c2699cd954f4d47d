"""The errors that digitrec raises, the exit codes, and the message after a Ctrl-C."""

COMPLETE, UNFINISHED, WRONG_INPUT = 0, 1, 2  # exit codes

STOPPED = "digitrec: stopped."


class InputError(ValueError):
    """The command or its input is wrong; the message names the fault, its place and valid input."""


class DamagedError(Exception):
    """A file is damaged; the message says how.

    Not related to InputError, so that code that handles damage does not catch wrong input.
    """


def visible(text: str, kept: str = "") -> str:
    r"""Return text with an escape, such as \x1b, for every non-printable character.

    The name of a file may contain control characters, which a terminal would execute. Characters
    in `kept` stay.
    """
    return "".join(
        each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text
    )
