"""Points drawn evenly from a space: a scrambled Halton sequence; standard library only.

Each hyperparameter has a column, in a prime base of its own, whose digits are permuted by its name
and the search seed. The values that divide stacks have none: the points take turns over their
combinations, so that stacks are full. The points of one combination are `LEAP` places of the
sequence apart. The leap shares no factor with any base, so they are evenly spread, too; with turns
over neighbouring places, each of two combinations would get one half of a column in base 2.

`scipy.stats.qmc.Halton` has no columns by name, and its import takes longer than to draw 1,000
points here.

Sources: Owen, "A randomized Halton algorithm in R" (2017), for the permutations of the digits;
Kocis and Whiten, "Computational investigations of low-discrepancy sequences", ACM TOMS 23 (1997),
for leaps.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration
from digitrec.space.ranges import Range

LEAP = 10_007  # a prime above all bases, and above the number of combinations of any study
BITS = 53  # of a float
MOST_IN_VAIN = 1_000  # points in a row that are there already, before a combination is given up

Items = Sequence[Any]  # the values and ranges to search of a hyperparameter


@functools.lru_cache(maxsize=8)  # a study asks for its points often
def draw(
    items: tuple[tuple[str, tuple[Any, ...]], ...], points: int, search_seed: int
) -> tuple[Configuration, ...]:
    """Return distinct configurations; a smaller number of points gives the first of them.

    If the space has fewer, they are all that were found.

    Args:
        items: each hyperparameter with its values and ranges.
        points: the number of configurations.
        search_seed: what the columns depend on, besides the names.
    """
    drawn: dict[Configuration, None] = {}  # a set that keeps the order
    turns = _turns(dict(items), search_seed)
    while turns and len(drawn) < points:
        turn = turns.pop(0)
        tries = itertools.islice(turn, MOST_IN_VAIN)
        new = next((each for each in tries if each not in drawn), None)
        if new is not None:
            drawn[new] = None
            turns.append(turn)
    if len(drawn) < points and not any(isinstance(each, Range) for _, all in items for each in all):
        drawn |= dict.fromkeys(grid(dict(items)))  # what chance has left out
    return tuple(drawn)[:points]


def grid(items: Mapping[str, Items]) -> Iterator[Configuration]:
    """Yield every combination of values, the first hyperparameter slowest."""
    for point in itertools.product(*items.values()):
        yield Configuration(**dict(zip(items, point, strict=True))).with_effect()


def _turns(items: dict[str, tuple[Any, ...]], search_seed: int) -> list[Iterator[Configuration]]:
    """Return the endless points of each combination of values that divide stacks.

    The last of these hyperparameters is slowest, so that combinations with its first value keep
    their points when it is added to a space.
    """
    names = [name for name in reversed(items) if HYPERPARAMETERS[name].divides]
    dividing = {name: items[name] for name in names}
    own = {name: each for name, each in items.items() if name not in dividing}
    columns = [column(place, f"{search_seed} {name}") for place, name in enumerate(own)]

    def points(place: int, combination: Sequence[Any]) -> Iterator[Configuration]:
        shared = dict(zip(dividing, combination, strict=True))
        for index in itertools.count(place, LEAP):
            values = {
                name: pick(each, at(index))
                for (name, each), at in zip(own.items(), columns, strict=True)
            }
            yield Configuration(**shared, **values).with_effect()

    return [points(*each) for each in enumerate(itertools.product(*dividing.values()))]


def pick(items: Items, share: float) -> Any:
    """Return the value at a share of the way along values and ranges, which are of equal length."""
    place, rest = divmod(share * len(items), 1)
    item = items[int(place)]
    return item.at(rest) if isinstance(item, Range) else item


def column(place: int, key: str) -> Callable[[int], float]:
    """Return a column as a function from an index to a number from 0 to below 1.

    Args:
        place: of the column, from 0, which chooses its base.
        key: what the permutations of the digits depend on.
    """
    base = _prime(place)
    count = math.ceil(BITS / math.log2(base))  # of digits
    permutations = [_permutation(base, f"{key} {digit}") for digit in range(count)]
    weights = [float(base) ** -(digit + 1) for digit in range(count)]
    zeros = [permuted[0] * weight for permuted, weight in zip(permutations, weights, strict=True)]
    rests = [math.fsum(zeros[digit:]) for digit in range(count + 1)]  # where only zeros follow

    def at(index: int) -> float:
        total, digit = 0.0, 0
        while index and digit < count:
            index, value = divmod(index, base)
            total += permutations[digit][value] * weights[digit]
            digit += 1
        return min(total + rests[digit], math.nextafter(1, 0))

    return at


def _permutation(base: int, key: str) -> list[int]:
    """Return the digits of a base in an order that depends on a key alone."""
    return sorted(range(base), key=lambda digit: hashlib.sha256(f"{key} {digit}".encode()).digest())


def _prime(place: int) -> int:
    """Return a prime by its place: 2, 3, 5, ..."""
    primes: list[int] = []
    candidate = 2
    while len(primes) <= place:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes[place]
