"""The durations of the parts of a run, kept as `timings.json` in the study directory."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from digitrec.errors import DamagedError
from digitrec.store.folder import Folder

NAME = "timings.json"


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock seconds of the parts of a run, which may overlap."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the duration of the block to that of a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start

    def write(self, directory: Folder) -> None:
        """Write `timings.json` in the study directory."""
        parts = {name: round(seconds, 3) for name, seconds in self.parts.items()}
        directory.write(NAME, (json.dumps({"parts": parts}, indent=2) + "\n").encode())


def read_timings(directory: Folder) -> dict[str, float]:
    """Return the seconds of the parts of the last run; empty if they are missing or damaged."""
    try:
        values = directory.read_json(NAME)
    except (FileNotFoundError, DamagedError):
        return {}
    try:
        return {str(name): float(seconds) for name, seconds in values["parts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
