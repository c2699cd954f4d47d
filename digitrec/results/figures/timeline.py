"""Which worker trained which stack when."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from digitrec.results.analysis.runs import number_runs
from digitrec.results.figures.canvas import new_figure, prepare, share
from digitrec.results.figures.plots import TEXT_SIZE, TICK_SIZE, count

MOST_WORKERS_NAMED, MOST_BARS_LABELLED = 24, 60
SEQUENCE = colormaps["viridis"]


def summarise_timeline(runs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per stack that was trained, in the order of their starts.

    Args:
        runs: a row per trained trial: trial, stack, node, pid, started, ended (Unix seconds).
        trials: columns trial, batch_size.

    Returns:
        Columns worker (node and process), row (from 0, in the order of the workers' first starts),
        run (from 0), stack, batch_size, trials (how many), started, ended (seconds since the first
        start, without the time between runs), pause (seconds left out just before this stack; else
        0).
    """
    sizes = trials.set_index("trial")["batch_size"]
    keys = ["node", "pid", "stack", "started"]
    named = runs.assign(batch_size=runs["trial"].map(sizes))
    stacks = named.groupby(keys, as_index=False).agg(
        ended=("ended", "max"), batch_size=("batch_size", "first"), trials=("trial", "size")
    )
    stacks = stacks.sort_values(["started", "ended"], ignore_index=True)
    run = number_runs(stacks)
    idle = stacks["started"] - stacks["ended"].cummax().shift()
    pause = idle.where(run.diff() > 0, 0.0)
    origin = stacks["started"].min() + pause.cumsum()
    worker = stacks["node"].astype(str) + ", process " + stacks["pid"].astype(str)
    columns = ["worker", "row", "run", "stack", "batch_size", "trials", "started", "ended", "pause"]
    return stacks.assign(
        worker=worker,
        run=run,
        row=pd.factorize(worker)[0],
        started=stacks["started"] - origin,
        ended=stacks["ended"] - origin,
        pause=pause,
    )[columns]


def draw_timeline(frame: pd.DataFrame) -> Figure:
    """Draws a row per worker and a bar per stack, coloured and labelled by batch size.

    Args:
        frame: as from `summarise_timeline`, with at least one row.
    """
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
    for row in frame[frame["pause"] > 0].itertuples():
        axes.axvline(row.started, color="black", linestyle=(0, (2, 2)), linewidth=1.2)  # type: ignore[arg-type]
    return figure


def _name_workers(axes: Axes, frame: pd.DataFrame) -> None:
    names = frame.drop_duplicates("row").sort_values("row")["worker"]
    if len(names) <= MOST_WORKERS_NAMED:
        axes.yaxis.set_ticks(range(len(names)), names, fontsize=TICK_SIZE)
    else:
        axes.yaxis.set_ticks([])
        axes.set_ylabel(count(len(names), "worker"), fontsize=TEXT_SIZE)


def _draw_stacks(axes: Axes, frame: pd.DataFrame) -> None:
    sizes = sorted(frame["batch_size"].unique())
    places = np.linspace(0.15, 0.85, len(sizes)) if len(sizes) > 1 else [0.3]
    colours = dict(zip(sizes, SEQUENCE(places), strict=True))
    bars = [
        Rectangle((row.started, row.row - 0.36), row.ended - row.started, 0.72)  # type: ignore[operator, arg-type]
        for row in frame.itertuples()
    ]
    axes.add_collection(
        PatchCollection(
            bars,
            facecolor=[colours[size] for size in frame["batch_size"]],
            edgecolor="white",
            linewidth=0.8,
            label="stacks",
        )
    )
    if len(frame) > MOST_BARS_LABELLED:
        return
    span = frame["ended"].max() or 1.0
    for bar, size in zip(bars, frame["batch_size"], strict=True):
        if bar.get_width() > 0.035 * span:
            dark = float(np.dot(to_rgb(colours[size]), [0.299, 0.587, 0.114])) < 0.5
            axes.text(
                bar.get_x() + bar.get_width() / 2,
                bar.get_y() + 0.38,
                str(size),
                color="white" if dark else "black",
                ha="center",
                va="center",
                fontsize=TICK_SIZE,
            )


def describe_timeline(frame: pd.DataFrame) -> str:
    """Says how many workers trained how long, how busy they were, and how long they waited.

    A worker is there from the beginning of its run to the end.

    Args:
        frame: as from `summarise_timeline`, with at least one row.
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
            f"They were busy for {busy:.1f} worker-seconds, {share(busy / present, 0)} of their "
            f"time, and waited for {max(0.0, present - busy):.1f}."
        )
    pauses = frame.loc[frame["pause"] > 0, "pause"]
    if len(pauses):
        left_out = f"{count(len(pauses), 'pause')}, {_duration(pauses.sum())} in all"
        said.append(f"Left out: {left_out}, when nothing was trained.")
    return " ".join(said)


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
