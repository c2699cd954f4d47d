"""The race: which trials went on from each rung, and how they did."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from digitrec.results.analysis.naming import named_hyperparameters
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import describe_winner, is_winner
from digitrec.results.figures.encoding import WINNER_EDGE, LineStyle
from digitrec.results.figures.scales import LOG_RATIO, plain_format, set_accuracies
from digitrec.results.figures.style import (
    ACCENT,
    LINE_GREY,
    OTHERS_GREY,
    TEXT_GREY,
    TEXT_SIZE,
    TICK_SIZE,
    new_figure,
    prepare,
    write_title,
)
from digitrec.results.text import count, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.space.race import Race

TITLE = "The race"
CAPTION = (
    "A line per trial. At each rung the best one in {} goes on, and whoever cannot be told apart "
    "from the last of these; the grey lines end where the race dropped a trial."
)
CAPTION_OF_AUDIT = (
    " Dashed lines are the audit: dropped trials, drawn at random, that are trained to the end all "
    "the same. If one of them ends high, the race drops trials too early."
)
AUDIT_COLOUR = "#d55e00"  # of Okabe and Ito's colours, safe for colour-blind eyes


class Look(NamedTuple):
    """How the lines of trials of one fate look."""

    label: str
    colour: str
    width: float = 1.1
    style: LineStyle = "-"


LOOKS = {  # in the order in which they are drawn
    "dropped": Look("dropped", OTHERS_GREY, 0.8),
    "audited": Look("in the audit", AUDIT_COLOUR, style=(0, (4, 2))),
    "racing": Look("racing", ACCENT),
}


def make_race(inputs: FigureInputs) -> list[Chart] | Omission:
    """Return the figure of the race of a study; nothing where a study has none."""
    race = inputs.record.spec.raced
    if race is None:
        return []
    points = {trial.name for trial in inputs.record.spec.points()}
    trials = inputs.trials[inputs.trials["trial"].isin(points)]
    frame = summarise_race(trials, inputs.record.tables.epochs, race)
    frame["winner"] = is_winner(frame, inputs.trials, inputs.marked)
    if frame["accuracy"].isna().all():
        return Omission(TITLE, "no trial has a finite epoch yet")
    return [
        Chart(
            name="race",
            title=TITLE,
            caption=CAPTION.format(race.halve) + (CAPTION_OF_AUDIT if race.audited else ""),
            says=describe_race(frame, race),
            figure=draw_race(frame, race),
            marks=len(frame),
            wide=True,
        )
    ]


def summarise_race(trials: pd.DataFrame, epochs: pd.DataFrame, race: Race) -> pd.DataFrame:
    """Return a row per trial and epoch, in their order.

    Args:
        trials: those that started in the race.
        epochs: EPOCH_COLUMNS.
        race: with the decisions so far.

    Returns:
        Columns trial, the hyperparameters, epoch, accuracy (of validation; NaN where the trial has
        diverged), fate (dropped, audited, or racing: until the end, or as far as is decided; a
        diverged trial is dropped where a decision left it out), status.
    """
    going_on = set(race.cuts[-1].kept) if race.cuts else set(trials["trial"])
    fates = {
        name: "racing" if name in going_on else "audited" if name in race.audited else "dropped"
        for name in trials["trial"]
    }
    statuses = dict(zip(trials["trial"], trials["status"], strict=True))
    frame = epochs[epochs["trial"].isin(list(fates))]
    finite = np.isfinite(frame["val_loss"].astype(float))
    return frame[["trial", *HYPERPARAMETERS, "epoch"]].assign(
        accuracy=frame["val_accuracy"].astype(float).where(finite),
        fate=frame["trial"].map(fates),
        status=frame["trial"].map(statuses),
    )


def draw_race(frame: pd.DataFrame, race: Race) -> Figure:
    """Draw validation accuracy against epochs, a line per trial, and the rungs.

    Args:
        frame: as from `summarise_race`, and a column winner.
        race: with the decisions so far.
    """
    figure = new_figure(10, 5.6)
    axes = prepare(figure.add_axes((0.085, 0.1, 0.69, 0.69)))
    set_accuracies(axes, frame["accuracy"].min(), frame["accuracy"].max(), "validation accuracy")
    _set_rungs(axes, race)
    handles = [
        _draw_lines(axes, frame[frame["fate"] == fate], look, race.decided)
        for fate, look in LOOKS.items()
        if (frame["fate"] == fate).any()
    ]
    handles += _draw_crosses(axes, frame)
    handles += _draw_winner(axes, frame[frame["winner"]])
    _write_rungs(axes, frame, race)
    started = count(frame["trial"].nunique(), "trial")
    winner = describe_winner(frame, named_hyperparameters(frame))
    write_title(figure, f"Validation accuracy in the race of {started}", winner)
    figure.legend(
        handles=handles[::-1], loc="upper left", bbox_to_anchor=(0.84, 0.81), frameon=False,
        fontsize=TICK_SIZE,
    )  # fmt: skip
    return figure


def _set_rungs(axes: Axes, race: Race) -> None:
    """Scale the horizontal axis for epochs, on a log scale where rungs multiply them."""
    last = race.rungs[-1]
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    if last > LOG_RATIO:
        axes.set_xscale("log")
        axes.set_xlabel("epoch (log scale)", fontsize=TEXT_SIZE)
        axes.set_xlim(last**-0.03, last**1.03)
    else:
        axes.set_xlim(0.9, last + 0.1)
    axes.xaxis.set_ticks(sorted({1, *race.rungs}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(plain_format())
    axes.grid(visible=False, axis="x")


def _write_rungs(axes: Axes, frame: pd.DataFrame, race: Race) -> None:
    """Draw a vertical line per rung, and write above it how many trials went on."""
    for rung, text in zip(race.rungs, rung_texts(frame, race), strict=True):
        axes.axvline(rung, color=LINE_GREY, linewidth=0.8, zorder=1)
        axes.annotate(
            text, (rung, 1), (0, 4), ("data", "axes fraction"), "offset points", ha="center",
            va="bottom", fontsize=TICK_SIZE, color=TEXT_GREY, annotation_clip=False,
        )  # fmt: skip


def rung_texts(frame: pd.DataFrame, race: Race) -> list[str]:
    """Return how many trials went on from each decided rung, and how many the next one has."""
    left, texts = frame["trial"].nunique(), []
    for cut in race.cuts:
        texts.append(f"{len(cut.kept):,} of {left:,}\nwent on")
        left = len(cut.kept)
    texts.append(f"{left:,} {'finalists' if race.decided else 'racing'}")
    return texts + [""] * (len(race.rungs) - len(texts))


def _draw_lines(axes: Axes, frame: pd.DataFrame, look: Look, decided: bool) -> Artist:
    """Draw the trials of one fate, those of a single epoch as points; return the legend's line."""
    points = frame.dropna(subset="accuracy")
    # A group-by that makes a frame per line takes seconds for thousands of lines.
    starts = np.flatnonzero(~points.duplicated("trial"))[1:]
    parts = np.split(points[["epoch", "accuracy"]].to_numpy(float), starts)
    lines = LineCollection(
        parts, label=look.label, colors=look.colour, linewidths=look.width, linestyles=[look.style]
    )
    axes.add_collection(lines, autolim=False)
    if alone := [part[0] for part in parts if len(part) == 1]:
        x, y = np.transpose(alone)
        axes.scatter(x, y, 9, look.colour, linewidths=0, clip_on=False)
    who = "finalists" if decided and look is LOOKS["racing"] else look.label
    label = f"{frame.loc[frame['status'] != 'diverged', 'trial'].nunique():,} {who}"
    return Line2D([], [], color=look.colour, linestyle=look.style, label=label)


def _draw_crosses(axes: Axes, frame: pd.DataFrame) -> list[Artist]:
    """Draw a cross where a trial diverged: at its last finite epoch, or at the foot."""
    diverged = frame[frame["status"] == "diverged"]
    if diverged.empty:
        return []
    last = diverged.groupby("trial").agg(epoch=("epoch", "min"), accuracy=("accuracy", "last"))
    finite = diverged.dropna(subset="accuracy").groupby("trial")["epoch"].max()
    x = finite.reindex(last.index).fillna(last["epoch"])
    y = last["accuracy"].fillna(axes.get_ylim()[0])
    axes.scatter(x, y, 30, LINE_GREY, marker="x", label="diverged", zorder=3, clip_on=False)
    label = f"{len(last):,} diverged"
    return [Line2D([], [], color=LINE_GREY, linestyle="", marker="x", label=label)]


def _draw_winner(axes: Axes, frame: pd.DataFrame) -> list[Artist]:
    """Draw the winner once more, wide and black-edged, and write its accuracy at its end."""
    for _, own in frame.dropna(subset="accuracy").groupby("trial"):
        (line,) = axes.plot(own["epoch"], own["accuracy"], color=ACCENT, linewidth=2.8, zorder=4)
        line.set(path_effects=WINNER_EDGE, label="winner", clip_on=False)
        x, y = own[["epoch", "accuracy"]].iloc[-1]
        axes.annotate(
            f"winner\n{percent(y)}", (x, y), (9, 0), textcoords="offset points", va="center",
            fontsize=TICK_SIZE, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
        return [line]
    return []


def describe_race(frame: pd.DataFrame, race: Race) -> str:
    """Return how many went on from each rung, and what each fate reached."""
    left = frame["trial"].nunique()
    said = [f"{count(left, 'trial')} started."]
    for rung, cut in zip(race.rungs, race.cuts, strict=False):
        said.append(f"After epoch {rung}, {len(cut.kept):,} of {left:,} went on.")
        left = len(cut.kept)
    last = frame.dropna(subset="accuracy").drop_duplicates("trial", keep="last")
    for fate, who in (
        ("racing", "The finalists reach" if race.decided else "Those still racing have reached"),
        (
            "audited",
            "Those in the audit reach" if race.decided else "Those in the audit have reached",
        ),
        ("dropped", "The dropped ones had reached"),
    ):
        own = last.loc[last["fate"] == fate, "accuracy"]
        if len(own):
            said.append(f"{who} {_range(own.tolist())}.")
    diverged = frame.loc[frame["status"] == "diverged", "trial"].nunique()
    return " ".join([*said, f"{diverged:,} diverged."] if diverged else said)


def _range(accuracies: Sequence[float]) -> str:
    ends = dict.fromkeys(percent(end) for end in (min(accuracies), max(accuracies)))
    return " to ".join(ends)
