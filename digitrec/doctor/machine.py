"""The facts about a machine and what its processes may use; checks.py judges them.

Standard library only: this code is also sent to nodes of a cluster that lack this package.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("digitrec", "ray", "torch")
SHARED_MEMORY = Path("/dev/shm")
GPUS = Path("/proc/driver/nvidia/gpus")  # a directory per GPU, made by NVIDIA's driver
TORCH_SECONDS = 120.0  # the first import of a CUDA build is slow
VARIABLES = (  # that a study's speed depends on
    "GOMP_CPU_AFFINITY",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "RAY_USE_MULTIPROCESSING_CPU_COUNT",
)

# The limits of a container, in the files that Ray reads too: cgroups v2, then v1.
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CPU_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a process finds out about its machine."""

    name: str
    python: str
    versions: dict[str, str | None]  # package -> version; None: not installed
    cores: int
    quota: float | None  # CPUs that the container may use at a time; None: no limit
    affinity: int  # cores that this process may run on
    variables: dict[str, str]  # the VARIABLES that are set
    memory: int | None  # free bytes, within the container's limit; None: unknown
    shared_memory: int | None  # free bytes in /dev/shm; None: no such folder
    gpus: int  # known to NVIDIA's driver
    torch_gpus: int | None  # usable by torch; None: unknown


def inspect_machine(*, ask_torch: bool = False) -> Machine:
    """Return the facts about the machine of this process.

    Args:
        ask_torch: import torch, which takes seconds, and ask how many GPUs it can use.
    """
    cores = os.cpu_count() or 1
    return Machine(
        name=platform.node(),
        python=platform.python_version(),
        versions={name: installed_version(name) for name in PACKAGES},
        cores=cores,
        quota=cpu_quota(),
        affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        memory=free_memory(),
        shared_memory=shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None,
        gpus=len(list(GPUS.iterdir())) if GPUS.is_dir() else 0,
        torch_gpus=count_torch_gpus() if ask_torch else None,
    )


def installed_version(package: str) -> str | None:
    """Return a package's version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_quota() -> float | None:
    """Return how many CPUs a container may use at a time; None: all."""
    if _CPU_MAX.is_file():
        quota, period = _CPU_MAX.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    if _CPU_QUOTA.is_file():
        microseconds = int(_CPU_QUOTA.read_text())
        return None if microseconds <= 0 else microseconds / int(_CPU_PERIOD.read_text())
    return None


def free_memory() -> int | None:
    """Return how many bytes programs can allocate without swapping; None: unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not on Linux
        return None
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    limits = [path.read_text().strip() for path in _MEMORY_LIMITS if path.is_file()]
    return min([int(kibibytes) * 1024, *(int(limit) for limit in limits if limit != "max")])


def count_torch_gpus() -> int | None:
    """Return how many GPUs of the machine torch can use; None: unknown.

    A new process asks torch: Ray hides the GPUs from a task that was assigned none.
    """
    shown = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", "import torch; print(torch.cuda.device_count())"],
            env=shown,
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return int(asked.stdout)
