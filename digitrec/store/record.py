"""The content of a study directory, read once for tables, figures and verdict.

Letters: N' validation images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from digitrec.errors import DamagedError, InputError
from digitrec.store.best import read_best
from digitrec.store.directory import check_folders
from digitrec.store.folder import Folder
from digitrec.store.spec import NAME, StudySpec, read_spec
from digitrec.store.stacks import Damage, StackResult, read_failures, read_stacks, results_of
from digitrec.store.tables import Tables, make_tables
from digitrec.store.timings import read_timings
from digitrec.store.validation import WinnerValidation, read_labels, read_validation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyRecord:
    """The content of a study directory; equal to itself alone."""

    directory: Folder
    spec: StudySpec
    results: list[StackResult]
    tables: Tables
    failures: dict[str, str]  # trial -> error
    predictions: dict[str, NDArray[np.uint8]]  # trial -> labels after its last epoch, (N',)
    labels: NDArray[np.uint8] | None  # of the validation images, (N',); None: missing
    best: dict[str, Any] | None  # `best/model.json`; None: there is no model yet
    validation: WinnerValidation | None  # of the model in `best/`
    timings: dict[str, float]  # part of the last run -> seconds
    damaged: list[Damage]  # files that are not used

    @property
    def runs(self) -> pd.DataFrame:
        """Where and when each trial was trained; see `tables.RUN_COLUMNS`."""
        return self.tables.runs

    @property
    def searched(self) -> Tables:
        """The tables without the trials that cool down."""
        return self.tables.without(self.spec.cooled_trials)


def read_record(directory: Folder) -> StudyRecord:
    """Read a study directory; the study need not be finished.

    Raises:
        InputError: it holds no study, `study.json` is damaged, or one of its folders is a link.
    """
    check_folders(directory)
    try:
        spec = read_spec(directory)
    except DamagedError as error:
        raise InputError(
            f"{directory / NAME}: {error}. The `digitrec tune` command of this study writes it "
            "again"
        ) from error
    results, damaged = read_stacks(directory, spec.key)
    goals = spec.goals()
    found = list(results_of(spec.epochs_of(), results))
    done = {trial.name for trial, _, _ in found}  # even if their worker was lost just afterwards
    missing = {trial.name for trial in goals} - done
    failures = {
        trial: error for trial, error in read_failures(directory).items() if trial in missing
    }
    return StudyRecord(
        directory=directory,
        spec=spec,
        results=results,
        tables=make_tables(goals, results, failures),
        failures=failures,
        predictions={trial.name: result.predictions[k] for trial, result, k in found},
        labels=read_labels(directory, spec),
        best=read_best(directory),
        validation=read_validation(directory, spec),
        timings=read_timings(directory),
        damaged=damaged,
    )
