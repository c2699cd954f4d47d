"""Digits: labelled images in memory, split and scaled.

Letters: N images (rows), D pixels of an image.
"""

import hashlib
import math
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from digitrec.data.readers import read_blocks
from digitrec.errors import InputError
from digitrec.space.hyperparameters import NO_AUGMENTATION, Configuration

PIXELS_AT_ONCE = 16  # float32 values in an AVX-512 register; multiples give the fastest products


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Labelled images of digits, one per row."""

    images: NDArray[np.uint8]
    """Pixels, (N, D), C-contiguous, each 0 to 255."""
    labels: NDArray[np.uint8]
    """The digit on each image, (N,), each 0 to 9."""
    source: str
    """Where the images come from, as the user named it."""


class Split(NamedTuple):
    """Row numbers of the two sides of a split, each int64 and in shuffled order."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """The range of each pixel over the training rows, which scaling maps to 0..1."""

    data_min: NDArray[np.float32]
    """Lowest value of each pixel, (D,)."""
    data_max: NDArray[np.float32]
    """Highest value of each pixel, (D,)."""

    @property
    def spread(self) -> NDArray[np.float32]:
        """The divisor of each pixel, (D,): the width of its range, or 1 if the width is 0."""
        spread = self.data_max - self.data_min
        spread[spread == 0] = 1
        return spread

    def scale(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the images with each pixel's fitted range mapped to 0..1, unclipped.

        A pixel that was constant over the training rows becomes its distance from that constant:
        0 on those rows.

        Args:
            images: uint8 (N, D).

        Returns:
            float32 (N, D), C-contiguous.

        Source: scikit-learn's `MinMaxScaler`, which also takes a range of 0 as 1. Subtracting
        before dividing makes the float32 result the correctly rounded one.
        """
        scaled = np.empty(images.shape, dtype=np.float32)
        np.subtract(images, self.data_min, out=scaled)
        scaled /= self.spread
        return scaled

    def of_pixels(self, pixels: NDArray[np.int64]) -> "Scaler":
        """Return the scaler of these pixels only."""
        return Scaler(data_min=self.data_min[pixels], data_max=self.data_max[pixels])

    def of_all_pixels(self) -> "Scaler":
        """Return the scaler that gives every pixel the range of all pixels together."""
        lowest, highest = self.data_min.min(), self.data_max.max()
        return Scaler(
            data_min=np.full_like(self.data_min, lowest),
            data_max=np.full_like(self.data_max, highest),
        )

    def trained_pixels(self) -> NDArray[np.int64]:
        """Return the pixels that training can learn from, ascending.

        A pixel that is constant over the training rows is scaled to 0 on all of them, so its
        weights never change: 77 of the 784 pixels of MNIST. Some constant pixels are included, to
        make the number a multiple of PIXELS_AT_ONCE if there are enough of them, and never 0.
        """
        constant = self.data_max == self.data_min
        wanted = PIXELS_AT_ONCE * max(1, math.ceil(np.count_nonzero(~constant) / PIXELS_AT_ONCE))
        return np.sort(np.argsort(constant, kind="stable")[:wanted]).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedData:
    """The data that all trials of a study share; Ray's object store transfers it once, as uint8."""

    key: str
    """Identifies data and split, so that a worker prepares them once."""
    images: NDArray[np.uint8]
    """Pixels, (N, D)."""
    labels: NDArray[np.uint8]
    """Digits, (N,)."""
    split: Split
    """Rows of training and of validation."""
    scaler: Scaler
    """Fitted on the training rows."""

    def scaler_of(self, configuration: Configuration) -> Scaler:
        """Return the scaler of a configuration's images.

        Augmentation moves ink from pixel to pixel, so that all pixels have one range.
        """
        augmented = configuration.of_role("images") != NO_AUGMENTATION
        return self.scaler.of_all_pixels() if augmented else self.scaler


def read_digits(source: str) -> Digits:
    """Return the labelled digits of a source that `readers.read_blocks` reads.

    Returns:
        images uint8 (N, D), C-contiguous, pixels in the order of their numbers; labels uint8 (N,).

    Raises:
        InputError: the source cannot be read, or has no labels, or a cell is not accepted; one
            line naming the first offending row and column.
    """
    images, labels = read_source(source, labels_required=True)
    assert labels is not None, "labels are required"
    return Digits(images=images, labels=labels, source=source)


def read_source(
    source: str, *, labels_required: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the images (N, D) of a source, and its labels (N,) if it has any.

    Memory holds the result, up to an eighth more while it grows, and a few blocks; for a Parquet
    file, also a page of every column.

    Raises:
        InputError: as from `read_digits`; labels may be missing unless they are required.
    """
    pixels, digits = bytearray(), bytearray()  # N is not known before the end of a file
    with closing(read_blocks(source, labels_required=labels_required)) as blocks:
        for images, labels, _ in blocks:
            width = images.shape[1]
            pixels += images.data
            digits += b"" if labels is None else labels.data
    return (
        np.frombuffer(pixels, dtype=np.uint8).reshape(-1, width),
        np.frombuffer(digits, dtype=np.uint8) if digits else None,
    )


def fingerprint(digits: Digits) -> str:
    """Return 16 hexadecimal characters that identify the content: shape, pixels and labels.

    The same digits give the same fingerprint whichever file format or column order they came in.
    """
    content = hashlib.sha256(repr(digits.images.shape).encode())
    content.update(np.ascontiguousarray(digits.images).data)
    content.update(np.ascontiguousarray(digits.labels).data)
    return content.hexdigest()[:16]


def split_rows(labels: NDArray[np.uint8], val_fraction: float, random_state: int) -> Split:
    """Return the row numbers of a shuffled training side and a validation side.

    Args:
        labels: uint8 (N,).
        val_fraction: the validation side's share of the rows, between 0 and 1, rounded up.
        random_state: seed of the shuffle.

    Raises:
        InputError: the fraction is not between 0 and 1, or the labels are too few to split.

    Source: the rows, in their order, of scikit-learn's `train_test_split(test_size=val_fraction,
    random_state=random_state)`, that is, of `ShuffleSplit._iter_indices`; importing scikit-learn
    for them would cost over a second.
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction: {val_fraction} is not between 0 and 1, both exclusive")
    _check_classes(labels)
    val_rows = math.ceil(val_fraction * len(labels))
    if val_rows == len(labels):
        raise InputError(
            f"val_fraction: {val_fraction} of {len(labels)} rows leaves no training rows; "
            "give a smaller fraction or more rows"
        )
    shuffled = np.random.RandomState(random_state).permutation(len(labels)).astype(np.int64)
    return Split(train=shuffled[val_rows:], val=shuffled[:val_rows])


def fit_scaler(images: NDArray[np.uint8]) -> Scaler:
    """Return the scaler fitted on these rows; give the training rows only."""
    return Scaler(
        data_min=images.min(axis=0).astype(np.float32),
        data_max=images.max(axis=0).astype(np.float32),
    )


def _check_classes(labels: NDArray[np.uint8]) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 0:
        raise InputError("labels: there are no rows to split")
    if len(classes) == 1:
        raise InputError(
            f"labels: all {counts[0]} rows have label {classes[0]}; at least 2 labels are needed"
        )
    rarest = counts.argmin()
    if counts[rarest] < 2:
        raise InputError(
            f"labels: label {classes[rarest]} has {counts[rarest]} row, too small to split; "
            "every label needs at least 2 rows"
        )
