"""A Ray cluster of one node on this machine, to practise on: `digitrec cluster start|stop`.

One process, `ray start --block`, starts all others and ends them when it ends. Its pid and start
time are recorded: a pid alone may belong to another process by now. `stop` ends that process and
its descendants, and nothing else; `ray stop` would end every Ray on the machine.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from digitrec.cli.invocation import program
from digitrec.errors import COMPLETE, InputError
from digitrec.signals import sigterm_unblocked
from digitrec.tuning.token import secure_token

HOST = "127.0.0.1"  # of the dashboard: whoever reaches its port and has the token can run code
START_SECONDS = 120.0
END_SECONDS = 20.0  # for Ray to end its processes before they are killed
KILL_SECONDS = 10.0  # for killed processes to be gone
CLOCK_SECONDS = 2.0  # by which two readings of the start time of a process may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The process that started a local cluster."""

    pid: int
    started: float  # Unix seconds; identifies the process together with the pid
    address: str  # of the dashboard
    log: str  # file with the output of `ray start`
    gcs: str = ""  # HOST:PORT of the cluster; empty until it is up
    current: str = ""  # file in which Ray names the cluster that `ray.init()` connects to

    def process(self) -> psutil.Process | None:
        """Return the process, or None if it has ended, even if another has its pid now."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < CLOCK_SECONDS and _runs(process):
                return process
        return None


def record() -> Path:
    """Return the file that names the local cluster; one per user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "digitrec" / "cluster.json"


def recorded_head() -> Head | None:
    """Return the local cluster that was started last and not stopped; it may have ended.

    Raises:
        InputError: its record cannot be read.
    """
    try:
        return Head(**json.loads(record().read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{record()} does not describe a cluster: {error}. If no cluster of yours runs, "
            "delete it"
        ) from error


def running_head() -> Head | None:
    """Return the local cluster if it runs.

    Raises:
        InputError: its record cannot be read.
    """
    head = recorded_head()
    return head if head and head.process() else None


def start(port: int, options: Sequence[str]) -> Head:
    """Start a head node with its dashboard on this machine alone; return once clients can connect.

    Args:
        port: of the dashboard.
        options: further options of `ray start`.

    Raises:
        InputError: the port is taken, no token can be written, or Ray does not start.
    """
    _check_port(port)
    _check_python()
    if said := secure_token(make=True):
        print(f"digitrec: {said}", file=sys.stderr)
    record().parent.mkdir(parents=True, exist_ok=True)
    log = record().with_name("cluster.log")
    with log.open("wb") as written, sigterm_unblocked():
        process = psutil.Popen(
            [*_ray("start", "--head", "--block"), *_addresses(port), *options],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in this terminal must not reach it
        )
    head = Head(
        pid=process.pid,
        started=process.create_time(),
        address=f"http://{HOST}:{port}",
        log=str(log),
    )
    _write(head)
    try:
        head = _wait_until_up(process, head)
    except BaseException:  # a Ctrl-C too must end what was started
        stop(head)
        raise
    _write(head)
    return head


def _write(head: Head) -> None:
    record().write_text(json.dumps(asdict(head), indent=2) + "\n")


def stop(head: Head) -> int:
    """End a local cluster with all its processes; return how many there were.

    Raises:
        InputError: some of them do not end.
    """
    process = head.process()
    ended = _end_tree(process) if process else 0
    _clear_current(head)
    record().unlink(missing_ok=True)
    return ended


def _clear_current(head: Head) -> None:
    """Delete Ray's note of the current cluster if it names this one.

    Otherwise every plain `ray.init()` of this machine would try for minutes to connect to it.
    """
    if head.gcs and _current(head.current) == head.gcs:
        with suppress(OSError):
            Path(head.current).unlink()


def _current(file: str) -> str | None:
    with suppress(OSError):
        return Path(file).read_text().strip()
    return None


def _end_tree(process: psutil.Process) -> int:
    """End a head and all its descendants.

    The head ends Ray's processes in Ray's own order: first the raylet, which ends its workers.

    Raises:
        InputError: some are there even after they were killed.
    """
    tree = [process, *_descendants(process)]  # listed first: orphans could not be found any more
    process.terminate()
    left = _wait_until_gone(tree, END_SECONDS)
    left |= {child for parent in left for child in _descendants(parent)}
    for one in left:
        with suppress(psutil.NoSuchProcess):  # psutil compares the start time before it kills
            one.kill()
    if stuck := _wait_until_gone(left, KILL_SECONDS):
        pids = ", ".join(str(one.pid) for one in stuck)
        raise InputError(f"killed processes of the cluster do not end: {pids}")
    return len(tree)


def _wait_until_gone(processes: Collection[psutil.Process], seconds: float) -> set[psutil.Process]:
    """Return those processes that still run after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := set(filter(_runs, processes))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended; the parent of a zombie may never notice its end."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []


def _ray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def _addresses(port: int) -> list[str]:
    """Return options that avoid the ports of another Ray on this machine."""
    return [
        f"--dashboard-host={HOST}",
        f"--dashboard-port={port}",
        "--port=0",  # any free one
        "--dashboard-agent-listen-port=0",
        f"--ray-client-server-port={_free_port(other_than=port)}",  # takes no 0
        "--min-worker-port=0",  # otherwise 10002 to 19999, and no other port may be in that range
        "--max-worker-port=0",
    ]


def _free_port(other_than: int) -> int:
    while True:
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = int(free.getsockname()[1])
        if port != other_than:
            return port


def _environment() -> dict[str, str]:
    """Return the environment of the head."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {
        # Ray looks up the `python` of a job's entry point on the node's PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # no other node could take over its tasks
    }


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be used for the dashboard: {error}. Name another: "
                "--dashboard-port 8266"
            ) from error


def _check_python() -> None:
    if " " in sys.executable:
        raise InputError(
            f"{sys.executable}: Ray cannot start workers from a path with a space; "
            "move its environment to a path without one"
        )


def _wait_until_up(process: psutil.Popen, head: Head) -> Head:
    """Wait until clients can connect; return the head with the address that they connect to.

    `ray start` writes the address to a file once all its processes answer.

    Raises:
        InputError: it ends, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for gcs, file in _addresses_of_clients(process):
            if _current(file) == gcs:
                return replace(head, gcs=gcs, current=file)
        time.sleep(0.1)
    late = f"after {START_SECONDS:g} s no client can connect to it"
    said = Path(head.log).read_text(errors="replace")
    why = late if process.poll() is None else _last_line(said)
    raise InputError(f"Ray does not start: {why} (its output is in {head.log})")


def _addresses_of_clients(process: psutil.Process) -> Iterator[tuple[str, str]]:
    """Yield the address of the cluster, and the file that will name it, once Ray has chosen them.

    They are arguments of the processes that `ray start` starts.
    """
    for child in _descendants(process):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            given = dict(argument.partition("=")[::2] for argument in child.cmdline())
            if {"--gcs-address", "--temp-dir"} <= given.keys():
                yield given["--gcs-address"], str(Path(given["--temp-dir"], "ray_current_cluster"))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "Ray did not say why"


def run(action: str, port: int, for_ray: Sequence[str]) -> int:
    """Start or stop the local cluster; return the exit code.

    Raises:
        InputError: it cannot be done.
    """
    if action == "start":
        run_start(port, for_ray)
    else:
        run_stop(for_ray)
    return COMPLETE


def run_start(port: int, for_ray: Sequence[str]) -> None:
    """Start the local cluster unless it runs already, and print how to use it."""
    head = running_head()
    if head:
        print(f"A cluster is running already, since {time.ctime(head.started)}")
    else:
        print("Starting Ray")
        head = start(port, for_ray)
    ray = Path(sys.executable).parent / "ray"
    print(f"dashboard  {head.address}, from this machine only")
    print(f"sign in    with the token that this prints: {ray} get-auth-token")
    print(f"log        {head.log}")
    digitrec = shlex.join(program())
    print(f"`{digitrec} submit` runs a study on it, `{digitrec} cluster stop` ends it.")


def run_stop(options: Sequence[str]) -> None:
    """End the local cluster if one runs; no options are accepted."""
    if options:
        raise InputError(f"cluster stop takes no options: {' '.join(options)}")
    head = recorded_head()
    if head and (ended := stop(head)):
        print(f"Ended the cluster at {head.address}: {ended} processes.")
    else:
        print("No cluster that `digitrec cluster start` started is running.")
