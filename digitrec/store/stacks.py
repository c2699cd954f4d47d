"""The files of a study's stacks: measurements, predictions and weights of their trials.

Letters: K trials of a stack, E epochs, N' validation images.

    stacks/<key>.safetensors        a finished stack; it never changes, and its presence means that
                                    the stack is finished:
                                    `records` float64 (E, K, 7), one `EpochRecord` in the last axis;
                                    `predictions` uint8 (K, N'), labels predicted after epoch E
    weights/<key>.safetensors       its weights, `<trial>/<parameter>`, and what its optimizer keeps
                                    of each, `<trial>/velocity.<parameter>` and the like; written
                                    before that file
    checkpoints/<key>.safetensors   the state of a stack in training, if training takes long
    stacks/<key>.failed.json        the error of a failed stack

Each array file carries the key of its study (data, split, model), so that a file of another study
is never used here.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digitrec.errors import DamagedError, visible
from digitrec.space.hyperparameters import Trial
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack
from digitrec.store.arrays import SUFFIX, Arrays, pack, unpack
from digitrec.store.folder import Folder

FAILED = ".failed.json"
MOST_OF_ERROR = 100_000  # characters of a traceback that are read
FOLDERS = {"stack": "stacks", "weights": "weights", "checkpoint": "checkpoints"}  # kind -> folder
Parameters = dict[str, NDArray[np.float32]]  # parameter -> values


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where and when a stack was trained."""

    node: str  # address of the node
    pid: int  # of the worker
    started: float  # Unix seconds
    ended: float  # Unix seconds
    node_id: str = ""  # Ray's; nodes that share a machine share its address


@dataclass(frozen=True, slots=True, kw_only=True)
class StackResult:
    """A finished stack."""

    stack: Stack
    epochs: list[list[EpochRecord]]  # [epoch][member]
    predictions: NDArray[np.uint8]  # (K, N'), after the last epoch
    run: Run

    @property
    def key(self) -> str:
        """The name of its files."""
        return result_key(self.stack, len(self.epochs))

    @property
    def epochs_before_cooldown(self) -> int:
        """The number of epochs without those of the cooldown."""
        return len(self.epochs) - self.stack.cooldown


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file."""

    folder: str  # within the study directory; empty: directly in it
    name: str
    reason: str

    def __str__(self) -> str:
        return visible(f"{self.folder}/{self.name}: {self.reason}".removeprefix("/"))


def result_key(stack: Stack, epochs: int) -> str:
    """Return the name of the files of a stack after this number of epochs in all."""
    return f"{stack.key}-{epochs}epochs"


def write_stack(
    directory: Folder, spec: str, result: StackResult, weights: Mapping[str, Parameters]
) -> None:
    """Write a finished stack: its weights first, since the other file marks it as finished.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        result: the measurements and predictions of its trials.
        weights: trial -> parameters.
    """
    arrays: Arrays = {
        f"{trial}/{name}": values
        for trial, parameters in weights.items()
        for name, values in parameters.items()
    }
    name = result.key + SUFFIX
    (directory / "weights").write(name, pack("weights", {"question": spec}, arrays))
    about = {
        "question": spec,
        "members": [member.values() for member in result.stack.members],
        "run": asdict(result.run),
    }
    arrays = {"records": as_array(result.epochs), "predictions": result.predictions}
    (directory / "stacks").write(name, pack("stack", about, arrays))


def read_stack(directory: Folder, spec: str, name: str) -> StackResult:
    """Return the result that `write_stack` wrote; `read_weights` returns the weights.

    Raises:
        DamagedError: the file is missing, damaged or of another study.
    """
    about, arrays = read_arrays(directory, "stack", spec, name)
    try:
        result = StackResult(
            stack=Stack(tuple(Trial.of(values) for values in about["members"])),
            epochs=as_records(arrays["records"]),
            predictions=arrays["predictions"],
            run=Run(**about["run"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"it holds no stack: {error}") from error
    if result.key + SUFFIX != name:
        raise DamagedError(f"it belongs to {result.key}")
    return result


def read_stacks(directory: Folder, spec: str) -> tuple[list[StackResult], list[Damage]]:
    """Return the finished stacks of a study in the order of their names, and the damaged files.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
    """
    results, damaged = [], []
    for name in (directory / "stacks").names(SUFFIX):
        try:
            results.append(read_stack(directory, spec, name))
        except DamagedError as error:
            damaged.append(Damage("stacks", name, str(error)))
    return results, damaged


def set_aside(directory: Folder, damage: Damage) -> bool:
    """Move a damaged file to `damaged/`, where nothing reads it.

    Returns:
        Whether the file still existed: a worker of a run that was just killed may have removed it.
    """
    folder = directory / damage.folder if damage.folder else directory
    name = f"{damage.folder}-{damage.name}".removeprefix("-")
    try:
        folder.move(damage.name, directory / "damaged", name)
    except FileNotFoundError:
        return False
    return True


def results_of(
    goals: Mapping[Trial, int], results: Iterable[StackResult]
) -> Iterator[tuple[Trial, StackResult, int]]:
    """Yield each trial trained for just the epochs it should be, its stack and its place there.

    Args:
        goals: trial -> epochs, without those of a cooldown.
        results: finished stacks.
    """
    seen: set[Trial] = set()
    for result in results:
        for k, member in enumerate(result.stack.members):
            if goals.get(member) == result.epochs_before_cooldown and member not in seen:
                seen.add(member)
                yield member, result, k


def last_accuracies(
    goals: Mapping[Trial, int], results: Iterable[StackResult]
) -> dict[Trial, float]:
    """Return the validation accuracy of each trial trained for just the epochs it should be.

    NaN: it diverged.
    """
    last = {trial: result.epochs[-1][k] for trial, result, k in results_of(goals, results)}
    return {
        trial: math.nan if record.diverged else record.val_accuracy
        for trial, record in last.items()
    }


def longest_of(
    goals: Mapping[Trial, int], results: Iterable[StackResult]
) -> dict[Trial, tuple[StackResult, int]]:
    """Return each trial that has a result of no more epochs than it should have, and the longest.

    Args:
        goals: trial -> epochs, without those of a cooldown.
        results: finished stacks.

    Returns:
        Trial -> its stack and its place there.
    """
    longest: dict[Trial, tuple[StackResult, int]] = {}
    for result in sorted(results, key=lambda result: -result.epochs_before_cooldown):
        for k, member in enumerate(result.stack.members):
            if result.epochs_before_cooldown <= goals.get(member, 0):
                longest.setdefault(member, (result, k))
    return longest


def longest_results(
    most_epochs: int, results: Iterable[StackResult]
) -> dict[Trial, tuple[int, str]]:
    """Return trial -> the most epochs it was trained for, these at most, and its stack's key."""
    longest: dict[Trial, tuple[int, str]] = {}
    for result in sorted(results, key=lambda result: result.epochs_before_cooldown):
        if result.epochs_before_cooldown <= most_epochs:
            found = (result.epochs_before_cooldown, result.key)
            for member in result.stack.members:
                if longest.get(member, (0, ""))[0] < found[0]:
                    longest[member] = found
    return longest


def with_weights(directory: Folder, results: Iterable[StackResult]) -> list[StackResult]:
    """Return the finished stacks whose weights are there, from which their trials can go on."""
    names = set((directory / FOLDERS["weights"]).names(SUFFIX))
    return [result for result in results if result.key + SUFFIX in names]


def remove_weights(directory: Folder, results: Iterable[StackResult]) -> None:
    """Remove the weights of finished stacks, whose measurements and predictions stay."""
    for result in with_weights(directory, results):
        (directory / FOLDERS["weights"]).remove(result.key + SUFFIX)


def read_weights(directory: Folder, spec: str, key: str, trials: Sequence[str]) -> list[Parameters]:
    """Return the parameters of some trials of a finished stack.

    Raises:
        DamagedError: the file of the weights is missing or damaged.
    """
    _, arrays = read_arrays(directory, "weights", spec, key + SUFFIX)
    found: list[Parameters] = []
    for trial in trials:
        prefix = f"{trial}/"
        mine = {name for name in arrays if name.startswith(prefix)}
        if not mine:
            raise DamagedError(f"it holds no weights of {trial}")
        found.append({name.removeprefix(prefix): arrays[name] for name in sorted(mine)})
    return found


def read_arrays(
    directory: Folder, kind: str, spec: str, name: str
) -> tuple[dict[str, Any], Arrays]:
    """Return `about` and the arrays of one of a study's files.

    Args:
        directory: the study directory.
        kind: stack, weights or checkpoint, which also names the folder.
        spec: the key of the study's spec.
        name: of the file.

    Raises:
        DamagedError: it is damaged, missing, or of another study.
    """
    try:
        about, arrays = unpack(kind, (directory / FOLDERS[kind]).read(name))
    except FileNotFoundError as error:
        raise DamagedError("there is no such file") from error
    if about.get("question") != spec:
        raise DamagedError("it belongs to a study of other data, split or model")
    return about, arrays


def write_failure(directory: Folder, stack_key: str, trials: Sequence[str], error: str) -> None:
    """Record that a stack failed, so that its trials keep their rows."""
    text = json.dumps({"trials": list(trials), "error": error}, indent=2) + "\n"
    (directory / "stacks").write(f"{stack_key}{FAILED}", text.encode())


def read_failures(directory: Folder) -> dict[str, str]:
    """Return trial -> error for the trials whose stack failed when it was last tried."""
    failures: dict[str, str] = {}
    for name in (directory / "stacks").names(FAILED):
        failures |= _read_failure(directory, name)
    return failures


def clear_failures(directory: Folder, trials: Set[str]) -> None:
    """Forget the failures of these trials, because they are about to be tried again."""
    folder = directory / "stacks"
    for name in folder.names(FAILED):
        failed = _read_failure(directory, name)
        left = [trial for trial in failed if trial not in trials]
        if not left:
            folder.remove(name)
        elif len(left) < len(failed):
            write_failure(directory, name.removesuffix(FAILED), left, failed[left[0]])


def _read_failure(directory: Folder, name: str) -> dict[str, str]:
    """Return trial -> error of one file; empty if the file is damaged or was removed."""
    try:
        failure = (directory / "stacks").read_json(name)
    except (FileNotFoundError, DamagedError):
        return {}
    try:
        return dict.fromkeys(failure["trials"], str(failure["error"])[:MOST_OF_ERROR])
    except (KeyError, TypeError):
        return {}


def as_array(epochs: Sequence[Sequence[EpochRecord]]) -> NDArray[np.float64]:
    """Return records [epoch][member] as an array (E, K, 7)."""
    return np.array(epochs, np.float64)


def as_records(array: NDArray[np.float64]) -> list[list[EpochRecord]]:
    """Return an array (E, K, 7) as records [epoch][member].

    Raises:
        ValueError: the array has another shape.
    """
    if array.ndim != 3 or array.shape[2] != len(EpochRecord._fields):
        raise ValueError(f"records of shape {array.shape}")
    return [[_record(values) for values in epoch] for epoch in array.tolist()]


def _record(values: list[float]) -> EpochRecord:
    epoch, updates, *metrics = values
    return EpochRecord(int(epoch), int(updates), *metrics)
