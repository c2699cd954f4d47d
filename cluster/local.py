"""A Ray cluster of one node on this machine, to practise on: `make cluster`, `make cluster-stop`.

One process, `ray start --block`, starts all others and ends them when it ends. It is recorded by
its pid and the time it started: a pid alone may by now be somebody else's. It and what descends
from it is what `stop` ends, and nothing else; `ray stop` would end every Ray on the machine.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from digitrec.cli.options import OneLineParser
from digitrec.errors import COMPLETE, WRONG_INPUT, InputError
from digitrec.signals import sigterm_as_sigint

HOST = "127.0.0.1"  # whoever reaches a dashboard's port may run code with the token; only we do
START_SECONDS = 120.0
END_SECONDS = 10.0
CLOCK_SECONDS = 2.0  # by which two readings of one process's start may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The process that holds a local cluster together."""

    pid: int
    started: float  # Unix seconds; together with the pid it names the process for good
    address: str  # of the dashboard
    log: str  # file that Ray's start is written to

    def process(self) -> psutil.Process | None:
        """Return the process, or None if it is gone, whoever has its pid now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def record() -> Path:
    """Return the file that names the local cluster; one per user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "digitrec" / "cluster.json"


def running_head() -> Head | None:
    """Return the local cluster that runs, if one does.

    Raises:
        InputError: the record of it cannot be read.
    """
    try:
        head = Head(**json.loads(record().read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{record()} does not describe a cluster: {error}. If none of yours runs, delete it"
        ) from error
    return head if head.process() else None


def start(port: int, options: Sequence[str]) -> Head:
    """Start a head node whose dashboard listens on this machine alone, and wait until it answers.

    Args:
        port: of the dashboard.
        options: further options of `ray start`.

    Raises:
        InputError: the port is taken, there is no token, or Ray does not start.
    """
    _check_port(port)
    _check_python()
    _make_token()
    record().parent.mkdir(parents=True, exist_ok=True)
    log = record().with_name("cluster.log")
    with log.open("wb") as written:
        process = psutil.Popen(
            [*_ray("start", "--head", "--block"), *_addresses(port), *options],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in this terminal is not meant for it
        )
    head = Head(
        pid=process.pid,
        started=process.create_time(),
        address=f"http://{HOST}:{port}",
        log=str(log),
    )
    record().write_text(json.dumps(asdict(head), indent=2) + "\n")
    try:
        _wait_until_it_answers(process, port, log)
    except BaseException:
        stop(head)
        raise
    return head


def stop(head: Head) -> int:
    """End a local cluster and all that it started; returns how many processes that were."""
    process = head.process()
    ended = _end_tree(process) if process else 0
    record().unlink(missing_ok=True)
    return ended


def _end_tree(process: psutil.Process) -> int:
    tree = [process, *_descendants(process)]  # listed first: orphans could not be found any more
    process.terminate()
    _, alive = psutil.wait_procs(tree, timeout=END_SECONDS)
    for left in {*alive, *(child for parent in alive for child in _descendants(parent))}:
        with suppress(psutil.NoSuchProcess):  # psutil compares the start time before it kills
            left.kill()
    return len(tree)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []


def _ray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def _addresses(port: int) -> list[str]:
    """Return options that keep clear of another Ray's ports on this machine."""
    return [
        f"--dashboard-host={HOST}",
        f"--dashboard-port={port}",
        "--port=0",  # any that is free
        "--dashboard-agent-listen-port=0",
        f"--ray-client-server-port={_free_port()}",  # takes no 0
        "--min-worker-port=0",  # else 10002 to 19999, which no other port may lie in
        "--max-worker-port=0",
    ]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _environment() -> dict[str, str]:
    """Return the variables that a head of ours starts with."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {
        # An entry point's `python` is looked up on the PATH of the node.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "RAY_AUTH_MODE": "token",  # without it, `ray start` asks for none where there is none yet
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node to drain to
    }


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be used for the dashboard: {error}. Name another: "
                "make cluster PORT=8266"
            ) from error


def _check_python() -> None:
    if " " in sys.executable:
        raise InputError(
            f"{sys.executable}: Ray cannot start workers from a path with a space; "
            "move the project to a path without one"
        )


def _make_token() -> None:
    """Have Ray make this user's token if there is none; only the user may read it."""
    made = subprocess.run(
        _ray("get-auth-token", "--generate"),
        capture_output=True,
        text=True,
        env=_environment(),
        umask=0o077,
        check=False,
    )
    if made.returncode != 0:
        raise InputError(f"there is no token: {_last_line(made.stderr)}")


def _wait_until_it_answers(process: psutil.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    late = f"after {START_SECONDS:g} s its dashboard does not answer"
    why = late if process.poll() is None else _last_line(log.read_text(errors="replace"))
    raise InputError(f"Ray does not start: {why} (all it said is in {log})")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "Ray did not say why"


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or stop the local cluster; returns the exit code: 0 done, 2 it cannot be done."""
    parser = OneLineParser(prog="cluster.local", description=__doc__, allow_abbrev=False)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--dashboard-port", type=int, default=8265, metavar="PORT")
    options, for_ray = parser.parse_known_args(arguments)
    try:
        with sigterm_as_sigint():
            if options.action == "start":
                run_start(options, for_ray)
            else:
                run_stop()
    except InputError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("cluster: stopped; what was started is ended", file=sys.stderr)
        return WRONG_INPUT
    return COMPLETE


def run_start(options: argparse.Namespace, for_ray: Sequence[str]) -> None:
    """Start the local cluster, unless it runs already, and say how to use it."""
    head = running_head()
    if head:
        print(f"A cluster is running already, since {time.ctime(head.started)}")
    else:
        print("Starting Ray")
        head = start(options.dashboard_port, for_ray)
    ray = Path(sys.executable).parent / "ray"
    print(f"dashboard  {head.address}, from this machine only")
    print(f"sign in    with the token that this prints: {ray} get-auth-token")
    print(f"log        {head.log}")
    print("`make submit` runs a study on it, `make cluster-stop` ends it.")


def run_stop() -> None:
    """End the local cluster, if one runs."""
    head = running_head()
    if head is None:
        print("No cluster that `make cluster` started is running.")
    else:
        print(f"Ended the cluster at {head.address}: {stop(head)} processes.")


if __name__ == "__main__":
    raise SystemExit(main())
