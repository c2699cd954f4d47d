"""How well a trial reads each digit."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from digitrec.results.analysis.statistics import wilson_interval
from digitrec.results.figures.canvas import ACCENT, new_figure, prepare, share
from digitrec.results.figures.plots import TEXT_SIZE, percent
from digitrec.space.shape import CLASSES


def summarise_classes(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> pd.DataFrame:
    """Returns a row per digit with the accuracy and its 95% confidence interval.

    Args:
        labels: (N',).
        predictions: (N',).

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
    """Draws a point and its interval per digit, and the accuracy over all of them.

    Args:
        frame: as from `summarise_classes`.
    """
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
    if len(found):
        overall = found["correct"].sum() / found["images"].sum()
        axes.axvline(overall, color="#777777", linestyle=(0, (5, 2)), linewidth=1.2, label="all")
    names = [f"{row.digit} ({row.images:,})" for row in frame.itertuples()]
    axes.yaxis.set_ticks(frame["digit"], names)
    axes.set_ylim(CLASSES - 0.5, -0.5)
    axes.set_ylabel("digit (images)", fontsize=TEXT_SIZE)
    axes.set_xlabel("share recognised, with 95% interval", fontsize=TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    return figure


def describe_classes(frame: pd.DataFrame) -> str:
    """Says the digits recognised best and worst.

    Args:
        frame: as from `summarise_classes`.
    """
    found = frame.dropna(subset="accuracy").sort_values("accuracy", kind="stable")
    if found.empty:
        return "There are no images."
    said = [
        f"{name}: {row['digit']:.0f}, {share(row['accuracy'])} of {row['images']:,.0f} images "
        f"({share(row['low'])} to {share(row['high'])})"
        for name, row in (
            ("Best", found.iloc[-1]),
            ("worst", found.iloc[0]),
        )
    ]
    return f"{'; '.join(said)}."
