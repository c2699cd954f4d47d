"""The connection to Ray: to a cluster, or to a fresh Ray on this machine's cores.

While Ray starts, which takes seconds and leaves the cores mostly idle, this process imports the
modules of the search, and Ray's idle workers import those of a trial (see `OF_A_TRIAL`).
"""

import gc
import importlib
import logging
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import ray
from rich.console import Console

from digitrec.errors import InputError
from digitrec.lean_import import import_without
from digitrec.signals import sigint_put_off
from digitrec.store.folder import SHARE_IT, Folder, brief
from digitrec.store.timings import Timings
from digitrec.tuning import ray_internals
from digitrec.tuning.address import answers, check_address, no_cluster
from digitrec.tuning.live import busy
from digitrec.tuning.nodes import alive_nodes, nodes_without
from digitrec.tuning.runner import Assignment, Node
from digitrec.tuning.token import find_token, secure_token

LOOK_SECONDS = 2.0  # between two checks whether the head of the cluster answers
LOOPBACK = "127.0.0.1"  # of the dashboard: whoever reaches it and has the token can run code
SILENCE_SECONDS = 50.0  # without an answer until the study ends; after 60, Ray ends it silently
UNFINISHED = 1  # exit code
# Modules that Ray's idle workers import while Ray still starts. `ray_internals.nothing_passed_on`
# makes the trials run in these workers.
OF_A_TRIAL = [
    "torch",
    "ray.tune",
    "digitrec.tuning.trainable",
    "digitrec.engine.checkpoint",
    "digitrec.engine.resident",
]


class Session:
    """A connection to Ray for the length of a `with` block.

    With an address, or inside a Ray job, it connects to that cluster; otherwise it starts a fresh
    Ray and ends it afterwards. If this process is already connected to Ray, it uses that connection
    unchanged.

    Raises:
        InputError: there is no cluster at the address.
    """

    def __init__(
        self,
        address: str | None,
        console: Console,
        timings: Timings,
        *,
        preload: bool = False,
        dashboard: bool = False,
    ) -> None:
        """Start nothing yet.

        Args:
            address: of a cluster.
            console: shows the start of Ray.
            timings: gets the durations of the start and the end.
            preload: whether to preload imports in one worker per core (0.4 GB each), which is
                worthwhile only if every core gets a trial.
            dashboard: whether a Ray that is started here has its dashboard; the address of the
                dashboard is printed.
        """
        self.preload = preload
        self.dashboard = dashboard
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.console = console
        self.timings = timings
        self.dashboard_url: str | None = None  # of what this session connected to or started
        self._ours = not ray.is_initialized()
        self._ending: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self) -> "Session":
        if self._ours:
            try:
                with sigint_put_off():  # a half-started Ray or half-done import is hard to undo
                    self._start_and_import()
            except BaseException:  # a Ctrl-C too must end a Ray that has started
                self.__exit__()
                raise
        if self.dashboard:
            self.console.print(self._describe_dashboard(), highlight=False, soft_wrap=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        if self._ending:
            self._ending.join()

    def nodes(self) -> list[Node]:
        """Return the resources of each node that is alive."""
        return [node["Resources"] for node in alive_nodes()]

    def check_shared(self, directory: Folder) -> None:
        """Check that every node sees the study directory.

        Raises:
            InputError: some nodes cannot see it: it is local to this node, or they lack access.
        """
        count = len(alive_nodes())
        if count > 1 and (blind := nodes_without(directory)):
            remedy = (
                SHARE_IT
                if directory.path
                else "give those nodes a role or credentials that may read and write it"
            )
            raise InputError(
                f"{directory} is not visible to {len(blind)} of {count} nodes "
                f"({', '.join(blind)}); {remedy}"
            )

    def train(self, assignment: Assignment) -> None:
        """Train stacks with Ray Tune; see `search`."""
        from digitrec.tuning.search import search  # imported while Ray started

        search(assignment)

    def end(self) -> None:
        """Begin to end a Ray that was started here; leaving the block waits for its end.

        Ray Tune leaves objects of Ray behind in reference cycles. If the garbage collector finds
        them while Ray ends or later, Ray ends this process ("The core worker has already been
        shutdown"), so they go before.
        """
        if self._ours and self._ending is None:
            gc.collect()
            self._ending = threading.Thread(target=self._end)
            self._ending.start()

    def _start_and_import(self) -> None:
        import_without("torch", "tensorboardX")  # Ray Tune logs with it; torch would take a second
        imports = threading.Thread(
            target=importlib.import_module, args=("digitrec.tuning.search",), daemon=True
        )
        imports.start()
        said = busy(self.console, "Starting Ray", logged=True)
        with self.timings.part("start Ray"), said:
            self._start()
        imports.join()

    def _start(self) -> None:
        check_address(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output ignores verbose=0
        logging.getLogger("ray").setLevel(logging.ERROR)
        local = self.address == "local"
        with_token = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
        if said := secure_token(make=local and with_token):
            print(f"digitrec: {said}", file=sys.stderr)
        preload = OF_A_TRIAL if self.preload else []
        job = ray_internals.job_config()
        start = ray_internals.bare_start(preload, job, dashboard=self.dashboard)
        try:
            with start if local else nullcontext():
                context = ray.init(
                    self.address,
                    **(self._dashboard_options() if local else {}),
                    job_config=job,  # type: ignore[arg-type]
                    runtime_env=local_runtime_env() if local else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except ConnectionError as error:
            raise no_cluster(self.address, str(error).splitlines()[0]) from error
        except Exception as error:  # `ray.init` raises plain ones
            reason = brief(error).rstrip(".") or type(error).__name__
            raise OSError(f"Ray did not start: {reason}") from error
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        if not local:
            address = ray.get_runtime_context().gcs_address
            threading.Thread(target=self._watch, args=(address,), daemon=True).start()

    def _dashboard_options(self) -> dict[str, Any]:
        """Return the arguments of `ray.init`; a port that is taken gives way to the next one."""
        if self.dashboard:
            return {"include_dashboard": True, "dashboard_host": LOOPBACK}
        return {"include_dashboard": False}

    def _describe_dashboard(self) -> str:
        if self.dashboard_url is None:
            return "dashboard  none: this process was connected to Ray before"
        token = find_token()
        sign_in = f"; sign in with the token in {token.source}" if token else ""
        return f"dashboard  {self.dashboard_url}{sign_in}"

    def _watch(self, address: str) -> None:
        """End this process when the head of the cluster no longer answers.

        Calls into Ray wait for the head, and only the end of the process interrupts them.
        """
        last_seen = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            if answers(address):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > SILENCE_SECONDS:
                self.console.show_cursor()  # which a live display hides
                print(
                    f"digitrec: the head of the cluster, {address}, has not answered for "
                    f"{SILENCE_SECONDS:.0f} s. Finished stacks are kept; on a cluster that "
                    "answers, the same command continues.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(UNFINISHED)

    def _end(self) -> None:
        self._ended.set()
        with self.timings.part("end Ray"):
            ray.shutdown()


def local_runtime_env() -> dict[str, str] | None:
    """Return the runtime environment that Ray needs to start workers with this Python.

    Ray passes the path of Python to a shell unquoted: with a space in it, no worker would start.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def count_workers(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """Return how many stacks, with these CPUs and GPUs each, the nodes can train at a time.

    Raises:
        InputError: the nodes cannot train a single one.
    """

    def of_node(node: Node) -> int:
        by_cpu = node.get("CPU", 0) / cpus
        return math.floor(min(by_cpu, node.get("GPU", 0) / gpus) if gpus else by_cpu)

    workers = sum(of_node(node) for node in nodes)
    if workers == 0:
        have = "; ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes
        )
        raise InputError(
            f"a stack needs {cpus:g} CPUs and {gpus:g} GPUs, which no node has: {have}. "
            "Lower --cpus-per-stack or --gpus-per-stack"
        )
    return workers
