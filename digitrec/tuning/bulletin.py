"""What a run writes about its progress into the study directory, for the live page."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from digitrec.space.stacks import Stack
from digitrec.store.folder import Folder
from digitrec.store.progress import RunningStack, RunProgress, remove_progress, write_progress
from digitrec.store.tables import METRICS

WRITE_INTERVAL = 2.0  # seconds; a write takes milliseconds


class Bulletin:
    """Writes what a run trains, and the curves of it that no finished stack has yet.

    On an object store it writes nothing: each of its requests may take a minute.
    """

    def __init__(self, directory: Folder, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory if directory.path else None
        self._clock = clock
        self._due = clock()
        self._beat = 0
        self._curves: dict[str, dict[str, dict[int, list[float]]]] = {}  # stack, trial, epoch

    def report(self, stack: Stack, metrics: dict[str, Any]) -> None:
        """Note an epoch of a stack; metrics: as from `trainable.epoch_metrics`."""
        if self._directory is None:
            return
        epoch = int(metrics["epoch"])
        curves = self._curves.setdefault(stack.key, {})
        for member in stack.members:
            own = member.configuration.own_name
            values = [round(float(metrics[f"{name}/{own}"]), 5) for name in METRICS]
            curves.setdefault(member.name, {})[epoch] = values

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return self._directory is not None and self._clock() >= self._due

    def write(
        self, line: str, fraction: float, epochs: int, running: Sequence[tuple[Stack, int]]
    ) -> None:
        """Write the progress of the run.

        Args:
            line: as the run prints it.
            fraction: of the training that the run began with.
            epochs: that each trial is trained for.
            running: the stacks in training, each with its finished epochs.
        """
        if self._directory is None:
            return
        self._due = self._clock() + WRITE_INTERVAL
        self._beat += 1
        keys = {stack.key for stack, _ in running}
        self._curves = {key: each for key, each in self._curves.items() if key in keys}
        stacks = [self._describe(stack, epoch) for stack, epoch in running]
        progress = RunProgress(
            line=line, fraction=fraction, epochs=epochs, stacks=stacks, beat=self._beat
        )
        write_progress(self._directory, progress)

    def end(self) -> None:
        """Remove the progress, as nothing is trained any more."""
        if self._directory is not None:
            remove_progress(self._directory)

    def _describe(self, stack: Stack, epoch: int) -> RunningStack:
        curves = self._curves.get(stack.key, {})
        return RunningStack(
            shared=stack.describe(divides=True),
            own=stack.describe(divides=False),
            epoch=epoch,
            curves={
                trial: [[epoch, *values] for epoch, values in sorted(rows.items())]
                for trial, rows in curves.items()
            },
        )
