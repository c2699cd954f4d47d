"""Images as a Python program gives them: in memory, or the name of their source.

Letters: N images (rows), D pixels of an image.
"""

import io
import os
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import ArrayLike, NDArray

from digitrec.data.blocks import HIGHEST_LABEL, HIGHEST_PIXEL, refused
from digitrec.data.digits import Digits, read_source
from digitrec.data.readers import read_frame
from digitrec.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Images: TypeAlias = Union["pd.DataFrame", ArrayLike, os.PathLike[str]]
"""Pixels, a DataFrame that has them, or the name of a source."""
ROWS_OF_A_GROUP = 8192  # of the Parquet file; so a reader needs little memory


Data: TypeAlias = Images | Digits | tuple[Images, ArrayLike]
"""Labelled images: a source, a DataFrame, arrays with labels apart, or a pair of both."""


def as_digits(data: Data | None, labels: ArrayLike | None) -> Digits | None:
    """Return labelled digits that are in memory; None: there are none, or a source has them.

    Raises:
        InputError: an image or a label is not accepted; see `make_digits`.
    """
    if isinstance(data, str | os.PathLike):
        if labels is not None:
            raise InputError(f"{os.fspath(data)}: its own labels are used; give no others")
        return None
    if isinstance(data, Digits) or data is None:
        return data
    if isinstance(data, tuple):
        images, own = data
        return make_digits(images, own)
    return make_digits(data, labels)


def make_digits(images: Images, labels: ArrayLike | None) -> Digits:
    """Return labelled digits.

    Args:
        images: pixels from 0 to 255, (N, D) or (N, height, width); or a DataFrame with the columns
            pixel0, pixel1, ... and, without `labels`, label; or a source of images.
        labels: digits from 0 to 9, (N,).

    Raises:
        InputError: a shape or a value is not accepted, or there are no labels, or two sets of them.
    """
    pixels, own = read_images(images)
    if labels is not None and own is not None:
        raise InputError("the images have a column label, and labels are given too; give one")
    if labels is not None:
        digits = _check_labels(labels)
    elif own is not None:
        digits = own
    else:
        raise InputError("no labels are given; give them as labels, or as the column label")
    if len(digits) != len(pixels):
        raise InputError(f"{len(pixels):,} images have {len(digits):,} labels; give one for each")
    return Digits(images=pixels, labels=digits, source="memory")


def read_images(images: Images) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return pixels, uint8 (N, D), C-contiguous, and the labels (N,) that a DataFrame may have.

    Args:
        images: as for `make_digits`.

    Raises:
        InputError: a shape or a value is not accepted.
    """
    if isinstance(images, str | os.PathLike):
        return read_source(os.fspath(images), labels_required=False)
    columns = [str(name) for name in getattr(images, "columns", ())]
    if "pixel0" in columns or "label" in columns:
        block = read_frame(images, "DataFrame")
        return block.images, block.labels
    return _check_pixels(images), None


def to_parquet(digits: Digits) -> bytes:
    """Return digits as a Parquet file in the layout of Kaggle's Digit Recognizer."""
    columns = np.ascontiguousarray(digits.images.T)  # (D, N)
    names = ["label", *(f"pixel{number}" for number in range(len(columns)))]
    table = pa.table([pa.array(digits.labels), *map(pa.array, columns)], names=names)
    content = io.BytesIO()
    pa.parquet.write_table(
        table, content, row_group_size=ROWS_OF_A_GROUP, use_dictionary=False, compression="zstd"
    )
    return content.getvalue()


def _check_pixels(images: ArrayLike) -> NDArray[np.uint8]:
    pixels = _as_array("images", images)
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        shape = " x ".join(map(str, pixels.shape)) or "a single value"
        raise InputError(
            f"images of shape {shape}; expected (images, pixels) or (images, height, width)"
        )
    flat = pixels.reshape(len(pixels), -1)
    return np.ascontiguousarray(_check_numbers("images", flat, HIGHEST_PIXEL))


def _check_labels(labels: ArrayLike) -> NDArray[np.uint8]:
    digits = _as_array("labels", labels)
    if digits.ndim != 1:
        shape = " x ".join(map(str, digits.shape)) or "a single value"
        raise InputError(f"labels of shape {shape}; expected (images,)")
    if digits.dtype.kind in "OUST":  # OpenML has its labels as text
        try:
            digits = digits.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise InputError("labels hold what is no number; expected 0 to 9") from error
    return _check_numbers("labels", digits, HIGHEST_LABEL)


def _as_array(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:  # rows of several lengths
        raise InputError(f"{name}: not an array of numbers: {error}") from error


def _check_numbers(name: str, values: NDArray[Any], highest: int) -> NDArray[np.uint8]:
    """Return values as uint8; `name` is that of their argument."""
    if values.dtype.kind not in "uif":
        raise InputError(f"{name} hold {values.dtype}; expected whole numbers from 0 to {highest}")
    wrong = refused(values, highest)
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        where = ", ".join(map(str, place))
        raise InputError(
            f"{name}[{where}] is {values[place]}, not a whole number from 0 to {highest}"
        )
    return values.astype(np.uint8, copy=False)
