"""A real Ray head, with its dashboard and metrics where a test asks for them, as processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0  # seconds for the head to come up
START = """import sys
{first}
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "nobody uses Ray Client"
sys.exit(scripts.main())"""  # `ray start` without the server of Ray Client
WITH_DASHBOARD = START.format(first="")
# As if only ray[tune] were installed: the agent of a node loads no dashboard modules. With the
# option --include-dashboard=false, Ray would start a process that sends usage statistics.
BARE = START.format(
    first="""sys.modules["ray.dashboard.optional_deps"] = None
from ray._private import services
services.start_api_server = lambda *_, **__: (None, None)"""
)
# Starts nothing that shows logs or adds nodes.
FEW_PROCESSES = ("--include-log-monitor=false", "--no-monitor")
# A Ray that a process starts itself takes this machine for one of a core: a worker takes seconds.
ONE_CORE = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
NO_IDLE_WORKERS = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}


@dataclass(frozen=True, slots=True)
class Head:
    """Where a head is reached, and what a process needs in its environment to do so."""

    address: str
    dashboard: str  # empty without one
    metrics: str  # empty without a dashboard
    directory: Path
    environment: dict[str, str]
    process: int  # id of the one that the others descend from


@contextmanager
def start_head(cpus: int, *, dashboard: bool = False, **environment: str) -> Iterator[Head]:
    """Start a head node on this machine; its whole process group ends with the block.

    Its directory is short, since Ray's sockets take paths of at most 107 bytes.

    Args:
        cpus: of the head.
        dashboard: whether it has a dashboard and serves metrics, which takes as long again.
        environment: of its processes, and of those that shall reach it.
    """
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as directory:
        home, (gcs, *ports) = Path(directory), free_ports(4)
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": directory,  # a token that is kept at home is not for this head
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            **environment,
        }
        command = [
            *(sys.executable, "-c", WITH_DASHBOARD if dashboard else BARE, "start", "--head"),
            *("--block", f"--num-cpus={cpus}", f"--port={gcs}"),
            *("--min-worker-port=0", "--max-worker-port=0"),
            *("--object-store-memory=200000000", f"--temp-dir={home / 'r'}", *FEW_PROCESSES),
            *_ports(*ports, dashboard=dashboard),
        ]
        log = home / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env=variables | NO_IDLE_WORKERS,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with ExitStack() as closing:
            closing.callback(end_group, process)
            urls = [f"http://127.0.0.1:{port}" for port in ports[:2]] if dashboard else ["", ""]
            if dashboard:
                wait_for(f"{urls[0]}/api/version", process, log)
                wait_for(f"{urls[1]}/metrics", process, log)
            else:
                wait_until(lambda: "Ray runtime started" in log.read_text(), process, log.read_text)
            yield Head(
                f"127.0.0.1:{gcs}",
                urls[0],
                f"{urls[1]}/metrics",
                home / "r",
                variables,
                process.pid,
            )


def _ports(http: int, metrics: int, agent: int, *, dashboard: bool) -> list[str]:
    """Return the options of `ray start` for a dashboard on these ports, or for none."""
    if not dashboard:
        return ["--include-dashboard=false"]
    return [
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={http}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"),
    ]


def wait_until(
    condition: Callable[[], object],
    process: "subprocess.Popen[bytes]",
    describe: Callable[[], str],
    patience: float = PATIENCE,
) -> None:
    """Wait until a condition holds; a process that ends meanwhile is an error."""
    deadline = time.monotonic() + patience
    while not condition():
        assert process.poll() is None, describe()
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


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
