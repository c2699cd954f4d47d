"""Parallel coordinates: each configuration as a line through its values, to its accuracy."""

from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import describe_values, is_winner, searched
from digitrec.results.figures.encoding import WINNER_EDGE
from digitrec.results.figures.scales import Floats, ValueScale, accuracy_norm, label_accuracies
from digitrec.results.figures.style import (
    LINE_GREY,
    OTHERS_GREY,
    TEXT_SIZE,
    TICK_SIZE,
    WHITE_EDGE,
    new_figure,
)
from digitrec.results.text import count, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "All configurations, value by value"
CAPTION = (
    "A line per configuration, from its value on each axis to its validation accuracy after the "
    "last epoch, the mean over its seeds. Colour is that accuracy, even in the log error. Lines "
    "that share a value are fanned out around it, the better the higher."
)
CAPTION_OF_DROPPED = (
    "Grey lines are configurations that the race dropped; they end at the accuracy they had then."
)
CAPTION_OF_DIVERGED = "Dotted grey lines are configurations that diverged with every seed."
# viridis is perceptually uniform and safe for colour-blind eyes; its yellow end fades on white.
LINE_COLOURS = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.86, 256)))
INCHES_PER_AXIS, HEIGHT = 1.4, 4.9
LEFT, RIGHT, BELOW, ABOVE = 0.95, 0.95, 0.6, 0.8  # inches around the axes
WIDEST_FAN = 0.07  # how far lines stand from the value that they share, as a share of the axis
FOOT = -0.13  # where the lines of diverged configurations end
MOST_OPAQUE_LINES = 100  # above, lines become thinner and translucent
CHARACTERS_PER_LABEL = 13
SHARE_OF_BEST, FEWEST_BEST = 0.1, 3  # configurations whose common values are said


def make_parallel(inputs: FigureInputs) -> Chart | Omission:
    """Return the parallel coordinates of a study."""
    if reason := inputs.why_no_overview:
        return Omission(TITLE, reason)
    frame = summarise_parallel(inputs.trials, inputs.marked)
    if frame["accuracy"].isna().all():
        return Omission(TITLE, inputs.why_no_comparison)
    return Chart(
        name="parallel",
        title=TITLE,
        caption=_caption(frame),
        says=describe_parallel(frame),
        figure=draw_parallel(frame),
        marks=len(frame) * len(searched(frame)),
        wide=True,
    )


def _caption(frame: pd.DataFrame) -> str:
    said = [CAPTION]
    said += [CAPTION_OF_DROPPED] if frame["dropped"].any() else []
    said += [CAPTION_OF_DIVERGED] if frame["diverged"].any() else []
    return " ".join(said)


def summarise_parallel(trials: pd.DataFrame, winner: str | None) -> pd.DataFrame:
    """Return a row per configuration, the worst first.

    The columns are the hyperparameters, accuracy (mean of val_accuracy over the completed seeds,
    NaN without one), dropped (bool: a race dropped a seed and none completed), left (the mean of
    val_accuracy where dropped, else NaN), diverged (bool: a seed diverged and none completed
    or was dropped), winner (bool).
    """
    accuracy = trials["val_accuracy"].astype(float)
    completed, diverged, dropped = (
        trials["status"] == status for status in ("completed", "diverged", "dropped")
    )
    groups = trials.assign(
        accuracy=accuracy.where(completed), left=accuracy.where(dropped), diverged=diverged
    ).groupby(list(HYPERPARAMETERS))
    frame = groups.agg(
        accuracy=("accuracy", "mean"), left=("left", "mean"), diverged=("diverged", "any")
    ).reset_index()
    frame["left"] = frame["left"].where(frame["accuracy"].isna())
    frame["dropped"] = frame["left"].notna()
    frame["diverged"] &= frame["accuracy"].isna() & ~frame["dropped"]
    frame["winner"] = is_winner(frame, trials, winner)
    order = ["accuracy", "left"]
    return frame.sort_values(order, kind="stable", na_position="first", ignore_index=True)


def draw_parallel(frame: pd.DataFrame) -> Figure:
    """Draw an axis per searched hyperparameter, and the accuracies as a colour bar."""
    scales = [ValueScale.of(name, frame[name]) for name in searched(frame)]
    norm = accuracy_norm(frame[["accuracy", "left"]])
    width = LEFT + INCHES_PER_AXIS * len(scales) + RIGHT
    figure = new_figure(width, HEIGHT)
    share = INCHES_PER_AXIS / width, (HEIGHT - BELOW - ABOVE) / HEIGHT
    places = LEFT / width + share[0] * np.arange(len(scales) + 1)
    bottom = BELOW / HEIGHT
    lines = figure.add_axes((places[0], bottom, places[-1] - places[0], share[1]))
    lines.set(xlim=(0, len(scales)), ylim=(0, 1))
    lines.set_axis_off()
    ends = (-WIDEST_FAN, 1 + WIDEST_FAN)
    lines.vlines(range(len(scales)), *ends, color="black", linewidth=0.8, clip_on=False)
    heights = np.column_stack([fan_out(frame, scale) for scale in scales])
    _draw_lines(lines, heights, frame, norm)
    for place, scale in zip(places, scales, strict=False):
        _draw_axis(figure.add_axes((place, bottom, 0.001, share[1])), scale)
    _draw_bar(figure, figure.add_axes((places[-1], bottom, 0.14 / width, share[1])), norm)
    return figure


def fan_out(frame: pd.DataFrame, scale: ValueScale) -> Floats:
    """Return how high each line crosses an axis, from 0 for its first value to 1 for its last.

    Lines that share a value would hide each other. They stand side by side, in the order of the
    rows, and never reach those of the next value.
    """
    norm = scale.norm()
    heights = np.asarray(norm(scale.positions(frame[scale.name])), dtype=float)
    gaps = np.diff(np.asarray(norm(scale.positions(scale.values)), dtype=float))
    fan = min(WIDEST_FAN, 0.4 * float(gaps.min()))
    order = frame.groupby(scale.name).cumcount().to_numpy(float)
    others = frame.groupby(scale.name)[scale.name].transform("size").to_numpy(float) - 1
    return np.asarray(heights + fan * (2 * order / np.maximum(others, 1) - (others > 0)))


def _draw_lines(axes: Axes, heights: Floats, frame: pd.DataFrame, norm: Normalize) -> None:
    """Draw collections of the diverged, the dropped and the others, and the winner's line."""
    diverged, found = frame["diverged"].to_numpy(), frame["accuracy"].notna().to_numpy()
    dropped, last = frame["dropped"].to_numpy(), frame["accuracy"].fillna(frame["left"])
    ends = np.where(found | dropped, norm(last.fillna(norm.vmin)), FOOT)
    points = np.stack(np.broadcast_arrays(np.arange(heights.shape[1] + 1), 0.0 * heights[:, :1]), 2)
    points[:, :, 1] = np.column_stack([heights, ends])
    crowd = min(1.0, MOST_OPAQUE_LINES / len(frame))
    width, alpha = 0.6 + 0.8 * crowd, max(0.25, 0.9 * crowd**0.5)
    kept = frame["accuracy"].to_numpy(float)
    for rows, label, look in (
        (diverged, "diverged", {"colors": LINE_GREY, "linestyles": [(0, (1, 1.5))]}),
        (dropped, "dropped", {"colors": OTHERS_GREY}),
        (found, "completed", {"colors": LINE_COLOURS(norm(kept[found]))}),
    ):
        if rows is dropped and not rows.any():
            continue
        collection = LineCollection(
            list(points[rows]), linewidths=width, alpha=alpha, label=label, **look
        )
        collection.set_clip_on(False)
        axes.add_collection(collection, autolim=False)
    if diverged.any():
        axes.annotate(
            "diverged", (len(points[0]) - 1, FOOT), (4, 0), textcoords="offset points",
            va="center", fontsize=TICK_SIZE, annotation_clip=False,
        )  # fmt: skip
    for line, accuracy in zip(points[frame["winner"]], kept[frame["winner"]], strict=True):
        (winner,) = axes.plot(*line.T, color=LINE_COLOURS(norm(accuracy)), linewidth=2.8)
        winner.set(path_effects=WINNER_EDGE, label="winner", clip_on=False, zorder=3)
        axes.legend(
            handles=[winner], loc="lower left", bbox_to_anchor=(-0.01, -0.19), frameon=False,
            fontsize=TICK_SIZE,
        )  # fmt: skip


def _draw_axis(axes: Axes, scale: ValueScale) -> None:
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_visible(False)
    scale.set_upright(axes)
    axes.tick_params(labelsize=TICK_SIZE, length=4)
    for text in axes.get_yticklabels():
        text.set_path_effects(WHITE_EDGE)
    _write_label(axes, scale.label)


def _draw_bar(figure: Figure, bar: Axes, norm: Normalize) -> None:
    figure.colorbar(ScalarMappable(norm, LINE_COLOURS), cax=bar)
    label_accuracies(bar, norm)
    _write_label(bar, "validation accuracy")


def _write_label(axes: Axes, label: str) -> None:
    """Write what an axis shows above it."""
    axes.set_title(fill(label, CHARACTERS_PER_LABEL), fontsize=TEXT_SIZE, pad=24)


def describe_parallel(frame: pd.DataFrame) -> str:
    """Return the range of the accuracies, the winner, and what the best have in common."""
    names = searched(frame)
    found = frame.dropna(subset="accuracy")
    low, high = percent(found["accuracy"].min()), percent(found["accuracy"].max())
    diverged = int(frame["diverged"].sum()) or "none"
    said = [
        f"{len(found):,} of {count(len(frame), 'configuration')} reach {low} to {high}; "
        f"{diverged} diverged{_describe_dropped(frame)}."
    ]
    winners = frame[frame["winner"]].to_dict("records")
    said += [f"The winner has {describe_values(row, names)}." for row in winners]
    best = found.tail(max(FEWEST_BEST, round(SHARE_OF_BEST * len(found))))
    common = [name for name in names if best[name].nunique() == 1]
    if len(best) < len(found):
        values = describe_values(best.iloc[0].to_dict(), common) if common else "no value"
        said.append(f"The best {len(best):,} have {values} in common.")
    return " ".join(said)


def _describe_dropped(frame: pd.DataFrame) -> str:
    dropped = int(frame["dropped"].sum())
    return f", {dropped:,} were dropped before the last rung" if dropped else ""
