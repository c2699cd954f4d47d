"""digitrec's race and its variants: their commands, and what their study directories tell.

digitrec has no time budget: a race has as many points as fit the time, by the rate at which it
trains on this machine (`Rate`). What a person has who stops it is what finished stacks have
written, so an event is the end of a stack.
"""

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration
from digitrec.store.folder import Folder
from digitrec.store.spec import read_spec
from digitrec.store.stacks import read_stacks
from tests.benchmarks.peers.events import Event
from tests.benchmarks.peers.points import MOST_EPOCHS, Point, tune_options

RUNGS = {  # variant -> rungs and halving
    "race": ((3, 9, 27), 3),
    "race from 1 epoch": ((1, 3, 9, 27), 3),
    "race, stacks of one": ((3, 9, 27), 3),
    "one epoch, then the best": ((1, 27), 9),
    "no race": ((27,), 3),
}
AUDIT = 4
ALIKE = 1.5  # the most that a cut keeps, relative to one in `halve`


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast digitrec trains on a machine."""

    start: float  # seconds before the first stack begins and after the last one ends
    epochs: float  # of trials, per second, all workers together


def points_for(seconds: float, rungs: Sequence[int], halve: int, audit: int, rate: Rate) -> int:
    """Return the number of points whose race ends within a time, whatever its cuts keep."""
    fits = (seconds - rate.start) * rate.epochs
    points = 1
    while epochs_of(points + 1, rungs, halve, audit) <= fits:
        points += 1
    return points


def epochs_of(points: int, rungs: Sequence[int], halve: int, audit: int) -> float:
    """Return the most epochs that the trials of a race need in all."""
    share = min(1.0, ALIKE / halve)
    alive, epochs = float(points), float(points * rungs[0])
    for before, rung in itertools.pairwise(rungs):
        alive *= share
        epochs += (alive + audit) * (rung - before)
    return epochs


def command_of(
    variant: str, data: Path, out: Path, seed: int, points: int, *, augmentation: bool
) -> list[str]:
    """Return the command line of a variant."""
    rungs, halve = RUNGS[variant]
    race = ["--race", "--rungs", ",".join(map(str, rungs)), "--halve", str(halve)]
    audit = ["--audit", str(audit_of(variant))]
    return [
        *(sys.executable, "-m", "digitrec", "tune", "--data", str(data), "--out", str(out)),
        *tune_options(augmentation=augmentation),
        *("--points", str(points), "--search-seed", str(seed), "--epochs", str(MOST_EPOCHS)),
        *([*race, *audit] if len(rungs) > 1 else []),
        *(["--stack-size", "1"] if variant.endswith("stacks of one") else []),
    ]


def audit_of(variant: str) -> int:
    """Return the audit's size: none where the points of one rung are all that is compared."""
    return AUDIT if variant.startswith("race") else 0


def read_study(out: Path, begun: float) -> list[Event]:
    """Return what finished stacks wrote, in the order of their ends."""
    folder = Folder.at(out)
    results, _ = read_stacks(folder, read_spec(folder).key)
    events = [
        Event(
            result.run.ended - begun,
            member.name,
            point_of(member.configuration),
            len(result.epochs),
            0.0 if math.isnan(record.val_accuracy) else record.val_accuracy,
        )
        for result in results
        for member, record in zip(result.stack.members, result.epochs[-1], strict=True)
    ]
    return sorted(events, key=lambda event: event.seconds)


def point_of(configuration: Configuration) -> Point:
    """Return a configuration as a point of the shared space."""
    values = {name: getattr(configuration, name) for name in HYPERPARAMETERS}
    return Point.of(values | {"hidden_sizes": "-".join(map(str, configuration.hidden_sizes))})
