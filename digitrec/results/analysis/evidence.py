"""What the rules of the verdict work from: the cells of a study, ranked and compared.

A cell is a configuration without its seed.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from digitrec.results.analysis.ranking import rank_configurations, rank_confirmed
from digitrec.results.analysis.runs import number_runs
from digitrec.results.analysis.statistics import (
    Comparisons,
    Correctness,
    Interval,
    compare_with_winner,
    score_images,
    wilson_interval,
    winner_interval,
)
from digitrec.store.record import StudyRecord


class Cell(NamedTuple):
    """A configuration without its seed, and how it did."""

    values: dict[str, Any]  # hyperparameter -> value
    trials: tuple[str, ...]  # the completed ones
    accuracy: float  # mean over the seeds, after the last epoch
    seconds: float  # of one trial, mean over the seeds

    def __str__(self) -> str:
        """The name in a sentence."""
        return spell_all(self.values, list(self.values))

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.values["lr"])

    @property
    def batch_size(self) -> int:
        """Images per update."""
        return int(self.values["batch_size"])


class Evidence:
    """A record and what follows from it, worked out when a rule first asks for it."""

    def __init__(self, record: StudyRecord) -> None:
        self.record = record
        self.hyperparameters = [name for name in record.question.space if name != "seed"]
        self.trials = record.tables.trials

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """The cells with a result, best first; see `rank_confirmed`."""
        confirmed = self.record.question.confirmed_trials
        return rank_confirmed(self.trials, confirmed)

    @cached_property
    def fresh(self) -> pd.DataFrame:
        """The trials that run the leaders again with fresh seeds; none where there are none."""
        return self.trials[self.trials["trial"].isin(self.record.question.confirmed_trials)]

    @cached_property
    def by_grid(self) -> pd.DataFrame:
        """The cells as they were ranked before any was confirmed."""
        return rank_configurations(self.trials.drop(self.fresh.index))

    @cached_property
    def unconfirmed(self) -> dict[str, list[str]]:
        """Leader, as a sentence names it -> the fresh trials of it that diverged or failed."""
        bad = self.fresh[self.fresh["status"].isin(["diverged", "failed"])]
        found: dict[str, list[str]] = {}
        for row in bad.to_dict("records"):
            found.setdefault(spell_all(row, self.hyperparameters), []).append(str(row["trial"]))
        return found

    @property
    def ahead_before(self) -> Cell:
        """The best cell before any was confirmed."""
        return self._cells(self.by_grid)[0]

    @property
    def confirmed(self) -> bool:
        """Whether the winner was chosen by fresh seeds."""
        return self.winner.trials[0] in self.record.question.confirmed_trials

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that are compared, the winner first; none where no trial completed."""
        return self._cells(self.ranked[self.ranked["compared"]])

    @cached_property
    def all_cells(self) -> list[Cell]:
        """The cells with a result, compared or not, best first."""
        return self._cells(self.ranked)

    def _cells(self, frame: pd.DataFrame) -> list[Cell]:
        return [
            Cell(
                {name: row[name] for name in self.hyperparameters},
                row["trials"],
                row["val_accuracy"],
                row["seconds"],
            )
            for row in frame.to_dict("records")
        ]

    @property
    def winner(self) -> Cell:
        """The best cell; there must be one."""
        return self.cells[0]

    @property
    def images(self) -> int:
        """How many validation images there are."""
        return int(self.record.question.data["val_rows"])

    @property
    def several_seeds(self) -> bool:
        """Whether the cells that are compared have several seeds each."""
        return len(self.winner.trials) > 1

    @cached_property
    def correctness(self) -> Correctness | None:
        """The compared cells image by image; None where the labels are not kept."""
        if self.record.labels is None or not self.cells:
            return None
        names = [cell.trials for cell in self.cells]
        return score_images(names, self.record.predictions, self.record.labels)

    @cached_property
    def interval(self) -> Interval:
        """The winner's accuracy as far as it is known: 95 times in 100, such an interval holds it.

        Without the labels, of its images alone.
        """
        if self.correctness is None:
            return wilson_interval(self.winner.accuracy, self.images)
        return winner_interval(self.correctness)

    @property
    def most_frequent(self) -> float | None:
        """The share of the images that have the most frequent label; None without the labels."""
        labels = self.record.labels
        return None if labels is None else float(np.bincount(labels).max() / len(labels))

    @property
    def at_chance(self) -> bool:
        """Whether the winner may be no better than always answering the most frequent digit."""
        return self.most_frequent is not None and self.interval.low <= self.most_frequent

    @cached_property
    def comparisons(self) -> Comparisons | None:
        """The winner against the others; None where there is nothing to compare."""
        if self.correctness is None or len(self.cells) < 2:
            return None
        return compare_with_winner(self.correctness)

    @property
    def nearest(self) -> int:
        """The place, among the comparisons, of the cell that is least told apart."""
        assert self.comparisons is not None, "there are cells to compare"
        return int(np.argmax(self.comparisons.p_values))

    @cached_property
    def alike(self) -> list[Cell]:
        """The cells that cannot be told apart from the winner, best first."""
        if self.comparisons is None:
            return []
        apart = self.comparisons.told_apart
        return [cell for cell, told in zip(self.cells[1:], apart, strict=True) if not told]

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Trial -> its epochs, in order."""
        epochs = self.record.tables.epochs
        return {str(trial): rows for trial, rows in epochs.groupby("trial", sort=False)}

    @cached_property
    def cell_curves(self) -> pd.DataFrame:
        """The means over the seeds, by place in `all_cells` and by epoch."""
        epochs = self.record.tables.epochs
        places = epochs["trial"].map(self.places).rename("place")
        metrics = ["updates", "train_accuracy", "val_loss", "val_accuracy"]
        return epochs.groupby([places, epochs["epoch"]])[metrics].mean()

    @cached_property
    def places(self) -> dict[str, int]:
        """Trial -> the place of its cell in `all_cells`, for those that made the cell's mean."""
        return {trial: k for k, cell in enumerate(self.all_cells) for trial in cell.trials}

    def curve(self, cell: Cell) -> pd.DataFrame:
        """A row per epoch, the mean over the cell's seeds; the epoch is the index."""
        place = self.places[cell.trials[0]]
        return self.cell_curves.loc[[place]].droplevel("place")

    @cached_property
    def accuracies(self) -> dict[str, float]:
        """Trial -> validation accuracy after its last epoch."""
        return dict(zip(self.trials["trial"], self.trials["val_accuracy"], strict=True))

    @cached_property
    def seconds(self) -> pd.DataFrame:
        """A row per trial that has a result: where, when, in how wide a stack, and how long.

        Columns lr, batch_size, seed, stack, trials (of the stack), node, pid, started, ended,
        seconds, run.
        """
        rows = [
            {
                **member.values(),
                "stack": place,
                "trials": len(result.stack.members),
                **{name: getattr(result.run, name) for name in ("node", "pid", "started", "ended")},
                "seconds": sum(records[k].seconds for records in result.epochs),
            }
            for place, result in enumerate(self.record.results)
            if len(result.epochs) == self.record.question.epochs
            for k, member in enumerate(result.stack.members)
            if not result.epochs[-1][k].diverged
        ]
        frame = pd.DataFrame(rows)
        if frame.empty:
            return frame
        frame = frame.sort_values("started", kind="stable", ignore_index=True)
        return frame.assign(run=number_runs(frame))

    def ratios_of_seconds(self, ours: int, theirs: int) -> list[float]:
        """Return how many times as long a batch size took as another; one for each pair of stacks.

        Those are of the same run, train as many trials, and have a rate and a seed in common.
        """
        if ours == theirs or self.seconds.empty:
            return []
        one, other = (
            self.seconds[self.seconds["batch_size"] == size].drop(columns="batch_size")
            for size in (ours, theirs)
        )
        pairs = one.merge(other, on=["run", "trials", "lr", "seed"], suffixes=("", "_other"))
        pairs = pairs[pairs["seconds_other"] > 0].drop_duplicates(["stack", "stack_other"])
        return (pairs["seconds"] / pairs["seconds_other"]).tolist()

    def standard_error(self, accuracy: float) -> float:
        """Of an accuracy measured on the validation images."""
        return math.sqrt(max(accuracy * (1 - accuracy), 1 / self.images) / self.images)


def spell_all(values: Mapping[Any, Any], names: Sequence[str]) -> str:
    """Return a configuration, or a row that has it, as a sentence names it."""
    return ", ".join(spell(name, values[name]) for name in names)


def spell(name: str, value: float) -> str:
    """Return a hyperparameter and its value as a sentence has them."""
    return f"{name.replace('_', ' ')} {value!r}"
