"""The axis plot: the best accuracy of each trial, against each searched hyperparameter."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

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
from digitrec.results.figures.plots import TEXT_GREY, Keys, count, set_accuracies

# How high, as a share of the panel, the cross of a trial without a finite epoch stands.
FOOT = 0.03


def summarise_sweep(trials: pd.DataFrame, winner: str | None) -> pd.DataFrame:
    """Returns a row per searched hyperparameter and trial.

    Args:
        trials: columns trial, lr, batch_size, status, best_val_accuracy.
        winner: the name of a trial.

    Returns:
        Columns hyperparameter, value, lr, batch_size, trained (bool), best (best_val_accuracy, NaN
        without a finite epoch), diverged (bool), winner (bool).
    """
    names = ["hyperparameter", "value", "lr", "batch_size", "trained", "best", "diverged", "winner"]
    rows = trials.assign(
        trained=trials["status"].isin(["completed", "diverged"]),
        best=trials["best_val_accuracy"].astype(float),
        diverged=trials["status"] == "diverged",
        winner=trials["trial"] == winner,
    )
    parts = [rows.assign(hyperparameter=name, value=rows[name]) for name in searched(trials)]
    frame = pd.concat(parts, ignore_index=True) if parts else rows.reindex(columns=names)[:0]
    return frame[names].astype({"value": float})


def draw_sweep(frame: pd.DataFrame) -> Figure:
    """Draws a panel per hyperparameter; colour and marker are those of the comparison.

    Args:
        frame: as from `summarise_sweep`, some of them trained.
    """
    names = frame["hyperparameter"].unique()
    figure = new_figure(1.1 + 2.1 * len(names), 3.6)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    width = figure.get_figwidth()
    figure.subplots_adjust(0.95 / width, 0.15, 1 - 0.15 / width, 0.97, wspace=0.07)
    keys = Keys.of(frame)
    best = frame["best"]
    set_accuracies(
        panels[0],
        pd.DataFrame({"mean": best, "low": best, "high": best}),
        "best validation accuracy",
    )
    break_label(panels[0])
    for axes, name in zip(panels, names, strict=True):
        part = frame[frame["hyperparameter"] == name]
        set_values(prepare(axes), name, sorted(part["value"].unique()))
        _draw_points(axes, part, keys)
    return figure


def _draw_points(axes: Axes, frame: pd.DataFrame, keys: Keys) -> None:
    highest = frame.groupby("value")["best"].max().dropna()
    axes.plot(highest.index, highest, color=TEXT_GREY, linewidth=0.9, alpha=0.6, label="highest")
    crowded = len(frame) > 200
    for marker in sorted({keys.marker(size) for size in keys.batch_sizes}):
        held = frame["batch_size"].map(lambda size, own=marker: keys.marker(size) == own)
        part = frame[held & ~frame["diverged"]]
        colours = keys.colours(part["lr"].to_list())
        size, alpha = (12, 0.5) if crowded else (34, 0.9)
        axes.scatter(
            part["value"], part["best"], size, colours, marker=marker, alpha=alpha, linewidths=0
        )
    for row in frame[frame["winner"]].itertuples():
        marker = keys.marker(int(row.batch_size))  # type: ignore[arg-type]
        ring = axes.scatter(row.value, row.best, 110, keys.colours([row.lr]), marker=marker)  # type: ignore[arg-type, list-item]
        ring.set(zorder=4, label="winner", edgecolor="black", linewidth=1.6)
    _draw_diverged(axes, frame[frame["diverged"]], keys)


def _draw_diverged(axes: Axes, frame: pd.DataFrame, keys: Keys) -> None:
    """Crosses at the best finite epoch, or at the foot of the panel."""
    for part, height in (
        (frame[frame["best"].notna()], None),
        (frame[frame["best"].isna()], FOOT),
    ):
        if part.empty:
            continue
        crosses = axes.scatter(
            part["value"],
            part["best"] if height is None else np.full(len(part), height),
            46,
            keys.colours(part["lr"].to_list()),
            marker="x",
            linewidths=2,
            transform=axes.transData if height is None else axes.get_xaxis_transform(),
            zorder=5,
            label="diverged",
        )
        crosses.set_path_effects([Stroke(linewidth=3.5, foreground="white"), Normal()])


def describe_sweep(frame: pd.DataFrame) -> str:
    """Says where each hyperparameter was best, and how many trials diverged.

    Args:
        frame: as from `summarise_sweep`.
    """
    said = []
    for name, part in frame.groupby("hyperparameter", sort=False):
        highest = part.groupby("value")["best"].max().dropna()
        if highest.empty:
            continue
        values = [highest.index[0], highest.index[-1], highest.idxmax()]
        ends = [f"{share(highest[value])} at {value:g}" for value in values[:2]]
        said.append(
            f"The best over {HYPERPARAMETERS[str(name)]} is {share(highest.max())} "
            f"at {values[2]:g}; the ends reach {listed(ends)}."
        )
    first = frame[(frame["hyperparameter"] == frame["hyperparameter"].iloc[0]) & frame["trained"]]
    diverged = int(first["diverged"].sum())
    said.append(f"{diverged or 'None'} of {count(len(first), 'trial')} diverged.")
    return " ".join(said)
