"""Two hosts on this machine: network namespaces with their own addresses and a separate disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.head import BARE, FEW_PROCESSES, NO_IDLE_WORKERS, end_group, wait_until

Command = tuple[str, ...]
PORT = 6379  # both hosts have all ports to themselves
HEAD, OTHER = "10.77.0.1", "10.77.0.2"


@dataclass(frozen=True, slots=True)
class Hosts:
    """A cluster of two hosts of one CPU each."""

    head: Sequence[str]  # what runs a command on the host of the head
    address: str
    shared: Path  # a directory of both hosts
    own: Path  # each host has its own at this path
    environment: dict[str, str]


def reason_against() -> str | None:
    """Return why this machine cannot carry two hosts; None: it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not all(map(shutil.which, ("ip", "unshare", "mount"))):
        return "ip, unshare or mount is not installed"
    probe = f"dr{os.getpid()}p"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return None


@contextmanager
def start_hosts(directory: Path) -> Iterator[Hosts]:
    """Start a head on one host and a node on another, which a cable connects.

    Args:
        directory: short, since Ray's sockets take paths of at most 107 bytes.
    """
    shared, own = directory / "shared", directory / "own"
    shared.mkdir()
    own.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with ExitStack() as closing:
        one, two = (closing.enter_context(_namespace(end)) for end in "ab")
        _connect(one, two)
        common: Command = (
            *(sys.executable, "-c", BARE, "start", "--block"),
            *("--num-cpus=1", "--object-store-memory=100000000"),
        )
        head: Command = (*common, "--head", f"--port={PORT}", "--include-dashboard=false")
        head += FEW_PROCESSES
        head += (f"--node-ip-address={HEAD}", f"--temp-dir={directory / 'r'}")
        start = ["ip", "netns", "exec"]
        closing.enter_context(_running([*start, one, *head], environment, directory / "a.log"))
        node: Command = (*common, f"--address={HEAD}:{PORT}", f"--node-ip-address={OTHER}")
        mount = f'mount -t tmpfs tmpfs {own} && exec "$@"'
        node = ("unshare", "--mount", "sh", "-c", mount, "sh", *node)
        closing.enter_context(_running([*start, two, *node], environment, directory / "b.log"))
        yield Hosts([*start, one], f"{HEAD}:{PORT}", shared, own, environment)


@contextmanager
def _namespace(end: str) -> Iterator[str]:
    name = f"dr{os.getpid()}{end}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _connect(one: str, two: str) -> None:
    ends = (one, HEAD, f"{one}0"), (two, OTHER, f"{two}0")
    cable = [ends[0][2], "netns", one, "type", "veth", "peer", "name", ends[1][2], "netns", two]
    subprocess.run(["ip", "link", "add", *cable], check=True)
    for namespace, address, device in ends:
        for command in (
            ["address", "add", f"{address}/24", "dev", device],
            ["link", "set", device, "up"],
            ["link", "set", "lo", "up"],
        ):
            subprocess.run(["ip", "-n", namespace, *command], check=True)


@contextmanager
def _running(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run `ray start` for the length of the block, which begins when the node is up."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment | NO_IDLE_WORKERS,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text(), process, log.read_text)
        yield
    finally:
        end_group(process)
