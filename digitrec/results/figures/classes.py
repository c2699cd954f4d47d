"""How well a trial reads each digit."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from digitrec.results.analysis.statistics import wilson_interval
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.scales import percent_format
from digitrec.results.figures.style import ACCENT, LINE_GREY, TEXT_SIZE, new_figure, prepare
from digitrec.results.text import percent
from digitrec.space.shape import CLASSES

TITLE = "Accuracy of each digit"
CAPTION = "With Wilson's 95% interval; the dashed line is the accuracy over all digits."


def make_classes(inputs: FigureInputs) -> Chart | Omission:
    """Return the figure of the winner's accuracy per digit."""
    if inputs.answers is None:
        return Omission(TITLE, inputs.why_no_predictions)
    frame = summarise_classes(*inputs.answers)
    return Chart(
        "classes", TITLE, CAPTION, describe_classes(frame), draw_classes(frame), len(frame)
    )


def summarise_classes(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> pd.DataFrame:
    """Return a row per digit with the accuracy and its 95% confidence interval.

    Returns:
        Columns digit, images, correct, accuracy, low, high; the last three are NaN for a digit that
        no image shows.
    """
    images = np.bincount(labels, minlength=CLASSES)
    correct = np.bincount(labels[labels == predictions], minlength=CLASSES)
    accuracy = correct / np.where(images > 0, images, np.nan)
    nothing = (np.nan, np.nan)
    intervals = [
        wilson_interval(fraction, n) if n else nothing
        for fraction, n in zip(accuracy.tolist(), images.tolist(), strict=True)
    ]
    low, high = np.transpose(intervals)
    return pd.DataFrame(
        {
            "digit": range(CLASSES),
            "images": images,
            "correct": correct,
            "accuracy": accuracy,
            "low": low,
            "high": high,
        }
    )


def draw_classes(frame: pd.DataFrame) -> Figure:
    """Draw a point and its interval per digit, and the accuracy over all of them."""
    figure = new_figure(5.3, 4.2)
    axes = prepare(figure.add_axes((0.16, 0.13, 0.81, 0.84)))
    found = frame.dropna(subset="accuracy")
    sides = np.clip([found["accuracy"] - found["low"], found["high"] - found["accuracy"]], 0, None)
    axes.errorbar(
        found["accuracy"],
        found["digit"],
        xerr=sides,
        fmt="o",
        color=ACCENT,
        elinewidth=1.6,
        markersize=6,
        label="digits",
    )
    overall = found["correct"].sum() / found["images"].sum()
    axes.axvline(overall, color=LINE_GREY, linestyle=(0, (5, 2)), linewidth=1.2, label="all")
    names = [f"{row.digit} ({row.images:,})" for row in frame.itertuples()]
    axes.yaxis.set_ticks(frame["digit"], names)
    axes.set_ylim(CLASSES - 0.5, -0.5)
    axes.set_ylabel("digit (images)", fontsize=TEXT_SIZE)
    axes.set_xlabel("share recognised, with 95% interval", fontsize=TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(percent_format())
    return figure


def describe_classes(frame: pd.DataFrame) -> str:
    """Return the digits recognised best and worst."""
    found = frame.dropna(subset="accuracy").sort_values("accuracy", kind="stable")
    said = [
        f"{name}: {row['digit']:.0f}, {percent(row['accuracy'])} of {row['images']:,.0f} images "
        f"({percent(row['low'])} to {percent(row['high'])})"
        for name, row in (
            ("Best", found.iloc[-1]),
            ("worst", found.iloc[0]),
        )
    ]
    return f"{'; '.join(said)}."
