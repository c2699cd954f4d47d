"""Readers of arrays of images: MNIST's own IDX files, and NumPy's .npz.

Letters: N images, D pixels of an image.
"""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from digitrec.data.blocks import (
    HIGHEST_LABEL,
    HIGHEST_PIXEL,
    MOST_SIDE,
    Block,
    check_size,
    refused,
    rows_at_once,
)
from digitrec.data.location import Location
from digitrec.errors import InputError

PAIRS = (("images", "labels"), ("x_train", "y_train"))  # names of arrays in an .npz

_UINT8 = 8  # IDX's number of this type
_CHUNK = 2**20  # bytes read at once, so that an announced size costs no memory
_DAMAGE = (
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # a password
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class _Bytes(Protocol):
    """What is read from its start."""

    def read(self, size: int, /) -> bytes:
        """Return some bytes; none at the end."""


class _Array(NamedTuple):
    """An array whose values follow in `content`, row by row."""

    name: str  # of the file and the array, for messages
    content: _Bytes
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def columns(self) -> int:
        """The number of values of a row."""
        return int(np.prod(self.shape[1:], dtype=object))


def idx_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    """Yield the images of an IDX file, with the labels in the file beside it.

    That is `train-labels-idx1-ubyte` beside `train-images-idx3-ubyte`, both with or without .gz.

    Raises:
        InputError: a file is not of this format or cut short, or the labels do not fit.
    """
    with location.open() as (content, _):
        images = _read_idx_header(location.name, content, dimensions=3)
        labels = _read_idx_labels(location, images, labels_required)
        yield from _blocks(images, labels)


def npz_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    """Yield the images of an .npz file, from the first two arrays of `PAIRS` that it has.

    Raises:
        InputError: there are none, or their shapes or values are not accepted.
    """
    with (
        _damage_as_input_error(location),
        location.open_raw() as content,
        zipfile.ZipFile(content) as archive,
    ):
        arrays = [
            _read_npy_header(location.name, name, archive.open(f"{name}.npy"))
            for name in _choose_arrays(location.name, archive, labels_required)
        ]
        labels = None
        if len(arrays) > 1:
            labels = _read_labels(arrays[1], arrays[0])
        yield from _blocks(arrays[0], labels)


def _blocks(images: _Array, labels: NDArray[np.uint8] | None) -> Generator[Block, None, None]:
    """Yield an array of images, (N, D) or (N, S, S), in blocks."""
    _check_shape(images)
    rows, done = images.shape[0], 0
    step = rows_at_once(images.columns * images.dtype.itemsize)
    while done < rows:
        count = min(step, rows - done)
        values = _read_values(images, count, done)
        _check_pixels(images.name, values, done)
        part = None if labels is None else labels[done : done + count]
        done += count
        yield Block(values.astype(np.uint8, copy=False), part, done / rows)
    _check_end(images)


def _check_shape(images: _Array) -> None:
    if len(images.shape) == 3:
        _, height, width = images.shape
        check_size(images.name, width, height)
    elif len(images.shape) != 2 or not 1 <= images.columns <= MOST_SIDE**2:
        raise InputError(
            f"{images.name}: an array of {_spell(images.shape)}; expected images x pixels or "
            "images x height x width"
        )


def _spell(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single value"


def _check_pixels(name: str, values: NDArray[Any], rows_before: int) -> None:
    wrong = refused(values, HIGHEST_PIXEL)
    if wrong.any():
        row, pixel = divmod(int(wrong.argmax()), values.shape[1])
        raise InputError(
            f"{name}: image {rows_before + row + 1}, pixel {pixel}: {values[row, pixel]} is not a "
            f"whole number from 0 to {HIGHEST_PIXEL}"
        )


def _read_labels(labels: _Array, images: _Array) -> NDArray[np.uint8]:
    """Return the labels of images, (N,)."""
    if len(labels.shape) != 1:
        raise InputError(
            f"{labels.name}: an array of {_spell(labels.shape)}; expected one label per image"
        )
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"{labels.name}: {labels.shape[0]:,} labels for the {images.shape[0]:,} images of "
            f"{images.name}"
        )
    values = _read_values(labels, labels.shape[0], 0)[:, 0]
    _check_end(labels)
    wrong = refused(values, HIGHEST_LABEL)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{labels.name}: label {row + 1} is {values[row]}, not a whole number from 0 to "
            f"{HIGHEST_LABEL}"
        )
    return values.astype(np.uint8)


def _read_values(array: _Array, count: int, rows_before: int) -> NDArray[Any]:
    """Return the next rows of an array, (count, columns)."""
    row_bytes = array.columns * array.dtype.itemsize
    values = _read_up_to(array.content, count * row_bytes)
    if len(values) < count * row_bytes:
        raise InputError(
            f"{array.name}: cut short: {array.shape[0]:,} rows are announced, "
            f"{rows_before + len(values) // row_bytes:,} are there"
        )
    return np.frombuffer(values, array.dtype).reshape(count, array.columns)


def _check_end(array: _Array) -> None:
    if array.content.read(1):
        raise InputError(f"{array.name}: more bytes than the {array.shape[0]:,} rows announced")


def _read_up_to(content: _Bytes, size: int) -> bytearray:
    """Return so many bytes, or fewer if the content ends before; a read may return fewer."""
    found = bytearray()
    while len(found) < size and (part := content.read(min(_CHUNK, size - len(found)))):
        found += part
    return found


def _read_idx_header(name: str, content: _Bytes, dimensions: int) -> _Array:
    """Return the array that an IDX file announces.

    Source: the description of the format at http://yann.lecun.com/exdb/mnist/.
    """
    magic = bytes([0, 0, _UINT8, dimensions])
    found = bytes(_read_up_to(content, len(magic)))
    if found != magic:
        what = "images" if dimensions == 3 else "labels"
        raise InputError(
            f"{name}: begins with 0x{found.hex()}; expected the magic number of {what}, "
            f"0x{magic.hex()}"
        )
    sizes = bytes(_read_up_to(content, 4 * dimensions))
    if len(sizes) < 4 * dimensions:
        raise InputError(f"{name}: cut short within its header")
    return _Array(name, content, struct.unpack(f">{dimensions}I", sizes), np.dtype(np.uint8))


def _read_idx_labels(
    location: Location, images: _Array, labels_required: bool
) -> NDArray[np.uint8] | None:
    """Return the labels in the file beside that of the images; None if there is no such file."""
    file = location.path.rpartition("/")[2]
    name = file.replace("images", "labels").replace("idx3", "idx1")
    beside = location.beside(name)
    if beside is None:
        if labels_required:
            raise InputError(f"{location.name}: the labels are missing; expected {name} beside it")
        return None
    try:
        with beside.open() as (content, _):
            labels = _read_idx_header(beside.name, content, dimensions=1)
            return _read_labels(labels, images)
    except OSError as error:
        raise beside.unreadable(error) from error


def _choose_arrays(name: str, archive: zipfile.ZipFile, labels_required: bool) -> tuple[str, ...]:
    """Return the names of the images and, if they are there, of the labels."""
    there = [
        member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")
    ]
    for images, labels in PAIRS:
        if images in there and labels in there:
            return images, labels
        if images in there and not labels_required:
            return (images,)
    expected = " or ".join(f"{images} and {labels}" for images, labels in PAIRS)
    held = ", ".join(there)[:80] or "no arrays"
    raise InputError(f"{name}: holds {held}; expected the arrays {expected}")


def _read_npy_header(file: str, name: str, member: Any) -> _Array:
    """Return the array that a member of an .npz announces."""
    place = f"{file}: {name}"
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    if dtype.kind not in "uif":
        raise InputError(f"{place}: holds {dtype}; expected whole numbers")
    if fortran:
        raise InputError(f"{place}: in Fortran order; save numpy.ascontiguousarray(...) of it")
    return _Array(place, member, shape, dtype)


@contextmanager
def _damage_as_input_error(location: Location) -> Generator[None, None, None]:
    """Turn the errors of NumPy and zipfile for a damaged file into the one of the location."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise location.unreadable(error) from error
