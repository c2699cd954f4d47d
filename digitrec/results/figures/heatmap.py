"""The heat map: the final validation accuracy over two hyperparameters."""

from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from digitrec.results.figures.chart import Chart, FigureInputs
from digitrec.results.figures.configurations import (
    describe_values,
    describe_winner,
    encoded,
    is_winner,
    searched,
)
from digitrec.results.figures.points import Pair, choose_pair, make_points
from digitrec.results.figures.scales import (
    ValueScale,
    accuracy_norm,
    label_accuracies,
)
from digitrec.results.figures.style import (
    DIVERGED_GREY,
    EMPTY_GREY,
    TEXT_SIZE,
    TICK_SIZE,
    new_figure,
    write_title,
)
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "Accuracy over the grid"
CAPTION = (
    "The frame marks the winner. A good winner has good neighbours; one on the edge says that the "
    "search should continue beyond it."
)
ACCURACY_COLOURS = matplotlib.colormaps["viridis"]
MOST_PAIRS = 4  # of hyperparameters; parallel coordinates show more
MOST_ROWS_TO_READ, MOST_COLUMNS_TO_READ = 15, 12
MOST_ROWS_NAMED, MOST_COLUMNS_NAMED = 20, 12
WIDE = 8  # inches


def make_heatmaps(inputs: FigureInputs) -> list[Chart]:
    """Return a heat map of a study per pair of searched hyperparameters.

    Where these have a value of their own for almost every point, a map has hardly any cells with a
    trial; then it is the points over the two hyperparameters that matter most.
    """
    trials = inputs.evenly_trained
    if pair := choose_pair(trials):
        return [make_points(inputs, pair)]
    return [_make_heatmap(inputs, pair) for pair in choose_pairs(trials)]


def _make_heatmap(inputs: FigureInputs, pair: Pair) -> Chart:
    trials = inputs.evenly_trained
    first, *others = pairs(trials)
    frame = summarise_heatmap(trials, inputs.marked, pair)
    figure = draw_heatmap(frame, inputs.when)
    labels = " and ".join(HYPERPARAMETERS[name].label for name in pair)
    return Chart(
        name="heatmap" if pair == first else f"heatmap-{'-'.join(pair)}",
        title=f"{TITLE}: {labels}" if others else TITLE,
        caption=f"{inputs.basis} {_caption(trials, pair)}".strip(),
        says=describe_heatmap(frame),
        figure=figure,
        marks=len(frame),
        wide=bool(figure.get_figwidth() > WIDE),
    )


def _caption(trials: pd.DataFrame, pair: Pair) -> str:
    said = []
    if rest := [name for name in searched(trials) if name not in pair]:
        labels = join_words([HYPERPARAMETERS[name].label for name in rest])
        said.append(f"A cell is the best over {labels}.")
    if pair == pairs(trials)[0]:
        said.append(CAPTION)
        if (left_out := len(pairs(trials)) - MOST_PAIRS) > 0:
            more = f"{count(left_out, 'more pair')} of hyperparameters"
            said.append(f"Heat maps of {more}, whose cells differ less, are left out.")
    return " ".join(said)


def pairs(trials: pd.DataFrame) -> list[Pair]:
    """Return the pairs of searched hyperparameters; there is one even where fewer are searched."""
    found = list(combinations(searched(trials), 2))
    if found:
        return found
    first, second = sorted(encoded(trials), key=list(HYPERPARAMETERS).index)
    return [(first, second)]


def choose_pairs(trials: pd.DataFrame) -> list[Pair]:
    """Return the first of `pairs`, and those whose cells differ most, in the order of `pairs`."""
    first, *others = found = pairs(trials)
    if len(found) <= MOST_PAIRS:
        return found
    completed = trials[trials["status"] == "completed"]
    accuracy = completed.groupby(searched(trials))["val_accuracy"].mean()

    def spread(pair: Pair) -> float:
        cells = accuracy.groupby(list(pair)).max()
        return float(cells.max() - cells.min())

    most = sorted(others, key=spread, reverse=True)[: MOST_PAIRS - 1]
    return [first, *sorted(most, key=found.index)]


def summarise_heatmap(
    trials: pd.DataFrame, winner: str | None, pair: Pair | None = None
) -> pd.DataFrame:
    """Return a row per cell of the grid of all values of one hyperparameter by all of another.

    Args:
        trials: TRIAL_COLUMNS.
        winner: its cell becomes the winner.
        pair: the hyperparameters of the rows and of the columns; None: the first of `pairs`.

    Returns:
        The hyperparameters (those of the rows and columns first), accuracy (mean of val_accuracy
        over completed trials, else NaN), finished (how many those are), seeds (how many trials),
        all of the best configuration of the cell, or the winner; outcome (completed if any trial of
        the cell did, else the statuses found, a line each, or "not run"), winner (bool).
    """
    by, across = list(HYPERPARAMETERS), list(pair or pairs(trials)[0])
    completed = trials["status"] == "completed"
    configurations = (
        trials.assign(final=trials["val_accuracy"].astype(float).where(completed))
        .groupby(by, as_index=False)
        .agg(accuracy=("final", "mean"), finished=("final", "count"), seeds=("seed", "nunique"))
    )
    configurations["winner"] = is_winner(configurations, trials, winner)
    best = configurations.sort_values(["winner", "accuracy"], ascending=False, kind="stable")
    cells = best.drop_duplicates(across).set_index(across)
    cells["outcome"] = trials.groupby(across)["status"].agg(_outcome)
    grid = pd.MultiIndex.from_product(
        [ValueScale.of(name, trials[name]).values for name in across], names=across
    )
    frame = cells.reindex(grid).reset_index()
    frame["winner"] = frame["winner"].eq(True)
    frame = frame.fillna({"finished": 0, "seeds": 0, "outcome": "not run"})
    return frame.astype({"finished": int, "seeds": int})


def _outcome(statuses: "pd.Series[str]") -> str:
    found = sorted(set(statuses))
    return "completed" if "completed" in found else "\n".join(found)


def draw_heatmap(frame: pd.DataFrame, when: str = "the last epoch") -> Figure:
    """Draw the validation accuracy over two hyperparameters; when: after what it was measured."""
    rows, columns = (ValueScale.of(name, frame[name]) for name in frame.columns[:2])
    readable = len(rows.values) <= MOST_ROWS_TO_READ and len(columns.values) <= MOST_COLUMNS_TO_READ
    figure, axes, bar = _heatmap_axes(len(rows.values), len(columns.values))
    _draw_title(figure, frame, when)
    _draw_cells(axes, bar, frame, readable)
    _draw_empty_cells(axes, frame, readable)
    _draw_winner_cell(axes, frame, readable)
    _label_cells(axes, rows, columns)
    return figure


def _heatmap_axes(rows: int, columns: int) -> tuple[Figure, Axes, Axes]:
    """Return a figure that fits the cells, its axes, and axes for the colour bar."""
    width = float(np.clip(1.45 * columns, 2.2, 7.75))  # inches
    height = float(np.clip(0.8 * rows, 1.6, 6.0))
    left, bottom = 1.15, 0.65
    size = (max(left + width + 1.1, 7.2), bottom + height + 0.95)
    figure = new_figure(*size)
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    bar = figure.add_axes(
        ((left + width + 0.2) / size[0], bottom / size[1], 0.2 / size[0], height / size[1])
    )
    return figure, axes, bar


def _draw_title(figure: Figure, frame: pd.DataFrame, when: str) -> None:
    seeds = int(frame["seeds"].max())
    mean = f", mean over {seeds} seeds" if seeds > 1 else ""
    subtitle = describe_winner(frame, frame.columns[:2].tolist())
    if frame["accuracy"].nunique() > 1:
        subtitle += "; colours on a log scale of the error"
    write_title(figure, f"Validation accuracy after {when}{mean}", subtitle)


def _matrix(frame: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return a column of `summarise_heatmap` as the map shows it, the first row at the bottom."""
    rows = frame[frame.columns[0]].nunique()
    return frame[column].to_numpy().reshape(rows, -1)[::-1]


def _draw_cells(axes: Axes, bar: Axes, frame: pd.DataFrame, readable: bool) -> None:
    """Draw the cells with a completed trial."""
    accuracy = _matrix(frame, "accuracy").astype(float)
    norm = accuracy_norm(accuracy)
    several = frame["accuracy"].nunique() > 1
    seaborn.heatmap(
        accuracy,
        vmin=0,
        vmax=1,
        cmap=ACCURACY_COLOURS,
        norm=norm,
        annot=_matrix(frame.assign(text=_cell_texts(frame)), "text") if readable else None,
        fmt="",
        annot_kws={"fontsize": TEXT_SIZE},
        linewidths=1.5 if readable else 0,
        cbar=several,
        cbar_ax=bar,
        xticklabels=False,  # seaborn would lay out the whole figure for each
        yticklabels=False,
        ax=axes,
    )
    if several:
        label_accuracies(bar, norm)
    else:
        bar.set_axis_off()


def _cell_texts(frame: pd.DataFrame) -> list[str]:
    most = frame["seeds"].max()
    texts = []
    columns = (frame[column].tolist() for column in ("accuracy", "finished", "seeds", "outcome"))
    for accuracy, finished, seeds, outcome in zip(*columns, strict=True):
        text = percent(accuracy, 1) if finished else outcome
        if 0 < finished < seeds:
            text += f"\n{finished} of {count(seeds, 'seed')}"
        elif 0 < finished < most:
            text += f"\n{count(seeds, 'seed')}"
        texts.append(text)
    return texts


def _draw_empty_cells(axes: Axes, frame: pd.DataFrame, readable: bool) -> None:
    """Draw the cells without a completed trial in greys."""
    outcome = _matrix(frame, "outcome")
    empty, diverged = _matrix(frame, "finished") == 0, outcome == "diverged"
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
        _draw_legend(axes, patches)
    for row, column in np.argwhere(empty) if readable else []:
        text = str(outcome[row, column])
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=TEXT_SIZE)


def _draw_legend(axes: Axes, patches: list[Patch]) -> None:
    axes.legend(
        handles=patches,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(patches),
        fontsize=TICK_SIZE,
        frameon=False,
        borderaxespad=0.2,
    )


def _draw_winner_cell(axes: Axes, frame: pd.DataFrame, readable: bool) -> None:
    """Draw a frame around the winner's cell, or a star where cells are small."""
    for row, column in np.argwhere(_matrix(frame, "winner")):
        if readable:
            square = Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=3.5)
            square.set(clip_on=False, zorder=3, label="winner")
            axes.add_patch(square)
        else:
            place = (column + 0.5, row + 0.5)
            axes.scatter(*place, 260, "white", marker="*", edgecolors="black", label="winner")


def _label_cells(axes: Axes, rows: ValueScale, columns: ValueScale) -> None:
    """Label rows and columns with their values; of many, every second, third and so on."""
    for axis, scale, most in (
        (axes.yaxis, rows, MOST_ROWS_NAMED),
        (axes.xaxis, columns, MOST_COLUMNS_NAMED),
    ):
        places = np.arange(len(scale.values)) + 0.5
        texts = scale.texts()
        if axis is axes.yaxis:
            texts = texts[::-1]
        step = -(-len(texts) // most)
        axis.set_ticks(places[::step], texts[::step], rotation=0)
        axis.set_label_text(scale.label, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TICK_SIZE, length=0)


def describe_heatmap(frame: pd.DataFrame) -> str:
    """Return the highest and the lowest cell, and how many have no result."""
    names = frame.columns[:2].tolist()
    found = frame.dropna(subset="accuracy").sort_values("accuracy", kind="stable")
    if found.empty:
        return f"None of {count(len(frame), 'cell')} has a trial that completed."
    rows = found.to_dict("records")
    low, high = rows[0], rows[-1]
    said = [
        f"Highest of {count(len(found), 'cell')}: {percent(high['accuracy'])} at "
        f"{describe_values(high, names)}."
    ]
    if len(found) > 1:
        said.append(f"Lowest: {percent(low['accuracy'])} at {describe_values(low, names)}.")
    if len(found) < len(frame):
        said.append(f"{count(len(frame) - len(found), 'cell')} without a trial that completed.")
    return " ".join(said)
