"""Where the seconds of a run went; kept as `timings.json` in the study directory."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from digitrec.results.stacks import write_atomically


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

    def write(self, directory: Path) -> None:
        """Write `timings.json` in the study directory."""
        parts = {name: round(seconds, 3) for name, seconds in self.parts.items()}
        text = json.dumps({"parts": parts}, indent=2) + "\n"
        write_atomically(directory / "timings.json", text.encode())
