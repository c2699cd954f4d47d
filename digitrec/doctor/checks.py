"""From the facts of a machine, a study and a cluster to what is amiss with them, and what to do."""

import math
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from digitrec.doctor.machine import Machine

Level = Literal["ok", "warning", "problem"]

MIB = 2**20
GIB = 2**30
LOCKED = "install the versions of cluster/requirements.lock"
TUNNEL = "reach it through `ssh -L 8265:127.0.0.1:8265 HEAD`"
LARGE_UPLOAD = 100 * MIB
MOST_UPLOADED_FILES = 50_000  # after which an upload is too large, whatever its files are
CONFIGURATION_BYTES = MIB  # in the study directory, most of it weights
FULL = 0.95  # of a disk, from which on Ray writes no more to it
OBJECT_STORE_SHARE = 0.3  # of the memory, which Ray takes unless told otherwise
MOST_SHARED_MEMORY = 10 * 10**9  # bytes; with so much, Ray makes do
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a check found."""

    name: str  # of what was checked
    level: Level
    message: str
    remedy: str = ""  # what to do; empty if all is well


def judge_versions(machine: Machine, floors: Mapping[str, str]) -> Diagnosis:
    """Return whether the packages are there and new enough."""
    wrong = [
        f"{name} is not installed"
        if installed is None
        else f"{name} {installed} is older than {floor}"
        for name, floor in floors.items()
        if (installed := machine.versions[name]) is None or _parts(installed) < _parts(floor)
    ]
    if wrong:
        return Diagnosis(name="versions", level="problem", message="; ".join(wrong), remedy=LOCKED)
    return Diagnosis(name="versions", level="ok", message=describe_versions(machine))


def compare_versions(there: Machine, here: Machine) -> Diagnosis:
    """Return whether a node has the driver's versions."""
    versions = {"Python": (there.python, here.python)} | {
        name: (there.versions[name], here.versions[name]) for name in here.versions
    }
    differing = [
        f"{name} {its or 'is not installed'}" + (f", {ours} here" if its else "")
        for name, (its, ours) in versions.items()
        if its != ours
    ]
    if not differing:
        return Diagnosis(name="versions", level="ok", message=describe_versions(there))
    only_ours = there.versions["digitrec"] is None and len(differing) == 1
    return Diagnosis(
        name="versions",
        level="warning" if only_ours else "problem",
        message="; ".join(differing),
        remedy="submit studies as jobs, which bring this package along, or install it there"
        if only_ours
        else f"{LOCKED} on every node",
    )


def describe_versions(machine: Machine) -> str:
    """Return `Python 3.11.7, digitrec 0.1.0, ...`."""
    there = {name: version for name, version in machine.versions.items() if version}
    return ", ".join(f"{name} {v}" for name, v in {"Python": machine.python, **there}.items())


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def judge_cores(machine: Machine, cpus_per_stack: float, gpus_per_stack: float) -> Diagnosis:
    """Return whether the cores that Ray counts are those that trials get."""
    ignores_quota = "RAY_USE_MULTIPROCESSING_CPU_COUNT" in machine.variables
    quota = math.inf if machine.quota is None else machine.quota
    counted = machine.cores if ignores_quota else min(machine.cores, quota)
    usable = min(machine.affinity, machine.cores, quota)
    message, remedy = "", ""
    if counted < 1:
        message = f"the container may use {quota:g} CPUs, of which Ray counts none"
        remedy = "give the container at least one CPU"
    elif math.floor(counted) > usable:
        message = f"Ray counts {math.floor(counted)} CPUs, of which trials can use {usable:g}"
        remedy = (
            "start Ray with as many as can be used, `ray start --head "
            f"--num-cpus={max(1, math.floor(usable))}`, and give --address auto"
        )
    elif cpus_per_stack < 1 and not gpus_per_stack:
        message = f"{1 / cpus_per_stack:g} trials share a core, each with a thread of its own"
        remedy = "leave --cpus-per-stack at 1: on a CPU, sharing gains nothing"
    if message:
        level: Level = "problem" if counted < 1 else "warning"
        return Diagnosis(name="cores", level=level, message=message, remedy=remedy)
    threads = machine.variables.get("OMP_NUM_THREADS")
    unused = f"; OMP_NUM_THREADS={threads} does not count" if threads else ""
    return Diagnosis(
        name="cores",
        level="ok",
        message=f"{math.floor(usable)} of {machine.cores}; a trial has as many threads as CPUs"
        + unused,
    )


def judge_node_cores(machine: Machine, counted: float) -> Diagnosis:
    """Return whether a node was started with no more CPUs than it can use."""
    quota = math.inf if machine.quota is None else machine.quota
    usable = min(machine.cores, quota, machine.affinity)
    if counted <= max(1, usable):
        return Diagnosis(name="cores", level="ok", message=f"{counted:g} of {machine.cores}")
    return Diagnosis(
        name="cores",
        level="warning",
        message=f"Ray counts {counted:g} CPUs, of which trials can use {usable:g}",
        remedy=f"start the node with --num-cpus={max(1, math.floor(usable))}",
    )


def judge_pinning(machine: Machine) -> Diagnosis:
    """Return whether OpenMP would put the first thread of every trial on the same core."""
    pinning = {
        name: machine.variables[name]
        for name in PINNING
        if machine.variables.get(name, "false").lower() != "false"
    }
    if not pinning:
        return Diagnosis(name="threads", level="ok", message="not pinned to cores")
    return Diagnosis(
        name="threads",
        level="warning",
        message=f"{' and '.join(f'{n}={v}' for n, v in pinning.items())}: OpenMP puts the first "
        "thread of every trial on the same core",
        remedy=f"unset {' '.join(pinning)}",
    )


def judge_shared_memory(machine: Machine) -> Diagnosis:
    """Return whether /dev/shm holds the object store that Ray makes, else Ray puts it on disk.

    Source: `determine_plasma_store_config` in ray/_private/services.py.
    """
    free, memory = machine.shared_memory, machine.memory
    if free is None or memory is None:
        return Diagnosis(name="shared memory", level="ok", message="not a matter on this system")
    wanted = min(OBJECT_STORE_SHARE * memory, MOST_SHARED_MEMORY)
    if free >= wanted:
        return Diagnosis(
            name="shared memory", level="ok", message=f"{format_bytes(free)} free in /dev/shm"
        )
    return Diagnosis(
        name="shared memory",
        level="warning",
        message=f"/dev/shm has {format_bytes(free)} free, Ray's object store takes "
        f"{format_bytes(wanted)}: Ray keeps it on disk, which is slow",
        remedy=f"in a container: `docker run --shm-size={math.ceil(wanted * 1.1 / GIB)}g`",
    )


def judge_memory(machine: Machine, data: int | None, trials: int) -> Diagnosis:
    """Return whether the data fits into memory: once in Ray, and as floats in every worker.

    Args:
        machine: whose memory it is.
        data: bytes of the images; None: not known.
        trials: how many run at a time, each in a worker.
    """
    if data is None or machine.memory is None:
        return Diagnosis(name="memory", level="ok", message="not compared with the data")
    needed = data * (2 + 4 * trials)
    message = (
        f"{format_bytes(machine.memory)} free, {format_bytes(needed)} needed for the data in "
        f"{trials} workers"
    )
    if needed <= machine.memory:
        return Diagnosis(name="memory", level="ok", message=message)
    return Diagnosis(
        name="memory",
        level="warning",
        message=message,
        remedy="run fewer trials at a time: raise --cpus-per-stack",
    )


def judge_rays_disk(directory: Path, total: int, used: int, free: int) -> Diagnosis:
    """Return whether Ray would write to the disk of its temporary files."""
    share = used / total
    if share < FULL:
        return Diagnosis(
            name="Ray's disk",
            level="ok",
            message=f"{format_bytes(free)} free for the files of Ray in {directory}",
        )
    return Diagnosis(
        name="Ray's disk",
        level="warning",
        message=f"the disk of {directory} is {share:.0%} full; Ray writes no more at {FULL:.0%}",
        remedy="make room there, or set RAY_TMPDIR to a directory of another disk",
    )


def judge_study_disk(study: Path, free: int, configurations: int) -> Diagnosis:
    """Return whether the results of so many configurations fit."""
    needed = configurations * CONFIGURATION_BYTES
    message = f"{format_bytes(free)} free for {study}, which takes about {format_bytes(needed)}"
    if free >= needed:
        return Diagnosis(name="study's disk", level="ok", message=message)
    return Diagnosis(
        name="study's disk",
        level="warning",
        message=message,
        remedy="make room there, or give --out a directory of another disk",
    )


def judge_gpus(machine: Machine, counted: float | None) -> Diagnosis:
    """Return whether NVIDIA's driver, Ray and torch agree on a machine's GPUs.

    Args:
        machine: whose GPUs they are.
        counted: by Ray; None: Ray does not run yet, and counts those of the driver.
    """
    ray = machine.gpus if counted is None else counted
    torch = machine.torch_gpus or 0
    build = machine.versions["torch"]
    if not ray and not machine.gpus:
        return Diagnosis(name="GPUs", level="ok", message="none")
    if torch < ray:
        return Diagnosis(
            name="GPUs",
            level="problem" if torch == 0 else "warning",
            message=f"Ray counts {ray:g}, torch {build} can use {torch}",
            remedy="install a build of torch for this machine's GPUs and driver: "
            "https://pytorch.org/get-started/locally",
        )
    if ray < machine.gpus:
        return Diagnosis(
            name="GPUs",
            level="warning",
            message=f"there are {machine.gpus}, of which Ray counts {ray:g}",
            remedy=f"start Ray with --num-gpus={machine.gpus}, if trials may use them all",
        )
    return Diagnosis(
        name="GPUs", level="ok", message=f"{ray:g}; trials use them with --gpus-per-stack"
    )


def judge_object_store(capacity: float, data: int | None) -> Diagnosis:
    """Return whether a node's object store holds the data, of which it gets one copy."""
    if data is None or data <= capacity:
        return Diagnosis(name="object store", level="ok", message=format_bytes(capacity))
    return Diagnosis(
        name="object store",
        level="warning",
        message=f"{format_bytes(capacity)} for about {format_bytes(data)} of data, "
        "part of which Ray would keep on disk",
        remedy=f"start the node with --object-store-memory={math.ceil(1.2 * data)} or more",
    )


def judge_sharing(study: str, blind: Sequence[str]) -> Diagnosis:
    """Return whether every node sees what the driver writes; `blind` are those that do not."""
    if not blind:
        return Diagnosis(
            name="shared storage", level="ok", message=f"all nodes see what is written to {study}"
        )
    return Diagnosis(
        name="shared storage",
        level="problem",
        message=f"{study} is another directory on {', '.join(blind)}",
        remedy="give --out a directory that all nodes share, or a URI such as s3://bucket/study",
    )


def judge_silence(address: str) -> Diagnosis:
    """Return the diagnosis of a node that did not answer."""
    return Diagnosis(
        name=f"node {address}",
        level="problem",
        message="does not answer",
        remedy="see its log in the dashboard, and whether it can start workers",
    )


def find_of_node(address: str, has: str, judged: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Return what is amiss with a node, or else one line that says what it has."""
    amiss = [one for one in judged if one.level != "ok"]
    if not amiss:
        return [Diagnosis(name=f"node {address}", level="ok", message=has)]
    return [
        replace(one, name=f"node {address}", message=f"{one.name}: {one.message}") for one in amiss
    ]


def judge_connection(reason: str) -> Diagnosis:
    """Return the diagnosis of a cluster or dashboard that cannot be reached."""
    return Diagnosis(
        name="cluster",
        level="problem",
        message=reason.strip().splitlines()[0],
        remedy="see that the head runs and the address is right; a head with a token wants "
        "RAY_AUTH_MODE=token here too, and the versions of Python and Ray have to be its own",
    )


def judge_data(data: str, *, readable: bool) -> Diagnosis:
    """Return whether the data can be read here, where the driver runs."""
    if data in {"sample", "openml"} or "://" in data:
        return Diagnosis(name="data", level="ok", message=f"{data}, read when a study starts")
    if readable:
        return Diagnosis(name="data", level="ok", message=f"{data} can be read")
    return Diagnosis(
        name="data",
        level="problem",
        message=f"{data} cannot be read here",
        remedy="name a file that the driver can read; that of a job runs on the head node",
    )


def judge_storage(study: str, reason: str | None) -> Diagnosis:
    """Return whether the study directory can be written to; `reason` is why it cannot."""
    if reason is None:
        return Diagnosis(name="study directory", level="ok", message=f"{study} can be written to")
    return Diagnosis(
        name="study directory",
        level="problem",
        message=f"{study} cannot be written to: {reason}",
        remedy="give --out a directory that you may write to, or a URI such as s3://bucket/study "
        "and credentials for it",
    )


def judge_upload(files: Mapping[str, int], limit: int, absent: str | None) -> Diagnosis:
    """Return whether what a job would upload from here is small, and holds the data.

    Args:
        files: path -> bytes.
        limit: bytes from which on Ray refuses it.
        absent: a data file that is here and would not be uploaded.
    """
    if absent is not None:
        return Diagnosis(
            name="upload",
            level="warning",
            message=f"{absent} is git-ignored or outside this directory: a job would not have it",
            remedy="for a job, name it by a path that the head node can read, or by s3://...",
        )
    total = sum(files.values())
    much = f"a job from this directory uploads {len(files)} files, {format_bytes(total)}"
    if total < LARGE_UPLOAD and len(files) < MOST_UPLOADED_FILES:
        return Diagnosis(name="upload", level="ok", message=much)
    largest = max(files, key=files.__getitem__)
    return Diagnosis(
        name="upload",
        level="problem" if total >= limit else "warning",
        message=f"{much}, the largest of them {largest} ({format_bytes(files[largest])}); "
        f"Ray takes {format_bytes(limit)} at most, packed",
        remedy="list in .rayignore what a job does not need, or submit from the project",
    )


def judge_token_file(token: Path, others_read: bool) -> Diagnosis:
    """Return whether a user's token is safe; Ray itself writes it readable by all."""
    if others_read:
        return Diagnosis(
            name="token",
            level="problem",
            message=f"others on this machine can read {token}, and with it run code on the cluster",
            remedy=f"chmod 600 {token}",
        )
    return Diagnosis(name="token", level="ok", message=f"{token}, readable by you alone")


def judge_auth_mode(mode: str | None, *, has_token: bool) -> Diagnosis:
    """Return whether this process would show a token to a cluster that asks for one.

    Args:
        mode: RAY_AUTH_MODE.
        has_token: whether there is a token to show.
    """
    if mode == "token" and not has_token:
        return Diagnosis(
            name="authentication",
            level="problem",
            message="RAY_AUTH_MODE=token, and there is no token",
            remedy="`ray get-auth-token` on the head node prints it; put it into "
            "~/.ray/auth_token, readable by you alone",
        )
    if mode != "token" and has_token:
        return Diagnosis(
            name="authentication",
            level="warning",
            message=f"there is a token, but RAY_AUTH_MODE is {mode or 'not set'}: it is not shown "
            "to the cluster",
            remedy="export RAY_AUTH_MODE=token, unless the cluster asks for none",
        )
    with_token = "with a token" if mode == "token" else "without a token"
    return Diagnosis(name="authentication", level="ok", message=with_token)


def judge_exposure(url: str, *, asks_for_token: bool) -> Diagnosis:
    """Return who can run code through a dashboard (CVE-2023-48022)."""
    only_here = is_loopback(url)
    if asks_for_token and (only_here or url.startswith("https://")):
        where = ", from this machine only" if only_here else ""
        return Diagnosis(
            name="dashboard", level="ok", message=f"{url} lets in who has the token{where}"
        )
    if asks_for_token:
        return Diagnosis(
            name="dashboard",
            level="warning",
            message=f"{url} asks for a token, which travels in clear text",
            remedy=f"start the head with --dashboard-host=127.0.0.1 and {TUNNEL}",
        )
    if only_here:
        return Diagnosis(
            name="dashboard",
            level="warning",
            message=f"{url} lets every user of this machine run code",
            remedy="start the head with RAY_AUTH_MODE=token",
        )
    return Diagnosis(
        name="dashboard",
        level="problem",
        message=f"{url} asks for no token: whoever reaches it can run code (CVE-2023-48022)",
        remedy="start the head with RAY_AUTH_MODE=token and --dashboard-host=127.0.0.1, and "
        + TUNNEL,
    )


def is_loopback(url: str) -> bool:
    """Return whether a URL names the machine that it is read on."""
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def format_bytes(count: float) -> str:
    """Return `3.7 MiB` or `12.0 GiB`."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
