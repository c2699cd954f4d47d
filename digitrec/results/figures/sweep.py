"""The slices: the best accuracy of each trial against each searched hyperparameter."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import (
    label_value,
    many_valued,
    order_values,
    searched,
)
from digitrec.results.figures.encoding import Encoding
from digitrec.results.figures.scales import ValueScale, set_accuracies
from digitrec.results.figures.style import (
    CHARACTERS_PER_INCH,
    OTHERS_GREY,
    TEXT_GREY,
    WHITE_EDGE,
    break_label,
    new_figure,
    prepare,
)
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "Best accuracy against each hyperparameter"
CAPTION = (
    "A point per trial: the best validation accuracy of any of its epochs. Colour and marker are "
    "those of the comparison{line}.{dropped} A cross is a trial that diverged, "
    "at the best it had reached, or at the foot if it had nothing."
)
CAPTION_OF_DROPPED = (
    " Grey dots are trials that the race dropped, after fewer epochs than the others."
)
FOOT = 0.03  # where the cross of a trial without a finite epoch stands, as a share of the panel
MOST_PANELS_IN_A_ROW = 4
MOST_TRIALS_WITH_LARGE_POINTS = 200


def make_sweep(inputs: FigureInputs) -> Chart | Omission:
    """Return the slices of a study."""
    frame = summarise_sweep(inputs.trials, inputs.marked)
    panels = searched(frame)
    if not panels or not frame["trained"].any():
        return Omission(TITLE, inputs.why_no_comparison)
    joined = set(panels) - {*many_valued(frame)}
    return Chart(
        name="sweep",
        title=TITLE,
        caption=CAPTION.format(
            line="; the line joins the highest points" if joined else "",
            dropped=CAPTION_OF_DROPPED if frame["dropped"].any() else "",
        ),
        says=describe_sweep(frame),
        figure=draw_sweep(frame),
        marks=len(frame) * len(panels),
        wide=len(panels) > 2,
    )


def summarise_sweep(trials: pd.DataFrame, winner: str | None) -> pd.DataFrame:
    """Return a row per trial.

    The columns are the hyperparameters, trained (bool), best (best_val_accuracy, NaN without a
    finite epoch), diverged (bool), dropped (bool), winner (bool).
    """
    return trials[list(HYPERPARAMETERS)].assign(
        trained=trials["status"].isin(["completed", "diverged", "dropped"]),
        best=trials["best_val_accuracy"].astype(float),
        diverged=trials["status"] == "diverged",
        dropped=trials["status"] == "dropped",
        winner=trials["trial"] == winner,
    )


def draw_panels(scales: list[ValueScale], accuracies: "pd.Series[float]", label: str) -> Figure:
    """Draw an empty panel per scale, some side by side, with an axis for the accuracies."""
    rotated = [len(text) for scale in scales if scale.is_rotated for text in scale.tick_texts()]
    below = 0.54 + max(rotated, default=0) / CHARACTERS_PER_INCH
    rows = -(-len(scales) // MOST_PANELS_IN_A_ROW)
    columns = -(-len(scales) // rows)
    width, height = 1.1 + 2.1 * columns, (3.06 + below) * rows
    figure = new_figure(width, height)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    figure.subplots_adjust(
        0.95 / width, below / height, 1 - 0.15 / width, 1 - 0.108 / height,
        wspace=0.07, hspace=(below + 0.108) / (3.06 - 0.108),
    )  # fmt: skip
    for axes in grid[:, 0]:
        set_accuracies(axes, accuracies.min(), accuracies.max(), label)
        break_label(axes)
    for axes in grid.flat[len(scales) :]:
        axes.remove()
    for axes, scale in zip(grid.flat, scales, strict=False):
        scale.set_axis(prepare(axes))
    return figure


def draw_sweep(frame: pd.DataFrame) -> Figure:
    """Draw a panel per searched hyperparameter; colour and marker are those of the comparison."""
    scales = [ValueScale.of(name, frame[name]) for name in searched(frame)]
    figure = draw_panels(scales, frame["best"], "best validation accuracy")
    encoding, many = Encoding.of(frame), many_valued(frame)
    for axes, scale in zip(figure.axes, scales, strict=True):
        if scale.name not in many:
            _join_highest(axes, frame, scale)
        _draw_points(axes, frame.assign(x=scale.positions(frame[scale.name])), encoding)
    return figure


def _join_highest(axes: Axes, frame: pd.DataFrame, scale: ValueScale) -> None:
    x = pd.Series(scale.positions(frame[scale.name]), frame.index)
    highest = frame.groupby(x)["best"].max().dropna()
    axes.plot(highest.index, highest, color=TEXT_GREY, linewidth=0.9, alpha=0.6, label="highest")


def _draw_points(axes: Axes, frame: pd.DataFrame, encoding: Encoding) -> None:
    """Draw the trials in one panel; frame: as from `summarise_sweep`, and a column x."""
    first, second = encoding.first.name, encoding.second.name
    markers = frame[second].map(encoding.marker)
    size, alpha = (12, 0.5) if len(frame) > MOST_TRIALS_WITH_LARGE_POINTS else (34, 0.9)
    if frame["dropped"].any():
        part = frame[frame["dropped"]]
        axes.scatter(
            part["x"], part["best"], 0.5 * size, OTHERS_GREY, linewidths=0, label="dropped"
        )
    for marker in sorted(set(markers)):
        part = frame[(markers == marker) & ~frame["dropped"] & ~frame["diverged"]]
        axes.scatter(
            part["x"], part["best"], size, encoding.colours(part[first].tolist()),
            marker=marker, alpha=alpha, linewidths=0,
        )  # fmt: skip
    for row in frame[frame["winner"]].to_dict("records"):
        marker, colours = encoding.marker(row[second]), encoding.colours([row[first]])
        ring = axes.scatter(row["x"], row["best"], 110, colours, marker=marker)
        ring.set(zorder=4, label="winner", edgecolor="black", linewidth=1.6)
    _draw_diverged(axes, frame[frame["diverged"]], encoding)


def _draw_diverged(axes: Axes, frame: pd.DataFrame, encoding: Encoding) -> None:
    """Draw crosses at the best finite epoch, or at the foot of the panel."""
    for part, height in (
        (frame[frame["best"].notna()], None),
        (frame[frame["best"].isna()], FOOT),
    ):
        if part.empty:
            continue
        crosses = axes.scatter(
            part["x"],
            part["best"] if height is None else np.full(len(part), height),
            46,
            encoding.colours(part[encoding.first.name].tolist()),
            marker="x",
            linewidths=2,
            transform=axes.transData if height is None else axes.get_xaxis_transform(),
            zorder=5,
            label="diverged",
        )
        crosses.set_path_effects(WHITE_EDGE)


def describe_sweep(frame: pd.DataFrame) -> str:
    """Return where each searched hyperparameter was best, and how many trials diverged."""
    said = []
    for name in searched(frame):
        highest = frame.groupby(name)["best"].max().dropna().to_dict()
        if not highest:
            continue
        values = order_values(highest)
        best = max(values, key=highest.__getitem__)
        ends = [
            f"{percent(highest[value])} at {label_value(name, value)}"
            for value in dict.fromkeys([values[0], values[-1]])
            if value != best
        ]
        others = f"; {'the ends reach' if len(ends) > 1 else 'the other end reaches'} "
        said.append(
            f"The best over {HYPERPARAMETERS[name].label} is {percent(highest[best])} "
            f"at {label_value(name, best)}{others + join_words(ends) if ends else ''}."
        )
    diverged, trained = int(frame["diverged"].sum()), int(frame["trained"].sum())
    dropped = int(frame["dropped"].sum())
    early = f", {dropped:,} were dropped before the last rung" if dropped else ""
    said.append(f"{diverged or 'None'} of {count(trained, 'trial')} diverged{early}.")
    return " ".join(said)
