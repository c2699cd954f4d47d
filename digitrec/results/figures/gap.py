"""The gap between training and validation accuracy, epoch by epoch."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from digitrec.results.figures.canvas import new_figure
from digitrec.results.figures.plots import (
    CONFIGURATION,
    TEXT_SIZE,
    Keys,
    count,
    draw_panel,
    epoch_positions,
    set_epochs,
    summarise_comparison,
)


def summarise_gap(trials: pd.DataFrame, epochs: pd.DataFrame, winner: str | None) -> pd.DataFrame:
    """Returns a row per configuration and epoch: training minus validation accuracy.

    Args:
        trials: as for `summarise_comparison`.
        epochs: as for `summarise_comparison`.
        winner: the name of a trial; its configuration becomes the winner.

    Returns:
        The columns of `summarise_comparison`, metric being accuracy_gap.
    """
    gaps = epochs.assign(val_accuracy=epochs["train_accuracy"] - epochs["val_accuracy"])
    frame = summarise_comparison(trials, gaps, winner)
    frame = frame[frame["metric"] == "val_accuracy"].reset_index(drop=True)
    return frame.assign(metric="accuracy_gap")


def draw_gap(frame: pd.DataFrame) -> Figure:
    """Draws the gap against epochs, a line per configuration that looks as in the comparison.

    Args:
        frame: as from `summarise_gap`.
    """
    figure = new_figure(5.3, 3.6)
    axes = figure.add_axes((0.155, 0.15, 0.82, 0.82))
    keys = Keys.of(frame)
    frame = frame.assign(x=epoch_positions(frame, keys))
    set_epochs(axes, frame)
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    axes.set_ylabel("training minus validation (points)", fontsize=TEXT_SIZE)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0")
    )
    if frame["mean"].notna().any():
        low, high = min(frame["low"].min(), 0), max(frame["high"].max(), 0)
        margin = max(0.06 * (high - low), 0.002)
        axes.set_ylim(low - margin, high + margin)
    axes.axhline(0, color="#777777", linewidth=1.2)
    draw_panel(axes, frame, keys)
    return figure


def describe_gap(frame: pd.DataFrame) -> str:
    """Says the winner's gap after the last epoch, the widest one, and how many stand above 0.

    Args:
        frame: as from `summarise_gap`.
    """
    last = (
        frame.dropna(subset="mean").sort_values("epoch").drop_duplicates(CONFIGURATION, keep="last")
    )
    if last.empty:
        return "No configuration has a finite epoch."
    widest = last.sort_values("mean").iloc[-1]
    said = [
        f"After their last finite epoch, {int((last['mean'] > 0).sum())} of "
        f"{count(len(last), 'configuration')} stand above 0. The widest gap is "
        f"{_points(widest['mean'])}, at learning rate {widest['lr']:g} and "
        f"batch size {int(widest['batch_size'])}."
    ]
    said += [f"The winner's is {_points(gap)}." for gap in last.loc[last["winner"], "mean"]]
    return " ".join(said)


def _points(gap: float) -> str:
    return f"{100 * gap:+.2f} points"
