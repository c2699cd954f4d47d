"""Everything that a study directory holds, read once; what tables, figures and verdict work from.

Letters: N' validation images, D pixels, C = 10 classes, M mistakes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from digitrec.errors import InputError
from digitrec.results.arrays import Arrays, DamagedError, pack, unpack
from digitrec.results.question import NAME, Question, read_question
from digitrec.results.stacks import Damage, StackResult, read_failures, read_stacks, results_after
from digitrec.results.tables import Tables, make_tables
from digitrec.results.timings import read_timings
from digitrec.storage import Storage

LABELS = "validation.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerValidation:
    """What the winner predicts for the validation images."""

    trial: str
    probabilities: NDArray[np.float32]  # (N', C)
    mistakes: NDArray[np.int64]  # (M,), places among the N' images, most confident first
    mistake_images: NDArray[np.uint8]  # (M, D)
    mistake_rows: NDArray[np.int64]  # (M,), row numbers in the data, from 0


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
    validation: WinnerValidation | None
    timings: dict[str, float]  # part of the last run -> seconds
    damaged: list[Damage]  # files that are not what they should be, and so are not used

    @property
    def runs(self) -> pd.DataFrame:
        """Where and when each trial was trained: trial, stack, node, pid, started, ended."""
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
    failures = read_failures(directory)
    found = results_after(question.epochs, results)
    wanted = set(question.configurations())
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
        validation=read_validation(directory, question),
        timings=read_timings(directory),
        damaged=damaged,
    )


def write_labels(
    study: Storage, question: Question, labels: NDArray[np.uint8], rows: NDArray[np.int64]
) -> None:
    """Keep the labels of the validation images, so that a verdict needs no data.

    Args:
        study: the study directory.
        question: the study's.
        labels: (N',).
        rows: row numbers in the data, (N',).
    """
    about = {"question": question.key}
    study.write(LABELS, pack("validation labels", about, {"labels": labels, "rows": rows}))


def read_labels(study: Storage, question: Question) -> NDArray[np.uint8] | None:
    """Return the labels of the validation images; None where they are not kept."""
    found = _read(study, "validation labels", question)
    return None if found is None else found[1]["labels"]


def write_validation(study: Storage, question: Question, validation: WinnerValidation) -> None:
    """Keep what the winner predicts for the validation images."""
    about = {"question": question.key, "trial": validation.trial}
    arrays: Arrays = {
        "probabilities": validation.probabilities,
        "mistakes": validation.mistakes,
        "mistake_images": validation.mistake_images,
        "mistake_rows": validation.mistake_rows,
    }
    (study / "best").write(LABELS, pack("winner's validation", about, arrays))


def read_validation(study: Storage, question: Question) -> WinnerValidation | None:
    """Return what the winner predicts for the validation images; None where it is not kept."""
    found = _read(study / "best", "winner's validation", question)
    return None if found is None else WinnerValidation(trial=found[0]["trial"], **found[1])


def _read(folder: Storage, kind: str, question: Question) -> tuple[dict[str, Any], Arrays] | None:
    """Return a file that only adds to the tables; None where there is none of this study."""
    try:
        about, arrays = unpack(kind, folder.read(LABELS))
    except (FileNotFoundError, DamagedError):
        return None
    return (about, arrays) if about.get("question") == question.key else None
