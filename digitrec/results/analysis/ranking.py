"""The ranking of trials and configurations."""

from collections.abc import Collection, Sequence

import pandas as pd

CELL = ["lr", "batch_size"]  # what the trials of a configuration share that differ in seed


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
