"""Points of the search space: the grid over lists of values, or points drawn from the space."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from digitrec.errors import InputError
from digitrec.space.hyperparameters import (
    HYPERPARAMETERS,
    SEEDS,
    Configuration,
    Hyperparameter,
    Trial,
    is_seed,
)
from digitrec.space.quasi_random import draw, grid
from digitrec.space.ranges import Range
from digitrec.space.tpe import GENERATION, suggest

Sampler = Literal["quasi-random", "tpe"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

DEFAULT_SEEDS = (0,)

# JSON knows no tuples, and Python users write 1 for 1.0: names of trials tell these apart.
_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    float: float,
    int: operator.index,
    tuple: tuple,
}

NO_HYPERPARAMETERS = ("seed", "points", "search_seed", "sampler", "suggested")  # keys in files
MOST_TRIALS = 10_000  # of a study: 10 GB of weights, and minutes to draw
DEFAULT_SEARCH_SEED = 0
DEFAULT_SAMPLER: Sampler = "quasi-random"


@dataclass(frozen=True, slots=True)
class Space:
    """The values to search of every hyperparameter, and the points of it to train.

    Without `points`, these are a grid: every combination of the values, with every seed. With
    `points`, so many configurations are drawn, evenly spread, each with every seed. The sampler
    `tpe` draws one generation of them so; the others are suggested from results, a generation at a
    time, and only those that are suggested already are points.

    A value that has no effect in a combination gives way to its default there, and combinations
    that thus become equal are one: `sgd` and `adamw` with momentum 0.9 are two configurations, and
    only `sgd` has momentum.

    Raises:
        InputError: a hyperparameter is unknown; a list is empty, holds a value twice, or holds a
            value that its hyperparameter does not accept, or that has no effect in any trial; a
            range has no `points` or its hyperparameter takes none; the space has fewer points than
            asked for; or the trials are too many.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Hyperparameter -> the values and ranges to search; a missing one gets its default values."""
    seeds: Sequence[int] = DEFAULT_SEEDS
    points: int | None = None  # the number of configurations to draw; None: the grid
    search_seed: int = DEFAULT_SEARCH_SEED  # of the points that are drawn
    sampler: Sampler = DEFAULT_SAMPLER
    suggested: Sequence[Configuration] = ()  # by the sampler `tpe`, after the first generation

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
        object.__setattr__(self, "seeds", _read_seeds(self.seeds))
        object.__setattr__(self, "suggested", tuple(self.suggested))
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler {self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        if self.points is None:
            self._check_grid()
        else:
            self._check_drawing(self.points)
        self._check_effects()

    @classmethod
    def of(
        cls,
        *,
        seeds: Sequence[int] = DEFAULT_SEEDS,
        points: int | None = None,
        search_seed: int = DEFAULT_SEARCH_SEED,
        sampler: Sampler = DEFAULT_SAMPLER,
        **values: Sequence[Any],
    ) -> "Space":
        """Return the space of these values: `Space.of(lr=(Range(1e-3, 2),), points=100)`."""
        return cls(values, seeds, points, search_seed, sampler)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Space":
        """Return the space that `to_json` wrote.

        Raises:
            InputError: it is not a space; see the class.
            KeyError: there are no seeds.
        """
        lists = {
            name: [_from_json(value) for value in each]
            for name, each in written.items()
            if name not in NO_HYPERPARAMETERS
        }
        return cls(
            lists,
            written["seed"],
            written.get("points"),
            written.get("search_seed", DEFAULT_SEARCH_SEED),
            written.get("sampler", DEFAULT_SAMPLER),
            [Configuration.of(values) for values in written.get("suggested", ())],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the values by hyperparameter, then the seeds, and what draws the points if any.

        A hyperparameter at its only default is left out, so the file of a study does not change
        when digitrec learns another hyperparameter.
        """
        lists = {
            name: [_to_json(value) for value in values]
            for name, values in self.values.items()
            if not (HYPERPARAMETERS[name].has_default and values == HYPERPARAMETERS[name].values)
        }
        drawing = {"points": self.points, "search_seed": self.search_seed}
        sampling = {"sampler": self.sampler, "suggested": [*map(_differing, self.suggested)]}
        return (
            lists
            | {"seed": list(self.seeds)}
            | (drawing if self.points else {})
            | (sampling if self.sampler != DEFAULT_SAMPLER else {})
        )

    def __len__(self) -> int:
        """Return the number of trials, those included whose points are not suggested yet."""
        return (self.points or len(self.configurations())) * len(self.seeds)

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials: the configurations in their order, the seed fastest."""
        return tuple(Trial(each, seed) for each in self.configurations() for seed in self.seeds)

    def configurations(self) -> tuple[Configuration, ...]:
        """Return the configurations.

        Those of a grid have the first hyperparameter slowest; drawn ones are in the order in which
        they are drawn, of which fewer `points` are the first; suggested ones follow.

        Raises:
            InputError: there are fewer points than asked for.
        """
        if self.points is None:
            return tuple(dict.fromkeys(grid(self.values)))
        drawn = draw(tuple(self.values.items()), self.points, self.search_seed)
        if len(drawn) < self.points:
            raise InputError(
                f"the search space has {len(drawn):,} distinct points, and --points asks for "
                f"{self.points:,}; give fewer points or more values"
            )
        if self.sampler == "tpe":
            return (*drawn[:GENERATION], *self.suggested)
        return drawn

    @property
    def generations(self) -> list[range]:
        """The places of the configurations of each generation that the sampler asks for.

        There are none unless it suggests points.
        """
        points = self.points if self.points and self.sampler == "tpe" else 0
        starts = range(0, points, GENERATION)
        return [range(start, min(start + GENERATION, points)) for start in starts]

    @property
    def unsuggested(self) -> int:
        """The number of points that are not suggested yet."""
        return (self.points or 0) - len(self.configurations()) if self.generations else 0

    def with_suggested(self, generation: int, accuracies: Mapping[Trial, float]) -> "Space":
        """Return the space with all points of a generation; its earlier suggestions stay.

        Args:
            generation: its number; all points of those before are there.
            accuracies: of the trials with results; NaN: it diverged.
        """
        places, there = self.generations[generation], self.configurations()
        before = {
            each: _mean(
                [accuracies[t] for seed in self.seeds if (t := Trial(each, seed)) in accuracies]
            )
            for each in there[: places.start]
        }
        made = suggest(self.values, before, generation, self.search_seed)
        new = [each for each in made if each not in there][: places.stop - len(there)]
        return replace(self, suggested=(*self.suggested, *new))

    def with_points_of(self, earlier: "Space") -> "Space":
        """Return the space with the suggestions of an earlier one, if both have the same points."""
        same = all(
            getattr(self, name) == getattr(earlier, name)
            for name in ("values", "search_seed", "sampler")
        )
        kept = earlier.suggested[: max(0, (self.points or 0) - GENERATION)] if same else ()
        return replace(self, suggested=kept)

    def _check_grid(self) -> None:
        """Check the number of trials, and that nothing is given that only points can have."""
        ranges = [
            f"{HYPERPARAMETERS[name].label} {value}"
            for name, values in self.values.items()
            for value in values
            if isinstance(value, Range)
        ]
        if ranges:
            raise InputError(f"{ranges[0]} is a range; give --points, the number of points to draw")
        if self.search_seed != DEFAULT_SEARCH_SEED:
            raise InputError("a search seed needs points to draw; give --points, their number")
        if self.sampler != DEFAULT_SAMPLER:
            raise InputError(f"{self.sampler} needs points to draw; give --points, their number")
        check_count(math.prod(map(len, self.values.values())) * len(self.seeds))

    def _check_drawing(self, points: int) -> None:
        """Check the number of points, and that there are so many."""
        if type(points) is not int or points < 1:
            raise InputError(f"points {points!r} is not a whole number above 0")
        if type(self.search_seed) is not int or not is_seed(self.search_seed):
            raise InputError(f"search seed {self.search_seed!r} is not {SEEDS}")
        check_count(points * len(self.seeds))
        dividing = [len(v) for n, v in self.values.items() if HYPERPARAMETERS[n].divides]
        if math.prod(dividing) > MOST_TRIALS:
            raise InputError(
                f"the points cannot take turns over {math.prod(dividing):,} combinations of values "
                f"that divide stacks; give at most {MOST_TRIALS:,}"
            )
        self._check_suggested(points)

    def _check_suggested(self, points: int) -> None:
        """Check that the suggested points are no more than asked for, and no duplicates."""
        there = self.configurations()
        too_many = bool(self.suggested) and len(there) > points
        if too_many or len(set(there)) < len(there) or (self.suggested and self.sampler != "tpe"):
            raise InputError("the suggested points do not belong to the search space")

    def _check_effects(self) -> None:
        """Check that every value has an effect in some trial, or could have in one of the space."""
        if all(
            self.values[name] == each.values for name, each in HYPERPARAMETERS.items() if each.needs
        ):
            return
        drawn = self.points is not None
        values = {name: _extremes(v) if drawn else v for name, v in self.values.items()}
        there = tuple(dict.fromkeys(grid(values)))
        for name, each in HYPERPARAMETERS.items():
            if each.needs is None or self.values[name] == each.values:
                continue
            used = {getattr(configuration, name) for configuration in there}
            for value in values[name]:
                if value not in used and value != each.values[0]:
                    raise InputError(
                        f"{each.label} {each.write(value)} has no effect in any trial: "
                        f"it needs {each.needs}"
                    )


def _differing(configuration: Configuration) -> dict[str, Any]:
    """Return the values without those at their defaults."""
    return {
        name: value
        for name, value in asdict(configuration).items()
        if not (HYPERPARAMETERS[name].has_default and (value,) == HYPERPARAMETERS[name].values)
    }


def _mean(accuracies: Sequence[float]) -> float | None:
    return math.fsum(accuracies) / len(accuracies) if accuracies else None


def check_count(trials: int) -> None:
    """Check that a study can have so many trials.

    Raises:
        InputError: they are more than MOST_TRIALS.
    """
    if trials > MOST_TRIALS:
        raise InputError(
            f"{trials:,} trials are more than the {MOST_TRIALS:,} that a study can have"
        )


def _extremes(items: Sequence[Any]) -> tuple[Any, ...]:
    """Return the lowest and the highest of numbers and ranges; what is not a number stays."""
    ends = [end for each in items for end in _ends(each)]
    if {type(end) for end in ends} <= {int, float}:
        return tuple(dict.fromkeys((min(ends), max(ends))))
    return tuple(ends)


def _ends(item: Any) -> tuple[Any, ...]:
    return (item.low, item.high) if isinstance(item, Range) else (item,)


def _to_json(item: Any) -> Any:
    return {str(item.scale): [item.low, item.high]} if isinstance(item, Range) else item


def _from_json(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    ((scale, (low, high)),) = item.items()
    return Range(low, high, scale)


def _read(each: Hyperparameter, items: Sequence[Any] | Range) -> tuple[Any, ...]:
    """Return the values and ranges of a hyperparameter, checked and in their type."""
    kind = type(each.values[0])

    def read(item: Any) -> Any:
        if isinstance(item, Range):
            return _read_range(each, item)
        return _read_value(each.label, item, each.accepts, each.is_right, kind)

    return _read_list(each.label, (items,) if isinstance(items, Range) else items, read)


def _read_range(each: Hyperparameter, item: Range) -> Range:
    each.check_range(item)
    for end in (item.low, item.high):
        if not each.is_right(end):
            raise InputError(f"{each.label} {end!r}, an end of {item}, is not {each.accepts}")
    assert each.scale != "category"
    try:
        return item.on(each.scale)
    except InputError as error:
        raise InputError(f"{each.label}: {error}") from error


def _read_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    return _read_list("seed", seeds, lambda seed: _read_value("seed", seed, SEEDS, is_seed, int))


def _read_value(
    label: str, value: Any, accepts: str, is_right: Callable[[Any], bool], kind: type
) -> Any:
    """Return a value in its type."""
    try:
        converted = _CONVERSIONS[kind](value) if kind in _CONVERSIONS else value
        right = is_right(converted)
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise InputError(f"{label} {value!r} is not {accepts}")
    return converted


def _read_list(label: str, items: Sequence[Any], read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Return the values of one hyperparameter, or the seeds, each of them once."""
    if not items:
        raise InputError(f"no {label} is given; at least one is needed")
    there: dict[Any, None] = {}  # a set that keeps the order
    for item in items:
        converted = read(item)
        if converted in there:
            said = item if isinstance(item, Range) else repr(item)
            raise InputError(f"{label} {said} is given more than once")
        there[converted] = None
    return tuple(there)
