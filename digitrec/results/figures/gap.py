"""The gap between training and validation accuracy, epoch by epoch."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from digitrec.results.analysis.naming import named_hyperparameters
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import describe_values
from digitrec.results.figures.curves import draw_curves, epoch_positions, summarise_curves
from digitrec.results.figures.encoding import Encoding
from digitrec.results.figures.scales import set_epochs
from digitrec.results.figures.style import LINE_GREY, TEXT_SIZE, new_figure
from digitrec.results.text import count
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "Gap between training and validation"
CAPTION = (
    "Lines are those of the comparison. Above 0, training images are recognised better than unseen "
    "ones; a gap that widens while validation accuracy falls is overfitting. Training accuracy is "
    "taken while the model still learns, so the first epochs lie below 0."
)


def make_gap(inputs: FigureInputs) -> Chart | Omission:
    """Return the figure of the gap of a study."""
    frame = summarise_gap(inputs.trials, inputs.epochs, inputs.marked)
    if frame["mean"].isna().all():
        return Omission(TITLE, "no trial has a finite epoch yet")
    return Chart("gap", TITLE, CAPTION, describe_gap(frame), draw_gap(frame), len(frame))


def summarise_gap(trials: pd.DataFrame, epochs: pd.DataFrame, winner: str | None) -> pd.DataFrame:
    """Return a row per configuration and epoch: training minus validation accuracy."""
    gaps = epochs.assign(accuracy_gap=epochs["train_accuracy"] - epochs["val_accuracy"])
    return summarise_curves(trials, gaps, winner, ["accuracy_gap"])


def draw_gap(frame: pd.DataFrame) -> Figure:
    """Draw the gap against epochs, a line per configuration that looks as in the comparison."""
    figure = new_figure(5.3, 3.6)
    axes = figure.add_axes((0.155, 0.15, 0.82, 0.82))
    encoding = Encoding.of(frame)
    set_epochs(axes, frame)
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    axes.set_ylabel("training minus validation (points)", fontsize=TEXT_SIZE)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0")
    )
    low, high = min(frame["low"].min(), 0), max(frame["high"].max(), 0)
    margin = max(0.06 * (high - low), 0.002)
    axes.set_ylim(low - margin, high + margin)
    axes.axhline(0, color=LINE_GREY, linewidth=1.2)
    draw_curves(axes, frame.assign(x=epoch_positions(frame, encoding)), encoding)
    return figure


def describe_gap(frame: pd.DataFrame) -> str:
    """Return the winner's gap after the last epoch, the widest one, and how many are above 0."""
    last = (
        frame.dropna(subset="mean")
        .sort_values("epoch")
        .drop_duplicates(list(HYPERPARAMETERS), keep="last")
    )
    (widest,) = last.sort_values("mean").tail(1).to_dict("records")
    said = [
        f"After their last finite epoch, {int((last['mean'] > 0).sum()):,} of "
        f"{count(len(last), 'configuration')} are above 0. The widest gap is "
        f"{_points(widest['mean'])}, at {describe_values(widest, named_hyperparameters(frame))}."
    ]
    said += [f"The winner's is {_points(gap)}." for gap in last.loc[last["winner"], "mean"]]
    return " ".join(said)


def _points(gap: float) -> str:
    return f"{100 * gap:+.2f} percentage points"
