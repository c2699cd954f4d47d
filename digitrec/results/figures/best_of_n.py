"""Best of n: how good the best of fewer trials would have been."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from digitrec.results.analysis.statistics import summarise_best_of_n
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.scales import LOG_RATIO, log_ticks, plain_format, set_accuracies
from digitrec.results.figures.style import ACCENT, TEXT_SIZE, break_label, new_figure, prepare
from digitrec.results.text import join_words, percent

TITLE = "Would fewer trials have done?"
CAPTION = (
    "The best validation accuracy to expect of n trials drawn at random from those trained; 90% of "
    "the draws lie in the band. Diverged trials count as drawn. Where the curve is flat, fewer "
    "trials would have done."
)
MOST_LINEAR = 30  # trials; above, the steps that matter are the first ones


def make_best_of_n(inputs: FigureInputs) -> Chart | Omission:
    """Return the figure of the best of n trials of a study."""
    if inputs.record.spec.race:
        return Omission(TITLE, "a race trains most trials for fewer epochs than the others")
    confirmed = inputs.trials["trial"].isin(inputs.record.spec.confirmed_trials)
    frame = summarise_best_of_n(inputs.trials[~confirmed])  # those of leaders are no random draws
    if len(frame) < 2:
        return Omission(TITLE, "it takes two trials that completed")
    return Chart(
        "best-of-n", TITLE, CAPTION, describe_best_of_n(frame), draw_best_of_n(frame), len(frame)
    )


def draw_best_of_n(frame: pd.DataFrame) -> Figure:
    """Draw the expected best validation accuracy against the number of trials, with its band."""
    figure = new_figure(5.3, 3.6)
    axes = prepare(figure.add_axes((0.18, 0.15, 0.79, 0.82)))
    n, most = frame["n"], int(frame["n"].max())
    low, high = frame["low"].min(), frame["high"].max()
    set_accuracies(axes, low, high, "best validation accuracy")
    break_label(axes)
    axes.set_xlabel("trials, drawn at random from those trained", fontsize=TEXT_SIZE)
    if most > MOST_LINEAR:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(log_ticks(1, most))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(plain_format())
    else:
        axes.set_xlim(0.5, max(most, LOG_RATIO) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.fill_between(n, frame["low"], frame["high"], color=ACCENT, alpha=0.15, linewidth=0)
    marker = "o" if most <= MOST_LINEAR else None
    axes.plot(n, frame["expected"], color=ACCENT, linewidth=2, marker=marker, markersize=4)
    return figure


def describe_best_of_n(frame: pd.DataFrame) -> str:
    """Return the expected best of one trial, of a fifth, of half and of all, and a fifth's band."""
    most = int(frame["n"].max())
    fifth = max(1, most // 5)
    wanted = sorted({1, fifth, max(1, most // 2), most} & set(frame["n"]))
    rows = frame.set_index("n")
    said = [f"{percent(rows.loc[n, 'expected'])} of {n:,}" for n in wanted]  # type: ignore[arg-type]
    low, high = (percent(rows.loc[fifth, side]) for side in ("low", "high"))  # type: ignore[arg-type]
    return (
        f"Best validation accuracy to expect: {join_words(said)} trials. "
        f"The best of {fifth:,} lies between {low} and {high}."
    )
