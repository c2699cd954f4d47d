"""Everything that a study directory holds, read once; what tables, figures and verdict work from.

Letters: N' validation images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from digitrec.classifier import ABOUT, MODEL
from digitrec.errors import InputError
from digitrec.results.arrays import DamagedError
from digitrec.results.question import NAME, Question, read_question
from digitrec.results.stacks import Damage, StackResult, read_failures, read_stacks, results_after
from digitrec.results.tables import Tables, make_tables
from digitrec.results.timings import read_timings
from digitrec.results.validation import WinnerValidation, read_labels, read_validation
from digitrec.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a study directory holds."""

    directory: Storage
    question: Question
    results: list[StackResult]
    tables: Tables
    failures: dict[str, str]  # trial -> error
    predictions: dict[str, NDArray[np.uint8]]  # trial -> labels after its last epoch, (N',)
    labels: NDArray[np.uint8] | None  # of the validation images, (N',); None: they are not kept
    best: dict[str, Any] | None  # `best/model.json`; None: there is no model yet
    validation: WinnerValidation | None  # of the model in `best/`
    timings: dict[str, float]  # part of the last run -> seconds
    damaged: list[Damage]  # files that are not what they should be, and so are not used

    @property
    def runs(self) -> pd.DataFrame:
        """Where and when each trial was trained; see `tables.RUN_COLUMNS`."""
        return self.tables.runs


def read_record(directory: Storage) -> Record:
    """Read a study directory; it need not be finished.

    Raises:
        InputError: there is no study in it, or `study.json` is damaged.
    """
    try:
        question = read_question(directory)
    except DamagedError as error:
        raise InputError(
            f"{directory / NAME}: {error}. The `digitrec tune` command of this study writes it anew"
        ) from error
    results, damaged = read_stacks(directory, question.key)
    found = list(results_after(question.epochs, results))
    done = {member.trial for member, _, _ in found}  # by a worker that was lost just afterwards
    wanted = set(question.configurations())
    missing = {member.trial for member in wanted} - done
    failures = {
        trial: error for trial, error in read_failures(directory).items() if trial in missing
    }
    return Record(
        directory=directory,
        question=question,
        results=results,
        tables=make_tables(question.configurations(), question.epochs, results, failures),
        failures=failures,
        predictions={
            member.trial: result.predictions[k] for member, result, k in found if member in wanted
        },
        labels=read_labels(directory, question),
        best=read_best(directory),
        validation=read_validation(directory, question),
        timings=read_timings(directory),
        damaged=damaged,
    )


def read_best(study: Storage) -> dict[str, Any] | None:
    """Return what `best/model.json` says; None where there is no model, or it is damaged."""
    best = study / "best"
    try:
        about: dict[str, Any] = best.read_json(ABOUT)
        _check_best(about)
        return about if MODEL in best.names() else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _check_best(about: dict[str, Any]) -> None:
    """Check what the rest of the code relies on.

    Raises:
        ValueError, TypeError, KeyError: something is missing or of another kind.
    """
    parts = [about[name] for name in ("test", "refit") if name in about]
    rows = [part["rows"] for part in parts]
    tests = [about["test"]] if "test" in about else []
    texts = [about["trial"], *(test["source"] for test in tests)]
    numbers = [test[name] for test in tests for name in ("accuracy", "loss")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is no text")
    if not all(isinstance(number, int) and number >= 1 for number in rows):
        raise ValueError("rows are counted from 1")
    if not all(isinstance(number, float | int) for number in numbers):
        raise TypeError("a measure is no number")
