"""The state of a stack in training, kept where training takes long enough to be worth it.

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

INTERVAL = 30.0  # seconds of training, the most that is lost but for the batches of a pause


def write_checkpoint(directory: Folder, spec: str, key: str, training: Training) -> None:
    """Keep the state of a stack in training; a later one takes its place.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: of the result to come.
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
    """Return the state of a stack where it was kept last.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: of the result to come.
        model: gets the weights.

    Raises:
        DamagedError: there is none, or it is not what it should be.
    """
    about, arrays = read_arrays(directory, "checkpoint", spec, key + SUFFIX)
    totals = Totals(model)
    state = {"loss": totals.loss, "correct": totals.correct}
    for layer, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        state |= {f"weight{layer}": weight, f"bias{layer}": bias}
    try:
        if about["stack"] != key:
            raise ValueError(f"it is that of {about['stack']}")
        history = as_records(arrays.pop("records"))
        totals.images, seconds = int(about["images"]), float(about["seconds"])
        _fill(state, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"it does not fit its stack: {error}") from error
    return Training(model=model, history=history, totals=totals, seconds=seconds)


def remove_checkpoint(directory: Folder, key: str) -> None:
    """Remove the state of a stack that is finished; there need not be one."""
    (directory / "checkpoints").remove(key + SUFFIX)


def read_finished(
    directory: Folder, spec: str, key: str, stack: Stack, model: StackedMLP
) -> Training:
    """Return the state in which a finished stack, of fewer epochs, left some of its members.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        key: of the finished stack.
        stack: its members that are to go on.
        model: gets their weights.

    Raises:
        DamagedError: a file of the finished stack is not what it should be.
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
    """Return the parameters of all members under one name each."""
    return {
        f"{k}/{name}": value for k, named in enumerate(members) for name, value in named.items()
    }


def _fill(tensors: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Fill tensors with the arrays of their names: all of them, or none.

    Raises:
        ValueError: names or shapes differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {name: values.shape for name, values in arrays.items()}:
        raise ValueError("its arrays have other names or shapes")
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(arrays[name]))
