"""What a rule of the verdict returns."""

import shlex
from ast import literal_eval
from dataclasses import dataclass
from typing import Any, Literal

from digitrec.request import default_of, option_name, options_of_request

Level = Literal["good", "note", "caution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the study shows."""

    rule: str
    """A short identifier."""
    level: Level
    sentence: str
    """Plain text: what was found and what follows from it."""
    evidence: str
    """The numbers behind it, in one line."""
    command: str | None = None
    """The complete command to run next; None: there is none."""

    @property
    def call(self) -> str | None:
        """The command as a call in Python; None: there is none."""
        return None if self.command is None else as_call(self.command)


def as_call(command: str) -> str:
    """Return the Python call that does what a `digitrec tune` command does.

    Args:
        command: as from `next_command.tune_command`, with the data first.
    """
    _, _, *words = shlex.split(command)
    flags = {option_name(name) for name in options_of_request() if default_of(name) is False}
    arguments = []
    while words:
        option = words.pop(0)
        value = "True" if option in flags else _as_literal(words.pop(0))
        name = option.removeprefix("--").replace("-", "_")
        arguments.append(value if name == "data" else f"{name}={value}")
    return f"digitrec.tune({', '.join(arguments)})"


def _as_literal(text: str) -> str:
    """Return Python that stands for the value of an option: numbers as such, else text."""
    try:
        value: Any = literal_eval(text)
    except (ValueError, SyntaxError):
        return repr(text)
    if isinstance(value, tuple):
        return repr(list(value))
    return repr(value) if isinstance(value, int | float) else repr(text)
