"""What learning rate and batch size do to accuracy: main effects, interaction, and their shares."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from digitrec.results.figures.canvas import (
    HYPERPARAMETERS,
    break_label,
    listed,
    new_figure,
    prepare,
    searched,
    set_values,
    share,
)
from digitrec.results.figures.plots import Keys, count, set_accuracies, summarise_heatmap


def summarise_effects(trials: pd.DataFrame) -> pd.DataFrame:
    """Returns final accuracies by each searched hyperparameter, at each value of the other.

    Args:
        trials: columns trial, lr, batch_size, seed, status, val_accuracy.

    Returns:
        Columns hyperparameter, value, lr, batch_size, accuracy (mean over completed seeds; NaN
        without one), and effect (mean accuracy of this value's cells: its main effect).
    """
    cells = summarise_heatmap(trials, None)[["lr", "batch_size", "accuracy"]]
    parts = [
        cells.assign(
            hyperparameter=name,
            value=cells[name].astype(float),
            effect=cells.groupby(name)["accuracy"].transform("mean"),
        )
        for name in searched(trials)
    ]
    columns = ["hyperparameter", "value", "lr", "batch_size", "accuracy", "effect"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)[columns]


def summarise_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns how much of the variance of accuracy each hyperparameter accounts for.

    Only where both vary, and over the values of the learning rate at which every batch size has a
    trial that completed: there the grid is balanced, and the sums of squares add up.

    Args:
        frame: as from `summarise_effects`.

    Returns:
        Columns term (lr, batch_size, interaction), share (of the variance, sums to 1), cells (how
        many). No rows where the balanced part has fewer than two values of either, or no variance.
    """
    cells = frame[frame["hyperparameter"] == "lr"].pivot(
        index="lr", columns="batch_size", values="accuracy"
    )
    grid = cells.dropna().to_numpy(float)
    empty = pd.DataFrame({"term": [], "share": [], "cells": []})
    if min(grid.shape) < 2 or np.ptp(grid) == 0:
        return empty
    rows = grid.mean(1, keepdims=True) - grid.mean()
    columns = grid.mean(0, keepdims=True) - grid.mean()
    rest = grid - grid.mean() - rows - columns
    squares = [np.square(np.broadcast_to(part, grid.shape)).sum() for part in (rows, columns, rest)]
    terms = ["lr", "batch_size", "interaction"]
    shares = np.array(squares) / np.sum(squares)
    return pd.DataFrame({"term": terms, "share": shares, "cells": grid.size})


def draw_effects(frame: pd.DataFrame) -> Figure:
    """Draws a panel per hyperparameter: a thick line of means, a thin one per value of the other.

    Args:
        frame: as from `summarise_effects`, with at least one accuracy.
    """
    names = frame["hyperparameter"].unique()
    figure = new_figure(1.1 + 2.1 * len(names), 3.6)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    width = figure.get_figwidth()
    figure.subplots_adjust(0.95 / width, 0.15, 1 - 0.15 / width, 0.97, wspace=0.07)
    accuracy = frame["accuracy"]
    limits = pd.DataFrame({"mean": accuracy, "low": accuracy, "high": accuracy})
    set_accuracies(panels[0], limits, "validation accuracy")
    break_label(panels[0])
    keys = Keys.of(frame)
    for axes, name in zip(panels, names, strict=True):
        part = frame[frame["hyperparameter"] == name].sort_values("value")
        set_values(prepare(axes), str(name), sorted(part["value"].unique()))
        _draw_interaction(axes, part, keys, other="batch_size" if name == "lr" else "lr")
        mean = part.drop_duplicates("value").dropna(subset="effect")
        axes.plot(
            mean["value"], mean["effect"], color="black", linewidth=3, marker="o", label="mean"
        )
    return figure


def _draw_interaction(axes: Axes, frame: pd.DataFrame, keys: Keys, other: str) -> None:
    """A line per value of the other hyperparameter, in its colour or dashes of the comparison."""
    groups = [part for _, part in frame.dropna(subset="accuracy").groupby(other)]
    firsts = [part.iloc[0] for part in groups]
    by_rate = other == "lr"
    lines = LineCollection(
        [part[["value", "accuracy"]].to_numpy(float) for part in groups],
        colors=keys.colours([row["lr"] for row in firsts]) if by_rate else "#777777",
        linestyles="-" if by_rate else [keys.style(int(row["batch_size"])) for row in firsts],
        linewidths=1.3 if len(groups) <= 12 else 0.6,
        label="interaction",
    )
    axes.add_collection(lines, autolim=False)


def describe_effects(frame: pd.DataFrame) -> str:
    """Says the highest and lowest main effect, and what share of the variance is whose.

    Args:
        frame: as from `summarise_effects`.
    """
    said = []
    for name, part in frame.groupby("hyperparameter", sort=False):
        effects = part.groupby("value")["effect"].first().dropna()
        said.append(
            f"Mean accuracy over {HYPERPARAMETERS[str(name)]} is highest at {effects.idxmax():g} "
            f"with {share(effects.max())}, lowest at {effects.idxmin():g} "
            f"with {share(effects.min())}."
        )
    return " ".join([*said, describe_shares(summarise_shares(frame))]).strip()


def describe_shares(shares: pd.DataFrame) -> str:
    """Says what share of the variance of accuracy is whose; nothing where that is not known.

    Args:
        shares: as from `summarise_shares`.
    """
    if shares.empty:
        return ""
    words = HYPERPARAMETERS | {"interaction": "their interaction"}
    parts = [
        f"{words[term]} {share(part, 0)}"
        for term, part in zip(shares["term"], shares["share"], strict=True)
    ]
    cells = count(int(shares["cells"].iloc[0]), "configuration")
    return f"Of the variance of accuracy over {cells}, {listed(parts)}."
