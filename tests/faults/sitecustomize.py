"""Faults at the file layer, for tests/soak.py; Python imports this module by its name at startup.

DIGITREC_FAULTS is a directory. Each `armed-*.json` in it is a fault, which fires once, in the first
process that reaches it, and is renamed to `fired-*.json`:

    file     regular expression that the path of the write must match
    phase    before the write, within it (half of the bytes are in the temporary file), or after it
    chance   probability that a matching write triggers the fault
    action   KILL, or the name of an error such as ENOSPC

Training writes checkpoints far more often than usual, and each epoch of a trial adds a line to
`epochs`.
"""

import errno
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS = Path(os.environ["DIGITREC_FAULTS"]) if "DIGITREC_FAULTS" in os.environ else None
CHECKPOINT_SECONDS = 0.2


def claim(path: str, phase: str) -> str | None:
    """Return the action of an armed fault if it is this one's turn; nobody else gets it."""
    assert FAULTS is not None
    for armed in FAULTS.glob("armed-*.json"):
        try:
            fault = json.loads(armed.read_text())
            fits = fault["phase"] == phase and re.search(fault["file"], path)
            if fits and random.random() < fault["chance"]:
                armed.rename(armed.with_name(armed.name.replace("armed", "fired")))
                return str(fault["action"])
        except (FileNotFoundError, ValueError):  # taken by another, or being written
            continue
    return None


def act(action: str) -> None:
    """Die, or raise."""
    if action == "KILL":
        os.kill(os.getpid(), signal.SIGKILL)
    number = getattr(errno, action)
    raise OSError(number, os.strerror(number))


def faulty_write(write: Callable[..., None]) -> Callable[..., None]:
    """Return a storage's `write` with the armed fault in it."""

    def faulty(self: Any, name: str, content: bytes) -> None:
        path = f"{self}/{name}"
        if action := claim(path, "before"):
            act(action)
        if action := claim(path, "within"):
            with_fault_at_fsync(write, action, self, name, content[: len(content) // 2])
        write(self, name, content)
        if action := claim(path, "after"):
            act(action)

    return faulty


def with_fault_at_fsync(write: Callable[..., None], action: str, *arguments: Any) -> None:
    """Write to the point where the bytes are in the temporary file."""
    fsync = os.fsync
    os.fsync = lambda _: act(action)  # type: ignore[assignment]
    try:
        write(*arguments)
    finally:
        os.fsync = fsync


def counted(record: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that makes a trial's record of an epoch; it counts them too."""

    def counting(*arguments: Any) -> Any:
        assert FAULTS is not None
        with (FAULTS / "epochs").open("a") as log:
            log.write("1\n")
        return record(*arguments)

    return counting


def change(module: ModuleType) -> None:
    """Put the faults into a module of digitrec's that was just imported."""
    values: Any = module
    if module.__name__ == "digitrec.store.folder":
        storage = values.LocalFolder
        storage.write = faulty_write(storage.write)
    elif module.__name__ == "digitrec.engine.checkpoint":
        values.INTERVAL = CHECKPOINT_SECONDS
    elif module.__name__ == "digitrec.engine.train":
        values.SUMS_BETWEEN_PAUSES = 1
        values._record = counted(values._record)


class Finder(importlib.abc.MetaPathFinder):
    """Changes digitrec's modules as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the usual specification, whose loader changes the module."""
        if not fullname.startswith("digitrec."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


if FAULTS is not None:
    sys.meta_path.insert(0, Finder())
