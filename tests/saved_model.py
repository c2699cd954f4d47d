"""A small model as saved in a study directory, for tests of programs that use models."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from digitrec.data.digits import Scaler, fit_scaler
from digitrec.winner.classifier import Classifier

SIZES = (6, 5, 4, 10)
Tensors = dict[str, NDArray[Any]]


def make_parameters(sizes: Sequence[int] = SIZES, seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)
    parameters = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        shapes = {"weight": (outputs, inputs), "bias": (outputs,)}
        for kind, shape in shapes.items():
            parameters[f"{2 * layer}.{kind}"] = random.standard_normal(shape).astype(np.float32)
    return parameters


def make_images(rows: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, size=(rows, SIZES[0]), dtype=np.uint8)


def make_scaler() -> Scaler:
    images = make_images(50)
    images[:, 0] = 7  # a pixel that is constant over the training rows
    return fit_scaler(images)


def make_classifier() -> Classifier:
    return Classifier.from_parameters(make_parameters(), make_scaler())


def make_average() -> Classifier:
    """Three models of other depths, widths and scalers than each other, averaged."""
    wide = Classifier.from_parameters(make_parameters((6, 7, 10), 1), make_scaler())
    deep = Classifier.from_parameters(
        make_parameters((6, 3, 4, 5, 10), 2), make_scaler().of_all_pixels()
    )
    return Classifier.average([make_classifier(), wide, deep])


def write_average(best: Path) -> Path:
    """Write the files of `make_average` to a study's `best/`."""
    members = make_average().members
    tensors = {
        f"members.{number}.{name}": values
        for number, member in enumerate(members)
        for name, values in member.as_tensors().items()
    }
    about = make_about() | {"members": [{"layer_sizes": each.layer_sizes} for each in members]}
    return write_model(best, save(tensors), json.dumps(about).encode())


def make_tensors() -> Tensors:
    scaler = make_scaler()
    scaling = {"scaler.data_min": scaler.data_min, "scaler.data_max": scaler.data_max}
    return make_parameters() | scaling


def make_about() -> dict[str, Any]:
    return {"format": 1, "activation": "relu", "layer_sizes": list(SIZES)}


def write_model(best: Path, model: bytes | None = None, about: bytes | None = None) -> Path:
    """Write the files of a model to a study's `best/`, by default those of `make_classifier`."""
    best.mkdir(parents=True, exist_ok=True)
    content = save(make_tensors()) if model is None else model
    (best / "model.safetensors").write_bytes(content)
    text = json.dumps(make_about()).encode() if about is None else about
    (best / "model.json").write_bytes(text)
    return best
