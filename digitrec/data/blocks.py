"""Blocks of labelled images, and the values that readers accept in them.

Letters: D = S x S pixels of an image, B rows of a block.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from digitrec.errors import InputError

HIGHEST_PIXEL = 255
HIGHEST_LABEL = 9
MOST_SIDE = 2048  # pixels; a picture of 2048 x 2048 takes 4 MiB

_MOST_ROWS = 4096
_MOST_BYTES = 16 * 2**20


class Block(NamedTuple):
    """Some rows of a source, in their order."""

    images: NDArray[np.uint8]
    """Pixels, (B, D), C-contiguous."""
    labels: NDArray[np.uint8] | None
    """Digits, (B,); None: the source has no labels."""
    share: float
    """The share of the source that has been read, 0 to 1; reading runs ahead of the blocks."""


def rows_at_once(row_bytes: int) -> int:
    """Return the number of rows to put into a block, for sources that are not parsed by bytes."""
    return max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, row_bytes)))


def refused(values: NDArray[Any], highest: int) -> NDArray[np.bool_]:
    """Return which values (B,) are not whole numbers from 0 to `highest`; a NaN is not."""
    if values.dtype == np.uint8:
        return values > highest
    accepted = (values >= 0) & (values <= highest)
    if values.dtype.kind == "f":
        accepted &= values == np.floor(values)
    return ~accepted


def spell_size(pixels: int) -> str:
    """Return the number of pixels of an image in words, as a square where it is one."""
    side = math.isqrt(pixels)
    return f"{side} x {side} pixels" if side * side == pixels else f"{pixels} pixels"


def check_size(name: str, width: int, height: int) -> None:
    """Check the size of pictures.

    Raises:
        InputError: they are not square, empty or too large.
    """
    if width != height or not 1 <= width <= MOST_SIDE:
        raise InputError(
            f"{name}: {width} x {height} pixels; expected a square of at most "
            f"{MOST_SIDE} x {MOST_SIDE}"
        )
