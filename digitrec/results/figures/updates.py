"""Validation accuracy against the number of updates."""

import pandas as pd
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs
from digitrec.results.figures.configurations import label_value
from digitrec.results.figures.curves import (
    describe_dropped,
    draw_curves,
    draw_curves_legend,
    draw_curves_title,
)
from digitrec.results.figures.encoding import Encoding
from digitrec.results.figures.scales import set_accuracies, set_updates
from digitrec.results.figures.style import new_figure
from digitrec.results.text import join_words, percent
from digitrec.space.hyperparameters import with_role

TITLE = "Accuracy against optimizer updates"
CAPTION = (
    "Equal epochs are many updates for a small batch and few for a large one. Curves that lie on "
    "top of each other here differ only in how long they were trained."
)
MOST_BATCHES_NAMED = 6


def make_updates(inputs: FigureInputs) -> Chart:
    """Return the figure of accuracy against updates of a study."""
    frame = summarise_updates(inputs.curves)
    return Chart(
        name="updates",
        title=TITLE,
        caption=f"{CAPTION} {describe_dropped(frame)}".strip(),
        says=describe_updates(inputs.trials),
        figure=draw_updates(frame),
        marks=len(frame),
        wide=True,
    )


def summarise_updates(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the validation accuracy; curves: as from `summarise_curves`."""
    return curves[curves["metric"] == "val_accuracy"].reset_index(drop=True)


def draw_updates(frame: pd.DataFrame) -> Figure:
    """Draw validation accuracy against the number of updates, a line per configuration."""
    figure = new_figure(10, 6)
    axes = figure.add_axes((0.085, 0.09, 0.69, 0.775))
    encoding = Encoding.of(frame)
    set_updates(axes, frame)
    set_accuracies(axes, frame["low"].min(), frame["high"].max(), "validation accuracy")
    draw_curves(axes, frame.assign(x=frame["updates"]), encoding)
    draw_curves_title(figure, "Validation accuracy against optimizer updates", frame)
    draw_curves_legend(figure, frame, encoding, top=0.865)
    return figure


def describe_updates(trials: pd.DataFrame) -> str:
    """Return updates and best accuracy by batch size; of many sizes, the first and the last."""
    completed = trials[trials["status"] == "completed"]
    if completed.empty:
        return "No trial has completed."
    images = with_role("batch").name
    best = completed.groupby(images).agg(
        updates=("updates", "max"), accuracy=("val_accuracy", "max")
    )
    rows = best if len(best) <= MOST_BATCHES_NAMED else best.iloc[[0, -1]]
    said = [
        f"{row['updates']:,.0f} updates of {label_value(images, size)} images reach "
        f"{percent(row['accuracy'])}"
        for size, row in zip(rows.index.tolist(), rows.to_dict("records"), strict=True)
    ]
    return f"At best, {join_words(said)}."
