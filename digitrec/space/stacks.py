"""Trials grouped into stacks, and stacks into a plan; standard library only."""

import hashlib
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from digitrec.errors import InputError
from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration, Hyperparameter, Trial

MOST_OF_NAME = 180  # characters of a stack's name in the names of its files
MAX_STACK_SIZE = 16  # keeps a stack's weights near a processor's cache; larger was not measured


@dataclass(frozen=True, slots=True)
class Stack:
    """Trials that share their batches and the shape of their tensors, trained as one model.

    Raises:
        InputError: there are no members, or they differ in a value that a stack shares.
    """

    members: tuple[Trial, ...]

    def __post_init__(self) -> None:
        if len({_shared(member) for member in self.members}) != 1:
            names = [each.label for each in HYPERPARAMETERS.values() if each.divides]
            names += ["seed", "cooldown"]
            raise InputError(f"a stack needs members of one {', one '.join(names)}")

    @property
    def configuration(self) -> Configuration:
        """The first member's configuration; the others share its dividing hyperparameters."""
        return self.members[0].configuration

    @property
    def seed(self) -> int:
        """The seed of all members."""
        return self.members[0].seed

    @property
    def cooldown(self) -> int:
        """The epochs of the cooldown of all members; 0: none."""
        return self.members[0].cooldown

    def values(self, name: str) -> tuple[Any, ...]:
        """Return the members' values of a hyperparameter, in their order."""
        return tuple(getattr(member.configuration, name) for member in self.members)

    @property
    def name(self) -> str:
        """A short readable name: the shared values, then the members' own values."""
        shared, own = (
            [each.short + ",".join(texts) for each, texts in self._values(divides)]
            for divides in (True, False)
        )
        cooldown = [f"cooldown{self.cooldown}"] if self.cooldown else []
        return "-".join([*shared, f"seed{self.seed}", *cooldown, *own])

    @property
    def key(self) -> str:
        """A unique name, for files: a shortened `name` and a digest of the members."""
        members = " ".join(member.name for member in self.members)
        return f"{self.name[:MOST_OF_NAME]}-{hashlib.sha256(members.encode()).hexdigest()[:8]}"

    def describe(self, *, divides: bool) -> str:
        """Return the values that the members share, or their own values, in words."""
        parts = (f"{each.heading} {', '.join(texts)}" for each, texts in self._values(divides))
        return "; ".join(parts)

    def _values(self, divides: bool) -> Iterator[tuple[Hyperparameter, list[str]]]:
        """Yield each hyperparameter with its values; of more than five, the first and the last."""
        for each in HYPERPARAMETERS.values():
            values = list(dict.fromkeys(self.values(each.name)))
            if each.divides is not divides or (each.has_default and values == [*each.values]):
                continue
            texts = [each.write(value) for value in values]
            yield each, texts if len(texts) <= 5 else [f"{texts[0]}..{texts[-1]}x{len(texts)}"]


@dataclass(frozen=True, slots=True)
class Task:
    """A stack to train."""

    stack: Stack
    epochs: int  # in all, without those of a cooldown
    continues: tuple[str, ...] = ()
    """For each member, the key of the stack, finished with fewer epochs, to continue from; empty:
    the members start from the beginning."""


class Cost(NamedTuple):
    """The training times in seconds that a plan is based on; only their proportions matter."""

    per_image: float  # of one trial of the default shape and optimizer
    per_update: float  # of one such trial
    per_stacked_update: float  # of a stack, however many members it has
    per_stack: float  # Ray's overhead for a stack
    per_start: float  # of the driver, which starts one stack after another

    def of_stack(self, stack: Stack, images: int) -> float:
        """Return the seconds that a stack takes to train on so many images (rows x epochs)."""
        updates: float = images / stack.configuration.of_role("batch")
        per_member = images * self.per_image + updates * self.per_update
        stacked = updates * self.per_stacked_update
        relative = math.fsum(member.configuration.cost for member in stack.members)
        return relative * per_member + stacked + self.per_stack


# A core of AMD's Zen 5, for 784-256-128-10 in float32. There, tests/benchmarks/engine.py measured
# 1.2e-4 and 8e-5 per update; on Zen 4 an image costs 1.9 times as much, and updates in proportion
# less. With these values, plans suit both.
CPU_COST = Cost(
    per_image=6.5e-6, per_update=1.05e-4, per_stacked_update=6e-5, per_stack=0.05, per_start=0.035
)


def plan_stacks(
    trials: Sequence[Trial],
    *,
    workers: int,
    images: int,
    stack_size: int | None = None,
    cost: Cost = CPU_COST,
) -> list[Stack]:
    """Group trials into stacks, longest first, so that all workers are busy to the end.

    Args:
        trials: the trials to train; each becomes a member of exactly one stack.
        workers: the number of stacks that can be trained at a time.
        images: training rows x epochs, to weigh a stack's training against Ray's overhead.
        stack_size: the most members of a stack; None chooses the size that ends soonest.
        cost: the training times that the plan is based on.
    """
    largest = max(map(len, _groups(trials)), default=1)
    sizes = [stack_size] if stack_size else range(min(largest, MAX_STACK_SIZE), 0, -1)
    plans = [_longest_first(_cut(trials, size), images, cost) for size in sizes]
    return min(plans, key=lambda plan: _makespan(plan, workers, images, cost))


def _shared(trial: Trial) -> tuple[Any, ...]:
    """Return the values that all members of a stack must share."""
    return (*trial.configuration.shared, trial.seed, trial.cooldown)


def _groups(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials that could be trained together, in their order."""
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_shared(trial), []).append(trial)
    return list(groups.values())


def _cut(trials: Iterable[Trial], size: int) -> list[Stack]:
    """Cut each group as evenly as can be into the fewest stacks of at most `size` members."""
    stacks = []
    for group in _groups(trials):
        pieces = math.ceil(len(group) / size)
        bounds = [round(piece * len(group) / pieces) for piece in range(pieces + 1)]
        stacks += [Stack(tuple(group[a:b])) for a, b in itertools.pairwise(bounds)]
    return stacks


def _longest_first(stacks: list[Stack], images: int, cost: Cost) -> list[Stack]:
    return sorted(stacks, key=lambda stack: -cost.of_stack(stack, images))


def _makespan(plan: list[Stack], workers: int, images: int, cost: Cost) -> float:
    """Return when the last worker ends if each free worker takes the next stack of the plan.

    The driver has to start all stacks by then, which limits many workers.
    """
    busy_until = [0.0] * workers
    for stack in plan:
        heapq.heapreplace(busy_until, busy_until[0] + cost.of_stack(stack, images))
    return max(*busy_until, cost.per_start * len(plan))
