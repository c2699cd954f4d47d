"""Every private name of Ray that digitrec uses.

A version of Ray that moves one of them must not break a study: each name is looked up when it is
needed, and each function says what happens without it.
"""

import functools
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from digitrec.import_path import needs_working_directory

if TYPE_CHECKING:
    from ray.job_config import JobConfig

# Loggers that print the traceback of every lost worker; the study reports it in one line. Without
# these names, the tracebacks are printed too.
WORDY = ("ray.tune.execution.tune_controller", "ray.tune.tune")
CLUSTER_QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # Ray's own first request to a head
MOST_UPLOADED_BYTES = 512 * 1024**2  # of a job's files, if Ray does not name its limit
IDLE_AGENT = Path(__file__).with_name("idle_agent.py")
KNOWN_AGENTS = "2.60."  # the versions of Ray whose agents these are, and the ports they tell
AGENTS = {
    "dashboard_agent": "metrics_agent_port,metrics_export_port,dashboard_agent_listen_port",
    "runtime_env_agent": "runtime_env_agent_port",
}


def module(name: str) -> ModuleType | None:
    """Return a module of Ray; None if this version of Ray lacks it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def find_head() -> str | None:
    """Return the address of the Ray cluster that this machine is part of.

    Without Ray's function for it, return None: `ray.init("auto")` finds the cluster, but takes
    longer to report that there is none.

    Raises:
        ConnectionError, ValueError: the machine is part of no cluster, or of more than one.
    """
    services = module("ray._private.services")
    find = getattr(services, "canonicalize_bootstrap_address_or_die", None)
    return None if find is None else str(find("auto"))


def job_config() -> "JobConfig | None":
    """Return the configuration of a job whose workers import nothing from the working directory.

    Ray appends the driver's working directory to the workers' import path, where a file with the
    name of a package would be imported instead of it. Without Ray's names for the path, return
    None: the workers import from the working directory.
    """
    config = getattr(module("ray.job_config"), "JobConfig", None)
    if config is None or "_py_driver_sys_path" not in inspect.signature(config).parameters:
        return None
    made: JobConfig = config()
    if not needs_working_directory():
        made._py_driver_sys_path = _WithoutDirectory(os.path.abspath(os.curdir))
    return made


class _WithoutDirectory(list[str]):
    """A list of directories that leaves out an unwanted one."""

    def __init__(self, unwanted: str) -> None:
        super().__init__()
        self.unwanted = unwanted

    def extend(self, directories: Iterable[str]) -> None:
        super().extend(path for path in directories if path != self.unwanted)


@contextmanager
def bare_start(
    preload: Sequence[str], job: "JobConfig | None" = None, *, dashboard: bool = False
) -> Iterator[None]:
    """Have Ray start only what a study on this machine needs, on the loopback interface alone.

    Ray starts no autoscaler, since no nodes are added, and no log monitor, since no logs are shown:
    this saves a second at the start and another at the end. It starts no dashboard process, as if
    only ray[tune] were installed: with include_dashboard=False, Ray would still start and wait for
    a process that sends usage statistics, which are off here, and load the dashboard's agent
    modules. In the place of agents without work it starts `idle_agent.py`: Ray starts no worker
    before its agents have imported Ray, half a second of a core each. Another program that connects
    to this Ray and brings a runtime environment would ask such an agent in vain. The address is
    127.0.0.1, so all processes listen there only, out of reach of the network;
    `ray.init(_node_ip_address="127.0.0.1")` does not achieve this, since Ray replaces it with an
    address of the network. If this version of Ray lacks these names, it starts normally.

    Args:
        preload: modules that Ray's idle workers import while the rest of Ray starts.
        job: the configuration of the job; without it, the agent for runtime environments starts.
        dashboard: whether to start the dashboard all the same.
    """
    parameter = module("ray._private.parameter")
    services = module("ray._private.services")
    constants = module("ray._private.ray_constants")
    changes: list[tuple[MutableMapping[str, Any], str, Any]]
    changes = [] if dashboard else [(sys.modules, "ray.dashboard.optional_deps", None)]
    if preload:
        changes.append((os.environ, "RAY_preload_python_modules", ",".join(preload)))
    if parameters := getattr(parameter, "RayParams", None):
        known = inspect.signature(parameters).parameters
        fewer = {"no_monitor": True, "include_log_monitor": False}
        fewer = {name: value for name, value in fewer.items() if name in known}
        changes.append((vars(parameter), "RayParams", functools.partial(parameters, **fewer)))
    build = getattr(services, "_build_python_executable_command_memory_profileable", None)
    version = getattr(module("ray"), "__version__", "")
    if build and version.startswith(KNOWN_AGENTS) and not dashboard:
        command = functools.partial(_agent_command, build, job)
        changes.append((vars(services), build.__name__, command))
    if hasattr(services, "start_api_server") and not dashboard:
        changes.append((vars(services), "start_api_server", lambda *_, **__: (None, None)))
    if hasattr(constants, "ENABLE_RAY_CLUSTER"):
        changes.append((vars(constants), "ENABLE_RAY_CLUSTER", False))
    with ExitStack() as restored:
        for mapping, name, value in changes:
            restored.enter_context(_changed(mapping, name, value))
        yield


def _agent_command(
    build: Callable[..., list[str]], job: "JobConfig | None", process: str, *arguments: Any
) -> list[str]:
    """Return the beginning of the command of a process of Ray: of an idle agent if it has no work.

    Args:
        build: Ray's function for it.
        job: if it has a runtime environment, the agent that makes it has work.
        process: Ray's name for it.
        arguments: further arguments of Ray's function.
    """
    needed = process == "runtime_env_agent" and (job is None or job.runtime_env)
    if process not in AGENTS or needed:
        return build(process, *arguments)
    return [sys.executable, "-I", "-S", str(IDLE_AGENT), AGENTS[process]]


@contextmanager
def _changed(mapping: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """Give a name another value in this block."""
    there, before = name in mapping, mapping.get(name)
    mapping[name] = value
    try:
        yield
    finally:
        if there:
            mapping[name] = before
        else:
            mapping.pop(name, None)


@contextmanager
def nothing_passed_on() -> Iterator[None]:
    """Keep Ray Tune from passing environment variables to its workers.

    Ray would write the driver's AWS keys in clear text into the logs of every node, which its
    dashboard shows; nodes have their own roles or keys. With any variable, such as PL_DISABLE_FORK,
    which only PyTorch Lightning uses, trials would not run in the workers that Ray starts with
    itself, but in new ones that take a second or two to start, and that an idle agent could not
    make (see `bare_start`). Without Ray's names for these variables, the keys are in the logs.
    """
    cache = module("ray.tune.execution.class_cache")
    values: dict[str, str] = getattr(cache, "DEFAULT_ENV_VARS", {})
    names: set[str] = getattr(cache, "ENV_VARS_TO_PROPAGATE", set())
    own_values, own_names = dict(values), set(names)
    values.clear()
    names.clear()
    try:
        yield
    finally:
        values.update(own_values)
        names.update(own_names)


@contextmanager
def losses_counted_once() -> Iterator[None]:
    """Have Ray Tune retry a stack whose worker is lost while it is handed that stack.

    Ray Tune 2.60 handles such a loss twice in a row. The first time it puts the trial back into the
    queue, but still counts it as being handed over, so it would never start again. The second time
    it finds a queued trial with an error and gives it up, whatever `max_failures` says. A queued
    trial that has no worker cannot fail, so the second time is skipped, and the trial is no longer
    counted. Without Ray's names for this, such a stack fails; the same command trains it again.
    """
    controller = getattr(module("ray.tune.execution.tune_controller"), "TuneController", None)
    handle = getattr(controller, "_process_trial_failure", None)
    if controller is None or handle is None:
        yield
        return

    def handle_once(self: Any, trial: Any, exception: Exception) -> None:
        if trial.status == "PENDING" and trial not in self._trial_to_actor:
            self._resetting_trials.discard(trial)
        else:
            handle(self, trial, exception)

    controller._process_trial_failure = handle_once
    try:
        yield
    finally:
        controller._process_trial_failure = handle


def forget_statistics(trial: Any) -> None:
    """Drop the statistics that Ray Tune keeps of every metric of a trial that has ended.

    A stack has four metrics per member, and Ray Tune keeps averages and past values of each for as
    long as the search lasts: 0.2 MB per stack of 16. Without Ray's names for them, they stay.
    """
    kept = getattr(trial, "run_metadata", None)
    for name in ("metric_analysis", "metric_n_steps"):
        getattr(kept, name, {}).clear()


def named_trainable(function: Callable[[dict[str, Any]], None], name: str) -> Any:
    """Return a trainable of Ray Tune whose actors have a name in Ray's dashboard.

    Without Ray's wrapper for functions, return the function: its actors have the wrapper's name.
    """
    wrap = getattr(module("ray.tune.trainable"), "wrap_function", None)
    if wrap is None:
        return function
    trainable = wrap(function)
    trainable.__name__ = trainable.__qualname__ = name
    return trainable


def most_uploaded_bytes() -> int:
    """Return the most bytes that Ray uploads for a job.

    Without Ray's name for it, return the limit of Ray 2.60.
    """
    packaging = module("ray._private.runtime_env.packaging")
    return int(getattr(packaging, "GCS_STORAGE_MAX_SIZE", MOST_UPLOADED_BYTES))


def uploaded_files(
    directory: Path, *, excludes: Sequence[str] = (), most_files: int = sys.maxsize
) -> dict[str, int] | None:
    """Return the files that Ray would upload with a job, and the bytes of each.

    Without Ray's names for its exclusion rules, return None.

    Args:
        directory: the working directory of the job.
        excludes: patterns of its runtime environment.
        most_files: after this number of files, the rest is left out.
    """
    packaging = module("ray._private.runtime_env.packaging")
    constants = module("ray._private.ray_constants")
    try:
        excluded_by = packaging._get_excludes  # type: ignore[union-attr]
        ignored_in = packaging.get_excludes_from_ignore_files  # type: ignore[union-attr]
        defaults = constants.get_runtime_env_default_excludes()  # type: ignore[union-attr]
    except AttributeError:
        return None
    silent = logging.getLogger("digitrec.upload")  # otherwise Ray logs every .gitignore
    silent.setLevel(logging.CRITICAL)
    files: dict[str, int] = {}
    pending = [(directory, [excluded_by(directory, [*defaults, *excludes])])]
    while pending and len(files) < most_files:
        folder, above = pending.pop()
        excluded = above + ignored_in(folder, include_gitignore=True, logger=silent)
        for path in folder.iterdir():
            if any(matches(path) for matches in excluded):
                continue
            if path.is_dir():
                pending.append((path, excluded))
            elif path.is_file():
                files[path.relative_to(directory).as_posix()] = path.stat().st_size
    return files
