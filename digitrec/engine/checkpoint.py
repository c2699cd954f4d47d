"""Checkpoints: the state of a stack in training, kept if its training takes long enough.

Letters: K trials of a stack, E finished epochs, I inputs and O outputs of a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from digitrec.engine.step import state_kinds
from digitrec.engine.train import Totals, Training
from digitrec.errors import DamagedError
from digitrec.space.hyperparameters import Trial
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack
from digitrec.store.arrays import SUFFIX, Arrays, pack
from digitrec.store.folder import Folder
from digitrec.store.stacks import (
    Parameters,
    StackResult,
    as_array,
    as_records,
    read_arrays,
    read_stack,
    read_weights,
)

Value = TypeVar("Value")

INTERVAL = 30.0  # seconds of training between checkpoints; a crash loses little more than this


def write_checkpoint(directory: Folder, spec: str, key: str, training: Training) -> None:
    """Write a checkpoint of a stack in training, in place of an earlier one.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: names the file of the result, and of this checkpoint.
        training: paused where `train` yields.
    """
    model, totals = training.model, training.totals
    arrays: Arrays = {
        "records": as_array(training.history).reshape(-1, len(model), len(EpochRecord._fields)),
        "loss": totals.loss.cpu().numpy(),
        "correct": totals.correct.cpu().numpy(),
    }
    arrays |= {name: values.cpu().numpy() for name, values in _state(training).items()}
    progress = {"images": totals.images, "seconds": training.seconds}
    about = {"question": spec, "stack": key} | progress
    (directory / "checkpoints").write(key + SUFFIX, pack("checkpoint", about, arrays))


def read_checkpoint(directory: Folder, spec: str, key: str, training: Training) -> Training:
    """Return the state of a stack from its last checkpoint.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: names the file of the result, and of the checkpoint.
        training: at its beginning; its tensors get the saved values.

    Raises:
        DamagedError: the checkpoint is missing or damaged.
    """
    about, arrays = read_arrays(directory, "checkpoint", spec, key + SUFFIX)
    totals = Totals(training.model)
    state = {"loss": totals.loss, "correct": totals.correct} | _state(training)
    try:
        if about["stack"] != key:
            raise ValueError(f"it belongs to {about['stack']}")
        history = as_records(arrays.pop("records"))
        totals.images, seconds = int(about["images"]), float(about["seconds"])
        _fill(state, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"it does not fit its stack: {error}") from error
    return replace(training, history=history, totals=totals, seconds=seconds)


def remove_checkpoint(directory: Folder, key: str) -> None:
    """Remove the checkpoint of a finished stack if it exists."""
    (directory / "checkpoints").remove(key + SUFFIX)


def read_finished(
    directory: Folder, spec: str, keys: Sequence[str], stack: Stack, training: Training
) -> Training:
    """Return the state in which other stacks, with fewer epochs, left the members of a stack.

    Members with a cooldown continue from where they ended without it.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        keys: for each member, that of the finished stack to continue from.
        stack: the members that continue.
        training: at its beginning; its tensors get the saved values.

    Raises:
        DamagedError: a file of a finished stack is missing or damaged.
    """
    earlier = [member.before_cooldown for member in stack.members]
    parameters: dict[Trial, Parameters] = {}
    histories: dict[Trial, list[EpochRecord]] = {}
    for key in dict.fromkeys(keys):
        result: StackResult = read_stack(directory, spec, key + SUFFIX)
        wanted = [each for each, own in zip(earlier, keys, strict=True) if own == key]
        saved = read_weights(directory, spec, key, [trial.name for trial in wanted])
        parameters |= dict(zip(wanted, saved, strict=True))
        for k, trial in enumerate(result.stack.members):
            histories[trial] = [records[k] for records in result.epochs]
    try:
        history = list(zip(*(histories[trial] for trial in earlier), strict=True))
        members = [_member(training, stack, k) for k in range(len(stack.members))]
        _fill(_by_member(members), _by_member([parameters[trial] for trial in earlier]))
    except (KeyError, ValueError) as error:
        raise DamagedError(f"{', '.join(keys)} do not fit their stack: {error}") from error
    return replace(training, history=[list(records) for records in history])


def state_of(stack: Stack, training: Training) -> dict[str, Parameters]:
    """Return what every trial needs to go on with more epochs, as numpy arrays.

    Those are its parameters, and behind `velocity.` and the like what its optimizer keeps of each.
    """
    return {
        trial.name: {
            name: values.cpu().numpy() for name, values in _member(training, stack, k).items()
        }
        for k, trial in enumerate(stack.members)
    }


def _member(training: Training, stack: Stack, k: int) -> dict[str, Tensor]:
    """Return the state of trial k, without what its own optimizer has no use for."""
    named = training.model.member(k)
    for kind in state_kinds(Stack((stack.members[k],))):
        own = training.state[kind].member(k)
        named |= {f"{kind}.{name}": values for name, values in own.items()}
    return named


def _state(training: Training) -> dict[str, Tensor]:
    """Return the tensors of a stack in training, the totals left out."""
    named: dict[str, Tensor] = {}
    for kind, part in {"": training.model, **training.state}.items():
        prefix = f"{kind}." if kind else ""
        for layer, (weight, bias) in enumerate(zip(part.weights, part.biases, strict=True)):
            named |= {f"{prefix}weight{layer}": weight, f"{prefix}bias{layer}": bias}
    return named


def _by_member(members: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Return the parameters of all members in one mapping, `member/parameter` -> value."""
    return {
        f"{k}/{name}": value for k, named in enumerate(members) for name, value in named.items()
    }


def _fill(tensors: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy each array into the tensor of the same name: all of them, or none.

    Raises:
        ValueError: names or shapes differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {name: values.shape for name, values in arrays.items()}:
        raise ValueError("its arrays have other names or shapes")
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(arrays[name]))
