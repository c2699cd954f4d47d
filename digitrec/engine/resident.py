"""The data of a study as a stack trains on them: scaled, and resident on its device."""

import numpy as np
import torch
from numpy.typing import NDArray

from digitrec.data.digits import SharedData
from digitrec.engine.step import trains_all_pixels
from digitrec.engine.train import TrainingData
from digitrec.space.hyperparameters import Precision
from digitrec.space.stacks import Stack

_prepared: dict[tuple[object, ...], TrainingData] = {}  # at most one entry: of the last stack


def resident(
    shared: SharedData, device: torch.device, precision: Precision, stack: Stack
) -> TrainingData:
    """Return the data of a stack; prepared once for stacks in a row that use the same."""
    images = stack.configuration.augmentation
    key = (shared.key, str(device), precision, images, trains_all_pixels(stack))
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = prepare(shared, device, precision, stack)
    return _prepared[key]


def prepare(
    shared: SharedData, device: torch.device, precision: Precision, stack: Stack
) -> TrainingData:
    """Return the scaled training and validation images on the device, in the precision."""

    def images(scaled: NDArray[np.float32]) -> torch.Tensor:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return torch.from_numpy(scaled).to(device, dtype)

    def labels(rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(shared.labels[rows].astype(np.int64)).to(device)

    train, val = shared.split
    scaler = shared.scaler_of(stack.configuration)
    pixels = scaler.trained_pixels()
    if trains_all_pixels(stack):
        pixels = np.arange(shared.images.shape[1])
    train_images = np.take(shared.images[train], pixels, axis=1)
    return TrainingData(
        train_images=images(scaler.of_pixels(pixels).scale(train_images)),
        train_labels=labels(train),
        pixels=torch.from_numpy(pixels).to(device),
        val_images=images(scaler.scale(shared.images[val])),
        val_labels=labels(val),
        augmentation=stack.configuration.augmentation,
    )
