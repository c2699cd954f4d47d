"""Whether the winner is right as often as it says it is.

Letters: N' validation images, C = 10 classes.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.scales import percent_format
from digitrec.results.figures.style import (
    ACCENT,
    LINE_GREY,
    QUIET,
    TEXT_SIZE,
    new_figure,
    prepare,
)
from digitrec.results.text import percent, points

TITLE = "Is it right as often as it says?"
CAPTION = (
    "Reliability diagram: images in ten bins by the probability of the predicted digit. On the "
    "diagonal, confidence and accuracy agree; above it the model is too modest, below it too sure. "
    "The bars count the images, on a log scale."
)
BINS = 10


def make_calibration(inputs: FigureInputs) -> Chart | Omission:
    """Return the reliability diagram of the winner of a study."""
    labels, validation = inputs.record.labels, inputs.validation
    if labels is None or validation is None:
        return Omission(TITLE, inputs.why_no_predictions)
    frame = summarise_calibration(labels, validation.probabilities)
    return Chart(
        name="calibration",
        title=TITLE,
        caption=CAPTION,
        says=describe_calibration(frame),
        figure=draw_calibration(frame),
        marks=len(frame),
    )


def summarise_calibration(
    labels: NDArray[np.uint8], probabilities: NDArray[np.float32]
) -> pd.DataFrame:
    """Return a row per bin of confidence, the probability of the predicted digit.

    Args:
        labels: (N',).
        probabilities: (N', C).

    Returns:
        Columns low, high (of the bin; low is outside of it), images, confidence (mean), accuracy;
        the last two are NaN for an empty bin.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    confidence = probabilities.max(1).astype(float)
    right = probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(bins, minlength=BINS)
    n = np.where(images > 0, images, np.nan)
    return pd.DataFrame(
        {
            "low": np.arange(BINS) / BINS,
            "high": np.arange(1, BINS + 1) / BINS,
            "images": images,
            "confidence": np.bincount(bins, confidence, BINS) / n,
            "accuracy": np.bincount(bins, right, BINS) / n,
        }
    )


def expected_calibration_error(frame: pd.DataFrame) -> float:
    """Return the mean distance of accuracy and confidence, weighted by the bins' images."""
    distance = (frame["accuracy"] - frame["confidence"]).abs().fillna(0.0)
    return float((distance * frame["images"]).sum() / frame["images"].sum())


def draw_calibration(frame: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence, and how many images each bin has."""
    figure = new_figure(5.3, 5.0)
    axes = prepare(figure.add_axes((0.15, 0.36, 0.8, 0.62)))
    below = prepare(figure.add_axes((0.15, 0.11, 0.8, 0.2), sharex=axes))
    axes.plot([0, 1], [0, 1], color=LINE_GREY, linestyle=(0, (5, 2)), linewidth=1.2)
    found = frame.dropna(subset="accuracy")
    axes.vlines(found["confidence"], found["confidence"], found["accuracy"], colors=QUIET, lw=3)
    axes.plot(found["confidence"], found["accuracy"], color=ACCENT, marker="o", label="bins")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.tick_params(labelbottom=False)
    axes.set_ylabel("share recognised", fontsize=TEXT_SIZE)
    below.bar(frame["low"], frame["images"], width=1 / BINS, align="edge", color=QUIET, ec="white")
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(0, 30 * max(frame["images"].max(), 1))
    below.yaxis.set_ticks([])
    below.yaxis.set_minor_locator(NullLocator())
    for row in found.itertuples():
        text = f"{row.images:,}"
        place = ((row.low + row.high) / 2, row.images)  # type: ignore[operator]
        below.annotate(
            text, place, (0, 2), textcoords="offset points", ha="center", fontsize=TEXT_SIZE - 1.5
        )
    below.set_ylabel("images", fontsize=TEXT_SIZE)
    below.set_xlabel("confidence (probability of the predicted digit)", fontsize=TEXT_SIZE)
    for axis in (axes.yaxis, below.xaxis):
        axis.set_major_formatter(percent_format())
    return figure


def describe_calibration(frame: pd.DataFrame) -> str:
    """Return the expected calibration error, and which way the winner errs."""
    images = frame["images"].sum()
    confidence = float((frame["confidence"].fillna(0) * frame["images"]).sum() / images)
    accuracy = float((frame["accuracy"].fillna(0) * frame["images"]).sum() / images)
    which = "more" if confidence < accuracy else "less"
    top = frame.iloc[-1]
    return (
        f"On average it says {percent(confidence)} and is right in {percent(accuracy)} of "
        f"{images:,} images, {which} often than it says. The expected calibration error is "
        f"{points(expected_calibration_error(frame))}. {top['images']:,.0f} images have a "
        f"confidence above {percent(top['low'])}."
    )
