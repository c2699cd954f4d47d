"""Where the seconds of a run went; kept as `timings.json` in the study directory."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from digitrec.store.folder import Folder

NAME = "timings.json"


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock seconds of the parts of a run; parts may overlap."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start

    def write(self, study: Folder) -> None:
        """Write `timings.json` in the study directory."""
        parts = {name: round(seconds, 3) for name, seconds in self.parts.items()}
        study.write(NAME, (json.dumps({"parts": parts}, indent=2) + "\n").encode())


def read_timings(study: Folder) -> dict[str, float]:
    """Return the seconds of the parts of the last run; none where they are not kept."""
    try:
        parts = study.read_json(NAME)["parts"]
        return {str(name): float(seconds) for name, seconds in parts.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}
