"""The interface of a runner, which trains the stacks of a study: on Ray or in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

from digitrec.data.digits import SharedData
from digitrec.request import Request
from digitrec.signals import Interruption
from digitrec.space.stacks import Task
from digitrec.store.folder import Folder
from digitrec.store.lock import Lock
from digitrec.store.spec import StudySpec
from digitrec.store.timings import Timings

Node = dict[str, float]  # resource -> amount


@dataclass(frozen=True, slots=True)
class Round:
    """Stacks to train before it is decided what to train next."""

    tasks: Sequence[Task]  # in this order, as workers become free
    trials: int  # how many take part, those included that need no training
    heading: str = ""  # of the progress: which rung of a race, fresh seeds or a cooldown
    decision: str = ""  # that led to this round, or what it trains, in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Stacks to train, with everything that a runner needs for it."""

    request: Request
    directory: Folder  # gets the files
    spec: StudySpec
    shared: SharedData
    rounds: Iterator[Round]  # asked for the next one when all stacks of a round have ended
    console: Console  # shows the progress
    lock: Lock  # the hold on the study directory
    interruption: Interruption  # a Ctrl-C ends the training


class Runner(Protocol):
    """Trains stacks for the length of a `with` block."""

    def __enter__(self) -> "Runner":
        """Start the workers."""

    def __exit__(self, *error: object) -> None:
        """End the workers and wait for their end."""

    def nodes(self) -> list[Node]:
        """Return the resources of each node."""

    def check_shared(self, directory: Folder) -> None:
        """Check that every node sees the study directory.

        Raises:
            InputError: some nodes cannot see it.
        """

    def train(self, assignment: Assignment) -> None:
        """Train the stacks of all rounds until they are done or a Ctrl-C comes.

        Each stack writes its own files as it finishes, or its failure.

        Raises:
            OSError: the study directory can no longer be used.
        """

    def end(self) -> None:
        """Begin to end the workers."""


class MakeRunner(Protocol):
    """Makes a runner, which starts when its block is entered; see `Session`."""

    def __call__(
        self,
        address: str | None,
        console: Console,
        timings: Timings,
        *,
        preload: bool,
        dashboard: bool,
    ) -> Runner:
        """Return the runner."""
