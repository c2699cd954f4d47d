"""The progress of a run: a hidden file that exists while it trains, but for the refit.

The live page reads it, from any machine that sees the study directory.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from digitrec.errors import DamagedError
from digitrec.store.folder import Folder

NAME = ".progress"

Row = list[float]  # an epoch, and its `tables.METRICS`


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStack:
    """A stack in training."""

    shared: str  # what its trials have in common, in words
    own: str  # what they differ in, in words
    epoch: int  # the last finished one
    curves: dict[str, list[Row]]  # trial -> the epochs that this run has trained


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """The progress of a run."""

    line: str  # as the run prints it
    fraction: float  # of what the run trains in the current round
    epochs: int  # that each trial is trained for
    stacks: list[RunningStack]
    beat: int  # how often the run has written its progress


def write_progress(directory: Folder, progress: RunProgress) -> None:
    """Write the progress; a study does not end because that fails."""
    with suppress(OSError):
        directory.write(NAME, json.dumps(asdict(progress)).encode())


def remove_progress(directory: Folder) -> None:
    """Remove the progress; a study does not end because that fails."""
    with suppress(OSError):
        directory.remove(NAME)


def read_progress(directory: Folder) -> RunProgress | None:
    """Return the progress of the run that trains now, or was killed; None: there is none."""
    try:
        values = directory.read_json(NAME)
        stacks = [_read_stack(each) for each in values["stacks"]]
        return RunProgress(
            line=str(values["line"]),
            fraction=float(values["fraction"]),
            epochs=int(values["epochs"]),
            stacks=stacks,
            beat=int(values["beat"]),
        )
    except (FileNotFoundError, DamagedError, ValueError, TypeError, KeyError, OverflowError):
        return None


def _read_stack(values: Mapping[str, Any]) -> RunningStack:
    return RunningStack(
        shared=str(values["shared"]),
        own=str(values["own"]),
        epoch=int(values["epoch"]),
        curves={
            str(trial): [[float(value) for value in row] for row in rows]
            for trial, rows in dict(values["curves"]).items()
        },
    )
