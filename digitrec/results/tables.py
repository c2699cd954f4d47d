"""The tables of a study, derived from its finished stacks, and the ranking.

Columns, once released, do not change; `README.md` describes them with their units.
"""

import math
from collections.abc import Collection, Iterable, Sequence
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
    """Return the completed trials, best first: by their cells, then by themselves.

    With one seed this is the order by validation accuracy, then validation loss. Among the trials
    of a confirmed cell the fresh ones come first: the others made it a leader.

    Args:
        trials: TRIAL_COLUMNS.
        confirmed: trials that train the leaders again with fresh seeds.
    """
    places = {
        tuple(cell): place
        for place, cell in enumerate(rank_confirmed(trials, confirmed)[CELL].to_numpy().tolist())
    }
    completed = trials[trials["status"] == "completed"]
    ranked = completed.assign(
        cell=[places[lr, size] for lr, size in completed[CELL].to_numpy().tolist()],
        fresh=completed["trial"].isin(list(confirmed)),
    ).sort_values(
        ["cell", "fresh", "val_accuracy", "val_loss"],
        ascending=[True, False, False, True],
        kind="stable",
        ignore_index=True,
    )
    return ranked.drop(columns=["cell", "fresh"])


def rank_confirmed(
    trials: pd.DataFrame, confirmed: Collection[str], hyperparameters: Sequence[str] = CELL
) -> pd.DataFrame:
    """Return the cells as `rank_cells` does, those that fresh seeds confirm first.

    They are compared by their fresh seeds alone: the seeds that made them leaders are those that
    did well.

    Args:
        trials: see `rank_cells`.
        confirmed: trials that train the leaders again with fresh seeds.
        hyperparameters: see `rank_cells`.
    """
    fresh = trials["trial"].isin(list(confirmed))
    by_grid = rank_cells(trials[~fresh], hyperparameters)
    leaders = rank_cells(trials[fresh], hyperparameters)
    if leaders.empty:
        return by_grid
    by = list(hyperparameters)
    rest = by_grid.merge(leaders[by], "left", by, indicator=True)
    rest = rest[rest["_merge"] == "left_only"].drop(columns="_merge")
    return pd.concat([leaders, rest.assign(compared=False)], ignore_index=True)


def rank_cells(trials: pd.DataFrame, hyperparameters: Sequence[str] = CELL) -> pd.DataFrame:
    """Return a row per cell that has a completed trial, best first by its mean over seeds.

    Two kinds of cell come after all others, however high their mean, and are not compared: those
    of which a seed diverged, since the seeds that are left are the lucky ones; and, where some
    cells have several seeds, those with one, since the high ones among them may be high by luck.

    Args:
        trials: columns trial, seed, status, val_accuracy, val_loss, seconds and the
            hyperparameters.
        hyperparameters: the columns that tell cells apart, the seed left out.

    Returns:
        The hyperparameters and trials (tuple of the names of the completed ones), seeds (how many
        those are), diverged (trials), val_accuracy, val_loss, seconds (means over the seeds),
        lowest, highest (of the validation accuracy), compared (bool).
    """
    by = list(hyperparameters)
    completed = trials[trials["status"] == "completed"]
    cells = completed.groupby(by, as_index=False, sort=False).agg(
        trials=("trial", tuple),
        seeds=("trial", "size"),
        val_accuracy=("val_accuracy", "mean"),
        val_loss=("val_loss", "mean"),
        seconds=("seconds", "mean"),
        lowest=("val_accuracy", "min"),
        highest=("val_accuracy", "max"),
    )
    diverged = trials.assign(diverged=trials["status"] == "diverged").groupby(by)["diverged"].sum()
    cells = cells.merge(diverged.reset_index(), "left", by)
    whole = cells["diverged"] == 0
    cells["compared"] = whole if whole.any() else True
    several = cells["compared"] & (cells["seeds"] > 1)
    cells["compared"] = several if several.any() else cells["compared"]
    order = ["compared", "val_accuracy", "val_loss"]
    return cells.sort_values(
        order, ascending=[False, False, True], kind="stable", ignore_index=True
    )


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
