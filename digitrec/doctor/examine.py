"""Examine whether this machine and its cluster have what a study needs.

An `examine_` function gathers facts, and checks.py judges them. Ray is imported only to examine a
cluster or an upload.
"""

import importlib.metadata
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from digitrec.doctor import checks
from digitrec.doctor.checks import MOST_UPLOADED_FILES, Diagnosis, find_of_node, ok
from digitrec.doctor.machine import Machine, inspect_machine
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.store.folder import Folder, brief
from digitrec.tuning.token import find_token, open_to_others, token_file

if TYPE_CHECKING:
    from digitrec.doctor.nodes import Node

LEVEL_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
PACKAGED_BYTES = {"sample": 5_000 * 784, "openml": 70_000 * 784}


def describe_diagnosis(one: Diagnosis) -> Text:
    """Return a diagnosis as a line, and its remedy as another."""
    text = Text.assemble((f"{one.level:8}", LEVEL_STYLES[one.level]), f" {one.name}: {one.message}")
    return text.append(f"\n{'remedy':>8} {one.remedy}") if one.remedy else text


def cheap_checks(request: Request) -> list[Diagnosis]:
    """Return what may harm a study and can be found in milliseconds; nothing if all is well.

    For a study on a cluster, only the packages of this machine matter.
    """
    machine = inspect_machine()
    found = [checks.judge_versions(machine, version_floors())]
    if cluster_address(request) is None:
        found += examine_machine(request, machine)
    return [one for one in found if one.level != "ok"]


def examine(request: Request, console: Console) -> Iterator[Diagnosis]:
    """Yield the diagnoses of this machine, the study and the cluster, if any, as they come."""
    machine = inspect_machine()
    yield checks.judge_versions(machine, version_floors())
    yield from examine_token()
    address = cluster_address(request)
    if address is None:
        yield from examine_machine(request, machine)
        yield checks.judge_gpus(inspect_machine(ask_torch=machine.gpus > 0), None)
    yield checks.judge_data(
        request.data, readable=os.access(os.path.expanduser(request.data), os.R_OK)
    )
    if address is not None:  # else a study runs on this machine, and nothing is uploaded
        with console.status("Looking at what a job would upload"):
            yield examine_upload(Path.cwd(), request.data)
    with left_as_found(request.directory.path):
        writable = examine_storage(request.directory)
        yield writable
        if address is None:
            yield ok("cluster", "none, so a study runs on this machine; --address names one")
        elif "://" in address:
            yield examine_dashboard(address)
        else:
            directory = request.directory if writable.level == "ok" else None
            with console.status(f"Asking the nodes of {address}"):
                yield from examine_cluster(request, address, directory, machine)


def cluster_address(request: Request) -> str | None:
    """Return the address of the cluster that a study would run on; None: this machine."""
    address = request.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def version_floors() -> dict[str, str]:
    """Return the lowest versions of Ray and torch that this package accepts."""
    required = importlib.metadata.requires("digitrec") or []
    found = (re.match(r"(ray|torch)\b[^<>=]*>=([\d.]+)", requirement) for requirement in required)
    return {match[1]: match[2] for match in found if match}


def examine_machine(request: Request, machine: Machine) -> list[Diagnosis]:
    """Return the diagnoses of what a study on this machine uses."""
    cores = max(1.0, min(machine.cores, machine.quota or math.inf))
    trials = math.floor(cores / request.cpus_per_stack) or 1
    ray = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    found = [
        checks.judge_cores(machine, request.cpus_per_stack, request.gpus_per_stack),
        checks.judge_pinning(machine),
        checks.judge_shared_memory(machine),
        checks.judge_memory(machine, estimate_bytes(request.data), trials),
        checks.judge_rays_disk(ray, *shutil.disk_usage(ray)),
    ]
    directory = request.directory.path
    if directory is not None:
        there = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(there).free
        configurations = len(request.space.trials())
        found.append(checks.judge_study_disk(directory, free, configurations))
    return found


def estimate_bytes(data: str) -> int | None:
    """Return a rough number of bytes of the images, one per pixel; None: unknown without reading.

    In a CSV, a pixel is at least a digit and a comma. Compression saves at least three fourths.
    """
    if data in PACKAGED_BYTES:
        return PACKAGED_BYTES[data]
    path = Path(data).expanduser()
    if not path.is_file():
        return None
    size = path.stat().st_size
    return size // 2 if data.lower().endswith(".csv") else 4 * size


@contextmanager
def left_as_found(directory: Path | None) -> Iterator[None]:
    """After this block, remove a directory and its parents where they are new and empty."""
    places = [directory, *directory.parents] if directory else []
    new = [place for place in places if not place.exists()]
    try:
        yield
    finally:
        for place in new:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def examine_storage(directory: Folder) -> Diagnosis:
    """Return whether this machine can write to the study directory."""
    try:
        directory.prepare()
    except OSError as error:
        return checks.judge_storage(str(directory), error.strerror or brief(error))
    return checks.judge_storage(str(directory), None)


def examine_upload(directory: Path, data: str) -> Diagnosis:
    """Return whether the upload of a job from a directory is small and contains the data."""
    from digitrec.tuning.ray_internals import most_uploaded_bytes, uploaded_files

    files = uploaded_files(directory, most_files=MOST_UPLOADED_FILES)
    if files is None:
        return ok("upload", "this version of Ray does not say which files a job uploads")
    absent = not Path(data).is_absolute() and Path(data).is_file() and data not in files
    return checks.judge_upload(files, most_uploaded_bytes(), data if absent else None)


def examine_cluster(
    request: Request, address: str, directory: Folder | None, here: Machine
) -> Iterator[Diagnosis]:
    """Yield the diagnoses of a cluster.

    Args:
        request: the study to examine for.
        address: HOST:PORT of its GCS, or `auto`.
        directory: where to leave a file that the nodes look for; None: nowhere.
        here: the driver's machine.
    """
    from ray.exceptions import RayError

    from digitrec.doctor.nodes import inspect_nodes
    from digitrec.store.timings import Timings
    from digitrec.tuning.session import Session

    yield examine_authentication()
    try:
        with Session(address, Console(quiet=True), Timings()) as session:
            nodes = inspect_nodes(directory)
            if session.dashboard_url:
                yield examine_own_dashboard(session.dashboard_url)
    except (InputError, RuntimeError, RayError) as error:
        yield checks.judge_connection(str(error))
        return
    for node in nodes:
        yield from judge_node(node, here, request)
    if directory is not None:
        yield checks.judge_sharing(
            str(directory), [node.address for node in nodes if node.sees_study is False]
        )


def judge_node(node: "Node", here: Machine, request: Request) -> Iterator[Diagnosis]:
    """Yield what is wrong with a node, or one line about what it has."""
    if node.machine is None:
        yield checks.judge_silence(node.address)
        return
    data = estimate_bytes(request.data)
    trials = math.floor(node.cpus / request.cpus_per_stack) or 1
    judged = [
        checks.compare_versions(node.machine, here),
        checks.judge_node_cores(node.machine, node.cpus),
        checks.judge_pinning(node.machine),
        checks.judge_gpus(node.machine, node.gpus),
        checks.judge_object_store(node.object_store, data),
        checks.judge_memory(node.machine, data, trials),
    ]
    has = (
        f"{node.cpus:g} CPUs, {node.gpus:g} GPUs, "
        f"{checks.format_bytes(node.object_store)} object store; "
        f"{checks.describe_versions(node.machine)}"
    )
    yield from find_of_node(node.address, has, judged)


def examine_token() -> list[Diagnosis]:
    """Return whether others can read the file of this user's token; nothing if there is none."""
    file = token_file()
    if not file.is_file():
        return []
    return [checks.judge_token_file(file, open_to_others(file) and open_to_others(file.parent))]


def examine_authentication() -> Diagnosis:
    """Return whether a cluster would get this user's token."""
    try:
        has_token = find_token() is not None
    except InputError as error:
        return checks.judge_connection(str(error))
    return checks.judge_auth_mode(os.environ.get("RAY_AUTH_MODE"), has_token=has_token)


def examine_dashboard(url: str) -> Diagnosis:
    """Return whether a dashboard answers, and who can run code through it."""
    from digitrec.tuning.dashboard import asks_for_token

    try:
        return checks.judge_exposure(url, asks_for_token=asks_for_token(url))
    except InputError as error:
        return checks.judge_connection(str(error))


def examine_own_dashboard(url: str) -> Diagnosis:
    """Return the same for the address that a cluster gives, which may be valid on its head only."""
    found = examine_dashboard(url)
    if found.level == "problem" and checks.is_loopback(url):
        return ok("dashboard", f"{url}, reachable from the head node only")
    return found
