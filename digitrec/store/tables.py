"""The tables of a study, derived from its finished stacks.

Released columns do not change; `README.md` describes them with their units.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from digitrec.space.hyperparameters import HYPERPARAMETERS, Trial, in_column
from digitrec.space.race import Goal
from digitrec.space.records import EpochRecord
from digitrec.store.folder import Folder
from digitrec.store.stacks import StackResult, longest_of

TRIAL_COLUMNS = [
    "trial", *HYPERPARAMETERS, "seed", "status", "epochs", "updates", "train_loss",
    "train_accuracy", "val_loss", "val_accuracy", "best_val_accuracy", "best_epoch", "seconds",
]  # fmt: skip
EPOCH_COLUMNS = [
    "trial", *HYPERPARAMETERS, "seed", "epoch", "updates", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "seconds",
]  # fmt: skip
COOLDOWN = "cooldown"  # the column, before the seed, of a study in which trials cool down
RUN_COLUMNS = ["trial", "stack", "node", "pid", "started", "ended", "node_id"]
REACHED = ("completed", "dropped")  # the status of trials trained as far as they should be
METRICS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a study as data frames, in the order of the grid."""

    trials: pd.DataFrame  # TRIAL_COLUMNS, and COOLDOWN if a trial cools down
    epochs: pd.DataFrame  # EPOCH_COLUMNS, and COOLDOWN if a trial cools down
    runs: pd.DataFrame  # RUN_COLUMNS: where and when each trial that has a result was trained

    @property
    def complete(self) -> bool:
        """Whether every trial was trained as far as it should be or diverged."""
        return bool(self.trials["status"].isin(["completed", "diverged", "dropped"]).all())

    def without(self, trials: Collection[str]) -> "Tables":
        """Return the tables without these trials."""
        names = list(trials)
        return Tables(
            self.trials[~self.trials["trial"].isin(names)],
            self.epochs[~self.epochs["trial"].isin(names)],
            self.runs[~self.runs["trial"].isin(names)],
        )


def make_tables(
    goals: Mapping[Trial, Goal], results: Iterable[StackResult], failures: Mapping[str, str]
) -> Tables:
    """Return the tables of a study.

    A trial that has not reached its goal has the status failed or stopped, and the epochs of its
    longest result.

    Args:
        goals: a trial per row, in this order; results of more epochs are left out.
        results: finished stacks.
        failures: trial -> error.
    """
    epochs = {trial: goal.epochs for trial, goal in goals.items()}
    longest = longest_of(epochs, results)
    trial_rows, epoch_rows, run_rows = [], [], []
    for trial, goal in goals.items():
        history: list[EpochRecord] = []
        status = "failed" if trial.name in failures else "stopped"
        if trial in longest:
            result, k = longest[trial]
            if result.epochs_before_cooldown == goal.epochs:
                status = goal.status
            history = [records[k] for records in result.epochs]
            where = {"trial": trial.name, "stack": result.stack.name}
            run_rows.append(where | asdict(result.run))
        trial_rows.append(_trial_row(trial, status, history))
        epoch_rows += [identity(trial) | record._asdict() for record in history]
    trial_columns, epoch_columns = TRIAL_COLUMNS, EPOCH_COLUMNS
    if any(trial.cooldown for trial in goals):
        trial_columns, epoch_columns = map(_with_cooldown, (trial_columns, epoch_columns))
    frame = pd.DataFrame(trial_rows, columns=trial_columns)
    return Tables(
        frame.astype({"best_epoch": "Int64"}),  # empty for a trial without a finite epoch
        pd.DataFrame(epoch_rows, columns=epoch_columns),
        pd.DataFrame(run_rows, columns=RUN_COLUMNS),
    )


def write_tables(directory: Folder, tables: Tables) -> None:
    """Write `trials.csv`, `epochs.csv` and `runs.csv`; empty cells are missing values."""
    frames = {"trials": tables.trials, "epochs": tables.epochs, "runs": tables.runs}
    for name, frame in frames.items():
        directory.write(f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())


def _with_cooldown(columns: Sequence[str]) -> list[str]:
    place = columns.index("seed")
    return [*columns[:place], COOLDOWN, *columns[place:]]


def identity(trial: Trial) -> dict[str, Any]:
    """Return the first columns of a row of a trial: its name, configuration, cooldown and seed."""
    values = ({COOLDOWN: 0} | trial.values()).items()
    return {"trial": trial.name} | {name: in_column(name, value) for name, value in values}


def _trial_row(trial: Trial, status: str, history: list[EpochRecord]) -> dict[str, Any]:
    row = identity(trial)
    if not history:
        return row | {"status": status, "epochs": 0, "updates": 0, "seconds": 0.0}
    last = history[-1]
    finite = [record for record in history if not record.diverged]
    best = max(finite, key=lambda record: record.val_accuracy, default=None)
    return row | {
        "status": "diverged" if last.diverged and status in REACHED else status,
        "epochs": min(len(finite) + 1, len(history)),
        "updates": last.updates,
        **{metric: getattr(last, metric) for metric in METRICS},
        "best_val_accuracy": best.val_accuracy if best else math.nan,
        "best_epoch": best.epoch if best else pd.NA,
        "seconds": sum(record.seconds for record in history),
    }
