"""The data of a study as a stack trains on them: scaled, and resident on its device."""

import numpy as np
import torch
from numpy.typing import NDArray

from digitrec.data.digits import PIXELS_AT_ONCE, SharedData
from digitrec.engine.products import narrow_batches_pay
from digitrec.engine.step import trains_all_pixels
from digitrec.engine.train import TrainingData
from digitrec.space.hyperparameters import NO_AUGMENTATION, Precision
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
    widths = None
    if stack.configuration.augmentation == NO_AUGMENTATION and narrow_batches_pay(device):
        order, needed = ink_first(train_images, scaler.data_min[pixels])
        pixels, train_images = pixels[order], np.take(train_images, order, axis=1)
        widths = torch.from_numpy(needed)
    return TrainingData(
        train_images=images(scaler.of_pixels(pixels).scale(train_images)),
        train_labels=labels(train),
        widths=widths,
        pixels=torch.from_numpy(pixels).to(device),
        val_images=images(scaler.scale(shared.images[val])),
        val_labels=labels(val),
        augmentation=stack.configuration.augmentation,
    )


def ink_first(
    images: NDArray[np.uint8], lowest: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels in the order of how often they have ink, and the width of each image.

    In that order, a batch has no ink on its last pixels: on average on a sixth of them where it has
    32 images of MNIST, on a tenth where it has 128.

    Args:
        images: (N, P).
        lowest: the value that each pixel has without ink, (P,).

    Returns:
        The pixels, int64 (P,), and the widths, int64 (N,): how many of the first pixels hold all
        ink of an image, as a multiple of PIXELS_AT_ONCE, at most P.
    """
    inked = images != lowest.astype(np.uint8)
    order = np.argsort(-np.count_nonzero(inked, axis=0), kind="stable")
    inked = np.take(inked, order, axis=1)
    pixels = len(order)
    last = np.where(inked.any(axis=1), pixels - 1 - inked[:, ::-1].argmax(axis=1), 0)
    return order, np.minimum((last // PIXELS_AT_ONCE + 1) * PIXELS_AT_ONCE, pixels)
