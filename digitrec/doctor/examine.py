"""Examines what a study needs of its machine and its cluster.

An `examine_` function gathers facts and has diagnosis.py judge them. Ray is imported only where a
cluster or an upload is looked at.
"""

import importlib.metadata
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from digitrec.doctor import checks as diagnosis
from digitrec.doctor.checks import MOST_UPLOADED_FILES, Diagnosis, find_of_node
from digitrec.doctor.machine import Machine, inspect_machine
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.store.folder import Folder, brief

if TYPE_CHECKING:
    from digitrec.doctor.nodes import Node

CONNECT_SECONDS = 5.0
SAMPLE_BYTES = 5_000 * 784
OPENML_BYTES = 70_000 * 784


def cheap_checks(request: Request) -> list[Diagnosis]:
    """Return what may harm a study, found in milliseconds; nothing if all is well.

    Of a study on a cluster, only what this machine's packages are: the rest is the cluster's.
    """
    machine = inspect_machine()
    found = [diagnosis.judge_versions(machine, version_floors())]
    if cluster_address(request) is None:
        found += examine_machine(request, machine)
    return [one for one in found if one.level != "ok"]


def examine(request: Request, console: Console) -> Iterator[Diagnosis]:
    """Yield all diagnoses, of this machine, the study, the upload and the cluster, as they come.

    Args:
        request: the study to examine for.
        console: says what is waited for.
    """
    machine = inspect_machine()
    yield diagnosis.judge_versions(machine, version_floors())
    address = cluster_address(request)
    if address is None:
        yield from examine_machine(request, machine)
        yield diagnosis.judge_gpus(inspect_machine(ask_torch=machine.gpus > 0), None)
    yield diagnosis.judge_data(
        request.data, readable=os.access(os.path.expanduser(request.data), os.R_OK)
    )
    with console.status("Looking at what a job would upload"):
        yield examine_upload(Path.cwd(), request.data)
    with left_as_found(request.directory.path):
        writable = examine_storage(request.directory)
        yield writable
        if address is None:
            yield Diagnosis(
                name="cluster",
                level="ok",
                message="none is named, so a study runs on this machine; --address names one",
            )
        elif "://" in address:
            yield examine_dashboard(address)
        else:
            study = request.directory if writable.level == "ok" else None
            with console.status(f"Asking the nodes of {address}"):
                yield from examine_cluster(request, address, study, machine)


def cluster_address(request: Request) -> str | None:
    """Return the address of the cluster that a study would run on; None: on this machine."""
    address = request.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def version_floors() -> dict[str, str]:
    """Return the lowest versions of Ray and torch that this package asks for."""
    required = importlib.metadata.requires("digitrec") or []
    found = (re.match(r"(ray|torch)\b[^<>=]*>=([\d.]+)", requirement) for requirement in required)
    return {match[1]: match[2] for match in found if match}


def examine_machine(request: Request, machine: Machine) -> list[Diagnosis]:
    """Return what a study on this machine has to do with."""
    cores = max(1.0, min(machine.cores, machine.quota or math.inf))
    trials = math.floor(cores / request.cpus_per_stack) or 1
    ray = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    found = [
        diagnosis.judge_cores(machine, request.cpus_per_stack, request.gpus_per_stack),
        diagnosis.judge_pinning(machine),
        diagnosis.judge_shared_memory(machine),
        diagnosis.judge_memory(machine, estimate_bytes(request.data), trials),
        diagnosis.judge_rays_disk(ray, *shutil.disk_usage(ray)),
    ]
    study = request.directory.path
    if study is not None:
        there = next(path for path in (study, *study.parents) if path.exists())
        free = shutil.disk_usage(there).free
        configurations = len(request.space.trials())
        found.append(diagnosis.judge_study_disk(study, free, configurations))
    return found


def estimate_bytes(data: str) -> int | None:
    """Return about how many bytes the images take, one per pixel; None: not known without reading.

    In a CSV, a pixel is at least a digit and a comma. Compressed, digits take a fourth of that or
    less.
    """
    if data in {"sample", "openml"}:
        return SAMPLE_BYTES if data == "sample" else OPENML_BYTES
    path = Path(data).expanduser()
    if not path.is_file():
        return None
    size = path.stat().st_size
    return size // 2 if data.lower().endswith(".csv") else 4 * size


@contextmanager
def left_as_found(directory: Path | None) -> Iterator[None]:
    """Remove the empty directories that come to be in this block on the way to a directory."""
    places = [directory, *directory.parents] if directory else []
    new = [place for place in places if not place.exists()]
    try:
        yield
    finally:
        for place in new:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def examine_storage(study: Folder) -> Diagnosis:
    """Return whether the study directory can be written to from here."""
    try:
        study.prepare()
    except OSError as error:
        return diagnosis.judge_storage(str(study), error.strerror or brief(error))
    return diagnosis.judge_storage(str(study), None)


def examine_upload(directory: Path, data: str) -> Diagnosis:
    """Return whether what a job would upload from a directory is small, and holds the data."""
    from digitrec.tuning.ray_internals import most_uploaded_bytes, uploaded_files

    files = uploaded_files(directory, MOST_UPLOADED_FILES)
    if files is None:
        message = "this version of Ray does not say which files a job uploads"
        return Diagnosis(name="upload", level="ok", message=message)
    absent = not Path(data).is_absolute() and Path(data).is_file() and data not in files
    return diagnosis.judge_upload(files, most_uploaded_bytes(), data if absent else None)


def examine_cluster(
    request: Request, address: str, study: Folder | None, here: Machine
) -> Iterator[Diagnosis]:
    """Yield the diagnoses of a cluster.

    Args:
        request: the study to examine for.
        address: HOST:PORT of its GCS, or `auto`.
        study: where to leave a file that the nodes look for; None: nowhere.
        here: the driver's machine.
    """
    from ray.exceptions import RayError

    from digitrec.doctor.nodes import ask_nodes
    from digitrec.store.timings import Timings
    from digitrec.tuning.session import Session

    yield from examine_token()
    try:
        with Session(address, Console(quiet=True), Timings()) as session:
            nodes = ask_nodes(study)
            if session.dashboard_url:
                yield examine_own_dashboard(session.dashboard_url)
    except (InputError, RuntimeError, RayError) as error:
        yield diagnosis.judge_connection(str(error))
        return
    for node in nodes:
        yield from judge_node(node, here, request)
    if study is not None:
        yield diagnosis.judge_sharing(
            str(study), [node.address for node in nodes if node.sees_study is False]
        )


def judge_node(node: "Node", here: Machine, request: Request) -> Iterator[Diagnosis]:
    """Yield what is amiss with a node, or one line that says what it has."""
    if node.machine is None:
        yield diagnosis.judge_silence(node.address)
        return
    data = estimate_bytes(request.data)
    trials = math.floor(node.cpus / request.cpus_per_stack) or 1
    judged = [
        diagnosis.compare_versions(node.machine, here),
        diagnosis.judge_node_cores(node.machine, node.cpus),
        diagnosis.judge_pinning(node.machine),
        diagnosis.judge_gpus(node.machine, node.gpus),
        diagnosis.judge_object_store(node.object_store, data),
        diagnosis.judge_memory(node.machine, data, trials),
    ]
    has = (
        f"{node.cpus:g} CPUs, {node.gpus:g} GPUs, "
        f"{diagnosis.format_bytes(node.object_store)} object store; "
        f"{diagnosis.describe_versions(node.machine)}"
    )
    yield from find_of_node(node.address, has, judged)


def examine_token() -> Iterator[Diagnosis]:
    """Yield whether this user's token is safe, and whether a cluster would be shown it."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    in_variable = bool(os.environ.get("RAY_AUTH_TOKEN"))
    if token.is_file():
        yield diagnosis.judge_token_file(token, readable_by_others(token))
    yield diagnosis.judge_auth_mode(
        os.environ.get("RAY_AUTH_MODE"), has_token=in_variable or token.is_file()
    )


def readable_by_others(path: Path) -> bool:
    """Return whether group or others may read a file, and pass all directories on the way to it."""
    mode = path.stat().st_mode
    ways = [parent.stat().st_mode for parent in path.absolute().parents]
    classes = ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH))
    return any(mode & read and all(way & enter for way in ways) for read, enter in classes)


def examine_dashboard(url: str) -> Diagnosis:
    """Return whether a dashboard answers, and who can run code through it."""
    try:
        return diagnosis.judge_exposure(url, asks_for_token=asks_for_token(url))
    except InputError as error:
        return diagnosis.judge_connection(str(error))


def examine_own_dashboard(url: str) -> Diagnosis:
    """Return the same of a dashboard as the cluster names it, which may be its head's alone."""
    found = examine_dashboard(url)
    if found.level == "problem" and diagnosis.is_loopback(url):
        return Diagnosis(
            name="dashboard", level="ok", message=f"{url}, to be reached from the head node only"
        )
    return found


def asks_for_token(url: str) -> bool:
    """Return whether a dashboard lets in only who has the token.

    Raises:
        InputError: no dashboard of Ray answers there.
    """
    import urllib.error  # with ssl, a tenth of a second that `tune` does not wait for
    import urllib.request

    asked = f"{url.rstrip('/')}/api/authentication_mode"
    try:
        with urllib.request.urlopen(asked, timeout=CONNECT_SECONDS) as answer:
            return str(json.load(answer)["authentication_mode"]) == "token"
    except urllib.error.HTTPError as error:
        raise InputError(f"what answers at {url} is not a Ray dashboard ({error.code})") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"no Ray dashboard answers at {url}: {reason}") from error
