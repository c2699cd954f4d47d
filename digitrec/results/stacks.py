"""One immutable file per finished stack: what its trials measured, predicted and learned.

Letters: K trials of a stack, E epochs, N' validation images.

The format is safetensors, which holds arrays and text and cannot execute code when it is read:
`records` float64 (E, K, 7), one `EpochRecord` in the last axis; `predictions` uint8 (K, N'), the
labels predicted after the last epoch; and every trial's weights, `weights/<trial>/<parameter>`. A
stack that failed leaves a note instead.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from digitrec.errors import InputError
from digitrec.space import Configuration, EpochRecord, Stack

FORMAT = 1
SUFFIX = ".safetensors"
Parameters = dict[str, NDArray[np.float32]]  # parameter -> values


@dataclass(frozen=True, slots=True, kw_only=True)
class StackResult:
    """A finished stack."""

    stack: Stack
    epochs: list[list[EpochRecord]]  # [epoch][member]
    predictions: NDArray[np.uint8]  # (K, N'), after the last epoch


def write_stack(directory: Path, result: StackResult, weights: Mapping[str, Parameters]) -> None:
    """Write a finished stack to `directory`, whole or not at all.

    Args:
        directory: of the study's stacks.
        result: what the trials measured and predicted.
        weights: trial -> parameters.
    """
    tensors: dict[str, NDArray[Any]] = {
        "records": np.array(result.epochs, np.float64),
        "predictions": result.predictions,
    }
    for trial, parameters in weights.items():
        for name, values in parameters.items():
            tensors[f"weights/{trial}/{name}"] = np.ascontiguousarray(values)
    about = {"format": FORMAT, "members": [asdict(member) for member in result.stack.members]}
    write_atomically(
        directory / f"{result.stack.key}{SUFFIX}",
        save(tensors, metadata={"digitrec_stack": json.dumps(about)}),
    )


def read_stack(path: Path) -> StackResult:
    """Return what `write_stack` wrote, but for the weights (see `read_weights`).

    Raises:
        InputError: another version of digitrec wrote the file.
    """
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["digitrec_stack"])
        if about["format"] != FORMAT:
            raise InputError(f"{path}: format {about['format']}; this digitrec reads {FORMAT}")
        records = file.get_tensor("records")
        predictions = file.get_tensor("predictions")
    return StackResult(
        stack=Stack(tuple(Configuration(**member) for member in about["members"])),
        epochs=[[_record(values) for values in epoch] for epoch in records.tolist()],
        predictions=predictions,
    )


def read_stacks(directory: Path) -> list[StackResult]:
    """Return all finished stacks in a directory, in the order of their file names."""
    return [read_stack(path) for path in sorted(directory.glob(f"*{SUFFIX}"))]


def read_weights(directory: Path, trial: str) -> Parameters:
    """Return the parameters of a trial from the file that keeps them.

    Raises:
        FileNotFoundError: no file keeps the weights of this trial.
    """
    prefix = f"weights/{trial}/"
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            if names:
                return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    raise FileNotFoundError(f"{directory}: no file keeps the weights of {trial}")


def write_failure(directory: Path, stack_key: str, trials: Sequence[str], error: str) -> None:
    """Record that a stack failed, so that its trials keep their rows."""
    text = json.dumps({"trials": list(trials), "error": error}, indent=2) + "\n"
    write_atomically(directory / f"{stack_key}.failed.json", text.encode())


def read_failures(directory: Path) -> dict[str, str]:
    """Return trial -> error for the trials whose stack failed when it was last tried."""
    failures: dict[str, str] = {}
    for path in sorted(directory.glob("*.failed.json")):
        failure = json.loads(path.read_text(encoding="utf-8"))
        failures |= dict.fromkeys(failure["trials"], failure["error"])
    return failures


def clear_failures(directory: Path) -> None:
    """Forget earlier failures, because their stacks are about to be tried again."""
    for path in directory.glob("*.failed.json"):
        path.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, force it to the disk, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _record(values: list[float]) -> EpochRecord:
    epoch, updates, *metrics = values
    return EpochRecord(int(epoch), int(updates), *metrics)
