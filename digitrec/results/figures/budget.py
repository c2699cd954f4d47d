"""Best of n: how good the best of fewer trials would have been."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from digitrec.results.figures.canvas import ACCENT, break_label, listed, new_figure, prepare, share
from digitrec.results.figures.plots import LOG_RATIO, TEXT_SIZE, log_ticks, set_accuracies

MOST_LINEAR = 30  # trials; above, the steps that matter are the first ones


def draw_best_of_n(frame: pd.DataFrame) -> Figure:
    """Draws the expected best validation accuracy against the number of trials, with its band.

    Args:
        frame: columns n, expected, low, high, as from `compare.summarise_best_of_n`; at least one
            row.
    """
    figure = new_figure(5.3, 3.6)
    axes = prepare(figure.add_axes((0.18, 0.15, 0.79, 0.82)))
    n, most = frame["n"], int(frame["n"].max())
    set_accuracies(axes, frame.rename(columns={"expected": "mean"}), "best validation accuracy")
    break_label(axes)
    axes.set_xlabel("trials, drawn at random from those trained", fontsize=TEXT_SIZE)
    if most > MOST_LINEAR:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(log_ticks(1, most))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(0.5, max(most, LOG_RATIO) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.fill_between(n, frame["low"], frame["high"], color=ACCENT, alpha=0.15, linewidth=0)
    marker = "o" if most <= MOST_LINEAR else None
    axes.plot(n, frame["expected"], color=ACCENT, linewidth=2, marker=marker, markersize=4)
    return figure


def describe_best_of_n(frame: pd.DataFrame) -> str:
    """Says the expected best of one trial, of a fifth, of half and of all, and a fifth's band.

    Args:
        frame: as for `draw_best_of_n`.
    """
    most = int(frame["n"].max())
    fifth = max(1, most // 5)
    wanted = sorted({1, fifth, max(1, most // 2), most} & set(frame["n"]))
    rows = frame.set_index("n")
    said = [f"{share(rows.loc[n, 'expected'])} of {n:,}" for n in wanted]  # type: ignore[arg-type]
    low, high = (share(rows.loc[fifth, side]) for side in ("low", "high"))  # type: ignore[arg-type]
    return (
        f"Best validation accuracy to expect: {listed(said)} trials. "
        f"The best of {fifth:,} lies between {low} and {high}."
    )
