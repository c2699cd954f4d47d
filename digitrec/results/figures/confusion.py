"""Which digits a trial takes for which."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.style import (
    ACCENT,
    EMPTY_GREY,
    TEXT_GREY,
    TEXT_SIZE,
    TICK_SIZE,
    new_figure,
)
from digitrec.results.text import join_words
from digitrec.space.shape import CLASSES

TITLE = "Which digit is taken for which"
CAPTION = "Validation images of the winner. Only mistakes are coloured."
MISTAKE_COLOURS = LinearSegmentedColormap.from_list("mistakes", ["#f7f0fc", ACCENT])


def make_confusion(inputs: FigureInputs) -> Chart | Omission:
    """Return the confusion matrix of the winner of a study."""
    if inputs.answers is None:
        return Omission(TITLE, inputs.why_no_predictions)
    frame = summarise_confusion(*inputs.answers)
    return Chart(
        "confusion", TITLE, CAPTION, describe_confusion(frame), draw_confusion(frame), len(frame)
    )


def summarise_confusion(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> pd.DataFrame:
    """Return a row per pair of digits: columns label, prediction, images (how many)."""
    pairs = labels.astype(int) * CLASSES + predictions
    images = np.bincount(pairs, minlength=CLASSES * CLASSES)
    label, prediction = np.divmod(np.arange(CLASSES * CLASSES), CLASSES)
    return pd.DataFrame({"label": label, "prediction": prediction, "images": images})


def draw_confusion(frame: pd.DataFrame) -> Figure:
    """Draw labels down, predictions across; only mistakes are coloured."""
    figure = new_figure(5.3, 5.0)
    axes = figure.add_axes((0.1, 0.02, 0.88, 0.87))
    table = frame.pivot(index="label", columns="prediction", values="images")
    right = np.eye(CLASSES, dtype=bool)
    mistakes = table.mask(right, 0)
    texts = mistakes.map(lambda images: f"{images:g}" if images else "")
    _draw_cells(axes, mistakes, right, MISTAKE_COLOURS, texts, fontsize=TICK_SIZE)
    look = {"fontsize": TICK_SIZE - 1.5, "color": TEXT_GREY}
    _draw_cells(axes, table, ~right, ListedColormap([EMPTY_GREY]), table.map("{:,}".format), **look)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(CLASSES) + 0.5, list(map(str, range(CLASSES))))
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=TICK_SIZE, rotation=0)
    axes.set_xlabel("read as", fontsize=TEXT_SIZE)
    axes.set_ylabel("is", fontsize=TEXT_SIZE)
    return figure


def _draw_cells(
    axes: Axes,
    table: pd.DataFrame,
    hidden: NDArray[np.bool_],
    colours: Colormap,
    texts: pd.DataFrame,
    **look: Any,
) -> None:
    seaborn.heatmap(
        table,
        mask=hidden,
        vmin=0,
        vmax=max(float(table.to_numpy().max()), 1.0),
        cmap=colours,
        annot=texts,
        fmt="",
        annot_kws=look,
        linewidths=1,
        cbar=False,
        xticklabels=False,  # seaborn would lay out the whole figure for each
        yticklabels=False,
        ax=axes,
    )


def describe_confusion(frame: pd.DataFrame) -> str:
    """Return how many images are misread, and the most frequent mistakes."""
    wrong = frame[(frame["label"] != frame["prediction"]) & (frame["images"] > 0)]
    said = f"{wrong['images'].sum():,} of {frame['images'].sum():,} images are misread."
    if wrong.empty:
        return said
    most = wrong.sort_values("images", ascending=False, kind="stable").head(3)
    parts = [f"{row.label} read as {row.prediction} ({row.images})" for row in most.itertuples()]
    return f"{said} The most frequent mistakes: {join_words(parts)}."
