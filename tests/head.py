"""A real Ray head with its dashboard and metrics, in separate processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0  # seconds for the head to come up


@dataclass(frozen=True, slots=True)
class Head:
    """Where a head is reached, and what a process needs in its environment to do so."""

    address: str
    dashboard: str
    metrics: str
    directory: Path
    environment: dict[str, str]
    process: int  # id of the one that the others descend from


@contextmanager
def start_head(cpus: int, **environment: str) -> Iterator[Head]:
    """Start a head node on this machine; its whole process group ends with the block.

    Its directory is short, since Ray's sockets take paths of at most 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as directory:
        gcs, dashboard, agent, metrics, client = free_ports(5)
        home = Path(directory)
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": directory,  # a token that is kept at home is not for this head
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            **environment,
        }
        command = [
            *("ray", "start", "--head", "--block", f"--num-cpus={cpus}", f"--port={gcs}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"),
            *(f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"),
            *("--object-store-memory=200000000", f"--temp-dir={home / 'r'}"),
        ]
        log = home / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=variables, stdout=output, stderr=output, start_new_session=True
            )
        with ExitStack() as closing:
            closing.callback(end_group, process)
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, log)
            wait_for(f"http://127.0.0.1:{metrics}/metrics", process, log)
            address, url = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
            yield Head(
                address,
                url,
                f"http://127.0.0.1:{metrics}/metrics",
                home / "r",
                variables,
                process.pid,
            )


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; all are held until the last is found."""
    with ExitStack() as closing:
        sockets = [closing.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until somebody answers at a URL, with whatever status."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"nobody answers at {url}: {log.read_text()}")


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process that leads a group, and the group; nothing there is worth a goodbye."""
    with suppress(ProcessLookupError):  # it ended by itself, and nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
