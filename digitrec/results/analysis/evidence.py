"""What the rules of the verdict work from: the configurations of a study, ranked and compared."""

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from digitrec.results.analysis.naming import named_hyperparameters, spell_all
from digitrec.results.analysis.ranking import (
    evenly_trained,
    rank_configurations,
    rank_confirmed,
)
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
from digitrec.space.hyperparameters import HYPERPARAMETERS, with_role
from digitrec.store.record import StudyRecord

FAR_BEHIND = 6.0  # standard errors; whoever is so far behind wins on no other images
MOST_NAMED = 2  # hyperparameters that name each of several configurations
STANDARD_ERRORS = 2.0  # a difference beyond so many is more than noise


class RankedConfiguration(NamedTuple):
    """A configuration with a result, over its seeds."""

    name: str  # in sentences
    values: dict[str, Any]  # hyperparameter -> value
    trials: tuple[str, ...]  # the completed ones
    accuracy: float  # mean over the seeds, after the last epoch

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def differs_only_in(self, name: str, other: Mapping[str, Any]) -> bool:
        """Return whether all other hyperparameters have the values of `other`."""
        return all(value == other[each] for each, value in self.values.items() if each != name)


class Evidence:
    """A record and what follows from it, computed when a rule first asks for it.

    A cooldown decides which configuration is the winner, and its accuracy. Everything else is that
    of the search: only finalists cool down, so the others must not be measured against that.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.record, self.spec = record, record.spec
        searched = record.searched
        self.trials, self.epochs = searched.trials, searched.epochs
        self.named = named_hyperparameters(self.trials)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """The table of the configurations with a result, best first; see `rank_confirmed`."""
        confirmed = self.spec.confirmed_trials
        return rank_confirmed(self.trials, confirmed)

    @cached_property
    def cooled_trials(self) -> pd.DataFrame:
        """The trials that cool down; may be empty."""
        trials = self.record.tables.trials
        return trials[trials["trial"].isin(list(self.spec.cooled_trials))]

    @cached_property
    def cooled(self) -> list[RankedConfiguration]:
        """The configurations that have cooled down, best first, without those that diverged."""
        if self.cooled_trials.empty:
            return []
        ranking = rank_configurations(self.cooled_trials)
        return self._rows(ranking[ranking["compared"]])

    @property
    def compared_cooled(self) -> bool:
        """Whether the configurations that are compared have cooled down."""
        return len(self.cooled) > 1

    @cached_property
    def comparable(self) -> pd.DataFrame:
        """The rows of the ranking by which the winner was chosen, those compared."""
        cooled = self.compared_cooled
        ranking = rank_configurations(self.cooled_trials) if cooled else self.ranking
        return ranking[ranking["compared"]]

    @cached_property
    def configurations(self) -> list[RankedConfiguration]:
        """The configurations with a result, compared or not, best first."""
        return self._rows(self.ranking)

    @cached_property
    def compared(self) -> list[RankedConfiguration]:
        """The configurations that are compared, winner first; none where no trial completed.

        Where one configuration cooled down, it is compared with the others by what it was before.
        """
        return self._rows(self.comparable)

    def _rows(self, ranking: pd.DataFrame) -> list[RankedConfiguration]:
        return [
            RankedConfiguration(
                name=self.spell(row),
                values={name: row[name] for name in HYPERPARAMETERS},
                trials=row["trials"],
                accuracy=row["val_accuracy"],
            )
            for row in ranking.to_dict("records")
        ]

    def spell(self, values: Mapping[Any, Any]) -> str:
        """Return the configuration of a row, as a sentence names it."""
        return spell_all(values, self.named)

    def spell_beside_winner(self, values: Mapping[Any, Any]) -> str:
        """Return the configuration of a row; of many hyperparameters, only those that differ.

        Those that the winner has as well go without saying.
        """
        if not self.names_are_long:
            return self.spell(values)
        winner = self.winner.values
        differing = [name for name in self.named if values[name] != winner[name]]
        return spell_all(values, differing) or "the winner's values"

    @property
    def names_are_long(self) -> bool:
        """Whether names of configurations are so long that sentences shorten them."""
        return len(self.named) > MOST_NAMED

    @property
    def winner(self) -> RankedConfiguration:
        """The best configuration; there must be one. Its accuracy is that after any cooldown."""
        return self.cooled[0] if self.cooled else self.compared[0]

    @cached_property
    def saved(self) -> dict[str, Any] | None:
        """The saved model's `model.json`; None where it is not the winner's.

        Its first trial is one. Where fresh seeds chose the winner, it need not be one of them.
        """
        best = self.record.best
        if best is None:
            return None
        trials = self.record.tables.trials
        saved = trials[trials["trial"] == best["trial"]]
        same = [(saved[name] == value).all() for name, value in self.winner.values.items()]
        return best if len(saved) and all(same) else None

    @cached_property
    def fresh(self) -> pd.DataFrame:
        """The trials that train the leaders again with fresh seeds; may be empty."""
        return self.trials[self.trials["trial"].isin(self.spec.confirmed_trials)]

    @property
    def confirmed(self) -> bool:
        """Whether the winner was chosen by fresh seeds."""
        trial = self.winner.trials[0]
        return self.spec.cooled_trials.get(trial, trial) in self.spec.confirmed_trials

    @cached_property
    def evenly_trained(self) -> pd.DataFrame:
        """The trials before any was trained with fresh seeds; see `ranking.evenly_trained`."""
        return evenly_trained(self.record).drop(self.fresh.index)

    @cached_property
    def dropped(self) -> pd.DataFrame:
        """The trials that a race dropped; may be empty."""
        return self.trials[self.trials["status"] == "dropped"]

    @cached_property
    def first_leader(self) -> RankedConfiguration:
        """The best configuration before any was trained with fresh seeds."""
        first_trials = self.trials.drop(self.fresh.index)
        return self._rows(rank_configurations(first_trials))[0]

    @cached_property
    def unconfirmed(self) -> dict[str, list[str]]:
        """Leader, as a sentence names it -> its fresh trials that diverged or failed."""
        bad = self.fresh[self.fresh["status"].isin(["diverged", "failed"])]
        found: dict[str, list[str]] = {}
        for row in bad.to_dict("records"):
            found.setdefault(self.spell(row), []).append(str(row["trial"]))
        return found

    @property
    def images(self) -> int:
        """The number of validation images."""
        return int(self.spec.data["val_rows"])

    @property
    def several_seeds(self) -> bool:
        """Whether the configurations that are compared have several seeds each."""
        return len(self.winner.trials) > 1

    @cached_property
    def correctness(self) -> Correctness | None:
        """The compared configurations image by image; None without the labels."""
        if self.record.labels is None or not self.compared:
            return None
        return self._score(self.compared, self.record.labels)

    def _score(
        self, configurations: list[RankedConfiguration], labels: NDArray[np.uint8]
    ) -> Correctness:
        names = [each.trials for each in configurations]
        return score_images(names, self.record.predictions, labels)

    @cached_property
    def interval(self) -> Interval:
        """The 95% interval of the winner's accuracy; without the labels, over its images alone."""
        if self.correctness is None or self.record.labels is None:
            return wilson_interval(self.winner.accuracy, self.images)
        cooled = self._score([self.winner], self.record.labels) if self.cooled else None
        return winner_interval(cooled or self.correctness)

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
        if self.correctness is None or len(self.compared) < 2:
            return None
        chosen_by_fresh_seeds = bool(self.spec.confirmed)
        return compare_with_winner(
            self.correctness, dropped=0 if chosen_by_fresh_seeds else len(self.dropped)
        )

    @property
    def chosen_from(self) -> NDArray[np.float32]:
        """How often each image is recognised by whatever the winner was chosen from, winner first.

        The trials that a race dropped are as they were then; those far behind the winner are left
        out, since no other images would have let them win. There must be `correctness`.
        """
        assert self.correctness is not None, "there are labels"
        means = self.correctness.means
        if self.spec.confirmed or self.record.labels is None or self.dropped.empty:
            return means
        least = self.winner.accuracy - FAR_BEHIND * self.standard_error(self.winner.accuracy)
        close = self.dropped[self.dropped["val_accuracy"] >= least]["trial"]
        answers = (self.record.predictions[trial] == self.record.labels for trial in close)
        return np.array([*means, *answers], np.float32)

    @property
    def nearest(self) -> int:
        """The place in `comparisons` of the configuration that is hardest to tell apart."""
        assert self.comparisons is not None, "there are configurations to compare"
        return int(np.argmax(self.comparisons.p_values))

    @cached_property
    def alike(self) -> list[RankedConfiguration]:
        """The configurations that cannot be told apart from the winner, best first."""
        if self.comparisons is None:
            return []
        apart = self.comparisons.told_apart
        return [each for each, told in zip(self.compared[1:], apart, strict=True) if not told]

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Trial -> its epochs, in order."""
        epochs = self.epochs
        return {str(trial): rows for trial, rows in epochs.groupby("trial", sort=False)}

    @cached_property
    def mean_curves(self) -> pd.DataFrame:
        """The means over the seeds, by place in `configurations` and by epoch."""
        epochs = self.epochs
        places = epochs["trial"].map(self.places).rename("place")
        metrics = ["updates", "train_accuracy", "val_loss", "val_accuracy"]
        return epochs.groupby([places, epochs["epoch"]])[metrics].mean()

    @cached_property
    def places(self) -> dict[str, int]:
        """Trial -> the place in `configurations` of the one whose mean it is part of."""
        return {trial: k for k, each in enumerate(self.configurations) for trial in each.trials}

    def mean_curve(self, configuration: RankedConfiguration) -> pd.DataFrame:
        """Return a row per epoch, the mean over the seeds; the epoch is the index."""
        same = (each.values == configuration.values for each in self.configurations)
        place = next(k for k, found in enumerate(same) if found)
        return self.mean_curves.loc[[place]].droplevel("place")

    @cached_property
    def accuracies(self) -> dict[str, float]:
        """Trial -> validation accuracy after its last epoch."""
        return dict(zip(self.trials["trial"], self.trials["val_accuracy"], strict=True))

    @cached_property
    def seconds(self) -> pd.DataFrame:
        """A row per completed trial: where and when it was trained, and how long it took.

        The columns are those of the tables of runs and trials, trials (of its stack) and run.
        """
        runs = self.record.runs
        runs = runs.assign(trials=runs.groupby(["stack", "started"])["trial"].transform("size"))
        completed = self.trials[self.trials["status"] == "completed"]
        frame = runs.merge(completed, on="trial")
        frame = frame.sort_values("started", kind="stable", ignore_index=True)
        return frame.assign(run=number_runs(frame))

    def ratios_of_seconds(self, ours: int, theirs: int) -> list[float]:
        """Return how many times as long one batch size took as another, for each pair of stacks.

        The stacks of a pair belong to one run, train as many trials, and have in common a seed and
        the values of all other hyperparameters.
        """
        if ours == theirs:
            return []
        batch = with_role("batch").name
        one, other = (
            self.seconds[self.seconds[batch] == size].drop(columns=batch) for size in (ours, theirs)
        )
        same = ["run", "trials", "seed", *(name for name in HYPERPARAMETERS if name != batch)]
        pairs = one.merge(other, on=same, suffixes=("", "_other"))
        pairs = pairs[pairs["seconds_other"] > 0].drop_duplicates(["stack", "stack_other"])
        return (pairs["seconds"] / pairs["seconds_other"]).tolist()

    def standard_error(self, accuracy: float) -> float:
        """Return the standard error of an accuracy measured on the validation images."""
        return math.sqrt(max(accuracy * (1 - accuracy), 1 / self.images) / self.images)


@lru_cache(maxsize=1)  # the verdict, its terminal lines and the report all ask
def gather_evidence(record: StudyRecord) -> Evidence:
    """Return the evidence of a record, computed once."""
    return Evidence(record)
