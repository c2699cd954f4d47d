"""The trials of a study that have ended, with their epochs, as exports need them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from digitrec.errors import InputError
from digitrec.space.hyperparameters import HYPERPARAMETERS, Trial
from digitrec.space.ranges import Range
from digitrec.space.records import EpochRecord
from digitrec.store.record import StudyRecord
from digitrec.store.stacks import Run, longest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTrial:
    """A trial that has completed, diverged, was dropped by a race, or failed."""

    trial: Trial
    status: str
    epochs: list[EpochRecord]  # without those in which it had diverged
    stack: str  # the name of the stack that trained it; empty: none did
    run: Run | None  # None: it has no result


def ended_trials(record: StudyRecord) -> list[EndedTrial]:
    """Return the trials that have ended, in the order of the tables.

    Raises:
        InputError: none has.
    """
    status = dict(zip(record.tables.trials["trial"], record.tables.trials["status"], strict=True))
    found = longest_of(record.spec.epochs_of(), record.results)
    ended = []
    for trial in record.spec.trials():
        if status[trial.name] == "stopped":
            continue
        result, k = found.get(trial, (None, 0))
        records = [] if result is None else [each[k] for each in result.epochs]
        ended.append(
            EndedTrial(
                trial=trial,
                status=status[trial.name],
                epochs=[each for each in records if not each.diverged],
                stack="" if result is None else result.stack.name,
                run=None if result is None else result.run,
            )
        )
    if not ended:
        raise InputError(
            f"{record.directory}: no trial has ended yet, so there is nothing to export"
        )
    return ended


def searched(record: StudyRecord) -> dict[str, Sequence[Any]]:
    """Return hyperparameter -> the values and ranges searched, where these are more than one."""
    space = record.spec.search_space
    return {
        name: space.values[name]
        for name in HYPERPARAMETERS
        if len(space.values[name]) > 1 or isinstance(space.values[name][0], Range)
    }


def written(trial: Trial, name: str) -> float | int | bool | str:
    """Return a trial's value of a hyperparameter as a number, a truth value or text."""
    value = getattr(trial.configuration, name)
    return HYPERPARAMETERS[name].write(value) if isinstance(value, tuple) else value


def first_line(error: Exception) -> str:
    """Return the first line of what an error says; if it says nothing, its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
