"""The look that all figures share: sizes, colours, titles, and how a figure becomes a file."""

import base64
from dataclasses import dataclass
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

DPI = 150
TITLE_SIZE, TEXT_SIZE, TICK_SIZE = 13, 10, 9.5
CHARACTERS_PER_INCH = 13  # of text of TEXT_SIZE
ACCENT, QUIET = "#6a00a8", "#b9a3cf"
TEXT_GREY, LINE_GREY, RULE_GREY = "#444444", "#777777", "#dddddd"
OTHERS_GREY = "#c4c4c4"
DIVERGED_GREY, EMPTY_GREY = "#9a9a9a", "#e4e4e4"
WHITE_EDGE = [Stroke(linewidth=3.5, foreground="white"), Normal()]
# An SVG grows with its marks, a PNG does not.
MOST_MARKS_IN_SVG = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure as a file."""

    kind: str
    """The media type, image/svg+xml or image/png."""
    content: bytes
    width: int
    """In CSS pixels."""
    height: int
    """In CSS pixels."""

    @property
    def address(self) -> str:
        """The file as a data URL."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


class NotebookFigure(Figure):
    """A figure that a notebook shows, whether or not matplotlib's pyplot is set up there."""

    def _repr_png_(self) -> bytes:
        return render_png(self)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return NotebookFigure(figsize=(width, height), dpi=DPI)


def prepare(axes: Axes) -> Axes:
    """Give axes the grid, spines and ticks of all figures, and return them."""
    axes.grid(color=RULE_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK_SIZE, length=3, color="#999999")
    return axes


def write_title(figure: Figure, title: str, subtitle: str) -> None:
    """Write a title and, smaller where it is long, a subtitle at the top of a figure."""
    width, height = figure.get_size_inches()
    left = 0.12 / width
    fits = min(1.0, CHARACTERS_PER_INCH * width / max(1, len(subtitle)))
    figure.text(left, 1 - 0.33 / height, title, fontsize=TITLE_SIZE, fontweight="bold")
    figure.text(left, 1 - 0.59 / height, subtitle, fontsize=fits * TEXT_SIZE, color=TEXT_GREY)


def break_label(axes: Axes) -> None:
    """Break the label of the vertical axis before its brackets, as a small figure needs."""
    axes.set_ylabel(axes.get_ylabel().replace(" (", "\n("), fontsize=TEXT_SIZE)


def render(figure: Figure, marks: int) -> Picture:
    """Return a figure on a transparent ground, as SVG if its marks are few, else as PNG."""
    content = BytesIO()
    kind = "svg" if marks <= MOST_MARKS_IN_SVG else "png"
    # Without a salt, the identifiers in an SVG differ from run to run.
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


def render_png(figure: Figure) -> bytes:
    """Return a figure on a white ground as a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()
