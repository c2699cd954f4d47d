"""Trials grouped into stacks, and stacks into a plan; standard library only."""

import hashlib
import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from digitrec.errors import InputError
from digitrec.space.hyperparameters import Configuration

MAX_STACK_SIZE = 16  # keeps a stack's weights near a processor's cache; larger was not measured


@dataclass(frozen=True, slots=True)
class Stack:
    """Trials that share seed and batch size, and so their batches: trained together as one model.

    Raises:
        InputError: no members, or members of different batch size or seed.
    """

    members: tuple[Configuration, ...]

    def __post_init__(self) -> None:
        if len({(member.batch_size, member.seed) for member in self.members}) != 1:
            raise InputError("a stack needs members of one batch size and one seed")

    @property
    def batch_size(self) -> int:
        """Images per update, the same for all members."""
        return self.members[0].batch_size

    @property
    def seed(self) -> int:
        """The seed of all members."""
        return self.members[0].seed

    @property
    def lrs(self) -> tuple[float, ...]:
        """The members' learning rates, in their order."""
        return tuple(member.lr for member in self.members)

    @property
    def name(self) -> str:
        """Readable and short: batch size, seed and learning rates (first and last of many)."""
        rates = [repr(lr) for lr in self.lrs]
        if len(rates) > 5:
            rates = [f"{rates[0]}..{rates[-1]}x{len(rates)}"]
        return f"bs{self.batch_size}-seed{self.seed}-lr{','.join(rates)}"

    @property
    def key(self) -> str:
        """The name made unique, for a file."""
        members = " ".join(member.trial for member in self.members)
        return f"{self.name}-{hashlib.sha256(members.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Task:
    """A stack to train."""

    stack: Stack
    continues: str | None = None  # key of the finished stack, of fewer epochs, that it goes on from


class Cost(NamedTuple):
    """Seconds that training takes, to plan by; only their proportions matter."""

    per_image: float  # of one trial
    per_update: float  # of one trial
    per_stacked_update: float  # of a stack, however many members it has
    per_stack: float  # a stack's way through Ray

    def of_stack(self, stack: Stack, images: int) -> float:
        """Seconds that a stack takes to train on so many images (rows x epochs)."""
        updates = images / stack.batch_size
        per_member = images * self.per_image + updates * self.per_update
        return len(stack.members) * per_member + updates * self.per_stacked_update + self.per_stack


# Fitted to tests/benchmarks/engine.py on one AMD EPYC (Zen 5) core, 784-256-128-10, float32.
CPU_COST = Cost(per_image=6.5e-6, per_update=1.2e-4, per_stacked_update=8e-5, per_stack=0.05)


def plan_stacks(
    configurations: Sequence[Configuration],
    *,
    workers: int,
    images: int,
    stack_size: int | None = None,
    cost: Cost = CPU_COST,
) -> list[Stack]:
    """Group configurations into stacks, longest first, so that all workers are busy to the end.

    Args:
        configurations: what to train; each ends up in exactly one stack.
        workers: stacks that can be trained at a time.
        images: training rows x epochs, to weigh a stack's training against its way through Ray.
        stack_size: the most members of a stack; None takes the size that ends soonest.
        cost: what training takes, to plan by.
    """
    largest = max(_group_sizes(configurations), default=1)
    sizes = [stack_size] if stack_size else range(min(largest, MAX_STACK_SIZE), 0, -1)
    plans = [_longest_first(_cut(configurations, size), images, cost) for size in sizes]
    return min(plans, key=lambda plan: _makespan(plan, workers, images, cost))


def _groups(configurations: Iterable[Configuration]) -> dict[tuple[int, int], list[Configuration]]:
    groups: dict[tuple[int, int], list[Configuration]] = {}
    for configuration in configurations:
        key = (configuration.batch_size, configuration.seed)
        groups.setdefault(key, []).append(configuration)
    return groups


def _group_sizes(configurations: Iterable[Configuration]) -> list[int]:
    return [len(group) for group in _groups(configurations).values()]


def _cut(configurations: Iterable[Configuration], size: int) -> list[Stack]:
    """Cut each group as evenly as can be into the fewest stacks of at most `size` members."""
    stacks = []
    for group in _groups(configurations).values():
        pieces = math.ceil(len(group) / size)
        bounds = [round(piece * len(group) / pieces) for piece in range(pieces + 1)]
        stacks += [Stack(tuple(group[a:b])) for a, b in itertools.pairwise(bounds)]
    return stacks


def _longest_first(stacks: list[Stack], images: int, cost: Cost) -> list[Stack]:
    return sorted(stacks, key=lambda stack: -cost.of_stack(stack, images))


def _makespan(plan: list[Stack], workers: int, images: int, cost: Cost) -> float:
    """When the last worker ends if each takes the next stack of the plan as it becomes free."""
    busy_until = [0.0] * workers
    for stack in plan:
        heapq.heapreplace(busy_until, busy_until[0] + cost.of_stack(stack, images))
    return max(busy_until)
