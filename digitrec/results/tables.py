"""The tables of a study, derived from its finished stacks, and the ranking.

Columns, once released, do not change; `README.md` describes them with their units.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from digitrec.results.stacks import StackResult, results_after
from digitrec.space import Configuration, EpochRecord
from digitrec.storage import Storage

TRIAL_COLUMNS = [
    "trial", "lr", "batch_size", "seed", "status", "epochs", "updates", "train_loss",
    "train_accuracy", "val_loss", "val_accuracy", "best_val_accuracy", "best_epoch", "seconds",
]  # fmt: skip
EPOCH_COLUMNS = [
    "trial", "lr", "batch_size", "seed", "epoch", "updates", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "seconds",
]  # fmt: skip
RUN_COLUMNS = ["trial", "stack", "node", "pid", "started", "ended", "node_id"]
CELL = ["lr", "batch_size"]  # what the trials of a configuration share that differ in seed
METRICS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]


@dataclass(frozen=True, slots=True)
class Tables:
    """The study as frames, in the order of the grid."""

    trials: pd.DataFrame  # TRIAL_COLUMNS
    epochs: pd.DataFrame  # EPOCH_COLUMNS
    runs: pd.DataFrame  # RUN_COLUMNS: where and when; a row per trial that has a result

    @property
    def complete(self) -> bool:
        """Whether every trial was trained to its end (or to its divergence)."""
        return bool(self.trials["status"].isin(["completed", "diverged"]).all())


def make_tables(
    configurations: Iterable[Configuration],
    epochs: int,
    results: Iterable[StackResult],
    failures: dict[str, str],
) -> Tables:
    """Return the tables of a grid; a trial without a result is failed, or else stopped.

    Args:
        configurations: the rows, in their order.
        epochs: how many each is trained for; other results are left out.
        results: finished stacks.
        failures: trial -> error.
    """
    found = {member: (result, k) for member, result, k in results_after(epochs, results)}
    trial_rows, epoch_rows, run_rows = [], [], []
    for configuration in configurations:
        history: list[EpochRecord] = []
        if configuration in found:
            result, k = found[configuration]
            history = [records[k] for records in result.epochs]
            where = {"trial": configuration.trial, "stack": result.stack.name}
            run_rows.append(where | asdict(result.run))
        trial_rows.append(_trial_row(configuration, history, failures))
        epoch_rows += [_identity(configuration) | record._asdict() for record in history]
    trials = pd.DataFrame(trial_rows, columns=TRIAL_COLUMNS)
    return Tables(
        trials.astype({"best_epoch": "Int64"}),  # empty for a trial without a finite epoch
        pd.DataFrame(epoch_rows, columns=EPOCH_COLUMNS),
        pd.DataFrame(run_rows, columns=RUN_COLUMNS),
    )


def rank(trials: pd.DataFrame, confirmed: Collection[str] = ()) -> pd.DataFrame:
    """Return the completed trials, best first: validation accuracy, then validation loss.

    Args:
        trials: TRIAL_COLUMNS.
        confirmed: trials that train the leaders again with fresh seeds. If there are any, the mean
            of a configuration's comes first: it was not chosen for its luck.
    """
    completed = trials[trials["status"] == "completed"]
    fresh = completed[completed["trial"].isin(list(confirmed))]
    means = fresh.groupby(CELL)["val_accuracy"].mean().rename("confirmed").reset_index()
    ranked = completed.merge(means, on=CELL, how="left").sort_values(
        ["confirmed", "val_accuracy", "val_loss"],
        ascending=[False, False, True],
        kind="stable",
        ignore_index=True,
    )
    return ranked.drop(columns="confirmed")


def rank_cells(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the grid of which every seed completed, best mean accuracy first.

    Returns:
        Columns lr, batch_size, seeds, mean, lowest, highest; of the validation accuracy.
    """
    cells = trials.assign(done=trials["status"] == "completed").groupby(CELL, sort=False)
    frame = cells.agg(
        seeds=("val_accuracy", "size"),
        mean=("val_accuracy", "mean"),
        lowest=("val_accuracy", "min"),
        highest=("val_accuracy", "max"),
        done=("done", "all"),
    ).reset_index()
    ranked = frame[frame["done"]].sort_values("mean", ascending=False, kind="stable")
    return ranked.drop(columns="done").reset_index(drop=True)


def write_tables(study: Storage, tables: Tables) -> None:
    """Write `trials.csv`, `epochs.csv`, `runs.csv`; an empty cell is a value that there is not."""
    frames = {"trials": tables.trials, "epochs": tables.epochs, "runs": tables.runs}
    for name, frame in frames.items():
        study.write(f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())


def _identity(configuration: Configuration) -> dict[str, Any]:
    return {"trial": configuration.trial, **asdict(configuration)}


def _trial_row(
    configuration: Configuration, history: list[EpochRecord], failures: dict[str, str]
) -> dict[str, Any]:
    row = _identity(configuration)
    if not history:
        status = "failed" if configuration.trial in failures else "stopped"
        return row | {"status": status, "epochs": 0, "updates": 0, "seconds": 0.0}
    last = history[-1]
    finite = [record for record in history if not record.diverged]
    best = max(finite, key=lambda record: record.val_accuracy, default=None)
    return row | {
        "status": "diverged" if last.diverged else "completed",
        "epochs": min(len(finite) + 1, len(history)),
        "updates": last.updates,
        **{metric: getattr(last, metric) for metric in METRICS},
        "best_val_accuracy": best.val_accuracy if best else math.nan,
        "best_epoch": best.epoch if best else pd.NA,
        "seconds": sum(record.seconds for record in history),
    }
