"""Does a race find a better configuration in the same time than other tools, on this machine?

Each search is a command that is given the same rows, space, cores and wall clock, counted from its
start. What it had found when is read from its files afterwards; incumbents are then trained again
by one code with fresh seeds, and scored on rows that no search has seen: the file's last 6,000.

    python -m tests.benchmarks.race --data train.csv --seconds 60,120,300 --search-seeds 0,1,2

A peer runs once per seed, for the longest time, and its log gives the shorter ones. A race runs
once per time, with the points that fit. A run whose result lies in --out already is not repeated,
so a comparison can be made in parts: --contenders "race,Optuna TPE + Hyperband".

With --repeat 5 or --kills 3 it asks instead whether a search ends the same each time: with one
seed, and when it is killed (SIGKILL) and its command given again.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from digitrec.signals import sigterm_as_sigint
from tests.benchmarks.data_file import csv_of
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.peers import studies
from tests.benchmarks.peers.events import Event, read_events
from tests.benchmarks.peers.points import Point
from tests.benchmarks.peers.scores import score_all
from tests.benchmarks.peers.table import Run, incumbents, markdown
from tests.benchmarks.plain_loop import floats, integers

UNSEEN_ROWS = 6000
GRACE = 60  # seconds that a search may take to end after its time is up
PEERS = {  # contender -> module and its options
    "Optuna TPE + Hyperband": ["optuna_processes"],
    "Ray OptunaSearch + ASHA": ["ray_asha"],
    "Syne Tune ASHA": ["syne_tune_asha", "--method", "asha"],
    "Syne Tune ASHA + CQR": ["syne_tune_asha", "--method", "cqr"],
}
TWICE = ("no race",)  # given twice the time
# Two cores of AMD EPYC (Zen 3); --rate and --start replace them.
RATE = studies.Rate(start=8.0, epochs=1.9)


class Search(NamedTuple):
    """A run that is to be made."""

    contender: str
    seed: int
    limit: float  # seconds

    @property
    def name(self) -> str:
        """The name of its files."""
        words = "".join(each if each.isalnum() else "-" for each in self.contender.lower())
        return f"{words}-seed{self.seed}-{self.limit:g}s"


class Files(NamedTuple):
    """The files that all searches share."""

    search: Path  # rows to search with
    unseen: Path  # rows to score with
    out: Path


def main() -> None:
    """Make the runs that are missing; print and write the comparison."""
    options = parse_options()
    files = split_off(options.data, options.out, options.unseen_rows)
    if options.repeat or options.kills:
        print(sameness(options, files))
        return
    runs = [make_or_read(search, options, files) for search in searches(options)]
    scores = {}
    if not options.no_scores:
        points = incumbents(runs, options.seconds)
        scores = score_all(points, files.search, files.unseen, options.out / "scores.json")
    page = markdown(runs, scores, options.seconds)
    machine = describe_machine()
    page += "\nMachine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".\n"
    (options.out / "race.md").write_text(page)
    result = {"machine": machine, "runs": [as_json(run) for run in runs]}
    (options.out / "race.json").write_text(json.dumps(result) + "\n")
    print(page)


def split_off(data: str, out: Path, unseen_rows: int) -> Files:
    """Write the rows to search with and the last rows, which no search sees, as CSV files."""
    out.mkdir(parents=True, exist_ok=True)
    files = Files(out.resolve() / "search.csv", out.resolve() / "unseen.csv", out.resolve())
    if not (files.search.exists() and files.unseen.exists()):
        rows = pd.read_csv(csv_of(data, out))
        if unseen_rows >= len(rows):
            raise SystemExit(f"--unseen-rows {unseen_rows} leaves none of the {len(rows)} rows")
        rows[:-unseen_rows].to_csv(files.search, index=False)
        rows[-unseen_rows:].to_csv(files.unseen, index=False)
    return files


def searches(options: argparse.Namespace) -> list[Search]:
    """Return the runs of a comparison; with one seed after the other, all contenders take turns."""
    longest = max(options.seconds)
    return [
        Search(contender, seed, seconds * (2 if contender in TWICE else 1))
        for seed in options.search_seeds
        for contender in options.contenders
        for seconds in (options.seconds if contender.startswith("race") else [longest])
    ]


def make_or_read(search: Search, options: argparse.Namespace, files: Files) -> Run:
    """Return a run: the one that was made before, or a new one."""
    kept = files.out / f"{search.name}.json"
    if kept.exists():
        return from_json(json.loads(kept.read_text()))
    run = make(search, options, files, files.out / search.name)
    kept.write_text(json.dumps(as_json(run)) + "\n")
    print(f"{search.name}: {run.wall:.0f} s", file=sys.stderr)
    return run


def make(search: Search, options: argparse.Namespace, files: Files, folder: Path) -> Run:
    """Run a search in a fresh process and a fresh folder."""
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.time()
    points = points_of(search, options)
    process = start(search, options, files.search, folder, begun, points)
    finish(process, search.limit + GRACE)
    wall = time.time() - begun
    events = read(folder, begun)
    if not events:
        raise RuntimeError(f"{search.name} found nothing; see {log_of(folder)}")
    saved = studies.delivered(folder, files.unseen) if (folder / "best").exists() else None
    return Run(search.contender, search.seed, search.limit, wall, points, events, saved)


def points_of(search: Search, options: argparse.Namespace) -> int | None:
    """Return the number of points of a race, or of a search without; None: a peer draws its own."""
    if search.contender in PEERS:
        return None
    if options.points:
        return int(options.points)
    rungs, halve = studies.RUNGS[search.contender]
    rate = studies.Rate(options.start, options.rate)
    return studies.points_for(search.limit, rungs, halve, rate, augmentation=options.augmentation)


def start(
    search: Search,
    options: argparse.Namespace,
    data: Path,
    folder: Path,
    begun: float,
    points: int | None,
    trials: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a search in a process group of its own; its output goes to a file beside its folder."""
    if points is not None:
        command = studies.command_of(
            search.contender,
            data,
            folder,
            search.seed,
            points,
            augmentation=options.augmentation,
        )
    else:
        module, *more = PEERS[search.contender]
        limit = ["--seconds", str(search.limit)] if trials is None else ["--trials", str(trials)]
        command = [
            *(sys.executable, "-m", f"tests.benchmarks.peers.{module}", *more, *limit),
            *("--data", str(data), "--out", str(folder), "--seed", str(search.seed)),
            *("--begun", str(begun)),
            *(["--augmentation"] if options.augmentation else []),
        ]
    with log_of(folder).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def log_of(folder: Path) -> Path:
    """Return the file of a search's output."""
    return folder.with_name(folder.name + ".log")


def finish(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a search's end; interrupt it if it takes longer, and leave nothing running."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE)
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a search and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read(folder: Path, begun: float) -> list[Event]:
    """Return what a search had found when, from its folder."""
    if (folder / "study.json").exists():
        return studies.read_study(folder, begun)
    return read_events(folder)


def sameness(options: argparse.Namespace, files: Files) -> str:
    """Return a table: how many winners some runs with one seed name, and runs that are killed.

    Peers get a number of trials instead of a time, since a time alone changes how far they come.
    """
    lines = ["| search | runs | distinct winners |", "| --- | --- | ---: |"]
    for contender in options.contenders:
        search = Search(contender, options.search_seeds[0], math.inf)
        runs = range(max(1, options.repeat))
        whole = [run_counted(search, options, files, f"{n}", kills=0)[0] for n in runs]
        lines.append(f"| {contender} | {len(whole)} with one seed | {len({*whole})} |")
        if options.kills:
            winner, kills = run_counted(search, options, files, "killed", options.kills)
            same = "the same winner" if winner == whole[0] else "another winner"
            lines.append(f"| {contender} | killed {kills} times | {same} |")
    return "\n".join(lines)


def run_counted(
    search: Search, options: argparse.Namespace, files: Files, name: str, kills: int
) -> tuple[Point, int]:
    """Run a search of a fixed number of trials, kill it some times and give its command again.

    Returns:
        The winner, and how often the search was killed before it ended.
    """
    folder = files.out / f"{search.name}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.time()
    points = options.trials if search.contender not in PEERS else None
    killed = 0
    while True:
        process = start(search, options, files.search, folder, begun, points, options.trials)
        try:
            process.wait(options.kill_after if killed < kills else None)
            break
        except subprocess.TimeoutExpired:
            killed += 1
        finally:
            kill(process)
    events = read(folder, begun)
    if process.returncode or not events:
        raise RuntimeError(f"{folder.name} did not end well; see {log_of(folder)}")
    # Equal accuracies are told apart by the point, since when a trial ended depends on the machine.
    best = max(events, key=lambda event: (event.accuracy, str(event.point)))
    print(
        f"{folder.name}: {time.time() - begun:.0f} s, {best.accuracy:.2%} with {best.point}",
        file=sys.stderr,
    )
    return best.point, killed


def as_json(run: Run) -> dict[str, object]:
    """Return a run as plain values."""
    events = [[*event[:2], event.point.to_json(), *event[3:]] for event in run.events]
    return {
        **{"contender": run.contender, "seed": run.seed, "limit": run.limit, "wall": run.wall},
        **{"points": run.points, "events": events, "delivered": run.delivered},
    }


def from_json(values: dict[str, object]) -> Run:
    """Return the run that `as_json` wrote."""
    written = values.pop("events")
    assert isinstance(written, list)
    events = [
        Event(seconds, trial, Point.of(point), epoch, accuracy)
        for seconds, trial, point, epoch, accuracy in written
    ]
    return Run(**values, events=events)  # type: ignore[arg-type]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    known = [*studies.RUNGS, *PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample", help="a file of labelled digits, or 'sample'")
    parser.add_argument("--out", type=Path, default=Path("build/race"), help="for runs and page")
    parser.add_argument("--seconds", type=floats, default=[60, 120, 300], help="times to compare")
    parser.add_argument("--search-seeds", type=integers, default=[0, 1, 2])
    parser.add_argument(
        "--contenders", type=lambda text: text.split(","), default=known, help=", ".join(known)
    )
    parser.add_argument("--augmentation", action="store_true", help="search it as well")
    parser.add_argument("--unseen-rows", type=int, default=UNSEEN_ROWS, help="held out, the last")
    parser.add_argument("--points", type=int, help="of a race (default: what fits its time)")
    parser.add_argument("--rate", type=float, default=RATE.epochs, help="digitrec's epochs/s")
    parser.add_argument("--start", type=float, default=RATE.start, help="digitrec's other seconds")
    parser.add_argument("--no-scores", action="store_true", help="do not train incumbents again")
    parser.add_argument("--repeat", type=int, default=0, help="runs that should end the same")
    parser.add_argument("--kills", type=int, default=0, help="of a run that should end the same")
    parser.add_argument("--kill-after", type=float, default=15, help="seconds between kills")
    parser.add_argument("--trials", type=int, default=20, help="of a run that should end the same")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.contenders if name not in known]
    if unknown:
        parser.error(f"no search {unknown[0]!r}; there are {', '.join(known)}")
    return options


if __name__ == "__main__":
    with sigterm_as_sigint():
        main()
