"""Where the seconds of the last run went."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.style import ACCENT, TEXT_SIZE, new_figure, prepare
from digitrec.results.text import join_words

TITLE = "Parts of the last run"
CAPTION = "Wall clock of the parts of the last run; some overlap."


def make_timings(inputs: FigureInputs) -> Chart | Omission:
    """Return the figure of the timings of a study."""
    if not inputs.record.timings:
        return Omission(TITLE, "the directory holds no timings")
    frame = summarise_timings(inputs.record.timings)
    return Chart(
        "timings", TITLE, CAPTION, describe_timings(frame), draw_timings(frame), len(frame)
    )


def summarise_timings(timings: Mapping[str, float]) -> pd.DataFrame:
    """Return columns part and seconds, in the order of the run."""
    return pd.DataFrame({"part": list(timings), "seconds": list(timings.values())})


def draw_timings(frame: pd.DataFrame) -> Figure:
    """Draw a bar per part."""
    height = 0.75 + 0.34 * len(frame)
    figure = new_figure(5.3, height)
    axes = prepare(figure.add_axes((0.33, 0.55 / height, 0.64, 1 - 0.65 / height)))
    places = range(len(frame))
    axes.barh(places, frame["seconds"], height=0.62, color=ACCENT)
    axes.yaxis.set_ticks(places, frame["part"])
    axes.set_ylim(len(frame) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.16 * max(frame["seconds"].max(), 1e-3))
    axes.set_xlabel("seconds", fontsize=TEXT_SIZE)
    for place, seconds in enumerate(frame["seconds"]):
        axes.annotate(
            f"{seconds:.1f}",
            (seconds, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=TEXT_SIZE,
        )
    return figure


def describe_timings(frame: pd.DataFrame) -> str:
    """Return each part and its seconds."""
    pairs = zip(frame["part"], frame["seconds"], strict=True)
    return f"Seconds: {join_words([f'{part} {seconds:.1f}' for part, seconds in pairs])}."
