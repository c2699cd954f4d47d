"""The error that a person can mend."""


class InputError(ValueError):
    """The command or its input is wrong; the message says what, where, and what would be right."""
