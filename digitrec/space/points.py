"""Points of the search space: the grid over lists of values."""

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from digitrec.errors import InputError
from digitrec.space.hyperparameters import (
    HYPERPARAMETERS,
    SEEDS,
    Configuration,
    Hyperparameter,
    Trial,
    is_seed,
)

DEFAULT_SEEDS = (0,)

# JSON knows no tuples, and Python users write 1 for 1.0: names of trials tell these apart.
_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    float: float,
    int: operator.index,
    tuple: tuple,
}

MOST_TRIALS = 10_000  # of a study: 10 GB of weights, and minutes to draw


@dataclass(frozen=True, slots=True)
class Space:
    """A grid: every combination of the hyperparameters' values, with every seed.

    A value that has no effect in a combination gives way to its default there, and combinations
    that thus become equal are one: `sgd` and `adamw` with momentum 0.9 are two configurations, and
    only `sgd` has momentum.

    Raises:
        InputError: a hyperparameter is unknown; a list is empty, holds a value twice, or holds a
            value that its hyperparameter does not accept, or that has no effect in any trial; or
            the trials are too many.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Hyperparameter -> the values to search; one that is missing gets its default values."""
    seeds: Sequence[int] = DEFAULT_SEEDS

    def __post_init__(self) -> None:
        unknown = [name for name in self.values if name not in HYPERPARAMETERS]
        if unknown:
            known = ", ".join(HYPERPARAMETERS)
            raise InputError(f"{unknown[0]!r} is not a hyperparameter; there are {known}")
        values = {
            name: _read(each, self.values.get(name, each.values))
            for name, each in HYPERPARAMETERS.items()
        }
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "seeds", _read_list("seed", self.seeds, SEEDS, is_seed, int))
        check_count(math.prod(map(len, values.values())) * len(self.seeds))
        self._check_effects()

    @classmethod
    def of(cls, *, seeds: Sequence[int] = DEFAULT_SEEDS, **values: Sequence[Any]) -> "Space":
        """Return the space of these values: `Space.of(lr=(0.1, 0.5), batch_size=(32,))`."""
        return cls(values, seeds)

    @classmethod
    def from_json(cls, lists: Mapping[str, Sequence[Any]]) -> "Space":
        """Return the space that `to_json` wrote.

        Raises:
            InputError: it is not a space; see the class.
            KeyError: there are no seeds.
        """
        values = {name: each for name, each in lists.items() if name != "seed"}
        return cls(values, lists["seed"])

    def to_json(self) -> dict[str, list[Any]]:
        """Return the values by hyperparameter, then the seeds.

        A hyperparameter at its only default is left out, so the file of a study does not change
        when digitrec learns another hyperparameter.
        """
        lists = {
            name: list(values)
            for name, values in self.values.items()
            if not (HYPERPARAMETERS[name].has_default and values == HYPERPARAMETERS[name].values)
        }
        return lists | {"seed": list(self.seeds)}

    def __len__(self) -> int:
        return len(self.configurations()) * len(self.seeds)

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials of the grid, the first hyperparameter slowest, the seed fastest."""
        return tuple(Trial(each, seed) for each in self.configurations() for seed in self.seeds)

    def configurations(self) -> tuple[Configuration, ...]:
        """Return the configurations of the grid, the first hyperparameter slowest."""
        points = itertools.product(*self.values.values())
        configurations = (
            Configuration(**dict(zip(self.values, point, strict=True))).with_effect()
            for point in points
        )
        return tuple(dict.fromkeys(configurations))

    def _check_effects(self) -> None:
        for name, each in HYPERPARAMETERS.items():
            if each.needs is None or self.values[name] == each.values:
                continue
            used = {getattr(configuration, name) for configuration in self.configurations()}
            for value in self.values[name]:
                if value not in used and value != each.values[0]:
                    raise InputError(
                        f"{each.label} {each.write(value)} has no effect in any trial: "
                        f"it needs {each.needs}"
                    )


def check_count(trials: int) -> None:
    """Check that a study can have so many trials.

    Raises:
        InputError: they are more than MOST_TRIALS.
    """
    if trials > MOST_TRIALS:
        raise InputError(
            f"{trials:,} trials are more than the {MOST_TRIALS:,} that a study can have"
        )


def _read(each: Hyperparameter, values: Sequence[Any]) -> tuple[Any, ...]:
    return _read_list(each.label, values, each.accepts, each.is_right, type(each.values[0]))


def _read_list(
    label: str, values: Sequence[Any], accepts: str, is_right: Callable[[Any], bool], kind: type
) -> tuple[Any, ...]:
    """Return the values of one hyperparameter, or the seeds, checked and in their type."""
    if not values:
        raise InputError(f"no {label} is given; at least one is needed")
    read: dict[Any, None] = {}  # a set that keeps the order
    for value in values:
        try:
            converted = _CONVERSIONS[kind](value) if kind in _CONVERSIONS else value
            right = is_right(converted)
        except (TypeError, ValueError, OverflowError):
            right = False
        if not right:
            raise InputError(f"{label} {value!r} is not {accepts}")
        if converted in read:
            raise InputError(f"{label} {value!r} is given more than once")
        read[converted] = None
    return tuple(read)
