"""Curves of configurations over training: their table, and the panel that draws them.

The seeds of a configuration are drawn together, as their mean and a band from the lowest to the
highest. The mean is over the seeds that are finite at that epoch; a cross stands at the last epoch
before the first of them diverges.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from digitrec.results.analysis.naming import named_hyperparameters
from digitrec.results.figures.configurations import describe_winner, is_sparse, is_winner
from digitrec.results.figures.encoding import (
    MOST_LINES_WITH_MARKERS,
    WINNER_EDGE,
    Encoding,
    draw_legend,
    winner_handle,
)
from digitrec.results.figures.scales import Floats
from digitrec.results.figures.style import (
    OTHERS_GREY,
    TEXT_GREY,
    WHITE_EDGE,
    prepare,
    write_title,
)
from digitrec.results.text import count
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.store.tables import COOLDOWN

MOST_LEADERS = 10  # in colour, where points of a space are many
METRICS = ["train_loss", "val_loss", "train_accuracy", "val_accuracy"]


class Line(NamedTuple):
    """The finite points of one configuration in one panel, as arrays of one length."""

    first: Any
    """The value that its colour shows."""
    second: Any
    """The value that its dashes and marker show."""
    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def summarise_curves(
    trials: pd.DataFrame,
    epochs: pd.DataFrame,
    winner: str | None,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return a row per metric, configuration and epoch, over the seeds of the configuration.

    Returns:
        Columns metric, the hyperparameters, seeds (of the configuration, in trials), dropped (bool:
        a race dropped all of them), winner (bool), leads (bool: whether it is drawn in colour; see
        `find_leaders`), epoch, updates, mean, low,
        high, finite and recorded (how many seeds have a finite value at this epoch, and how many a
        row), cooldown (above 0 in a cooldown), diverged (bool: the last epoch before a seed
        diverges, or the first epoch where one has diverged in it). A configuration without epochs
        has one row per metric, with NaN from epoch on.
    """
    by = list(HYPERPARAMETERS)
    # A table without rows, read from CSV, has no types; with them, it needs no case of its own.
    types = trials.dtypes[by].to_dict() | dict.fromkeys(["epoch", "updates", *metrics], float)
    values = (
        epochs.astype(types)
        .assign(cooldown=epochs.get(COOLDOWN, 0))
        .replace([np.inf, -np.inf], np.nan)
        .melt([*by, "epoch", "updates", COOLDOWN], metrics, var_name="metric")
    )
    lines = values.groupby(["metric", *by, "epoch"], as_index=False).agg(
        updates=("updates", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        finite=("value", "count"),
        recorded=("value", "size"),
        cooldown=(COOLDOWN, "max"),
    )
    configurations = (
        trials.assign(dropped=trials["status"] == "dropped")
        .groupby(by, as_index=False)
        .agg(seeds=("seed", "nunique"), dropped=("dropped", "all"))
    )
    configurations["winner"] = is_winner(configurations, trials, winner)
    configurations["leads"] = find_leaders(configurations, trials)
    panels = pd.DataFrame({"metric": metrics})
    frame = panels.merge(configurations, how="cross").merge(lines, "left", ["metric", *by])
    frame["diverged"] = _marks_divergence(frame)
    return frame


def find_leaders(configurations: pd.DataFrame, trials: pd.DataFrame) -> "pd.Series[bool]":
    """Return which configurations are drawn in colour: the best of many points, else all.

    Those that a race dropped are not drawn.
    """
    drawn = ~configurations["dropped"]
    if drawn.sum() <= MOST_LINES_WITH_MARKERS or not is_sparse(configurations):
        return drawn
    completed = trials[trials["status"] == "completed"]
    by = list(HYPERPARAMETERS)
    means = completed.groupby(by, as_index=False).agg(accuracy=("val_accuracy", "mean"))
    accuracy = (
        configurations[by].merge(means, "left", by)["accuracy"].set_axis(configurations.index)
    )
    best = accuracy.dropna().sort_values(ascending=False, kind="stable").head(MOST_LEADERS)
    leads: pd.Series[bool] = configurations["winner"] | configurations.index.isin(best.index)
    return leads


def describe_leaders(frame: pd.DataFrame) -> str:
    """Return which curves are in colour; nothing where all are."""
    drawn = frame[~frame["dropped"]].drop_duplicates(list(HYPERPARAMETERS))
    leaders = int(drawn["leads"].sum())
    if leaders == len(drawn):
        return ""
    return f"The best {leaders} configurations are in colour, all others in grey."


def describe_dropped(frame: pd.DataFrame) -> str:
    """Return that dropped configurations are not drawn; nothing where there are none."""
    dropped = int(frame.drop_duplicates(list(HYPERPARAMETERS))["dropped"].sum())
    if not dropped:
        return ""
    return f"{count(dropped, 'configuration')} that the race dropped are not drawn."


def _marks_divergence(frame: pd.DataFrame) -> "pd.Series[bool]":
    line = ["metric", *HYPERPARAMETERS]
    lost = frame["finite"] < frame["recorded"]
    lost_next = lost.groupby([frame[column] for column in line]).shift(-1, fill_value=False)
    return (~lost & lost_next) | (lost & ~frame.duplicated(line))


def epoch_positions(frame: pd.DataFrame, encoding: Encoding) -> "pd.Series[float]":
    """Return the epochs; a lone epoch is spread over a column per dash pattern."""
    columns = len(encoding.second.values)
    if frame["epoch"].nunique() != 1 or columns == 1:
        return frame["epoch"]
    places = np.linspace(-0.3, 0.3, columns)
    return frame["epoch"] + places[encoding.second.ranks(frame[encoding.second.name])]


def draw_curves_title(figure: Figure, title: str, frame: pd.DataFrame) -> None:
    """Write a title with the number of configurations in a table, and the winner below it."""
    configurations = frame.drop_duplicates(list(HYPERPARAMETERS))
    said = [describe_winner(configurations, named_hyperparameters(frame))]
    if configurations["seeds"].max() > 1:
        said.append("means over seeds, with bands from the lowest to the highest")
    if (cooling := frame[COOLDOWN] > 0).any():
        said.append(f"cooldown from epoch {frame.loc[cooling, 'epoch'].min():.0f} on")
    drawn = count(len(configurations.dropna(subset="epoch")), "configuration")
    write_title(figure, f"{title}, {drawn}", "; ".join(said))


def draw_curves_legend(figure: Figure, frame: pd.DataFrame, encoding: Encoding, top: float) -> None:
    """Draw the legend of the curves of one metric; see `draw_legend`."""
    draw_legend(figure, encoding, list(_mark_handles(frame, encoding)), top)


def _mark_handles(frame: pd.DataFrame, encoding: Encoding) -> Iterator[Artist]:
    """Yield the winner, the diverged and the missing lines, where there are any."""
    for value in frame.loc[frame["winner"], encoding.first.name].head(1).tolist():
        yield winner_handle(encoding, value)
    configurations = frame.drop_duplicates(list(HYPERPARAMETERS))
    dropped = int(configurations["dropped"].sum())
    if others := int((~configurations["leads"]).sum()) - dropped:
        yield Line2D([], [], color=OTHERS_GREY, linewidth=1.2, label=f"{others:,} others")
    if diverged := int(frame["diverged"].sum()):
        what = "diverged" if frame["seeds"].max() == 1 else "with a seed\ndiverged"
        yield Line2D(
            [], [], color=TEXT_GREY, linestyle="", marker="x", markeredgewidth=2,
            label=f"{diverged} {what}\nfrom there on",
        )  # fmt: skip
    if dropped:
        yield Line2D([], [], linestyle="", label=f"{dropped:,} dropped:\nnot drawn")
    if missing := int((frame["epoch"].isna() & ~frame["dropped"]).sum()):
        yield Line2D([], [], linestyle="", label=f"{missing} without any\nepoch: not drawn")


def draw_curves(axes: Axes, frame: pd.DataFrame, encoding: Encoding) -> None:
    """Draw a line per configuration in a panel whose scales are set.

    Args:
        axes: the panel.
        frame: as from `summarise_curves`, of one metric, and a column x.
        encoding: of all configurations.
    """
    prepare(axes)
    others = _lines(frame[~frame["leads"]], encoding)
    _draw_others(axes, others)
    lines = _lines(frame[frame["leads"]], encoding)
    if frame["seeds"].max() > 1:
        _draw_bands(axes, lines, encoding)
    _draw_lines(axes, lines, encoding)
    _draw_markers(axes, lines, encoding)
    for line in _lines(frame[frame["winner"]], encoding):
        _draw_winner(axes, line, encoding)
    _draw_crosses(axes, frame[frame["diverged"]], encoding)
    if not lines and not others:
        axes.text(
            0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=TEXT_GREY
        )


def _lines(frame: pd.DataFrame, encoding: Encoding) -> list[Line]:
    points = frame.dropna(subset=["mean"])
    # A group-by that makes a frame per line takes seconds for 2,000 lines.
    starts = np.flatnonzero(~points.duplicated(list(HYPERPARAMETERS)))
    values = np.split(points[["x", "mean", "low", "high"]].to_numpy(float), starts[1:])
    names = [encoding.first.name, encoding.second.name]
    firsts, seconds = (points[name].iloc[starts].tolist() for name in names)
    # No points at all still make one empty part, which has no name; hence not strict.
    named = zip(firsts, seconds, values, strict=False)
    return [Line(first, second, *part.T) for first, second, part in named]


def _draw_bands(axes: Axes, lines: Sequence[Line], encoding: Encoding) -> None:
    """Draw the range of the seeds: as an area, or as a bar where there is one epoch."""
    areas = [line for line in lines if len(line.x) > 1]
    outlines = [
        np.column_stack([np.r_[line.x, line.x[::-1]], np.r_[line.low, line.high[::-1]]])
        for line in areas
    ]
    colours = encoding.colours([line.first for line in areas])
    alpha = 0.05 if encoding.crowded else 0.13
    axes.add_collection(
        PolyCollection(outlines, facecolors=colours, alpha=alpha, zorder=1.5), autolim=False
    )
    points = [line for line in lines if len(line.x) == 1]
    bars = [[(line.x[0], line.low[0]), (line.x[0], line.high[0])] for line in points]
    colours = encoding.colours([line.first for line in points])
    axes.add_collection(LineCollection(bars, colors=colours, linewidths=1.2), autolim=False)


def _draw_others(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw the lines that do not lead thin and grey, behind the others; single points as dots."""
    points = [np.column_stack([line.x, line.mean]) for line in lines]
    collection = LineCollection(points, colors=OTHERS_GREY, linewidths=0.6, zorder=1.2)
    collection.set_label("others")
    axes.add_collection(collection, autolim=False)
    if alone := [own[0] for own in points if len(own) == 1]:
        x, y = np.transpose(alone)
        axes.scatter(x, y, 4, OTHERS_GREY, linewidths=0, zorder=1.2, label="single points")


def _draw_lines(axes: Axes, lines: Sequence[Line], encoding: Encoding) -> None:
    collection = LineCollection(
        [np.column_stack([line.x, line.mean]) for line in lines],
        colors=encoding.colours([line.first for line in lines]),
        linestyles=[encoding.style(line.second) for line in lines],
        linewidths=[encoding.width(line.second) for line in lines],
        alpha=0.8 if encoding.crowded else None,
        label="configurations",
    )
    axes.add_collection(collection, autolim=False)


def _draw_markers(axes: Axes, lines: Sequence[Line], encoding: Encoding) -> None:
    """Draw about 10 markers a line; among many lines, only those of single points."""
    marked = [line for line in lines if len(line.x) == 1 or not encoding.crowded]
    for marker in sorted({encoding.marker(line.second) for line in marked}):
        group = [line for line in marked if encoding.marker(line.second) == marker]
        points = [np.column_stack([line.x, line.mean])[:: _marker_step(line)] for line in group]
        values = [line.first for line, own in zip(group, points, strict=True) for _ in own]
        if group:
            x, y = np.concatenate(points).T
            axes.scatter(
                x,
                y,
                8 if encoding.crowded else 20,
                encoding.colours(values),
                marker=marker,
                linewidths=0,
            )


def _marker_step(line: Line) -> int:
    return -(-len(line.x) // 10)


def _draw_winner(axes: Axes, line: Line, encoding: Encoding) -> None:
    """Draw the line once more, wide and black-edged, over all others."""
    (drawn,) = axes.plot(
        line.x,
        line.mean,
        color=encoding.colours([line.first])[0],
        linewidth=2.8,
        marker=encoding.marker(line.second),
        markevery=_marker_step(line),
        markersize=7,
        zorder=4,
        label="winner",
    )
    drawn.set_path_effects(WINNER_EDGE)


def _draw_crosses(axes: Axes, frame: pd.DataFrame, encoding: Encoding) -> None:
    """Draw crosses on the last points of diverged lines; without a point, at the edge."""
    if frame.empty:
        return
    at_top = frame["metric"].iloc[0].endswith("_loss")
    pointless = frame["mean"].isna()
    mean = frame["mean"].to_numpy(float)
    x, y = _axes_fractions(axes, frame["x"].to_numpy(float), np.where(pointless, 1, mean))
    # Side by side, about their epoch, and inside the panel.
    place = frame[pointless].groupby("x")["x"]
    size = place.transform("size")
    rank = place.cumcount() - (size - 1) / 2
    step = np.minimum(0.025, 0.45 / size)
    width = step * size
    centre = np.clip(x[pointless], width / 2, 1 - width / 2)
    x[pointless] = centre + rank * step
    y[pointless] = 0.965 if at_top else 0.035
    colours = encoding.colours(frame[encoding.first.name].tolist())
    crosses = axes.scatter(
        x,
        y.clip(0.035, 0.965),
        24 if encoding.crowded else 55,
        colours,
        marker="x",
        linewidths=1 if encoding.crowded else 2,
        transform=axes.transAxes,
        zorder=5,
        label="diverged",
    )
    crosses.set_path_effects(WHITE_EDGE)


def _axes_fractions(axes: Axes, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    to_axes = axes.transData + axes.transAxes.inverted()
    points = to_axes.transform(np.column_stack([x, y]))
    return points[:, 0].copy(), points[:, 1].copy()
