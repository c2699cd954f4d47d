"""What a rule of the verdict returns."""

from dataclasses import dataclass
from typing import Literal

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
