"""How a configuration looks in every figure, and the legend that says so.

Colour shows the first searched hyperparameter, dashes and marker the second. Configurations that
differ only in further hyperparameters look alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from digitrec.results.figures.configurations import encoded, searched
from digitrec.results.figures.scales import Floats, ValueScale
from digitrec.results.figures.style import TEXT_GREY, TICK_SIZE
from digitrec.results.text import join_words
from digitrec.space.hyperparameters import HYPERPARAMETERS

LineStyle = Literal["-"] | tuple[float, tuple[float, ...]]

LINE_STYLES: tuple[LineStyle, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (2.5, 2.5)),
    (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5)),
    (0, (10, 2.5)),
    (0, (1.2, 3)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "h")
# As many colours of a sequential map, and as many dash patterns, as an eye still tells apart.
LARGEST_KEY = len(LINE_STYLES)
# plasma is ordered by lightness and safe for colour-blind eyes; its yellow end fades on white.
ORDERED_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0, 0.86, 256)))
# Okabe and Ito's colours, safe for colour-blind eyes; their yellow fades on white, so brown and
# grey stand in for it and for black, which marks the winner.
CATEGORY_COLOURS = to_rgba_array(
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a4b1f", "#777777"]
)
MOST_LINES_WITH_MARKERS = 60
HEADING = "heading"
LEGEND_CHARACTERS = 18  # side by side in the headings of a legend
WINNER_EDGE = [
    Stroke(linewidth=6, foreground="black"),
    Stroke(linewidth=4.4, foreground="white"),
    Normal(),
]


@dataclass(frozen=True, slots=True)
class Encoding:
    """Which hyperparameter is shown by colour and which by dashes and marker, and how."""

    first: ValueScale
    """Shown by colour."""
    second: ValueScale
    """Shown by dashes and marker."""
    configurations: int = 1
    """How many are drawn in colour."""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Encoding":
        """Return the encoding of all configurations of a table that has the hyperparameters."""
        first, second = (ValueScale.of(name, frame[name]) for name in encoded(frame))
        coloured = frame[frame["leads"]] if "leads" in frame else frame
        return cls(first, second, len(coloured[list(HYPERPARAMETERS)].drop_duplicates()))

    @property
    def crowded(self) -> bool:
        """Whether lines are so many that they are drawn thin and without markers."""
        return self.configurations > MOST_LINES_WITH_MARKERS

    def colours(self, values: Iterable[Any]) -> Floats:
        """Return a row of RGBA per value: by rank, or by its place on the scale among many."""
        ranks = self.first.ranks(values := list(values))
        if len(self.first.values) > LARGEST_KEY:
            return np.asarray(ORDERED_COLOURS(self.first.norm()(self.first.positions(values))))
        if self.first.kind == "category":
            return CATEGORY_COLOURS[ranks]
        if len(self.first.values) > 1:
            return np.asarray(ORDERED_COLOURS(ranks / (len(self.first.values) - 1)))
        return np.asarray(ORDERED_COLOURS(np.full(len(ranks), 0.4)))

    def style(self, value: Any) -> LineStyle:
        """Return the dash pattern of a value; solid for all when there are many."""
        if len(self.second.values) > LARGEST_KEY:
            return "-"
        return LINE_STYLES[self.second.values.index(value)]

    def marker(self, value: Any) -> str:
        """Return the marker of a value; a dot for all when there are many."""
        if len(self.second.values) > LARGEST_KEY:
            return "o"
        return MARKERS[self.second.values.index(value)]

    def width(self, value: Any) -> float:
        """Return the line width in points; it grows with the value when there are many."""
        if len(self.second.values) > LARGEST_KEY:
            return 0.4 + 1.6 * float(self.second.norm()(self.second.positions([value])[0]))
        return 0.9 if self.crowded else 1.4


def describe_encoding(frame: pd.DataFrame) -> str:
    """Return what colour, dashes and marker show; frame: hyperparameters."""
    varying = searched(frame)
    labels = [HYPERPARAMETERS[name].label for name in varying]
    said = [f"Colour is the {label}" for label in labels[:1]]
    said += [f"dashes and marker are the {label}" for label in labels[1:2]]
    sentences = [f"{', '.join(said)}."] if said else []
    if len(labels) > 2:
        alike = join_words(labels[2:])
        sentences.append(f"Configurations that differ only in {alike} look alike.")
    return " ".join(sentences)


def draw_legend(figure: Figure, encoding: Encoding, marks: Sequence[Artist], top: float) -> None:
    """Draw what colours, dashes and marks mean, at the right of a figure.

    Args:
        figure: its right fifth must be free.
        encoding: of all configurations.
        marks: artists with labels, for the last part of the legend.
        top: where the panels end, as a fraction of the figure.
    """
    handles = [*_dash_handles(encoding), *([_heading("marks"), *marks] if marks else [])]
    if len(encoding.first.values) > LARGEST_KEY:
        height = 2.3 / figure.get_figheight()
        _draw_colour_bar(
            figure, figure.add_axes((0.8, top - height, 0.02, 0.88 * height)), encoding
        )
        top -= 1.1 * height
    else:
        handles = [*_colour_handles(encoding), *handles]
    legend = figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.785, top + 0.015),
        fontsize=TICK_SIZE,
        handlelength=3.2,
        labelspacing=0.45,
        frameon=False,
    )
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        if handle.get_gid() == HEADING:
            text.set_fontweight("bold")


def winner_handle(encoding: Encoding, value: Any) -> Artist:
    """Return the winner's line for a legend; value: of the hyperparameter shown by colour."""
    line = Line2D([], [], color=encoding.colours([value])[0], linewidth=2.8)
    line.set(path_effects=WINNER_EDGE, label="winner")
    return line


def _heading(text: str) -> Artist:
    return Line2D([], [], linestyle="", label=fill(text, LEGEND_CHARACTERS), gid=HEADING)


def _colour_handles(encoding: Encoding) -> list[Artist]:
    lines = [
        Line2D([], [], color=colour, linewidth=4, label=text)
        for text, colour in zip(
            encoding.first.texts(), encoding.colours(encoding.first.values), strict=True
        )
    ]
    return [_heading(encoding.first.label), *lines]


def _dash_handles(encoding: Encoding) -> list[Artist]:
    """Return a line per value, or for a few of them when only their width tells them apart."""
    pairs = list(zip(encoding.second.values, encoding.second.texts(), strict=True))
    if len(pairs) > LARGEST_KEY:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, 4).round().astype(int)]
    handles = [_heading(encoding.second.label)]
    for value, text in pairs:
        style, width = encoding.style(value), encoding.width(value)
        line = Line2D([], [], color=TEXT_GREY, linestyle=style, linewidth=width, label=text)
        if not encoding.crowded:
            line.set(marker=encoding.marker(value), markersize=5)
        handles.append(line)
    return handles


def _draw_colour_bar(figure: Figure, bar: Axes, encoding: Encoding) -> None:
    figure.colorbar(ScalarMappable(encoding.first.norm(), ORDERED_COLOURS), cax=bar)
    bar.set_title(encoding.first.label, fontsize=TICK_SIZE, fontweight="bold", loc="left")
    bar.tick_params(labelsize=TICK_SIZE)
    encoding.first.set_ticks(bar.yaxis)
