"""digitrec's race and its variants: their commands, and what their study directories tell.

digitrec has no time budget: a race has as many points as fit the time, by the rate at which it
trains on this machine (`Rate`). What a person has who stops it is what finished stacks have
written, so an event is the end of a stack. There is no audit, since no peer has one.
"""

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from digitrec.data.digits import read_digits
from digitrec.space.hyperparameters import HYPERPARAMETERS, Trial
from digitrec.store.folder import Folder
from digitrec.store.spec import read_spec
from digitrec.store.stacks import read_stacks
from digitrec.winner.classifier import load_classifier
from tests.benchmarks.peers.events import Event
from tests.benchmarks.peers.points import (
    AUGMENTATIONS,
    BATCH_SIZES,
    HIDDEN,
    Point,
    tune_options,
)

RUNGS = {  # variant -> rungs and halving
    "race": ((3, 9, 27), 3),
    "race in bfloat16": ((3, 9, 27), 3),
    "race with TPE": ((3, 9, 27), 3),
    "race with cooldown": ((3, 9, 20), 3),
    "race with cooldown in bfloat16": ((3, 9, 20), 3),
    "race from 1 epoch": ((1, 3, 9, 27), 3),
    "race to 9 epochs": ((1, 3, 9), 3),
    "race without stacks": ((3, 9, 27), 3),
    "best after one epoch": ((1, 27), 9),
    "no race": ((27,), 3),
}
OPTIONS = {  # variant -> more options
    "race in bfloat16": ["--precision", "bf16"],
    "race with TPE": ["--sampler", "tpe"],
    "race with cooldown": ["--cooldown", "7", "--average", "3"],
    "race with cooldown in bfloat16": ["--cooldown", "7", "--average", "3", "--precision", "bf16"],
    "race without stacks": ["--stack-size", "1"],
}


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast digitrec trains on a machine."""

    start: float  # seconds before the first stack begins and after the last one ends
    epochs: float  # of trials, per second, all workers together


def points_for(
    seconds: float, rungs: Sequence[int], halve: int, rate: Rate, *, augmentation: bool
) -> int:
    """Return the number of points whose race ends within a time, whatever its cuts keep."""
    fits = (seconds - rate.start) * rate.epochs
    groups = len(BATCH_SIZES) * len(HIDDEN) * (len(AUGMENTATIONS) if augmentation else 1)
    points = 1
    while epochs_of(points + 1, rungs, halve, groups) <= fits:
        points += 1
    return points


def epochs_of(points: int, rungs: Sequence[int], halve: int, groups: int) -> int:
    """Return the most epochs that the trials of a race need in all.

    Args:
        points: of the race.
        rungs: of the race.
        halve: one in so many is kept, and half as many again if they cannot be told apart.
        groups: the first cut is made within so many groups of points, equally large but for one.
    """
    alive, epochs = points, points * rungs[0]
    sizes = [points // groups + (place < points % groups) for place in range(groups)]
    for before, rung in itertools.pairwise(rungs):
        alive = sum(most_kept(size, halve) for size in sizes)
        epochs += alive * (rung - before)
        sizes = [alive]
    return epochs


def most_kept(trials: int, halve: int) -> int:
    """Return the most trials that a cut keeps."""
    places = math.ceil(trials / halve)
    return min(trials, places + places // 2)


def command_of(
    variant: str, data: Path, out: Path, seed: int, points: int, *, augmentation: bool
) -> list[str]:
    """Return the command line of a variant."""
    rungs, halve = RUNGS[variant]
    race = ["--race", "--rungs", ",".join(map(str, rungs)), "--halve", str(halve), "--audit", "0"]
    return [
        *(sys.executable, "-m", "digitrec", "tune", "--data", str(data), "--out", str(out)),
        *tune_options(augmentation=augmentation),
        *("--points", str(points), "--search-seed", str(seed), "--epochs", str(rungs[-1])),
        *(race if len(rungs) > 1 else []),
        *OPTIONS.get(variant, []),
    ]


def read_study(out: Path, begun: float) -> list[Event]:
    """Return what finished stacks wrote, in the order of their ends."""
    folder = Folder.at(out)
    results, _ = read_stacks(folder, read_spec(folder).key)
    events = [
        Event(
            result.run.ended - begun,
            member.before_cooldown.name,
            point_of(member),
            len(result.epochs),
            0.0 if math.isnan(record.val_accuracy) else record.val_accuracy,
        )
        for result in results
        for member, record in zip(result.stack.members, result.epochs[-1], strict=True)
    ]
    return sorted(events, key=lambda event: event.seconds)


def point_of(trial: Trial) -> Point:
    """Return a trial's configuration and cooldown as a point of the shared space."""
    configuration = trial.configuration
    values = {name: getattr(configuration, name) for name in HYPERPARAMETERS}
    hidden = "-".join(map(str, configuration.hidden_sizes))
    return Point.of(values | {"hidden_sizes": hidden, "cooldown": trial.cooldown})


def delivered(out: Path, unseen: Path) -> float:
    """Return the accuracy of the model, or average of models, that a study saved, on other rows."""
    digits = read_digits(str(unseen))
    return float(load_classifier(out / "best").score(digits.images, digits.labels))
