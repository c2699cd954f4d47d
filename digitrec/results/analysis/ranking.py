"""The ranking of trials, and of configurations by their mean over seeds."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.store.record import StudyRecord


def rank(
    trials: pd.DataFrame, confirmed: Collection[str] = (), cooled: Collection[str] = ()
) -> pd.DataFrame:
    """Return the trials with a rank, best first: the completed ones, then those a race dropped.

    The completed ones are ranked by their configurations, then by themselves, the dropped ones by
    the rung they reached; if none has completed, those still in the race are ahead of the dropped
    ones, which have no rank yet. With one seed this is the order by validation accuracy, then
    validation loss. Among the trials of a confirmed configuration the fresh ones come first: the
    others made it a leader. All trials that cooled down come before the others.

    Args:
        trials: TRIAL_COLUMNS.
        confirmed: trials that train the leaders again with fresh seeds.
        cooled: trials that train the finalists on.
    """
    cool, dropped = trials["trial"].isin(list(cooled)), trials["status"] == "dropped"
    parts = [_rank_searched(trials[~cool], confirmed)]
    if cool.any():
        parts.insert(0, _rank_searched(trials[cool], ()))
    if dropped.any() and (trials["status"] == "completed").any():
        order = ["epochs", "val_accuracy", "val_loss"]
        parts.append(
            trials[dropped].sort_values(order, ascending=[False, False, True], kind="stable")
        )
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)


def _rank_searched(trials: pd.DataFrame, confirmed: Collection[str]) -> pd.DataFrame:
    by = list(HYPERPARAMETERS)
    places = rank_confirmed(trials, confirmed)[by].reset_index(names="place")
    completed = trials[trials["status"] == "completed"]
    ranked = (
        completed.merge(places, "left", by)
        .assign(fresh=lambda rows: rows["trial"].isin(list(confirmed)))
        .sort_values(
            ["place", "fresh", "val_accuracy", "val_loss"],
            ascending=[True, False, False, True],
            kind="stable",
            ignore_index=True,
        )
    )
    return ranked.drop(columns=["place", "fresh"])


def rank_confirmed(trials: pd.DataFrame, confirmed: Collection[str]) -> pd.DataFrame:
    """Return the configurations as `rank_configurations` does, the confirmed ones first.

    They are compared by their fresh seeds alone: the seeds that made them leaders are those that
    did well.
    """
    fresh = trials["trial"].isin(list(confirmed))
    if not fresh.any():
        return rank_configurations(trials)
    by_grid, leaders = rank_configurations(trials[~fresh]), rank_configurations(trials[fresh])
    if leaders.empty:
        return by_grid
    by = list(HYPERPARAMETERS)
    rest = by_grid.merge(leaders[by], "left", by, indicator=True)
    rest = rest[rest["_merge"] == "left_only"].drop(columns="_merge")
    return pd.concat([leaders, rest.assign(compared=False)], ignore_index=True)


def find_finalists(trials: pd.DataFrame, confirmed: Collection[str], at_least: int = 1) -> set[str]:
    """Return the trials to cool down: the confirming ones of the leaders, or else the winner's.

    Args:
        trials: TRIAL_COLUMNS.
        confirmed: trials that train the leaders again with fresh seeds.
        at_least: so many; the next best configurations follow the winner, with all their seeds,
            until they are enough or none is left that can be compared.
    """
    ranked = rank_confirmed(trials, confirmed)
    compared = ranked.loc[ranked["compared"], "trials"].tolist()
    fresh = bool(set(confirmed).intersection(*compared[:1]))
    found: set[str] = set()
    for names in compared:
        if fresh or len(found) < at_least:
            found.update(names)
    return found


def choose_members(
    ranked: pd.DataFrame, confirmed: Collection[str], cooled: Collection[str], most: int
) -> list[str]:
    """Return the trials whose probabilities the saved model averages, the winner first.

    They are finalists: trials that cooled down if the winner did, or else trials with fresh seeds
    if the winner is one.

    Args:
        ranked: as `rank` returns it.
        confirmed: trials that train the leaders again with fresh seeds.
        cooled: trials that train the finalists on.
        most: how many; fewer if not so many have completed.
    """
    names = ranked.loc[ranked["status"] == "completed", "trial"].tolist()
    for finalists in (set(cooled), set(confirmed)):
        if finalists.intersection(names[:1]):
            names = [name for name in names if name in finalists]
    return names[:most]


def rank_configurations(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per configuration with a completed trial, best mean over the seeds first.

    Configurations with a diverged seed, and single-seed ones among several-seed ones, come last
    and are not compared, because their means are biased upwards by luck.

    Returns:
        The hyperparameters and trials (tuple of the names of the completed ones), seeds (how many
        those are), diverged (trials), val_accuracy, val_loss, seconds (means over the seeds),
        lowest, highest (of the validation accuracy), compared (bool).
    """
    by = list(HYPERPARAMETERS)
    completed = trials[trials["status"] == "completed"]
    ranked = completed.groupby(by, as_index=False, sort=False).agg(
        trials=("trial", tuple),
        seeds=("trial", "size"),
        val_accuracy=("val_accuracy", "mean"),
        val_loss=("val_loss", "mean"),
        seconds=("seconds", "mean"),
        lowest=("val_accuracy", "min"),
        highest=("val_accuracy", "max"),
    )
    diverged = trials.assign(diverged=trials["status"] == "diverged").groupby(by)["diverged"].sum()
    ranked = ranked.merge(diverged.reset_index(), "left", by)
    whole = ranked["diverged"] == 0
    ranked["compared"] = whole if whole.any() else True
    several = ranked["compared"] & (ranked["seeds"] > 1)
    ranked["compared"] = several if several.any() else ranked["compared"]
    order = ["compared", "val_accuracy", "val_loss"]
    return ranked.sort_values(
        order, ascending=[False, False, True], kind="stable", ignore_index=True
    )


def evenly_trained(record: StudyRecord) -> pd.DataFrame:
    """Return the trials of the search as all of them were at some time, so as to compare them.

    In a race that is the first rung: status and accuracy are those at its end.
    """
    race, (trials, epochs) = record.spec.raced, (record.searched.trials, record.searched.epochs)
    if race is None:
        return trials
    rung = epochs[epochs["epoch"] == race.rungs[0]].set_index("trial")
    accuracy = trials["trial"].map(rung["val_accuracy"].astype(float))
    loss = trials["trial"].map(rung["val_loss"].astype(float))
    there = trials["trial"].isin(rung.index)
    ends = np.where(np.isfinite(accuracy) & np.isfinite(loss), "completed", "diverged")
    return trials.assign(
        status=trials["status"].where(~there, ends),
        val_accuracy=accuracy.where(there, trials["val_accuracy"]),
    )
