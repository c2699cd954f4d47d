"""The saved model in plain numpy: an MLP with the scaler that it was trained with.

It may be averaged with others: then its probabilities are the mean of those of all M models.

Letters: N images, B images of a block, D pixels, C = 10 classes, I inputs and O outputs of a layer.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from digitrec.data.digits import Scaler
from digitrec.data.memory import Images, read_images
from digitrec.errors import DamagedError, InputError
from digitrec.space.shape import CLASSES
from digitrec.store.best import ABOUT, MODEL
from digitrec.store.folder import MOST_JSON_BYTES, Folder

FORMAT = 1  # of model.json
MOST_MODEL_BYTES = 2**30  # a thousand times the size of an MLP with 256 and 128 hidden units
BLOCK_ROWS = 2048  # B: 10 MB of scaled pixels and activations
MEMBER = re.compile(r"members\.(\d+)\.(.+)", re.ASCII)  # name of an array of an averaged model

Parameters = Mapping[str, NDArray[np.float32]]
"""Name -> values; named as those of `torch.nn.Sequential(Linear, ReLU, ..., Linear)`."""
Tensors = dict[str, NDArray[Any]]
"""Name -> values, those of the scaler included, as a file has them."""


class Layer(NamedTuple):
    """A linear layer."""

    weight: NDArray[np.float32]  # (O, I)
    bias: NDArray[np.float32]  # (O,)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A trained MLP, ReLU between its layers, with the scaler that it was trained with.

    It predicts alone, or by the mean of its probabilities and those of others. Its methods for
    predictions follow scikit-learn's conventions.
    """

    layers: tuple[Layer, ...]
    scaler: Scaler
    others: tuple["Classifier", ...] = ()
    """The models that it is averaged with; each of them predicts alone."""

    def __repr__(self) -> str:
        """Return the shape; a notebook would show every weight."""
        sizes = [self.layers[0].weight.shape[1], *(len(layer.bias) for layer in self.layers)]
        average = f", an average of {1 + len(self.others)} models" if self.others else ""
        return f"<Classifier {'-'.join(map(str, sizes))}{average}>"

    @classmethod
    def from_parameters(cls, parameters: Parameters, scaler: Scaler) -> "Classifier":
        """Return the classifier of these parameters.

        Raises:
            InputError: a parameter is missing, unknown or not finite float32, or does not fit the
                layer before it or the scaler.
        """
        _check_scaler(scaler)
        numbers = range(0, len(parameters), 2)  # every second entry of the Sequential is a ReLU
        expected = [f"{number}.{kind}" for number in numbers for kind in ("weight", "bias")]
        if not parameters or set(expected) != set(parameters):
            raise InputError(f"the parameters are {_listed(parameters)}, not those of an MLP")
        for name, values in parameters.items():
            _check_floats(name, values)
        layers = tuple(
            Layer(parameters[f"{number}.weight"], parameters[f"{number}.bias"])
            for number in numbers
        )
        _check_shapes(layers, len(scaler.data_min))
        return cls(layers, scaler)

    @classmethod
    def average(cls, members: Sequence["Classifier"]) -> "Classifier":
        """Return the classifier whose probabilities are the mean of those of its members.

        Raises:
            InputError: the members take images of different sizes.
        """
        first, *others = members
        if any(other.pixels != first.pixels for other in others):
            sizes = ", ".join(str(member.pixels) for member in members)
            raise InputError(f"its models take images of different sizes: {sizes} pixels")
        return replace(first, others=tuple(others))

    @property
    def members(self) -> tuple["Classifier", ...]:
        """The models whose probabilities are averaged, the winner first; one where it is alone."""
        return (replace(self, others=()), *self.others)

    @property
    def pixels(self) -> int:
        """D, the number of pixels of an image."""
        return len(self.scaler.data_min)

    @property
    def layer_sizes(self) -> list[int]:
        """The widths from input to output; of the first member."""
        return [self.pixels, *(len(layer.bias) for layer in self.layers)]

    def as_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the parameters and the scaler's arrays, as a file has them; others left out."""
        tensors = {"scaler.data_min": self.scaler.data_min, "scaler.data_max": self.scaler.data_max}
        for number, layer in zip(itertools.count(0, 2), self.layers, strict=False):
            tensors |= {f"{number}.weight": layer.weight, f"{number}.bias": layer.bias}
        return tensors

    @property
    def classes_(self) -> NDArray[np.int64]:
        """The digits, (C,), in the order of the columns of `predict_proba`."""
        return np.arange(CLASSES)

    def predict(self, images: Images) -> NDArray[np.int64]:
        """Return the digits that are recognised, (N,).

        Args:
            images: unscaled pixels, whole numbers from 0 to 255 of any numeric dtype, (N, D) or
                (N, height, width); a DataFrame with the columns pixel0, pixel1, ...; or the name
                of a file that `digitrec predict` takes.

        Raises:
            InputError: a pixel is not accepted, or the images do not have D pixels.
        """
        digits: NDArray[np.int64] = self.log_probabilities(read_images(images)[0]).argmax(axis=1)
        return digits

    def predict_proba(self, images: Images) -> NDArray[np.float32]:
        """Return the probability of each digit, float32 (N, C).

        Args:
            images: as for `predict`.

        Raises:
            InputError: as from `predict`.
        """
        return np.exp(self.log_probabilities(read_images(images)[0]))

    def score(self, images: Images, labels: ArrayLike) -> float:
        """Return the share of images, as for `predict`, that get their labels, (N,)."""
        return float(np.mean(self.predict(images) == np.asarray(labels)))

    def log_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the log-probabilities, (N, C), of unscaled images, (N, D).

        Memory beyond the result does not grow with N.

        Raises:
            InputError: the images have another number of pixels than the model.
        """
        if images.ndim != 2 or images.shape[1] != self.pixels:
            shape = " x ".join(map(str, images.shape))
            raise InputError(f"images of shape {shape}; the model takes rows x {self.pixels}")
        result = np.empty((len(images), len(self.layers[-1].bias)), dtype=np.float32)
        for start in range(0, len(images), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            result[block] = self._log_probabilities(images[block])
        return result

    def _log_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the log-probabilities (B, C) of a block; a mean is taken in float64."""
        own = _log_softmax(self._logits(self.scaler.scale(images)))
        if not self.others:
            return own
        others = (other._log_probabilities(images) for other in self.others)
        each = np.stack([own, *others]).astype(np.float64)  # (M, B, C)
        # The mean of the probabilities in logarithms: none underflows.
        mean: NDArray[np.float64] = np.logaddexp.reduce(each, axis=0) - math.log(len(each))
        return mean.astype(np.float32)

    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (B, C) of scaled images (B, D)."""
        for layer in self.layers[:-1]:
            x = x @ layer.weight.T  # (B, O)
            x += layer.bias
            np.maximum(x, 0, out=x)
        return x @ self.layers[-1].weight.T + self.layers[-1].bias


def load_classifier(directory: Folder | Path | str) -> Classifier:
    """Return the model in a study's `best/` directory; nothing in it is executed.

    Args:
        directory: contains `model.safetensors` and `model.json`.

    Raises:
        InputError: there is no such model, or it is damaged or from another program.
    """
    folder = directory if isinstance(directory, Folder) else Folder.at(directory)
    path = folder / MODEL
    tensors = _read_tensors(path, _read(folder, MODEL, MOST_MODEL_BYTES))
    layer_sizes = _read_layer_sizes(folder / ABOUT, _read(folder, ABOUT, MOST_JSON_BYTES))
    try:
        members = [_read_member(part) for part in _split(tensors)]
        classifier = Classifier.average(members)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    found = [member.layer_sizes for member in members]
    if found != layer_sizes:
        there, said = (sizes[0] if len(sizes) == 1 else sizes for sizes in (found, layer_sizes))
        raise InputError(
            f"{path}: layers of {there!s:.60}, but {ABOUT} says "
            f"{said!r:.60}; they belong to different models"
        )
    return classifier


def _split(tensors: Tensors) -> list[Tensors]:
    """Return the arrays of each member of a model, in their order; a model alone is its own."""
    matches = [MEMBER.fullmatch(name) for name in tensors]
    parts: dict[str, Tensors] = {}
    for match, values in zip(matches, tensors.values(), strict=True):
        if match is None:
            return [tensors]
        parts.setdefault(match[1], {})[match[2]] = values
    numbers = [str(number) for number in range(len(parts))]
    if set(numbers) != set(parts):
        raise InputError(f"its models have the numbers {_listed(parts)}; they count from 0")
    return [parts[number] for number in numbers] or [tensors]


def _read_member(tensors: Tensors) -> Classifier:
    parameters = dict(tensors)
    try:
        scaler = Scaler(
            data_min=parameters.pop("scaler.data_min"), data_max=parameters.pop("scaler.data_max")
        )
    except KeyError as error:
        raise InputError(f"no {error.args[0]}; it is not a model of digitrec") from error
    return Classifier.from_parameters(parameters, scaler)


def _read_tensors(path: Folder, content: bytes) -> Tensors:
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type numpy lacks
        raise InputError(
            f"{path}: not a readable safetensors file; it is damaged, cut short or of another "
            "format"
        ) from error


def _read_layer_sizes(path: Folder, content: bytes) -> list[Any]:
    """Return what `model.json` says of the layers of each member."""
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON; it is damaged or cut short") from error
    if not isinstance(about, dict) or (about.get("format"), about.get("activation")) != (
        FORMAT,
        "relu",
    ):
        raise InputError(
            f"{path}: not a model that this digitrec reads: format {FORMAT}, activation relu"
        )
    members = about.get("members", [about])
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        raise InputError(f"{path}: its members are not a list of models; it is damaged")
    return [each.get("layer_sizes") for each in members]


def _read(folder: Folder, name: str, most: int) -> bytes:
    try:
        return folder.read(name, most)
    except FileNotFoundError as error:
        raise InputError(f"{folder / name}: no such model; `digitrec tune` writes it") from error
    except DamagedError as error:
        raise InputError(f"{folder / name}: {error}") from error
    except OSError as error:
        raise InputError(f"{folder / name}: {error.strerror or error}") from error


def _check_scaler(scaler: Scaler) -> None:
    lowest, highest = scaler.data_min, scaler.data_max
    for name, values in (("scaler.data_min", lowest), ("scaler.data_max", highest)):
        _check_floats(name, values)
        if values.ndim != 1:
            raise InputError(f"{name} has shape {_shape(values)}; expected one number per pixel")
    if lowest.shape != highest.shape:
        raise InputError(f"the scaler is of {len(lowest)} and of {len(highest)} pixels")
    if (lowest > highest).any():
        pixel = int((lowest > highest).argmax())
        raise InputError(f"the scaler's lowest value of pixel {pixel} is above its highest")


def _check_floats(name: str, values: NDArray[Any]) -> None:
    if values.dtype != np.float32:
        raise InputError(f"{name} holds {values.dtype}; expected float32")
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds a number that is not finite")


def _check_shapes(layers: tuple[Layer, ...], pixels: int) -> None:
    """Check that the shapes chain, from the pixels to the classes."""
    inputs = pixels
    for number, (weight, bias) in zip(itertools.count(0, 2), layers, strict=False):
        if weight.ndim != 2 or weight.shape[1] != inputs:
            raise InputError(
                f"{number}.weight has shape {_shape(weight)}; expected outputs x {inputs}"
            )
        if bias.shape != weight.shape[:1]:
            raise InputError(f"{number}.bias has shape {_shape(bias)}; expected {len(weight)}")
        inputs = len(bias)
    if inputs != CLASSES:
        raise InputError(f"the last layer has {inputs} outputs; expected {CLASSES}, one per digit")


def _shape(values: NDArray[Any]) -> str:
    return " x ".join(map(str, values.shape)) or "()"


def _listed(parameters: Iterable[str]) -> str:
    names = [ascii(name[:40]).strip("'") for name in sorted(parameters)]
    return ", ".join(names if len(names) <= 8 else [*names[:8], "..."]) or "none"


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
