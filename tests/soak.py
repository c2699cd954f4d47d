"""A crash test: interrupts a small study at many points and continues it until it completes.

    python -m tests.soak --cuts 200 --seed 0 [--minutes 15]

The results must equal those of an uninterrupted run: the bytes of the winner's model, the tables
except for their times, and the decisions of a race. A run that hangs, prints a traceback or leaves
a process behind fails.

Every third study is a race, the others are grids. Most studies run on one Ray head that this test
starts once; every fourth starts its own Ray, as `digitrec tune` does by default. Linux only:
processes are found in /proc.
"""

import argparse
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd

from digitrec.store.folder import Folder
from digitrec.store.record import read_record
from digitrec.store.spec import NAME as QUESTION
from tests.head import Head, start_head

ROOT = Path(__file__).parent.parent
BATCH_SIZES, EPOCHS = "16,32,64", 8
TUNE = [
    *("tune", "--stack-size", "1", "--max-failures", "20"),
    *("--lr", "0.1", "--momentum", "0,0.9", "--nesterov", "true", "--dropout", "0.2"),
    *("--batch-size", BATCH_SIZES, "--epochs", str(EPOCHS)),
]
TRIALS = 6
RACE = [
    *("tune", "--stack-size", "2", "--max-failures", "20"),
    *("--lr", "0.02..0.5", "--momentum", "0,0.8..0.95", "--batch-size", "16,32", "--points", "8"),
    *("--race", "--rungs", "2,4,8", "--halve", "2", "--audit", "1"),
    *("--augmentation", "shift2", "--cooldown", "2"),
]
PATIENCE = 300.0  # seconds for one run; a healthy one takes 10 to 60
STOP_SECONDS = 90.0  # for an end after a Ctrl-C, on a machine that is busy with other things
REAP_SECONDS = 180.0  # until no process is left; Ray's agents wait a minute for a killed GCS
IMPORT_SECONDS = 2.0  # in which Python has started, and has begun with digitrec
MARK = "DIGITREC_SOAK"  # in the environment of every process of a run

OF_WORKERS = (r"/stacks/.*\.safetensors$", "/weights/", "/checkpoints/")
OF_SPEC = r"/study\.json$"
OF_DRIVER = (
    OF_SPEC,
    r"/study/validation\.safetensors$",
    r"/(trials|epochs|runs)\.csv$",
    "/best/",
    "/plots/",
    r"/report\.html$",
    r"/timings\.json$",
)
PHASES = ("before", "within", "after")
ERRORS = ("ENOSPC", "EROFS", "EIO")
WHOLE_RAY = ("kill raylet", "kill gcs")  # need a Ray of the run's own


@dataclass(frozen=True, slots=True)
class Fault:
    """A write that kills its process, or fails; see tests/faults/sitecustomize.py."""

    file: str
    phase: str
    action: str
    chance: float = 1.0

    @property
    def kind(self) -> str:
        """What it is counted as."""
        name = re.sub(r"\\|\$|/\.\*|\.safetensors|study/", "", self.file).strip("/")
        return f"{self.action} {self.phase} {name}"


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to cut a run: faults in its writes, or a signal after some seconds."""

    kind: str = "writes"
    faults: tuple[Fault, ...] = ()
    after: float = 0.0  # seconds

    @property
    def error(self) -> str | None:
        """The name of the error that a write fails with; None: it does not fail."""
        return next((fault.action for fault in self.faults if fault.action != "KILL"), None)


@dataclass(slots=True)
class Figures:
    """What came of the cuts."""

    cuts: Counter[str] = field(default_factory=Counter)  # kind -> how many had an effect
    missed: int = 0  # that came too late to have one
    studies: int = 0
    runs: int = 0
    epochs: int = 0  # of single trials, that were trained
    epochs_needed: int = 0
    failures: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Return the figures as lines."""
        kinds = [f"  {count:4} {kind}" for kind, count in sorted(self.cuts.items())]
        return "\n".join(
            [
                f"{self.cuts.total()} cuts of {self.studies} studies in {self.runs} runs "
                f"({self.missed} more came too late), {len(self.failures)} failures; "
                f"{self.epochs} epochs of a trial trained, {self.epochs_needed} needed, "
                f"{self.epochs - self.epochs_needed} lost",
                *kinds,
                *self.failures,
            ]
        )


class Broken(Exception):
    """A promise was not kept; the text says which."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Where studies run."""

    directory: Path
    head: Head | None  # None: each run starts a Ray itself
    program: str = "digitrec"  # the module that is given the command
    command: Sequence[str] = tuple(TUNE)
    epochs_needed: int = TRIALS * EPOCHS  # of single trials; learned like the seconds
    seconds: float = 20.0  # that a run takes; learned from the uninterrupted one
    seconds_done: float = 5.0  # that a run takes of a study that is complete

    @property
    def faults(self) -> Path:
        """Where faults are armed and trained epochs are counted."""
        return self.directory / "faults"

    def start(self, study: Path) -> "Run":
        """Give the command."""
        mark = uuid.uuid4().hex
        environment = (self.head.environment if self.head else dict(os.environ)) | {MARK: mark}
        address = ["--address", self.head.address] if self.head else []
        log = self.directory / f"{mark}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", self.program, *self.command, "--out", str(study), *address],
                cwd=ROOT,
                env=environment | fault_environment(self.faults),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Run(process, log, mark)

    def epochs_trained(self) -> int:
        """Return how many epochs of a trial were trained since the last call."""
        log = self.faults / "epochs"
        if not log.exists():
            return 0
        lines = log.read_text().split()
        log.unlink()
        return sum(map(int, lines))


@dataclass(slots=True)
class Run:
    """A command that was given."""

    process: "subprocess.Popen[bytes]"
    log: Path
    mark: str
    started: float = field(default_factory=time.monotonic)

    def wait(self, patience: float = PATIENCE) -> tuple[int, str]:
        """Return the exit code and all that was said.

        Raises:
            Broken: it does not end.
        """
        try:
            code = self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.end()
            raise Broken(f"hangs: {self.said()}") from None
        return code, self.said()

    def said(self) -> str:
        """Return all that was said so far."""
        return self.log.read_text()

    def end(self) -> None:
        """Kill whatever is left of it."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def processes(self) -> list[int]:
        """Return the processes that are left of it: of its session, or of its environment."""
        return [
            pid for pid in living() if session_of(pid) == self.process.pid or self._is_mine(pid)
        ]

    def _is_mine(self, pid: int) -> bool:
        return f"{MARK}={self.mark}".encode() in read_proc(pid, "environ")

    def check_gone(self) -> None:
        """Check that nothing is left of it.

        Raises:
            Broken: something is.
        """
        deadline = time.monotonic() + REAP_SECONDS
        while left := self.processes():
            if time.monotonic() > deadline:
                names = [read_proc(pid, "cmdline")[:60] for pid in left]
                self.end()
                raise Broken(f"left behind: {names}")
            time.sleep(0.2)


def living() -> list[int]:
    """Return the processes of this machine that are not zombies."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if state_of(pid)[0] not in ("Z", "X")]


def state_of(pid: int) -> list[str]:
    """Return what /proc/PID/stat says after the name: state, parent, group, session, ..."""
    return read_proc(pid, "stat").decode(errors="replace").rpartition(")")[2].split() or ["X"]


def session_of(pid: int) -> int:
    """Return a process's session; 0: the process has gone."""
    state = state_of(pid)
    return int(state[3]) if len(state) > 3 else 0


def read_proc(pid: int, name: str) -> bytes:
    """Return a file of /proc/PID; empty: the process has gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def descendants(root: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    children: dict[int, list[int]] = {}
    for pid in living():
        state = state_of(pid)
        if len(state) > 1:
            children.setdefault(int(state[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        queue += children.get(queue[0], [])
        found.append(queue.pop(0))
    return found[1:]


def workers(root: int) -> list[int]:
    """Return the processes below one that train a stack."""
    return [pid for pid in descendants(root) if read_proc(pid, "cmdline").startswith(b"ray::Stack")]


def servers(run: Run, name: bytes) -> list[int]:
    """Return the processes of a run's own Ray by the name of their program."""
    return [
        pid
        for pid in run.processes()
        if read_proc(pid, "cmdline").partition(b"\0")[0].endswith(name)
    ]


def fault_environment(faults: Path) -> dict[str, str]:
    """Return what a process needs in its environment to have the faults of a directory in it."""
    return {"PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}", "DIGITREC_FAULTS": str(faults)}


@contextmanager
def bench(
    directory: Path, *, own_head: bool, program: str = "digitrec", cpus: int = 2
) -> Iterator[Bench]:
    """Make a place for studies; with a head of its own, or else each run starts a Ray."""
    made = Bench(directory=directory, head=None, program=program)
    made.faults.mkdir(parents=True)
    if not own_head:
        yield made
        return
    with start_head(cpus=cpus, dashboard=False, **fault_environment(made.faults)) as head:
        made.head = head
        yield made


def draw_cut(random_: random.Random, bench: Bench, done: bool) -> Cut:
    """Return a way to cut a run.

    Args:
        random_: chooses.
        bench: where it runs.
        done: whether all is trained, so that the run starts no Ray.
    """
    kinds = ["kill driver", "SIGINT", "SIGTERM", "write killed", "write killed", "write failed"]
    if not done:
        kinds += ["workers killed"] * 4 + ["kill worker", "write failed"]
        kinds += [] if bench.head else WHOLE_RAY * 3
    kind = random_.choice(kinds)
    if kind == "workers killed":
        faults = [
            Fault(random_.choice(OF_WORKERS), random_.choice(PHASES), "KILL", 0.5) for _ in range(4)
        ]
        return Cut(faults=tuple(faults))
    if kind.startswith("write"):
        action = "KILL" if kind == "write killed" else random_.choice(ERRORS)
        file = random_.choice(OF_DRIVER if done else OF_DRIVER + OF_WORKERS)
        chance = 0.4 if file == OF_SPEC else 1.0  # a race writes it at every rung
        return Cut(faults=(Fault(file, random_.choice(PHASES), action, chance),))
    # What is signalled before digitrec is imported is answered by Python.
    first = IMPORT_SECONDS if kind.startswith("SIG") else 0.0
    seconds = bench.seconds_done if done else bench.seconds
    return Cut(kind, after=random_.uniform(first, max(seconds, first)))


def cut_once(bench: Bench, study: Path, cut: Cut, figures: Figures, killed: list["Run"]) -> bool:
    """Give the command and cut it; returns whether the study is complete.

    A run that was killed is added to `killed`, since the next one may begin before the system has
    cleared away what is left of it.

    Raises:
        Broken: the run did not do what it should.
    """
    for place, fault in enumerate(cut.faults):
        new = bench.faults / f"new-{place}.json"
        new.write_text(json.dumps(asdict(fault)))
        new.rename(bench.faults / f"armed-{place}.json")
    run = bench.start(study)
    figures.runs += 1
    hit = [cut.kind] if not cut.faults and send(bench, run, cut) else []
    code, said = run.wait()
    hit += [cut.faults[int(path.stem[-1])].kind for path in bench.faults.glob("fired-*.json")]
    for path in bench.faults.glob("*.json"):
        path.unlink(missing_ok=True)
    figures.cuts.update(hit)
    figures.missed += not hit
    check_end(cut, bool(hit), code, said, begun=(study / QUESTION).exists())
    if code == -signal.SIGKILL:
        killed.append(run)
    else:
        run.check_gone()
    check_readable(study)
    return code == 0


def send(bench: Bench, run: Run, cut: Cut) -> bool:
    """Wait and kill, or signal; returns whether there was somebody to reach."""
    try:
        run.process.wait(timeout=cut.after)
    except subprocess.TimeoutExpired:
        pass
    else:
        return False
    targets: dict[str, Callable[[], Sequence[int]]] = {
        "kill driver": lambda: [run.process.pid],
        "kill worker": lambda: first_of(lambda: workers(run_root(bench, run)), run),
        "kill raylet": lambda: first_of(lambda: servers(run, b"raylet"), run),
        "kill gcs": lambda: first_of(lambda: servers(run, b"gcs_server"), run),
    }
    if cut.kind in targets:
        for pid in (found := list(targets[cut.kind]())[:1]):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
        return bool(found)
    sent = time.monotonic()
    run.process.send_signal(signal.Signals[cut.kind])
    run.wait(STOP_SECONDS)
    return time.monotonic() - sent > 0


def run_root(bench: Bench, run: Run) -> int:
    """Return the process that workers descend from."""
    return bench.head.process if bench.head else run.process.pid


def first_of(find: Callable[[], Sequence[int]], run: Run) -> Sequence[int]:
    """Return what is found, as soon as it is, or nothing once the run is over."""
    while run.process.poll() is None and time.monotonic() - run.started < PATIENCE:
        if found := find():
            return found
        time.sleep(0.1)
    return []


def check_end(cut: Cut, hit: bool, code: int, said: str, *, begun: bool) -> None:
    """Check the exit code and the words of a run that was cut.

    Raises:
        Broken: they are not what they should be.
    """
    problem = ""
    if "Traceback" in said:
        problem = "a traceback"
    elif not hit and code != 0:
        problem = "was not cut, and did not complete"
    elif cut.kind == "kill worker" and code != 0:
        problem = "a killed worker ended the run"
    elif cut.kind in ("SIGINT", "SIGTERM") and code not in (0, 1, -signal.Signals[cut.kind]):
        problem = "a signal has another exit code than 1"
    elif hit and cut.error and (code != 1 or not told_in_one_line(cut.error, said, begun=begun)):
        problem = "a write that failed is not one clear line and exit code 1"
    if problem:
        raise Broken(f"{problem} ({cut}, exit code {code}): {said}")


def told_in_one_line(error: str, said: str, *, begun: bool) -> bool:
    """Return whether the last line, and no other, tells of a failed write.

    If the study has begun, it says that the same command continues it.
    """
    words = os.strerror(getattr(errno, error))
    told = [line for line in said.splitlines() if words in line]
    last = len(told) == 1 and told[0] == said.splitlines()[-1]
    return last and ("once this is mended" in told[0]) == begun


def check_readable(study: Path) -> None:
    """Check that what is there of a study can be read, as long as it has begun."""
    if (study / QUESTION).exists():
        record = read_record(Folder.at(study))
        if record.damaged:
            raise Broken(f"damaged files: {record.damaged}")


def complete(bench: Bench, study: Path, figures: Figures) -> None:
    """Give the command, which is cut no more, until the study is complete.

    Raises:
        Broken: it does not complete at once.
    """
    run = bench.start(study)
    figures.runs += 1
    code, said = run.wait()
    if code != 0:
        raise Broken(f"does not complete (exit code {code}): {said}")
    run.check_gone()


def outcome(study: Path) -> dict[str, bytes]:
    """Return what must be the same, however often a study was cut."""
    tables = {
        name: pd.read_csv(study / name, dtype=str).drop(columns="seconds").to_csv().encode()
        for name in ("trials.csv", "epochs.csv")
    }
    model = (study / "best" / "model.safetensors").read_bytes()
    race = json.loads((study / QUESTION).read_text()).get("race")
    return tables | {"model": model, "race": json.dumps(race).encode()}


def cut_study(
    bench: Bench,
    expected: dict[str, bytes],
    draw: Callable[[bool], Cut],
    count: int,
    figures: Figures,
) -> None:
    """Cut one study again and again, complete it and compare; failures go to the figures.

    Args:
        bench: where it runs.
        expected: the outcome of an uninterrupted run.
        draw: returns the next cut, given whether the study is complete.
        count: how many cuts.
        figures: are added to.
    """
    figures.studies += 1
    cuts: list[Cut] = []
    killed: list[Run] = []
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        study = Path(directory) / "study"
        try:
            done = False
            for _ in range(count):
                cuts.append(draw(done))
                done = cut_once(bench, study, cuts[-1], figures, killed) or done
            complete(bench, study, figures)
            for run in killed:
                run.check_gone()
            changed = [name for name, bytes_ in outcome(study).items() if bytes_ != expected[name]]
            if changed:
                raise Broken(f"differs from the uninterrupted run: {changed}")
        except Broken as broken:
            figures.failures.append(f"FAILED after {cuts}: {broken}")
    figures.epochs += bench.epochs_trained()
    figures.epochs_needed += bench.epochs_needed


def uninterrupted(bench: Bench) -> dict[str, bytes]:
    """Run a study without a cut; returns its outcome, and sets how much there is to train."""
    study = Path(tempfile.mkdtemp(dir=bench.directory)) / "study"
    before = time.monotonic()
    complete(bench, study, Figures())
    between = time.monotonic()
    complete(bench, study, Figures())
    bench.seconds, bench.seconds_done = between - before, time.monotonic() - between
    bench.epochs_needed = bench.epochs_trained()
    return outcome(study)


def soak(cuts: int, seed: int, minutes: float) -> Figures:
    """Cut studies until there were enough cuts, or the time is over."""
    random_, figures = random.Random(seed), Figures()
    deadline = time.monotonic() + 60 * minutes
    with (
        tempfile.TemporaryDirectory(prefix="soak") as directory,
        bench(Path(directory) / "head", own_head=True) as shared,
        bench(Path(directory) / "own", own_head=False) as own,
    ):
        grids = (shared, own)
        races = tuple(replace(place, command=RACE) for place in grids)
        expected = [uninterrupted(on_head) for on_head, _ in (grids, races)]
        if [uninterrupted(alone) for _, alone in (grids, races)] != expected:
            figures.failures.append("FAILED: a cluster's run differs from a local one")
        while figures.cuts.total() < cuts and time.monotonic() < deadline:
            is_race = figures.studies % 3 == 0
            place = (races if is_race else grids)[figures.studies % 4 == 3]
            draw = partial(draw_cut, random_, place)
            cut_study(place, expected[is_race], draw, random_.randint(2, 6), figures)
            print(figures.describe().splitlines()[0], flush=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the crash test; returns 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description="Cut a small study at many points.")
    parser.add_argument("--cuts", type=int, default=200, help="how many, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of cuts")
    parser.add_argument("--minutes", type=float, default=180, help="no new study after these")
    options = parser.parse_args(arguments)
    figures = soak(options.cuts, options.seed, options.minutes)
    print(figures.describe())
    return 1 if figures.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
