"""The errors that digitrec raises itself, exit codes, and the message that follows a Ctrl-C."""

COMPLETE, UNFINISHED, WRONG_INPUT = 0, 1, 2  # exit codes

STOPPED = "digitrec: stopped."


class InputError(ValueError):
    """The command or its input is wrong; the message says what, where, and what is accepted."""


class DamagedError(Exception):
    """A file does not hold what it should; the message says why.

    Not a ValueError, and no InputError is one: whoever expects damage does not catch the latter.
    """


def visible(text: str, kept: str = "") -> str:
    r"""Return text with an escape, such as \x1b, for every character that does not show.

    The name of a file may hold control characters that a terminal would obey.

    Args:
        text: any.
        kept: characters that stay as they are.
    """
    return "".join(
        each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text
    )
