"""The comparison: loss and accuracy of training and validation against epochs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs
from digitrec.results.figures.curves import (
    describe_dropped,
    describe_leaders,
    draw_curves,
    draw_curves_legend,
    draw_curves_title,
    epoch_positions,
)
from digitrec.results.figures.encoding import Encoding, describe_encoding
from digitrec.results.figures.scales import set_accuracies, set_epochs, set_losses
from digitrec.results.figures.style import TEXT_SIZE, new_figure
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "Loss and accuracy, epoch by epoch"
CAPTION = (
    "Training values are means over an epoch while it is trained on, validation values are taken "
    "after it; so in the first epochs training looks worse than validation."
)
PANELS = {
    "train_loss": "Training loss",
    "val_loss": "Validation loss",
    "train_accuracy": "Training accuracy",
    "val_accuracy": "Validation accuracy",
}


def make_comparison(inputs: FigureInputs) -> Chart:
    """Return the comparison of a study."""
    frame, trials = inputs.curves, inputs.trials
    shown = trials[trials["status"] != "dropped"]
    parts = (describe_encoding(frame), describe_leaders(frame), describe_dropped(frame), CAPTION)
    return Chart(
        name="comparison",
        title=TITLE,
        caption=" ".join(part for part in parts if part),
        says=describe_comparison(shown, inputs.record.tables.epochs, inputs.winner),
        figure=draw_comparison(frame),
        marks=len(frame),
        wide=True,
    )


def draw_comparison(frame: pd.DataFrame) -> Figure:
    """Draw loss and accuracy of both splits against epochs, a line per configuration."""
    figure = new_figure(10, 7.4)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    figure.subplots_adjust(0.085, 0.07, 0.775, 0.865, wspace=0.05, hspace=0.15)
    encoding = Encoding.of(frame)
    frame = frame.assign(x=epoch_positions(frame, encoding))
    is_loss = frame["metric"].str.endswith("_loss")
    accuracies = frame[~is_loss]
    set_epochs(panels[0, 0], frame)
    set_losses(panels[0, 0], frame[is_loss])
    set_accuracies(panels[1, 0], accuracies["low"].min(), accuracies["high"].max(), "accuracy")
    for axes, (metric, title) in zip(panels.flat, PANELS.items(), strict=True):
        axes.set_title(title, fontsize=TEXT_SIZE + 1, loc="left")
        draw_curves(axes, frame[frame["metric"] == metric], encoding)
    _label_epochs(panels[1], frame, encoding)
    one_metric = frame[frame["metric"] == "val_loss"]
    draw_curves_title(figure, "Loss and accuracy after each epoch", one_metric)
    draw_curves_legend(figure, one_metric, encoding, top=0.865)
    return figure


def _label_epochs(panels: list[Axes], frame: pd.DataFrame, encoding: Encoding) -> None:
    in_columns = frame["epoch"].nunique() == 1 < len(encoding.second.values)
    label = f"epoch (a column per {encoding.second.label})" if in_columns else "epoch"
    for axes in panels:
        axes.set_xlabel(label, fontsize=TEXT_SIZE)


def describe_comparison(trials: pd.DataFrame, epochs: pd.DataFrame, winner: str | None) -> str:
    """Return the course of the winner, and how the trials ended."""
    configurations = len(trials[list(HYPERPARAMETERS)].drop_duplicates())
    said = [f"Curves of {count(configurations, 'configuration')}."]
    own = epochs[epochs["trial"] == winner].sort_values("epoch")
    if len(own):
        ends = own if len(own) == 1 else own.iloc[[0, -1]]
        course = [
            f"{percent(row['val_accuracy'])} and {row['val_loss']:.3f} nats after epoch "
            f"{row['epoch']}"
            for row in ends.to_dict("records")
        ]
        said.append(f"Validation accuracy and loss of the winner: {join_words(course)}.")
    statuses = trials["status"].value_counts()
    ends_of_trials = [f"{number:,} {status}" for status, number in statuses.items()]
    said.append(f"Trials: {join_words(ends_of_trials)}.")
    return " ".join(said)
