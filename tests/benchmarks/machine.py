"""The machine that the benchmarks ran on, and the peak memory of a process tree."""

import datetime
import importlib.metadata
import os
import platform
import re
import threading
from pathlib import Path
from types import TracebackType

import torch

SAMPLE_SECONDS = 0.2
PACKAGES = ("digitrec", "ray", "torch", "numpy")


def describe_machine() -> dict[str, str]:
    """Return processor, memory, versions and date; nothing that names the host."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {
        "processor": f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
        **_libraries(torch.__config__.show()),
        "date": f"{datetime.date.today()}",
    }


def describe_gpu() -> dict[str, str]:
    """Return the first GPU, its memory, CUDA's version and the precision of float32 products."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "GPU": properties.name,
        "GPU memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "CUDA": str(torch.version.cuda),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def _cpu_model() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.processor()


def _libraries(build: str) -> dict[str, str]:
    """Return the versions of the matrix libraries that PyTorch's build names."""
    patterns = {"oneDNN": r"MKL-DNN v([\d.]+)", "MKL": r"Math Kernel Library Version ([\d.]+)"}
    found = {name: re.search(pattern, build) for name, pattern in patterns.items()}
    return {name: match[1] for name, match in found.items() if match}


class PeakMemory:
    """Samples the memory of all this process's descendants in a thread, while entered.

    Proportional set sizes are summed: memory that processes share is counted once. Reading them
    costs the sampled processes time, so timed runs are not sampled.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            total = sum(proportional_bytes(pid) for pid in descendants(os.getpid()))
            self.bytes = max(self.bytes, total)


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended since
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for known in found:  # grows as it goes
        found += children.get(known, [])
    return found[1:]


def proportional_bytes(pid: int) -> int:
    """Return a process's proportional set size; 0 if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
