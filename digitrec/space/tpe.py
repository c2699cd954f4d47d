"""Points suggested from results, by Optuna's tree-structured Parzen estimator (TPE).

A pure function of the results, so a study that was killed and continued, or that grew, gets the
points that it would have got at once: no sampler outlives the call, and its seed depends on the
search seed and the generation alone. Points are suggested a generation at a time; Optuna takes
those that are still to be trained for bad ones, which keeps the points of a generation apart.

Each hyperparameter is an axis: numbers and ranges one after the other in ascending order, each an
equal part of it, a range on its own scale; words are categories. So `0,1e-6..1e-2` is one axis,
0 next to the smallest values, and no axis depends on another.

Sources: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011); Watanabe,
"Tree-Structured Parzen Estimator" (arXiv 2304.11127), which Optuna 5 follows.
"""

import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from digitrec.errors import InputError
from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration
from digitrec.space.quasi_random import draw, pick
from digitrec.space.ranges import Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

GENERATION = 16  # points that are trained before the next are suggested: one full stack
MOST_ASKED = 8  # times a generation, before quasi-random points take the place of duplicates
LEAST_OPTUNA = 5  # its first version whose TPE is multivariate, with constant liar, by default
LAST = math.nextafter(1, 0)

Items = Sequence[Any]  # the values and ranges to search of a hyperparameter


def check_installed() -> None:
    """Check that Optuna is there, without importing it.

    Raises:
        InputError: it is not installed, or too old.
    """
    needed = "--sampler tpe needs optuna 5 or newer"
    install = "pip install 'digitrec[search]'"
    try:
        version = importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{needed}, which is not installed: {install}") from error
    if int(version.split(".")[0]) < LEAST_OPTUNA:
        raise InputError(f"{needed}, and {version} is installed: {install}")


def suggest(
    items: Mapping[str, Items],
    accuracies: Mapping[Configuration, float | None],
    generation: int,
    search_seed: int,
) -> tuple[Configuration, ...]:
    """Return a generation of further points; fewer only where the space has no more.

    Args:
        items: each hyperparameter with its values and ranges.
        accuracies: of all points before, in their order; NaN: it diverged; None: it failed.
        generation: its number.
        search_seed: what the suggestions depend on, besides the results.
    """
    axes = {
        name: sorted(each, key=_lowest) if HYPERPARAMETERS[name].scale != "category" else each
        for name, each in items.items()
        if len(each) > 1 or isinstance(each[0], Range)
    }
    fixed = {name: each[0] for name, each in items.items() if name not in axes}
    distributions = {name: _distribution(name, each) for name, each in axes.items()}
    study = _study_of(accuracies, axes, distributions, _seed(search_seed, generation))
    found: dict[Configuration, None] = {}  # a set that keeps the order
    for _ in range(MOST_ASKED * GENERATION):
        asked = study.ask(distributions).params
        values = {name: _value(name, axes[name], place) for name, place in asked.items()}
        point = Configuration(**fixed, **values).with_effect()
        if point not in accuracies:
            found[point] = None
        if len(found) == GENERATION:
            return tuple(found)
    drawn = draw(tuple(items.items()), len(accuracies) + GENERATION, search_seed)
    found |= dict.fromkeys(point for point in drawn if point not in accuracies)
    return tuple(found)[:GENERATION]


def _study_of(
    accuracies: Mapping[Configuration, float | None],
    axes: Mapping[str, Items],
    distributions: "dict[str, BaseDistribution]",
    seed: int,
) -> "Study":
    """Return a study in memory that holds the results.

    A diverged trial is one that was pruned before it had any value, which ranks behind all others.
    As a failed one it would be ignored, and points beside it suggested again.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for point, accuracy in accuracies.items():
        state = states.PRUNED if accuracy is not None and math.isnan(accuracy) else states.COMPLETE
        state = states.FAIL if accuracy is None else state
        places = {name: _place(name, each, getattr(point, name)) for name, each in axes.items()}
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=accuracy if state == states.COMPLETE else None,
                params=places,
                distributions=distributions,
            )
        )
    return study


def _seed(search_seed: int, generation: int) -> int:
    """Return a seed of 32 bits, which is what Optuna takes."""
    digest = hashlib.sha256(f"{search_seed} {generation}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _distribution(name: str, items: Items) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if HYPERPARAMETERS[name].scale == "category":
        return CategoricalDistribution(range(len(items)))
    return FloatDistribution(0, 1)


def _value(name: str, items: Items, place: float) -> Any:
    """Return the value at a place of an axis."""
    if HYPERPARAMETERS[name].scale == "category":
        return items[int(place)]
    return pick(items, min(place, LAST))


def _place(name: str, items: Items, value: Any) -> float:
    """Return the place of a value on its axis: the middle of its part, or within a range.

    A value that has no effect is its default, which may be none of the items; it is the first.
    """
    if HYPERPARAMETERS[name].scale == "category":
        return items.index(value) if value in items else 0
    for index, item in enumerate(items):
        if item == value:
            return (index + 0.5) / len(items)
        if isinstance(item, Range) and item.low <= value <= item.high:
            return (index + item.share(value)) / len(items)
    return 0.0


def _lowest(item: Any) -> float:
    return item.low if isinstance(item, Range) else float(item)
