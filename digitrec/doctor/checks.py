"""Judge the facts about a machine, a study and a cluster: what is wrong, and what to do."""

import math
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from digitrec.doctor.machine import Machine
from digitrec.request import PACKAGED
from digitrec.store.folder import SHARE_IT
from digitrec.tuning.token import HOW_TO_GET_ONE

Level = Literal["ok", "warning", "problem"]

MIB = 2**20
GIB = 2**30
LOCKED = "install the versions of cluster/requirements.lock"
TUNNEL = "reach it through `ssh -L 8265:127.0.0.1:8265 HEAD`"
LARGE_UPLOAD = 100 * MIB
MOST_UPLOADED_FILES = 50_000  # an upload of more files is too large, whatever their sizes
CONFIGURATION_BYTES = MIB  # in the study directory, most of it weights
FULL = 0.95  # share of a disk in use from which on Ray writes nothing more to it
OBJECT_STORE_SHARE = 0.3  # of the memory, which Ray reserves by default
MOST_SHARED_MEMORY = 10 * 10**9  # bytes that are always enough for Ray
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The result of a check."""

    name: str  # of what was checked
    level: Level
    message: str
    remedy: str = ""  # what to do; empty if all is well


def ok(name: str, message: str) -> Diagnosis:
    """Return the diagnosis that all is well."""
    return Diagnosis(name=name, level="ok", message=message)


def amiss(name: str, message: str, remedy: str, level: Level = "warning") -> Diagnosis:
    """Return the diagnosis that something is wrong, and what to do."""
    return Diagnosis(name=name, level=level, message=message, remedy=remedy)


def judge_versions(machine: Machine, floors: Mapping[str, str]) -> Diagnosis:
    """Return whether the packages are installed and recent enough."""
    wrong = [
        f"{name} is not installed"
        if installed is None
        else f"{name} {installed} is older than {floor}"
        for name, floor in floors.items()
        if (installed := machine.versions[name]) is None or _parts(installed) < _parts(floor)
    ]
    if wrong:
        return amiss("versions", "; ".join(wrong), LOCKED, "problem")
    return ok("versions", describe_versions(machine))


def compare_versions(there: Machine, here: Machine) -> Diagnosis:
    """Return whether a node has the versions of the driver."""
    versions = {"Python": (there.python, here.python)} | {
        name: (there.versions[name], here.versions[name]) for name in here.versions
    }
    differing = [
        f"{name} {its or 'is not installed'}" + (f", {ours} here" if its else "")
        for name, (its, ours) in versions.items()
        if its != ours
    ]
    message = "; ".join(differing)
    if there.versions["digitrec"] is None and len(differing) == 1:
        remedy = "submit studies as jobs, which bring this package along, or install it there"
        return amiss("versions", message, remedy)
    if differing:
        return amiss("versions", message, f"{LOCKED} on every node", "problem")
    return ok("versions", describe_versions(there))


def describe_versions(machine: Machine) -> str:
    """Return `Python 3.11.7, digitrec 0.1.0, ...`."""
    there = {name: version for name, version in machine.versions.items() if version}
    return ", ".join(f"{name} {v}" for name, v in {"Python": machine.python, **there}.items())


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def judge_cores(machine: Machine, cpus_per_stack: float, gpus_per_stack: float) -> Diagnosis:
    """Return whether trials can use as many cores as Ray counts on this machine."""
    ignores_quota = "RAY_USE_MULTIPROCESSING_CPU_COUNT" in machine.variables
    quota = math.inf if machine.quota is None else machine.quota
    counted = machine.cores if ignores_quota else min(machine.cores, quota)
    usable = _usable_cores(machine)
    if counted < 1:
        message = f"the container may use {quota:g} CPUs; Ray rounds that down to none"
        return amiss("cores", message, "give the container at least one CPU", "problem")
    if math.floor(counted) > usable:
        remedy = (
            "start Ray with the CPUs that it can use, `ray start --head "
            f"--num-cpus={max(1, math.floor(usable))}`, and give --address auto"
        )
        return amiss("cores", _fewer_usable(math.floor(counted), usable), remedy)
    if cpus_per_stack < 1 and not gpus_per_stack:
        message = f"{1 / cpus_per_stack:g} trials share a core, each with its own thread"
        return amiss(
            "cores", message, "leave --cpus-per-stack at 1: on a CPU, sharing gains nothing"
        )
    threads = machine.variables.get("OMP_NUM_THREADS")
    ignored = f"; OMP_NUM_THREADS={threads} has no effect" if threads else ""
    return ok(
        "cores",
        f"{math.floor(usable)} of {machine.cores}; a trial has as many threads as CPUs{ignored}",
    )


def judge_node_cores(machine: Machine, counted: float) -> Diagnosis:
    """Return whether a node was started with no more CPUs than it can use."""
    usable = _usable_cores(machine)
    if counted <= max(1, usable):
        return ok("cores", f"{counted:g} of {machine.cores}")
    remedy = f"start the node with --num-cpus={max(1, math.floor(usable))}"
    return amiss("cores", _fewer_usable(counted, usable), remedy)


def _usable_cores(machine: Machine) -> float:
    quota = math.inf if machine.quota is None else machine.quota
    return min(machine.affinity, machine.cores, quota)


def _fewer_usable(counted: float, usable: float) -> str:
    return f"Ray counts {counted:g} CPUs, but trials can use only {usable:g}"


def judge_pinning(machine: Machine) -> Diagnosis:
    """Return whether OpenMP would pin the first thread of every trial to the same core."""
    pinning = {
        name: machine.variables[name]
        for name in PINNING
        if machine.variables.get(name, "false").lower() != "false"
    }
    if not pinning:
        return ok("threads", "not pinned to cores")
    settings = " and ".join(f"{name}={value}" for name, value in pinning.items())
    message = f"{settings}: OpenMP puts the first thread of every trial on the same core"
    return amiss("threads", message, f"unset {' '.join(pinning)}")


def judge_shared_memory(machine: Machine) -> Diagnosis:
    """Return whether /dev/shm can hold Ray's object store; if it cannot, Ray puts it on disk.

    Source: `determine_plasma_store_config` in ray/_private/services.py.
    """
    free, memory = machine.shared_memory, machine.memory
    if free is None or memory is None:
        return ok("shared memory", "does not matter on this system")
    wanted = min(OBJECT_STORE_SHARE * memory, MOST_SHARED_MEMORY)
    if free >= wanted:
        return ok("shared memory", f"{format_bytes(free)} free in /dev/shm")
    return amiss(
        "shared memory",
        f"/dev/shm has {format_bytes(free)} free, but Ray's object store needs "
        f"{format_bytes(wanted)}: Ray keeps it on disk, which is slow",
        f"in a container: `docker run --shm-size={math.ceil(wanted * 1.1 / GIB)}g`",
    )


def judge_memory(machine: Machine, data: int | None, trials: int) -> Diagnosis:
    """Return whether the data fits into memory: once in Ray, and as floats in every worker.

    Its bytes are None if they are unknown; so many trials run at a time, each in a worker.
    """
    if data is None or machine.memory is None:
        return ok("memory", "not compared with the data")
    needed = data * (2 + 4 * trials)
    message = (
        f"{format_bytes(machine.memory)} free, {format_bytes(needed)} needed for the data in "
        f"{trials} workers"
    )
    if needed <= machine.memory:
        return ok("memory", message)
    return amiss("memory", message, "run fewer trials at a time: raise --cpus-per-stack")


def judge_rays_disk(directory: Path, total: int, used: int, free: int) -> Diagnosis:
    """Return whether the disk has room for Ray's temporary files."""
    share = used / total
    if share < FULL:
        return ok("Ray's disk", f"{format_bytes(free)} free for Ray's files in {directory}")
    return amiss(
        "Ray's disk",
        f"the disk of {directory} is {share:.0%} full; Ray stops writing at {FULL:.0%}",
        "make room there, or set RAY_TMPDIR to a directory of another disk",
    )


def judge_study_disk(directory: Path, free: int, configurations: int) -> Diagnosis:
    """Return whether the disk has room for the results of so many configurations."""
    needed = configurations * CONFIGURATION_BYTES
    message = f"{format_bytes(free)} free for {directory}, which needs about {format_bytes(needed)}"
    if free >= needed:
        return ok("study's disk", message)
    return amiss(
        "study's disk", message, "make room there, or give --out a directory of another disk"
    )


def judge_gpus(machine: Machine, counted: float | None) -> Diagnosis:
    """Return whether NVIDIA's driver, Ray and torch agree on the number of GPUs.

    None are counted by a Ray that does not run yet; it will count those of the driver.
    """
    ray = machine.gpus if counted is None else counted
    torch = machine.torch_gpus or 0
    if not ray and not machine.gpus:
        return ok("GPUs", "none")
    if torch < ray:
        return amiss(
            "GPUs",
            f"Ray counts {ray:g}, torch {machine.versions['torch']} can use {torch}",
            "install a build of torch for this machine's GPUs and driver: "
            "https://pytorch.org/get-started/locally",
            "problem" if torch == 0 else "warning",
        )
    if ray < machine.gpus:
        return amiss(
            "GPUs",
            f"Ray counts only {ray:g} of {machine.gpus}",
            f"start Ray with --num-gpus={machine.gpus} if trials may use them all",
        )
    return ok("GPUs", f"{ray:g}; trials use them with --gpus-per-stack")


def judge_object_store(capacity: float, data: int | None) -> Diagnosis:
    """Return whether a node's object store can hold its copy of the data."""
    if data is None or data <= capacity:
        return ok("object store", format_bytes(capacity))
    return amiss(
        "object store",
        f"{format_bytes(capacity)} for about {format_bytes(data)} of data: Ray would keep part of "
        "it on disk",
        f"start the node with --object-store-memory={math.ceil(1.2 * data)} or more",
    )


def judge_sharing(directory: str, blind: Sequence[str]) -> Diagnosis:
    """Return whether every node sees what the driver writes; `blind` are those that do not."""
    if not blind:
        return ok("shared storage", f"all nodes see what is written to {directory}")
    message = f"{directory} is another directory on {', '.join(blind)}"
    return amiss("shared storage", message, SHARE_IT, "problem")


def judge_silence(address: str) -> Diagnosis:
    """Return the diagnosis of a node that did not answer."""
    return amiss(
        f"node {address}",
        "does not answer",
        "read its log in the dashboard, and check that it can start workers",
        "problem",
    )


def find_of_node(address: str, has: str, judged: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Return what is wrong with a node, or one line about what it has if nothing is."""
    name = f"node {address}"
    wrong = [one for one in judged if one.level != "ok"]
    return [replace(one, name=name, message=f"{one.name}: {one.message}") for one in wrong] or [
        ok(name, has)
    ]


def judge_connection(reason: str) -> Diagnosis:
    """Return the diagnosis of a cluster or dashboard that cannot be reached."""
    return amiss(
        "cluster",
        reason.strip().splitlines()[0],
        "check that the head runs and that the address is right; for a head with a token, set "
        "RAY_AUTH_MODE=token here too; Python and Ray must have the head's versions",
        "problem",
    )


def judge_data(data: str, *, readable: bool) -> Diagnosis:
    """Return whether this machine, where the driver runs, can read the data."""
    if data in PACKAGED or "://" in data:
        return ok("data", f"{data}, read when a study starts")
    if readable:
        return ok("data", f"{data} can be read")
    return amiss(
        "data",
        f"{data} cannot be read here",
        "name a file that the driver can read; the driver of a job runs on the head node",
        "problem",
    )


def judge_storage(directory: str, reason: str | None) -> Diagnosis:
    """Return whether the study directory is writable; `reason` says why it is not."""
    if reason is None:
        return ok("study directory", f"{directory} can be written to")
    return amiss(
        "study directory",
        f"{directory} cannot be written to: {reason}",
        "give --out a directory that you may write to, or a URI such as s3://bucket/study with "
        "credentials for it",
        "problem",
    )


def judge_upload(files: Mapping[str, int], limit: int, absent: str | None) -> Diagnosis:
    """Return whether the upload of a job is small and contains the data.

    Args:
        files: path -> bytes.
        limit: bytes from which on Ray refuses it.
        absent: a data file of this machine that would not be uploaded.
    """
    if absent is not None:
        return amiss(
            "upload",
            f"{absent} is git-ignored or outside this directory: a job would not have it",
            "for a job, name it by a path that the head node can read, or by s3://...",
        )
    total = sum(files.values())
    upload = f"{len(files)} files, {format_bytes(total)}"
    message = f"`ray job submit` from this directory uploads {upload}"
    if total < LARGE_UPLOAD and len(files) < MOST_UPLOADED_FILES:
        return ok("upload", message)
    largest = max(files, key=files.__getitem__)
    return amiss(
        "upload",
        f"{message}; the largest is {largest} ({format_bytes(files[largest])}); "
        f"Ray accepts at most {format_bytes(limit)}, packed",
        "list what a job does not need in .rayignore, or submit from the project",
        "problem" if total >= limit else "warning",
    )


def judge_token_file(token: Path, open_to_others: bool) -> Diagnosis:
    """Return whether only its owner may read a token; Ray writes it without special permissions."""
    if not open_to_others:
        return ok("token", f"{token}, readable by you alone")
    return amiss(
        "token",
        f"{token} and its folder are open to others, who can run code on the cluster with it",
        f"chmod 700 {token.parent} && chmod 600 {token}",
        "problem",
    )


def judge_auth_mode(mode: str | None, *, has_token: bool) -> Diagnosis:
    """Return whether this process would send a token to a cluster that asks for one."""
    if mode == "token" and not has_token:
        message = "RAY_AUTH_MODE=token, and there is no token"
        return amiss("authentication", message, HOW_TO_GET_ONE, "problem")
    if mode != "token" and has_token:
        return amiss(
            "authentication",
            f"RAY_AUTH_MODE is {mode or 'not set'}, so the cluster does not get your token",
            "export RAY_AUTH_MODE=token, unless the cluster asks for none",
        )
    return ok("authentication", "with a token" if mode == "token" else "without a token")


def judge_exposure(url: str, *, asks_for_token: bool) -> Diagnosis:
    """Return who can run code through a dashboard (CVE-2023-48022)."""
    only_here = is_loopback(url)
    if asks_for_token and (only_here or url.startswith("https://")):
        where = ", from this machine only" if only_here else ""
        return ok("dashboard", f"{url} admits only users with the token{where}")
    if asks_for_token:
        return amiss(
            "dashboard",
            f"{url} asks for a token, which travels in clear text",
            f"start the head with --dashboard-host=127.0.0.1 and {TUNNEL}",
        )
    if only_here:
        return amiss(
            "dashboard",
            f"{url} lets every user of this machine run code",
            "start the head with RAY_AUTH_MODE=token",
        )
    return amiss(
        "dashboard",
        f"{url} asks for no token: everybody who reaches it can run code (CVE-2023-48022)",
        f"start the head with RAY_AUTH_MODE=token and --dashboard-host=127.0.0.1, and {TUNNEL}",
        "problem",
    )


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is the machine itself."""
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def format_bytes(count: float) -> str:
    """Return `3.7 MiB` or `12.0 GiB`."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
