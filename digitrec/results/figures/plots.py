"""The study's tables as three figures: the comparison, the heat map, and accuracy against updates.

Each figure takes two steps: `summarise_*` makes the frame that holds all that will be seen, and
`draw_*` draws it. A configuration is here a pair of learning rate and batch size; its seeds are
drawn together, as their mean and a band from the lowest to the highest.

A configuration's seeds may end differently. Its mean is over the seeds that are finite at that
epoch, and a cross stands where the first of them is about to diverge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection, PolyCollection
from matplotlib.colors import FuncNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Transform
from numpy.typing import ArrayLike, NDArray

from digitrec.store.folder import Folder

Floats = NDArray[np.float64]
LineStyle = Literal["-"] | tuple[float, tuple[float, ...]]

CONFIGURATION = ["lr", "batch_size"]
PANELS = {
    "train_loss": "Training loss",
    "val_loss": "Validation loss",
    "train_accuracy": "Training accuracy",
    "val_accuracy": "Validation accuracy",
}
LINE_STYLES: tuple[LineStyle, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (2.5, 2.5)),
    (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5)),
    (0, (10, 2.5)),
    (0, (1.2, 3)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "h")
# As many colours of a sequential map, and as many dash patterns, as an eye still tells apart.
LARGEST_KEY = len(LINE_STYLES)
# plasma is ordered by lightness and safe for colour-blind eyes; its yellow end fades on white.
LR_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0, 0.86, 256)), "lr")
ACCURACY_COLOURS = matplotlib.colormaps["viridis"]
DIVERGED_GREY, EMPTY_GREY, TEXT_GREY = "#9a9a9a", "#e4e4e4", "#444444"
ACCURACY_TICKS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
# An accuracy of 1 has no log error; this much is added to every error, which keeps it on the scale.
ERROR_FLOOR = 0.002
# Chance is 2.3 nats for 10 digits. Losses far above it would squeeze all others into a corner.
LOSS_CEILING = 20.0
# Above this ratio of the largest to the smallest value, a log scale shows more than a linear one.
LOG_RATIO = 3.0
MOST_LINES_WITH_MARKERS = 60
MOST_ROWS_TO_READ, MOST_COLUMNS_TO_READ = 15, 12
WINNER_EDGE = [
    Stroke(linewidth=6, foreground="black"),
    Stroke(linewidth=4.4, foreground="white"),
    Normal(),
]
DPI = 150
TITLE_SIZE, TEXT_SIZE, TICK_SIZE = 13, 10, 9.5


class Line(NamedTuple):
    """The finite points of one configuration in one panel, as arrays of one length."""

    lr: float
    batch_size: int
    x: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Keys:
    """How a configuration looks: its colour says the learning rate, its line the batch size."""

    lrs: tuple[float, ...]
    """In ascending order."""
    batch_sizes: tuple[int, ...]
    """In ascending order."""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Keys":
        """The keys for all configurations of a frame with columns lr and batch_size."""
        lrs, batch_sizes = (sorted(frame[column].unique()) for column in CONFIGURATION)
        return cls(tuple(map(float, lrs)), tuple(map(int, batch_sizes)))

    @property
    def crowded(self) -> bool:
        """Whether lines are so many that they are drawn thin and without markers."""
        return len(self.lrs) * len(self.batch_sizes) > MOST_LINES_WITH_MARKERS

    def colours(self, lrs: Sequence[float]) -> Floats:
        """A row of RGBA per learning rate: by rank, or by its logarithm when there are many."""
        if len(self.lrs) > LARGEST_KEY:
            places = np.asarray(LogNorm(self.lrs[0], self.lrs[-1])(lrs))
        elif len(self.lrs) > 1:
            places = np.searchsorted(self.lrs, lrs) / (len(self.lrs) - 1)
        else:
            places = np.full(len(lrs), 0.4)
        return np.asarray(LR_COLOURS(places))

    def style(self, batch_size: int) -> LineStyle:
        """The dash pattern of a batch size; solid for all when there are many."""
        if len(self.batch_sizes) > LARGEST_KEY:
            return "-"
        return LINE_STYLES[self.batch_sizes.index(batch_size)]

    def marker(self, batch_size: int) -> str:
        """The marker of a batch size; a dot for all when there are many."""
        if len(self.batch_sizes) > LARGEST_KEY:
            return "o"
        return MARKERS[self.batch_sizes.index(batch_size)]

    def width(self, batch_size: int) -> float:
        """The line width in points; it grows with the batch size when there are many."""
        if len(self.batch_sizes) > LARGEST_KEY:
            least, most = self.batch_sizes[0], self.batch_sizes[-1]
            return 0.4 + 1.6 * math.log(batch_size / least) / math.log(most / least)
        return 0.9 if self.crowded else 1.4


def draw_all(
    trials: pd.DataFrame, epochs: pd.DataFrame, winner: str | None, folder: Folder
) -> None:
    """Writes comparison.png, heatmap.png and updates.png.

    Args:
        trials: columns trial, lr, batch_size, seed, status, val_accuracy.
        epochs: columns lr, batch_size, seed, epoch, updates, train_loss, train_accuracy, val_loss,
            val_accuracy.
        winner: the name of the trial to emphasise, as in column trial.
        folder: gets the figures.

    Raises:
        ValueError: no trial has the winner's name.
    """
    comparison = summarise_comparison(trials, epochs, winner)
    write_png(draw_comparison(comparison), folder, "comparison.png")
    write_png(draw_heatmap(summarise_heatmap(trials, winner)), folder, "heatmap.png")
    write_png(draw_updates(_updates_of(comparison)), folder, "updates.png")


def write_png(figure: Figure, folder: Folder, name: str) -> None:
    """Writes the figure as a PNG file of a folder."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    folder.write(name, content.getvalue())


def summarise_comparison(
    trials: pd.DataFrame, epochs: pd.DataFrame, winner: str | None
) -> pd.DataFrame:
    """Returns a row per metric, configuration and epoch, over the configuration's seeds.

    Args:
        trials: columns trial, lr, batch_size, seed.
        epochs: columns lr, batch_size, epoch, updates, train_loss, train_accuracy, val_loss,
            val_accuracy.
        winner: the name of a trial; its configuration becomes the winner.

    Returns:
        Columns metric, lr, batch_size, seeds (of the configuration, in trials), winner (bool),
        epoch, updates, mean, low, high, finite and recorded (how many seeds have a finite value at
        this epoch, and how many a row), diverged (bool: the last epoch before a seed diverges, or
        the first epoch where one has diverged in it). A configuration without epochs has one row
        per metric, with NaN from epoch on.

    Raises:
        ValueError: no trial has the winner's name.
    """
    chosen = _configuration_of(winner, trials)
    # A table without rows, read from CSV, has no types; with them, it needs no case of its own.
    numbers = epochs.astype(dict.fromkeys(["lr", "epoch", "updates", *PANELS], float))
    numbers = numbers.astype({"batch_size": int})
    values = numbers.replace([np.inf, -np.inf], np.nan).melt(
        [*CONFIGURATION, "epoch", "updates"], [*PANELS], var_name="metric"
    )
    lines = values.groupby(["metric", *CONFIGURATION, "epoch"], as_index=False).agg(
        updates=("updates", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        finite=("value", "count"),
        recorded=("value", "size"),
    )
    configurations = (
        trials.astype({"lr": float, "batch_size": int})
        .groupby(CONFIGURATION, as_index=False)
        .agg(seeds=("seed", "nunique"))
    )
    configurations["winner"] = _is_winner(configurations, chosen)
    metrics = pd.DataFrame({"metric": [*PANELS]})
    frame = metrics.merge(configurations, how="cross").merge(
        lines, "left", ["metric", *CONFIGURATION]
    )
    frame["diverged"] = _marks_divergence(frame)
    return frame


def summarise_updates(
    trials: pd.DataFrame, epochs: pd.DataFrame, winner: str | None
) -> pd.DataFrame:
    """Returns the validation accuracy rows of `summarise_comparison`, with the same columns."""
    return _updates_of(summarise_comparison(trials, epochs, winner))


def summarise_heatmap(trials: pd.DataFrame, winner: str | None) -> pd.DataFrame:
    """Returns a row per cell of the grid of all learning rates by all batch sizes.

    Args:
        trials: columns trial, lr, batch_size, seed, status, val_accuracy.
        winner: the name of a trial; its cell becomes the winner.

    Returns:
        Columns lr, batch_size, accuracy (mean of val_accuracy over completed trials, else NaN),
        finished (how many those are), seeds (how many trials), outcome (completed if any did, else
        the statuses found, a line each, or "not run"), winner (bool).

    Raises:
        ValueError: no trial has the winner's name.
    """
    chosen = _configuration_of(winner, trials)
    completed = trials["status"] == "completed"
    cells = (
        trials.assign(final=trials["val_accuracy"].astype(float).where(completed))
        .groupby(CONFIGURATION)
        .agg(
            accuracy=("final", "mean"),
            finished=("final", "count"),
            seeds=("seed", "nunique"),
            outcome=("status", _outcome),
        )
    )
    grid = pd.MultiIndex.from_product([trials[c].sort_values().unique() for c in CONFIGURATION])
    frame = cells.reindex(grid.set_names(CONFIGURATION)).reset_index()
    frame = frame.fillna({"finished": 0, "seeds": 0, "outcome": "not run"})
    frame["winner"] = _is_winner(frame, chosen)
    return frame.astype({"finished": int, "seeds": int})


def draw_comparison(frame: pd.DataFrame) -> Figure:
    """Draws loss and accuracy of both splits against epochs, a line per configuration.

    Args:
        frame: as from `summarise_comparison`.
    """
    figure = Figure(figsize=(10, 7.4), dpi=DPI)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    figure.subplots_adjust(0.085, 0.07, 0.775, 0.865, wspace=0.05, hspace=0.15)
    keys = Keys.of(frame)
    frame = frame.assign(x=epoch_positions(frame, keys))
    is_loss = frame["metric"].str.endswith("_loss")
    set_epochs(panels[0, 0], frame)
    _set_losses(panels[0, 0], frame[is_loss])
    set_accuracies(panels[1, 0], frame[~is_loss], "accuracy")
    for axes, (metric, title) in zip(panels.flat, PANELS.items(), strict=True):
        axes.set_title(title, fontsize=TEXT_SIZE + 1, loc="left")
        draw_panel(axes, frame[frame["metric"] == metric], keys)
    in_columns = frame["epoch"].nunique() == 1 < len(keys.batch_sizes)
    for axes in panels[1]:
        label = "epoch (a column per batch size)" if in_columns else "epoch"
        axes.set_xlabel(label, fontsize=TEXT_SIZE)
    one_metric = frame[frame["metric"] == "val_loss"]
    _draw_title(figure, "Loss and accuracy after each epoch", one_metric)
    draw_keys(figure, one_metric, keys, top=0.865)
    return figure


def draw_updates(frame: pd.DataFrame) -> Figure:
    """Draws validation accuracy against the number of updates, a line per configuration.

    Args:
        frame: as from `summarise_updates`.
    """
    figure = Figure(figsize=(10, 6), dpi=DPI)
    axes = figure.add_axes((0.085, 0.09, 0.69, 0.775))
    keys = Keys.of(frame)
    frame = frame.assign(x=frame["updates"])
    _set_updates(axes, frame)
    set_accuracies(axes, frame, "validation accuracy")
    draw_panel(axes, frame, keys)
    _draw_title(figure, "Validation accuracy against optimizer updates", frame)
    draw_keys(figure, frame, keys, top=0.865)
    return figure


def draw_heatmap(frame: pd.DataFrame) -> Figure:
    """Draws the final validation accuracy over learning rate and batch size.

    Args:
        frame: as from `summarise_heatmap`.
    """
    rows, columns = frame["lr"].nunique(), frame["batch_size"].nunique()
    readable = rows <= MOST_ROWS_TO_READ and columns <= MOST_COLUMNS_TO_READ
    figure, axes, bar = _heatmap_axes(rows, columns)
    _draw_heatmap_title(figure, frame)
    if frame.empty:
        return _without_trials(figure, axes, bar)
    cells = frame.assign(text=_cell_texts(frame))
    table = cells.pivot(index="lr", columns="batch_size").sort_index(ascending=False)
    _draw_cells(axes, bar, table, readable)
    _draw_empty_cells(axes, table, readable)
    _draw_winner_cell(axes, table, readable)
    _label_cells(axes, table)
    return figure


def _configuration_of(winner: str | None, trials: pd.DataFrame) -> tuple[float, int] | None:
    if winner is None:
        return None
    rows = trials.loc[trials["trial"] == winner, CONFIGURATION]
    if rows.empty:
        raise ValueError(f"winner {winner!r} is none of the {len(trials)} trials in the table")
    return float(rows["lr"].iloc[0]), int(rows["batch_size"].iloc[0])


def _is_winner(frame: pd.DataFrame, chosen: tuple[float, int] | None) -> "pd.Series[bool]":
    lr, batch_size = chosen or (np.nan, -1)
    return (frame["lr"] == lr) & (frame["batch_size"] == batch_size)


def _updates_of(comparison: pd.DataFrame) -> pd.DataFrame:
    return comparison[comparison["metric"] == "val_accuracy"].reset_index(drop=True)


def _marks_divergence(frame: pd.DataFrame) -> "pd.Series[bool]":
    line = ["metric", *CONFIGURATION]
    lost = frame["finite"] < frame["recorded"]
    lost_next = lost.groupby([frame[column] for column in line]).shift(-1, fill_value=False)
    return (~lost & lost_next) | (lost & ~frame.duplicated(line))


def _outcome(statuses: "pd.Series[str]") -> str:
    found = sorted(set(statuses))
    return "completed" if "completed" in found else "\n".join(found)


def _lines(frame: pd.DataFrame) -> list[Line]:
    """The lines of one panel; frame: as from `summarise_comparison`, one metric, and column x."""
    points = frame.dropna(subset=["mean"])
    # A group-by that makes a frame per line takes seconds for 2,000 lines.
    starts = np.flatnonzero(~points.duplicated(CONFIGURATION))
    values = np.split(points[["x", "mean", "low", "high"]].to_numpy(float), starts[1:])
    lrs = points["lr"].to_numpy(float)[starts].tolist()
    batch_sizes = points["batch_size"].to_numpy(int)[starts].tolist()
    # No points at all still make one empty part, which has no name; hence not strict.
    named = zip(lrs, batch_sizes, values, strict=False)
    return [Line(lr, batch_size, *part.T) for lr, batch_size, part in named]


def epoch_positions(frame: pd.DataFrame, keys: Keys) -> "pd.Series[float]":
    """The epochs; a lone epoch's points stand side by side by batch size, not on each other."""
    if frame["epoch"].nunique() != 1:
        return frame["epoch"]
    places = np.linspace(-0.3, 0.3, len(keys.batch_sizes)) if len(keys.batch_sizes) > 1 else [0.0]
    return frame["epoch"] + frame["batch_size"].map(
        dict(zip(keys.batch_sizes, places, strict=True))
    )


def set_epochs(axes: Axes, frame: pd.DataFrame) -> None:
    """Scales the epochs; frame: with a column epoch."""
    first, last = (1.0, 1.0) if frame["epoch"].isna().all() else frame["epoch"].agg(["min", "max"])
    margin = max(0.04 * (last - first), 0.5 if first == last else 0.1)
    axes.set_xlim(max(first - margin, 0.2), last + margin)  # no tick for an epoch 0
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _set_updates(axes: Axes, frame: pd.DataFrame) -> None:
    axes.set_xlabel("updates (optimizer steps, log scale)", fontsize=TEXT_SIZE)
    axes.set_xscale("log")
    least, most = (1.0, 10.0) if frame["x"].isna().all() else frame["x"].agg(["min", "max"])
    margin = max((most / least) ** 0.04, 1.2)
    axes.set_xlim(least / margin, most * margin)
    axes.xaxis.set_major_locator(log_ticks(least, most))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if frame["x"].isna().all():
        axes.xaxis.set_ticks([])


def _set_losses(axes: Axes, frame: pd.DataFrame) -> None:
    """Scales the losses; frame: as from `summarise_comparison`, its losses alone."""
    axes.set_ylabel("loss (nats per image)", fontsize=TEXT_SIZE)
    finite = frame.loc[frame["low"] > 0, ["low", "high"]]
    if finite.empty:
        axes.yaxis.set_ticks([])
        return
    low, high = finite["low"].min(), finite["high"].max()
    if low < LOSS_CEILING < high:
        high = LOSS_CEILING
        axes.set_ylabel(f"loss (nats per image; above {high:g} not shown)", fontsize=TEXT_SIZE)
    if high < LOG_RATIO * low:
        margin = max(0.06 * (high - low), 0.02 * high)
        axes.set_ylim(low - margin, high + margin)
        return
    axes.set_yscale("log", nonpositive="clip")
    margin = (high / low) ** 0.06
    axes.set_ylim(low / margin, high * margin)
    axes.yaxis.set_major_locator(log_ticks(low, high))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def set_accuracies(axes: Axes, frame: pd.DataFrame, label: str) -> None:
    """Scales the accuracies; frame: as from `summarise_comparison`, its accuracies alone."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    axes.set_ylabel(label, fontsize=TEXT_SIZE)
    if frame["mean"].isna().all():
        axes.yaxis.set_ticks([])
        return
    low, high = frame["low"].min(), frame["high"].max()
    if 1 + ERROR_FLOOR - low < LOG_RATIO * (1 + ERROR_FLOOR - high):
        margin = max(0.06 * (high - low), 0.005)
        axes.set_ylim(low - margin, min(high + margin, 1 + ERROR_FLOOR / 5))
        return
    axes.set_ylabel(f"{label} (log scale of the error)", fontsize=TEXT_SIZE)
    axes.set_yscale("function", functions=(error_decades, accuracy_at))
    bottom, top = error_decades([low, high])
    margin = 0.06 * (top - bottom)
    limits = accuracy_at([bottom - margin, min(top + margin, error_decades(1.0005))])
    axes.set_ylim(*limits)
    axes.yaxis.set_ticks(_accuracy_ticks(*limits))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))


def log_ticks(low: float, high: float) -> LogLocator:
    """Round values on a log scale, the denser the shorter the scale."""
    if high < 10 * low:
        return LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
    return LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,))


def error_decades(accuracy: ArrayLike) -> Floats:
    """Minus the decimal logarithm of the error, which is what an accuracy's axis is even in."""
    error = 1 + ERROR_FLOOR - np.asarray(accuracy, dtype=float)
    return np.asarray(-np.log10(np.maximum(error, ERROR_FLOOR / 100)))


def accuracy_at(decades: ArrayLike) -> Floats:
    """The accuracy that `error_decades` maps to these decades."""
    return np.asarray(1 + ERROR_FLOOR - 10.0 ** -np.asarray(decades, dtype=float))


def _accuracy_ticks(low: float, high: float) -> list[float]:
    """Round accuracies from low to high, far enough apart for labels; of two, the higher stays."""
    apart = 0.055 * float(error_decades(high) - error_decades(low))
    ticks: list[float] = []
    for tick in reversed([tick for tick in ACCURACY_TICKS if low <= tick <= high]):
        if not ticks or error_decades(ticks[-1]) - error_decades(tick) >= apart:
            ticks.append(tick)
    return ticks[::-1]


def percent(accuracy: float) -> str:
    """An accuracy in per cent, with at most four digits."""
    return f"{100 * accuracy:.4g}%"


def draw_panel(axes: Axes, frame: pd.DataFrame, keys: Keys) -> None:
    """Draws a line per configuration; the scales must be set.

    Args:
        axes: one panel.
        frame: as from `summarise_comparison`, one metric, and a column x.
        keys: of all configurations.
    """
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK_SIZE, length=3, color="#999999")
    lines = _lines(frame)
    if frame["seeds"].max() > 1:
        _draw_bands(axes, lines, keys)
    _draw_lines(axes, lines, keys)
    _draw_markers(axes, lines, keys)
    for line in _lines(frame[frame["winner"]]):
        _draw_winner(axes, line, keys)
    _draw_crosses(axes, frame[frame["diverged"]], keys)
    if not lines:
        axes.text(
            0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=TEXT_GREY
        )


def _draw_bands(axes: Axes, lines: Sequence[Line], keys: Keys) -> None:
    """From the lowest to the highest seed: an area, or a bar where there is but one epoch."""
    areas = [line for line in lines if len(line.x) > 1]
    outlines = [
        np.column_stack([np.r_[line.x, line.x[::-1]], np.r_[line.low, line.high[::-1]]])
        for line in areas
    ]
    colours = keys.colours([line.lr for line in areas])
    alpha = 0.05 if keys.crowded else 0.13
    axes.add_collection(
        PolyCollection(outlines, facecolors=colours, alpha=alpha, zorder=1.5), autolim=False
    )
    points = [line for line in lines if len(line.x) == 1]
    bars = [[(line.x[0], line.low[0]), (line.x[0], line.high[0])] for line in points]
    colours = keys.colours([line.lr for line in points])
    axes.add_collection(LineCollection(bars, colors=colours, linewidths=1.2), autolim=False)


def _draw_lines(axes: Axes, lines: Sequence[Line], keys: Keys) -> None:
    collection = LineCollection(
        [np.column_stack([line.x, line.mean]) for line in lines],
        colors=keys.colours([line.lr for line in lines]),
        linestyles=[keys.style(line.batch_size) for line in lines],
        linewidths=[keys.width(line.batch_size) for line in lines],
        alpha=0.8 if keys.crowded else None,
        label="configurations",
    )
    axes.add_collection(collection, autolim=False)


def _draw_markers(axes: Axes, lines: Sequence[Line], keys: Keys) -> None:
    """About 10 markers a line; among many lines, only where a line is a single point."""
    marked = [line for line in lines if len(line.x) == 1 or not keys.crowded]
    for marker in {keys.marker(batch_size) for batch_size in keys.batch_sizes}:
        group = [line for line in marked if keys.marker(line.batch_size) == marker]
        points = [np.column_stack([line.x, line.mean])[:: _marker_step(line)] for line in group]
        lrs = [line.lr for line, own in zip(group, points, strict=True) for _ in own]
        if group:
            x, y = np.concatenate(points).T
            axes.scatter(
                x, y, 8 if keys.crowded else 20, keys.colours(lrs), marker=marker, linewidths=0
            )


def _marker_step(line: Line) -> int:
    return -(-len(line.x) // 10)


def _draw_winner(axes: Axes, line: Line, keys: Keys) -> None:
    """The line once more, wide and black-edged, over all others."""
    (drawn,) = axes.plot(
        line.x,
        line.mean,
        color=keys.colours([line.lr])[0],
        linewidth=2.8,
        marker=keys.marker(line.batch_size),
        markevery=_marker_step(line),
        markersize=7,
        zorder=4,
        label="winner",
    )
    drawn.set_path_effects(WINNER_EDGE)


def _draw_crosses(axes: Axes, frame: pd.DataFrame, keys: Keys) -> None:
    """Crosses on the last points of diverged lines; without such a point, at the panel's edge."""
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
    colours = keys.colours(frame["lr"].to_list())
    crosses = axes.scatter(
        x,
        y.clip(0.035, 0.965),
        24 if keys.crowded else 55,
        colours,
        marker="x",
        linewidths=1 if keys.crowded else 2,
        transform=axes.transAxes,
        zorder=5,
        label="diverged",
    )
    crosses.set_path_effects([Stroke(linewidth=3.5, foreground="white"), Normal()])


def _axes_fractions(axes: Axes, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    to_axes = axes.transData + axes.transAxes.inverted()
    points = to_axes.transform(np.column_stack([x, y]))
    return points[:, 0].copy(), points[:, 1].copy()


def _draw_title(figure: Figure, title: str, frame: pd.DataFrame) -> None:
    """Two lines of title; frame: as from `summarise_comparison`, one metric."""
    configurations = frame.drop_duplicates(CONFIGURATION)
    drawn = configurations.dropna(subset="epoch")
    said = [_say_winner(configurations)]
    if configurations["seeds"].max() > 1:
        said.append("means over seeds, with bands from the lowest to the highest")
    title = f"{title}, {count(len(drawn), 'configuration')}"
    _write_title(figure, title, "; ".join(said))


def _write_title(figure: Figure, title: str, subtitle: str) -> None:
    height = figure.get_figheight()
    left = 0.12 / figure.get_figwidth()
    figure.text(left, 1 - 0.33 / height, title, fontsize=TITLE_SIZE, fontweight="bold")
    figure.text(left, 1 - 0.59 / height, subtitle, fontsize=TEXT_SIZE, color=TEXT_GREY)


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _say_winner(frame: pd.DataFrame) -> str:
    winner = frame[frame["winner"]]
    if winner.empty:
        return "no winner"
    lr, batch_size = winner["lr"].iloc[0], winner["batch_size"].iloc[0]
    return f"winner: learning rate {lr:.4g}, batch size {batch_size}"


def draw_keys(figure: Figure, frame: pd.DataFrame, keys: Keys, top: float) -> None:
    """One legend right of the panels: learning rates, batch sizes, and the marks in the picture.

    Args:
        figure: its right fifth must be free.
        frame: as from `summarise_comparison`, one metric.
        keys: of all configurations.
        top: where the panels end, as a fraction of the figure.
    """
    if frame.empty:
        return
    handles = [*_batch_size_handles(keys), *_mark_handles(frame, keys)]
    if len(keys.lrs) > LARGEST_KEY:
        height = 2.3 / figure.get_figheight()
        _draw_lr_bar(figure, figure.add_axes((0.8, top - height, 0.02, 0.88 * height)), keys)
        top -= 1.1 * height
    else:
        handles = [*_lr_handles(keys), *handles]
    figure.legend(
        handles=handles,
        handler_map={Text: HeadingHandler()},
        loc="upper left",
        bbox_to_anchor=(0.785, top + 0.015),
        fontsize=TICK_SIZE,
        handlelength=3.2,
        labelspacing=0.45,
        frameon=False,
    )


class HeadingHandler(HandlerBase):
    """Puts a legend's heading where the lines stand, so that it starts left of their names."""

    def create_artists(
        self,
        legend: Legend,
        orig_handle: Artist,
        xdescent: float,
        ydescent: float,
        width: float,
        height: float,
        fontsize: float,
        trans: Transform,
    ) -> Sequence[Artist]:
        """Returns the heading, left-aligned with the lines."""
        assert isinstance(orig_handle, Text)
        text = orig_handle.get_text()
        heading = Text(-xdescent, -ydescent, text, fontsize=fontsize, fontweight="bold")
        heading.set_transform(trans)
        return [heading]


def _heading(text: str) -> Artist:
    heading = Text(text=text)
    heading.set_label(" ")  # an empty label, but one that a legend does not skip
    return heading


def _lr_handles(keys: Keys) -> list[Artist]:
    lines = [
        Line2D([], [], color=colour, linewidth=4, label=f"{lr:.4g}")
        for lr, colour in zip(keys.lrs, keys.colours(keys.lrs), strict=True)
    ]
    return [_heading("learning rate"), *lines]


def _batch_size_handles(keys: Keys) -> list[Artist]:
    """A line per batch size, or per few of them when only their width tells them apart."""
    sizes = keys.batch_sizes
    if len(sizes) > LARGEST_KEY:
        sizes = tuple(sizes[i] for i in np.linspace(0, len(sizes) - 1, 4).round().astype(int))
    lines = [
        Line2D([], [], color=TEXT_GREY, linestyle=keys.style(size), linewidth=keys.width(size))
        for size in sizes
    ]
    for line, size in zip(lines, sizes, strict=True):
        line.set_label(str(size))
        if not keys.crowded:
            line.set_marker(keys.marker(size))
            line.set_markersize(5)
    return [_heading("batch size"), *lines]


def _mark_handles(frame: pd.DataFrame, keys: Keys) -> list[Artist]:
    """The winner, the diverged and the lines that are missing, as far as there are any."""
    handles: list[Artist] = []
    for lr in frame.loc[frame["winner"], "lr"].head(1):
        line = Line2D([], [], color=keys.colours([lr])[0], linewidth=2.8)
        line.set(path_effects=WINNER_EDGE, label="winner")
        handles.append(line)
    if diverged := int(frame["diverged"].sum()):
        cross = Line2D([], [], color=TEXT_GREY, linestyle="", marker="x", markeredgewidth=2)
        what = "diverged" if frame["seeds"].max() == 1 else "with a seed\ndiverged"
        cross.set_label(f"{diverged} {what}\nfrom there on")
        handles.append(cross)
    if missing := int(frame["epoch"].isna().sum()):
        handles.append(
            Line2D([], [], linestyle="", label=f"{missing} without any\nepoch: not drawn")
        )
    return [_heading("marks"), *handles] if handles else []


def _draw_lr_bar(figure: Figure, bar: Axes, keys: Keys) -> None:
    figure.colorbar(ScalarMappable(LogNorm(keys.lrs[0], keys.lrs[-1]), LR_COLOURS), cax=bar)
    bar.set_title("learning rate", fontsize=TICK_SIZE, fontweight="bold", loc="left")
    bar.tick_params(labelsize=TICK_SIZE)
    bar.yaxis.set_major_locator(log_ticks(keys.lrs[0], keys.lrs[-1]))
    bar.yaxis.set_minor_locator(NullLocator())
    bar.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _heatmap_axes(rows: int, columns: int) -> tuple[Figure, Axes, Axes]:
    """A figure whose size, in inches, fits the cells; its axes; and axes for the colour bar."""
    width = float(np.clip(1.45 * columns, 2.2, 7.75))
    height = float(np.clip(0.8 * rows, 1.6, 6.0))
    left, bottom = 1.15, 0.65
    size = (max(left + width + 1.1, 7.2), bottom + height + 0.95)
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    bar = figure.add_axes(
        ((left + width + 0.2) / size[0], bottom / size[1], 0.2 / size[0], height / size[1])
    )
    return figure, axes, bar


def _draw_heatmap_title(figure: Figure, frame: pd.DataFrame) -> None:
    seeds = 0 if frame.empty else int(frame["seeds"].max())
    mean = f", mean over {seeds} seeds" if seeds > 1 else ""
    subtitle = _say_winner(frame)
    if frame["accuracy"].nunique() > 1:
        subtitle += "; colours on a log scale of the error"
    _write_title(figure, f"Validation accuracy after the last epoch{mean}", subtitle)


def _cell_texts(frame: pd.DataFrame) -> list[str]:
    """What each cell says; frame: as from `summarise_heatmap`."""
    most = frame["seeds"].max()
    texts = []
    columns = (frame[column].tolist() for column in ("accuracy", "finished", "seeds", "outcome"))
    for accuracy, finished, seeds, outcome in zip(*columns, strict=True):
        text = f"{100 * accuracy:.1f}%" if finished else outcome
        if 0 < finished < seeds:
            text += f"\n{finished} of {count(seeds, 'seed')}"
        elif 0 < finished < most:
            text += f"\n{count(seeds, 'seed')}"
        texts.append(text)
    return texts


def _draw_cells(axes: Axes, bar: Axes, table: pd.DataFrame, readable: bool) -> None:
    """The finished cells; table: values and columns accuracy, text, by lr and batch size."""
    accuracy = table["accuracy"].to_numpy(float)
    found = bool(np.isfinite(accuracy).any())
    several = np.unique(accuracy[np.isfinite(accuracy)]).size > 1
    low, high = (np.nanmin(accuracy), np.nanmax(accuracy)) if found else (0.0, 1.0)
    # Even in the log error: 96 and 97% differ in colour, also beside cells at 10%.
    low, high = max(low - 0.002, 0.0), min(high + 0.002, 1.0)
    seaborn.heatmap(
        table["accuracy"],
        vmin=0,
        vmax=1,
        cmap=ACCURACY_COLOURS,
        norm=FuncNorm((error_decades, accuracy_at), low, high),
        annot=table["text"] if readable and found else None,
        fmt="",
        annot_kws={"fontsize": TEXT_SIZE},
        linewidths=1.5 if readable else 0,
        cbar=several,
        cbar_ax=bar,
        xticklabels=False,
        yticklabels=False,
        ax=axes,
    )
    if not several:
        bar.set_axis_off()
        return
    ticks = _accuracy_ticks(low, high)
    bar.yaxis.set_ticks(
        ticks if len(ticks) > 2 else np.linspace(low + 0.002, high - 0.002, 3).round(3)
    )
    bar.yaxis.set_minor_locator(NullLocator())
    bar.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    bar.tick_params(labelsize=TICK_SIZE)


def _draw_empty_cells(axes: Axes, table: pd.DataFrame, readable: bool) -> None:
    """The cells without a completed trial, in greys; table: as for `_draw_cells`, and outcome."""
    empty = table["accuracy"].isna().to_numpy()
    diverged = (table["outcome"] == "diverged").to_numpy()
    kinds = {
        "diverged": (diverged, DIVERGED_GREY),
        "failed, stopped or not run": (empty & ~diverged, EMPTY_GREY),
    }
    patches = []
    for label, (cells, grey) in kinds.items():
        squares = [Rectangle((column, row), 1, 1) for row, column in np.argwhere(cells)]
        width = 1.5 if readable else 0
        axes.add_collection(
            PatchCollection(squares, facecolor=grey, edgecolor="white", linewidth=width)
        )
        if squares:
            patches.append(Patch(color=grey, label=label))
    if not readable and patches:
        _draw_heatmap_key(axes, patches)
    for row, column in np.argwhere(empty) if readable else []:
        text = str(table["text"].to_numpy()[row, column])
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=TEXT_SIZE)


def _draw_heatmap_key(axes: Axes, patches: list[Patch]) -> None:
    axes.legend(
        handles=patches,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(patches),
        fontsize=TICK_SIZE,
        frameon=False,
        borderaxespad=0.2,
    )


def _draw_winner_cell(axes: Axes, table: pd.DataFrame, readable: bool) -> None:
    """A frame around the winner's cell, or a star where cells are small; table: bools."""
    for row, column in np.argwhere(table["winner"].to_numpy(bool)):
        if readable:
            square = Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=3.5)
            square.set(clip_on=False, zorder=3, label="winner")
            axes.add_patch(square)
        else:
            place = (column + 0.5, row + 0.5)
            axes.scatter(*place, 260, "white", marker="*", edgecolors="black", label="winner")


def _label_cells(axes: Axes, table: pd.DataFrame) -> None:
    """Learning rates and batch sizes at the cells; of many, every so many."""
    lrs, batch_sizes = table.index.to_numpy(), table["accuracy"].columns.to_numpy()
    down, across = -(-len(lrs) // 20), -(-len(batch_sizes) // 12)
    axes.yaxis.set_ticks(np.arange(0, len(lrs), down) + 0.5)
    axes.yaxis.set_ticklabels([f"{lr:.4g}" for lr in lrs[::down]], rotation=0)
    axes.xaxis.set_ticks(np.arange(0, len(batch_sizes), across) + 0.5)
    axes.xaxis.set_ticklabels([str(batch_size) for batch_size in batch_sizes[::across]], rotation=0)
    axes.tick_params(labelsize=TICK_SIZE, length=0)
    axes.set_ylabel("learning rate", fontsize=TEXT_SIZE)
    axes.set_xlabel("batch size", fontsize=TEXT_SIZE)


def _without_trials(figure: Figure, axes: Axes, bar: Axes) -> Figure:
    for each in (axes, bar):
        each.set_axis_off()
    axes.text(0.5, 0.5, "no trials", transform=axes.transAxes, ha="center", color=TEXT_GREY)
    return figure
