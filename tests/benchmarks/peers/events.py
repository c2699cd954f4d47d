"""What a search found when: a line per epoch (or per finished stack), in a file per process."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.peers.points import Point


class Event(NamedTuple):
    """A trial's accuracy after an epoch."""

    seconds: float  # since the search's command was started
    trial: str
    point: Point
    epoch: int  # from 1
    accuracy: float  # of the validation images, fraction; 0: it diverged


class EventLog:
    """Appends a process's events to a file of its own, so that a killed search keeps them.

    Args:
        folder: where the files of all processes lie.
        name: of this process's file.
        begun: when the search's command was started, in Unix seconds.
    """

    def __init__(self, folder: Path, name: str, begun: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{name}.jsonl"
        self._begun = begun

    def add(self, trial: str, point: Point, epoch: int, accuracy: float) -> None:
        """Write an event that happened now."""
        values = [time.time() - self._begun, trial, point.to_json(), epoch, accuracy]
        with self._file.open("a") as file:
            file.write(json.dumps(values) + "\n")


def read_events(folder: Path) -> list[Event]:
    """Return the events of all processes in the order of their times."""
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    events = (_event(json.loads(line)) for line in lines)
    return sorted(events, key=lambda event: event.seconds)


def _event(values: list[Any]) -> Event:
    seconds, trial, point, epoch, accuracy = values
    return Event(seconds, trial, Point.of(point), epoch, accuracy)


def incumbent(events: Iterable[Event], seconds: float) -> Event | None:
    """Return the most accurate event up to a time; the earliest of equal ones."""
    seen = [event for event in events if event.seconds <= seconds]
    return max(seen, key=lambda event: (event.accuracy, -event.seconds), default=None)


def reached(events: Iterable[Event], accuracy: float) -> float | None:
    """Return when a search first saw an accuracy; None: never."""
    return min((event.seconds for event in events if event.accuracy >= accuracy), default=None)


def epochs_trained(events: Iterable[Event], seconds: float) -> int:
    """Return the epochs that all trials have trained up to a time."""
    furthest: dict[str, int] = {}
    for event in events:
        if event.seconds <= seconds:
            furthest[event.trial] = max(furthest.get(event.trial, 0), event.epoch)
    return sum(furthest.values())
