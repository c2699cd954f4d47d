"""Which worker trained which stack when."""

from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from digitrec.results.analysis.runs import number_runs
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import label_value, order_values
from digitrec.results.figures.style import TEXT_SIZE, TICK_SIZE, new_figure, prepare
from digitrec.results.text import count, duration, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.store.record import StudyRecord
from digitrec.store.tables import RUN_COLUMNS

TITLE = "Timeline of the workers"
CAPTION = (
    "A row per worker and a bar per stack, coloured and labelled by {}; what is empty is starting "
    "or waiting. A dashed line is the end of a run; the time until the next is left out."
)
MOST_WORKERS_NAMED, MOST_BARS_LABELLED = 24, 60
COLOURS = colormaps["viridis"]


def make_timeline(inputs: FigureInputs) -> Chart | Omission:
    """Return the timeline of a study."""
    runs = runs_of_stacks(inputs.record)
    if runs.empty:
        return Omission(TITLE, "no trial has been trained yet")
    frame = summarise_timeline(runs, inputs.record.tables.trials)
    labels = join_words([HYPERPARAMETERS[name].label for name in _shown(frame)])
    return Chart(
        name="timeline",
        title=TITLE,
        caption=CAPTION.format(labels),
        says=describe_timeline(frame),
        figure=draw_timeline(frame),
        marks=len(frame),
        wide=True,
    )


def _dividing() -> list[str]:
    """Return the hyperparameters that all trials of a stack share."""
    return [name for name, each in HYPERPARAMETERS.items() if each.divides]


def _shown(frame: pd.DataFrame) -> list[str]:
    """Return the hyperparameters that stacks differ in, or the first that they could differ in."""
    dividing = _dividing()
    return [name for name in dividing if frame[name].nunique() > 1] or dividing[:1]


def runs_of_stacks(record: StudyRecord) -> pd.DataFrame:
    """Return where and when trials were trained: in a race, at each of its rungs."""
    if record.spec.race is None:
        return record.runs
    trials = set(record.tables.trials["trial"])
    rows = [
        {"trial": member.name, "stack": result.stack.name} | asdict(result.run)
        for result in record.results
        for member in result.stack.members
        if member.name in trials
    ]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def summarise_timeline(runs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per stack that was trained, in the order of their starts.

    Returns:
        Columns worker (node and process), row (from 0, in the order of the workers' first starts),
        run (from 0), stack, the hyperparameters that divide stacks, trials (how many), started,
        ended (seconds since the first start, without the time between runs), pause (seconds left
        out just before this stack; else 0).
    """
    dividing = _dividing()
    named = runs.merge(trials[["trial", *dividing]], "left", "trial")
    stacks = named.groupby(["node", "pid", "stack", "started"], as_index=False).agg(
        ended=("ended", "max"),
        trials=("trial", "size"),
        **{name: (name, "first") for name in dividing},
    )
    stacks = stacks.sort_values(["started", "ended"], ignore_index=True)
    run = number_runs(stacks)
    idle = stacks["started"] - stacks["ended"].cummax().shift()
    pause = idle.where(run.diff() > 0, 0.0)
    origin = stacks["started"].min() + pause.cumsum()
    worker = stacks["node"].astype(str) + ", process " + stacks["pid"].astype(str)
    columns = ["worker", "row", "run", "stack", *dividing, "trials", "started", "ended", "pause"]
    return stacks.assign(
        worker=worker,
        run=run,
        row=pd.factorize(worker)[0],
        started=stacks["started"] - origin,
        ended=stacks["ended"] - origin,
        pause=pause,
    )[columns]


def draw_timeline(frame: pd.DataFrame) -> Figure:
    """Draw a row per worker and a bar per stack, coloured and labelled by what stacks differ in."""
    workers = frame["row"].nunique()
    height = 0.8 + min(0.42 * workers, 6.0)
    figure = new_figure(10, height)
    left = 0.19 if workers <= MOST_WORKERS_NAMED else 0.07
    axes = prepare(figure.add_axes((left, 0.6 / height, 0.98 - left, 1 - 0.7 / height)))
    axes.set_xlim(0, max(frame["ended"].max(), 1e-3))
    axes.set_ylim(workers - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds since the first stack began", fontsize=TEXT_SIZE)
    _name_workers(axes, frame)
    _draw_stacks(axes, frame)
    for started in frame.loc[frame["pause"] > 0, "started"]:
        axes.axvline(started, color="black", linestyle=(0, (2, 2)), linewidth=1.2)
    return figure


def _name_workers(axes: Axes, frame: pd.DataFrame) -> None:
    names = frame.drop_duplicates("row").sort_values("row")["worker"]
    if len(names) <= MOST_WORKERS_NAMED:
        axes.yaxis.set_ticks(range(len(names)), names, fontsize=TICK_SIZE)
    else:
        axes.yaxis.set_ticks([])
        axes.set_ylabel(count(len(names), "worker"), fontsize=TEXT_SIZE)


def _draw_stacks(axes: Axes, frame: pd.DataFrame) -> None:
    columns = [[label_value(name, v) for v in frame[name].tolist()] for name in _shown(frame)]
    texts = [", ".join(parts) for parts in zip(*columns, strict=True)]
    distinct = order_values(texts)
    places = np.linspace(0.15, 0.85, len(distinct)) if len(distinct) > 1 else [0.3]
    colours = dict(zip(distinct, COLOURS(places), strict=True))
    rows = frame[["started", "ended", "row"]].to_numpy(float).tolist()
    bars = [Rectangle((started, row - 0.36), ended - started, 0.72) for started, ended, row in rows]
    axes.add_collection(
        PatchCollection(
            bars,
            facecolor=[colours[text] for text in texts],
            edgecolor="white",
            linewidth=0.8,
            label="stacks",
        )
    )
    if len(frame) > MOST_BARS_LABELLED:
        return
    span = frame["ended"].max() or 1.0
    for bar, text in zip(bars, texts, strict=True):
        if bar.get_width() > 0.035 * span * max(1, len(text) / 4):
            _label_bar(axes, bar, text, dark=_is_dark(colours[text]))


def _is_dark(colour: NDArray[np.float64]) -> bool:
    return float(np.dot(to_rgb(tuple(colour)), [0.299, 0.587, 0.114])) < 0.5


def _label_bar(axes: Axes, bar: Rectangle, text: str, dark: bool) -> None:
    axes.text(
        bar.get_x() + bar.get_width() / 2,
        bar.get_y() + 0.38,
        text,
        color="white" if dark else "black",
        ha="center",
        va="center",
        fontsize=TICK_SIZE,
    )


def describe_timeline(frame: pd.DataFrame) -> str:
    """Return how many workers trained how long, how busy they were, and how long they waited.

    A worker is there from the beginning of its run to the end.
    """
    runs = frame.groupby("run").agg(
        workers=("row", "nunique"), started=("started", "min"), ended=("ended", "max")
    )
    present = float((runs["workers"] * (runs["ended"] - runs["started"])).sum())
    busy = float((frame["ended"] - frame["started"]).sum())
    several = f"In {len(runs)} runs, " if len(runs) > 1 else ""
    said = [
        f"{several}{count(frame['row'].nunique(), 'worker')} trained "
        f"{count(len(frame), 'stack')} within {frame['ended'].max():.1f} seconds."
    ]
    if present > 0:
        said.append(
            f"They were busy for {busy:.1f} worker-seconds, {percent(busy / present, 0)} of their "
            f"time, and waited for {max(0.0, present - busy):.1f}."
        )
    pauses = frame.loc[frame["pause"] > 0, "pause"]
    if len(pauses):
        left_out = f"{count(len(pauses), 'pause')}, {duration(float(pauses.sum()))} in all"
        said.append(f"Left out: {left_out}, when nothing was trained.")
    return " ".join(said)
