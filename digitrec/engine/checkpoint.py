"""Checkpoints: the state of a stack in training, kept if its training takes long enough.

Letters: K trials of a stack, E finished epochs, I inputs and O outputs of a layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from digitrec.engine.model import StackedMLP
from digitrec.engine.train import Totals, Training
from digitrec.errors import DamagedError
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
    for layer, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        arrays[f"weight{layer}"] = weight.cpu().numpy()
        arrays[f"bias{layer}"] = bias.cpu().numpy()
    progress = {"images": totals.images, "seconds": training.seconds}
    about = {"question": spec, "stack": key} | progress
    (directory / "checkpoints").write(key + SUFFIX, pack("checkpoint", about, arrays))


def read_checkpoint(directory: Folder, spec: str, key: str, model: StackedMLP) -> Training:
    """Return the state of a stack from its last checkpoint.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: names the file of the result, and of the checkpoint.
        model: gets the weights.

    Raises:
        DamagedError: the checkpoint is missing or damaged.
    """
    about, arrays = read_arrays(directory, "checkpoint", spec, key + SUFFIX)
    totals = Totals(model)
    state = {"loss": totals.loss, "correct": totals.correct}
    for layer, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        state |= {f"weight{layer}": weight, f"bias{layer}": bias}
    try:
        if about["stack"] != key:
            raise ValueError(f"it belongs to {about['stack']}")
        history = as_records(arrays.pop("records"))
        totals.images, seconds = int(about["images"]), float(about["seconds"])
        _fill(state, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"it does not fit its stack: {error}") from error
    return Training(model=model, history=history, totals=totals, seconds=seconds)


def remove_checkpoint(directory: Folder, key: str) -> None:
    """Remove the checkpoint of a finished stack if it exists."""
    (directory / "checkpoints").remove(key + SUFFIX)


def read_finished(
    directory: Folder, spec: str, key: str, stack: Stack, model: StackedMLP
) -> Training:
    """Return the state in which a stack finished with fewer epochs left some of its members.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: of the finished stack.
        stack: those of its members that continue.
        model: gets their weights.

    Raises:
        DamagedError: a file of the finished stack is missing or damaged.
    """
    result: StackResult = read_stack(directory, spec, key + SUFFIX)
    parameters = read_weights(directory, spec, key, [member.name for member in stack.members])
    try:
        places = [result.stack.members.index(member) for member in stack.members]
        members = [model.member(k) for k in range(len(model))]
        _fill(_by_member(members), _by_member(parameters))
    except (KeyError, ValueError) as error:
        raise DamagedError(f"it does not fit its stack: {error}") from error
    history = [[records[place] for place in places] for records in result.epochs]
    return Training(model=model, history=history, totals=Totals(model))


def weights_of(stack: Stack, model: StackedMLP) -> dict[str, Parameters]:
    """Return every trial's parameters as numpy arrays."""
    return {
        member.name: {name: values.cpu().numpy() for name, values in model.member(k).items()}
        for k, member in enumerate(stack.members)
    }


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
