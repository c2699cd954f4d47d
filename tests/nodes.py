"""A Ray cluster of several nodes on this machine, each in its own processes, and its studies."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.head import BARE, NO_IDLE_WORKERS, PATIENCE, Head, end_group, wait_until

CHANGED = """
import sys
import time
from pathlib import Path

import ray

from tests.undrawn import leave_out_pictures

leave_out_pictures()

from digitrec.cli.main import main
from digitrec.tuning import search, session
from digitrec.tuning.trainable import train_stack


def change(config, **parts):
    {change}
    train_stack(config, **parts)


search.train_stack = change
session.SILENCE_SECONDS = 3
sys.exit(main(sys.argv[1:]))
"""  # digitrec with something that its workers do first, and little patience with a lost head
CHECKPOINTS = """from digitrec.engine import checkpoint
    checkpoint.INTERVAL = 0.1"""  # of epochs that are too short to be worth it
MEETING = """with Path({place!r}).open("a") as file:
        file.write(f"{{ray.get_gpu_ids()}}\\n")
    deadline = time.monotonic() + 60
    while len(Path({place!r}).read_text().splitlines()) < {workers}:
        assert time.monotonic() < deadline, "too few workers came"
        time.sleep(0.05)"""  # no worker trains before there are as many
UNDRAWN = ("-m", "tests.undrawn")
EPOCH_LINE = re.compile(r"^(\S+) epoch (\d+)/\d+ \|", re.MULTILINE)


@dataclass(slots=True)
class Node:
    """A node of a cluster beside its head."""

    process: "subprocess.Popen[bytes]"  # leads the group of the node's processes

    def owns(self, worker: int) -> bool:
        """Whether a process is one of the node's workers."""
        try:
            parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
            return os.getpgid(parent) == self.process.pid
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill(self) -> None:
        """Kill the raylet and everything else of the node, as a machine that loses power."""
        end_group(self.process)


@contextmanager
def start_node(head: Head, *, cpus: int, gpus: int = 0) -> Iterator[Node]:
    """Start a node that joins a head's cluster; it ends with the block."""
    command = [
        *(sys.executable, "-c", BARE, "start", "--block", f"--address={head.address}"),
        *(f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=200000000"),
        *("--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"),
    ]
    descriptor, name = tempfile.mkstemp(prefix="node", dir=head.directory.parent)
    log = Path(name)
    with open(descriptor, "wb") as output:
        process = subprocess.Popen(
            command,
            env=head.environment | NO_IDLE_WORKERS,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    node = Node(process)
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text(), process, log.read_text)
        yield node
    finally:
        if process.poll() is None:
            node.kill()


@dataclass(slots=True)
class Study:
    """A `digitrec tune` in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds while the study runs."""
        wait_until(condition, self.process, lambda: self.output)

    def finish(self, patience: float = 2 * PATIENCE) -> str:
        """Wait until it ends, and return what it has printed."""
        self.process.wait(patience)
        return self.output


@contextmanager
def start_study(
    head: Head,
    directory: Path,
    *options: str,
    program: Sequence[str] = UNDRAWN,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Study]:
    """Start a study on a cluster; it ends with the block.

    Args:
        head: of the cluster.
        directory: gets the log, and the study unless the options say otherwise.
        options: of `digitrec tune`.
        program: what Python is to run.
        environment: what a process needs to reach the cluster, if not the head's.
    """
    command = [sys.executable, *program, "tune", f"--address={head.address}"]
    command += [f"--out={directory / 'study'}", *options]
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment or head.environment, stdout=output, stderr=output
        )
    try:
        yield Study(process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def changed(change: str) -> tuple[str, str]:
    """Return what Python is to run for a digitrec whose workers do something first."""
    return "-c", CHANGED.replace("{change}", change)


def meeting(place: Path, workers: int) -> tuple[str, str]:
    """Return a digitrec that trains only once so many workers write to a file at a time."""
    return changed(MEETING.format(place=str(place), workers=workers))


def worker_logs(head: Head) -> dict[int, str]:
    """Return worker's pid -> what it has said in its log."""
    found = {}
    for folder, _, names in os.walk(head.directory / "session_latest" / "logs"):
        for path in (Path(folder) / name for name in names):
            if path.match("worker-*.err"):
                with suppress(FileNotFoundError):  # Ray moves the logs of dead workers
                    found[int(path.stem.rpartition("-")[2])] = path.read_text()
    return found


def epochs_by_worker(head: Head) -> dict[int, list[tuple[str, int]]]:
    """Return worker's pid -> the stacks and epochs it has said in its log, oldest first."""
    found = {pid: EPOCH_LINE.findall(log) for pid, log in worker_logs(head).items()}
    return {
        pid: [(stack, int(epoch)) for stack, epoch in lines]
        for pid, lines in found.items()
        if lines
    }


def kill_worker(pid: int) -> None:
    """Kill a worker process of a node that was started here."""
    assert b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(pid, signal.SIGKILL)
