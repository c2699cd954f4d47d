"""Points of the search space: the grid over lists of values."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from digitrec.errors import InputError
from digitrec.space.hyperparameters import Configuration, Trial

Value = TypeVar("Value", int, float)

MOST_TRIALS = 10_000  # of a study: 10 GB of weights, and minutes to draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A grid: every learning rate with every batch size with every seed.

    Raises:
        InputError: a list is empty, holds a value twice, or a value out of its range.
    """

    lrs: tuple[float, ...] = (0.001, 0.01, 0.1, 0.5, 1.0)
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_count(len(self))
        _check_values("learning rate", self.lrs, "a finite number above 0", _is_rate)
        _check_values("batch size", self.batch_sizes, "a whole number above 0", _is_positive)
        _check_values("seed", self.seeds, "a whole number from 0 to 2**32 - 1", _is_seed)

    def __len__(self) -> int:
        return len(self.lrs) * len(self.batch_sizes) * len(self.seeds)

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials of the grid, the first hyperparameter slowest, the seed fastest."""
        points = itertools.product(self.lrs, self.batch_sizes)
        configurations = [Configuration(lr=lr, batch_size=size) for lr, size in points]
        return tuple(Trial(each, seed) for each in configurations for seed in self.seeds)


def check_count(trials: int) -> None:
    """Check that a study can have so many trials.

    Raises:
        InputError: they are more than MOST_TRIALS.
    """
    if trials > MOST_TRIALS:
        raise InputError(
            f"{trials:,} trials are more than the {MOST_TRIALS:,} that a study can have"
        )


def _is_rate(lr: float) -> bool:
    return math.isfinite(lr) and lr > 0


def _is_positive(size: int) -> bool:
    return size >= 1


def _is_seed(seed: int) -> bool:
    return 0 <= seed < 2**32


def _check_values(
    noun: str, values: Sequence[Value], what: str, is_right: Callable[[Value], bool]
) -> None:
    if not values:
        raise InputError(f"no {noun} is given; at least one is needed")
    for value in values:
        if not is_right(value):
            raise InputError(f"{noun} {value!r} is not {what}")
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise InputError(f"{noun} {twice[0]!r} is given more than once")
