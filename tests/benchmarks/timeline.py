"""Where do the seconds of a study go, from the command to the prompt?

It runs `digitrec tune` once and looks ten times a second at each core and at each process. It
prints a row per part of the run (how long it takes, how busy each core is meanwhile, and whose
processor time that is) and the durations that the study itself keeps. It draws both over time.

    python -m tests.benchmarks.timeline --data train.csv --to timeline.png [-- more options of tune]

On a machine with other work the cores' rows show that work too.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import psutil
from matplotlib.figure import Figure

from tests.benchmarks.machine import describe_machine

LOOK_SECONDS = 0.1
DRIVER, WORKERS, RAY = "driver", "workers", "Ray's own"
COLOURS = {DRIVER: "#6a00a8", WORKERS: "#b9a3cf", RAY: "#f0a830"}


class Look(NamedTuple):
    """What happened since the look before."""

    seconds: float
    """Since the command."""
    busy: Sequence[float]
    """Share of the time that each core worked."""
    used: Mapping[str, float]
    """Processor seconds by kind of process."""


def watch(command: Sequence[str]) -> list[Look]:
    """Run a command and look at it until it ends.

    Raises:
        subprocess.CalledProcessError: the command failed; its output is on standard error.
    """
    looks: list[Look] = []
    start, cores = time.time(), psutil.cpu_times(percpu=True)
    before: dict[tuple[int, float], float] = {}
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            now, cores_now = time.time() - start, psutil.cpu_times(percpu=True)
            busy = [1 - _share_idle(a, b) for a, b in zip(cores, cores_now, strict=True)]
            used = dict.fromkeys(COLOURS, 0.0)
            for kind, key, seconds in _processes(root):
                used[kind] += seconds - before.get(key, 0.0)
                before[key] = seconds
            looks.append(Look(now, busy, used))
            cores = cores_now
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return looks


def _share_idle(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    passed = sum(now) - sum(before)
    idle = now.idle - before.idle  # type: ignore[attr-defined]
    return float(idle / passed) if passed else 1.0


def _processes(root: psutil.Process) -> Iterator[tuple[str, tuple[int, float], float]]:
    """Yield the kind, the identity and the processor seconds so far of each process of a run."""
    with suppress(psutil.Error):  # the command has ended
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # this process has ended
                times, command = process.cpu_times(), " ".join(process.cmdline())
                kind = DRIVER if process == root else _kind_of(command)
                yield kind, (process.pid, process.create_time()), times.user + times.system


def _kind_of(command: str) -> str:
    """Return whether a process of Ray trains or is one of Ray's own, by its command line."""
    own = ("Agent", "agent", "gcs_server", "raylet/raylet", "dashboard", "log_monitor")
    return RAY if any(each in command.split(" --")[0] for each in own) else WORKERS


def parts_of(looks: Sequence[Look], runs: pd.DataFrame, started: float) -> pd.DataFrame:
    """Return a row per part of a run.

    Args:
        looks: of the run.
        runs: the study's runs.csv.
        started: when the command was given, in seconds since 1970.

    Returns:
        Columns part, seconds, a column per core (share of the time that it worked), and a column
        per kind of process (processor seconds).
    """
    ends = runs.groupby("pid")["ended"].max() - started
    bounds = {
        "until the first stack": runs["started"].min() - started,
        "all workers train": ends.min(),
        "the last workers train": ends.max(),
        "conclusions": looks[-1].seconds,
    }
    rows = []
    for (start, end), part in zip(itertools.pairwise([0.0, *bounds.values()]), bounds, strict=True):
        within = [look for look in looks if start < look.seconds <= end]
        busy = np.mean([look.busy for look in within], axis=0) if within else []
        used = {kind: sum(look.used[kind] for look in within) for kind in COLOURS}
        cores = {f"core {core}": f"{share:.0%}" for core, share in enumerate(busy)}
        rows.append({"part": part, "seconds": round(end - start, 2)} | cores | used)
    return pd.DataFrame(rows).round(2)


def draw(looks: Sequence[Look], parts: pd.DataFrame) -> Figure:
    """Return a picture of the cores and the processes over time."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    cores, processes = figure.subplots(2, 1, sharex=True)
    seconds = np.array([look.seconds for look in looks])
    for core in range(len(looks[0].busy)):
        share = [core + 0.9 * look.busy[core] for look in looks]
        cores.fill_between(seconds, core, share, step="pre", color="#777777", linewidth=0)
    cores.set_yticks(
        [core + 0.45 for core in range(len(looks[0].busy))],
        [f"core {core}" for core in range(len(looks[0].busy))],
    )
    passed = np.diff(seconds, prepend=0.0)
    processes.stackplot(
        seconds,
        [[look.used[kind] for look in looks] / passed for kind in COLOURS],
        labels=list(COLOURS),
        colors=list(COLOURS.values()),
        step="pre",
    )
    processes.legend(loc="upper center", ncols=len(COLOURS), frameon=False)
    processes.set(xlabel="seconds since the command", ylabel="cores in use", xlim=(0, seconds[-1]))
    for end in parts["seconds"].cumsum()[:-1]:
        for axes in (cores, processes):
            axes.axvline(end, color="black", linewidth=0.8)
    return figure


def main() -> None:
    """Run a study, print its parts and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample", help="what to tune on (default: %(default)s)")
    parser.add_argument("--to", default="timeline.png", help="the picture (default: %(default)s)")
    parser.add_argument("options", nargs="*", help="of digitrec tune, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        started = time.time()
        command = [sys.executable, "-m", "digitrec", "tune", "--data", options.data]
        looks = watch([*command, "--out", str(out), *options.options])
        parts = parts_of(looks, pd.read_csv(out / "runs.csv"), started)
        kept = json.loads((out / "timings.json").read_text())["parts"]
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print(parts.to_string(index=False))
    outside = parts.loc[~parts["part"].str.contains("train"), "seconds"].sum()
    print(f"outside training {outside:.1f} s of {looks[-1].seconds:.1f} s")
    print("as the study keeps them:", ", ".join(f"{part} {s:.2f} s" for part, s in kept.items()))
    with matplotlib.rc_context({"font.size": 9}):
        draw(looks, parts).savefig(options.to, dpi=150)
    print(f"picture  {options.to}")


if __name__ == "__main__":
    main()
