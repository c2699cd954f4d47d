"""What the report's figures share: their ground, their scales, and how they become files."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from digitrec.results.figures.plots import DPI, LOG_RATIO, TEXT_SIZE, TICK_SIZE, log_ticks

HYPERPARAMETERS = {"lr": "learning rate", "batch_size": "batch size"}
ACCENT, QUIET, RULE_GREY = "#6a00a8", "#b9a3cf", "#dddddd"
# An SVG grows with its marks, a PNG does not.
MOST_MARKS_IN_SVG = 1500
MOST_VALUES_AS_TICKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure as a file."""

    kind: str
    """Its media type, image/svg+xml or image/png."""
    content: bytes
    width: int
    """In CSS pixels."""
    height: int
    """In CSS pixels."""

    @property
    def address(self) -> str:
        """The file as an address that holds all of it."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


def render(figure: Figure, marks: int) -> Picture:
    """Returns the figure on a transparent ground: as SVG if its marks are few, else as PNG."""
    content = BytesIO()
    kind = "svg" if marks <= MOST_MARKS_IN_SVG else "png"
    # Without a salt, an SVG's identifiers differ from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "digitrec"}):
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"]) if kind == "svg" else {}
        figure.savefig(content, format=kind, dpi=DPI, transparent=True, metadata=nothing)
    width, height = (96 * figure.get_size_inches()).round().astype(int).tolist()
    return Picture(
        kind="image/svg+xml" if kind == "svg" else "image/png",
        content=content.getvalue(),
        width=width,
        height=height,
    )


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, its size in inches."""
    return Figure(figsize=(width, height), dpi=DPI)


def prepare(axes: Axes) -> Axes:
    """Gives axes the ground of all figures, and returns them."""
    axes.grid(color=RULE_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK_SIZE, length=3, color="#999999")
    return axes


def searched(trials: pd.DataFrame) -> list[str]:
    """Returns the hyperparameters of which a table of trials has more than one value."""
    return [name for name in HYPERPARAMETERS if trials[name].nunique() > 1]


def set_values(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Scales the horizontal axis for the values of a hyperparameter, in ascending order."""
    low, high = values[0], values[-1]
    is_log = high > LOG_RATIO * low
    label = f"{HYPERPARAMETERS[name]}{' (log scale)' if is_log else ''}"
    axes.set_xlabel(label, fontsize=TEXT_SIZE)
    if is_log:
        axes.set_xscale("log")
        margin = (high / low) ** 0.07
        axes.set_xlim(low / margin, high * margin)
        axes.xaxis.set_major_locator(log_ticks(low, high))
    else:
        margin = 0.07 * (high - low) or 0.5 * low
        axes.set_xlim(low - margin, high + margin)
    if len(values) <= MOST_VALUES_AS_TICKS:
        places = np.log(values) if is_log else np.asarray(values)
        axes.xaxis.set_major_locator(FixedLocator(apart(values, places.tolist())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def break_label(axes: Axes) -> None:
    """Breaks the vertical axis's label before its remark on the scale, as a small figure needs."""
    axes.set_ylabel(axes.get_ylabel().replace(" (", "\n("), fontsize=TEXT_SIZE)


def apart(values: Sequence[float], places: Sequence[float]) -> list[float]:
    """Returns those of ascending values whose labels have room, given their places on an axis."""
    least = 0.09 * (places[-1] - places[0])
    kept: list[int] = []
    for index, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= least:
            kept.append(index)
    return [values[index] for index in kept]


def listed(items: Sequence[str]) -> str:
    """Returns items as people list them: with commas, and "and" before the last."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def share(fraction: float, digits: int = 2) -> str:
    """Returns a fraction as per cent."""
    return f"{100 * fraction:.{digits}f}%"
