"""Readers of PNG pictures: one, a folder of them, or a Parquet column of them.

Letters: D = S x S pixels of an image, B rows of a block, N pictures.
"""

import math
import re
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from pyarrow.fs import FileInfo, FileType

from digitrec.data.blocks import HIGHEST_LABEL, Block, refused, rows_at_once
from digitrec.data.location import Location
from digitrec.data.png import decode_png
from digitrec.errors import InputError

IMAGE = "image"  # the column of pictures in the Parquet files of Hugging Face

_DIGITS = [str(digit) for digit in range(HIGHEST_LABEL + 1)]
_LABELLED = "one folder of .png files per digit, named 0 to 9"
_MOST_BYTES = 64 * 2**20  # of a file; a picture of the largest size takes 4 MiB
_READERS = 8  # threads; an object store takes its time to answer
_ROWS = 256  # of a Parquet file; the size of its pictures is not known before they are read


class _Picture(NamedTuple):
    """A PNG file of a folder."""

    path: str  # in the file system
    size: int
    modified: int | None  # None: the file system does not record it
    label: int | None  # None: the folder has no labels

    @property
    def order(self) -> tuple[list[str | int], str]:
        """Its place among others: by file name, in which numbers count by their value."""
        words = re.split(r"([0-9]+)", self.path.rpartition("/")[2])
        return [int(word) if word.isdecimal() else word for word in words], self.path


def picture_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    """Yield the picture of a PNG file."""
    if labels_required:
        raise InputError(f"{location.name}: a picture without a label; expected {_LABELLED}")
    with location.open_raw() as content:
        yield Block(_decode([(location.name, content.read(_MOST_BYTES))]), None, 1.0)


def folder_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    """Yield the pictures of a folder, in the order of their file names.

    The folder has PNG files, or a folder of them for each digit. Hidden files are skipped.

    Raises:
        InputError: it holds anything else, or a picture cannot be read or differs in size.
    """
    pictures = _list_pictures(location, labels_required)
    done = side = 0
    with ThreadPoolExecutor(_READERS) as readers:
        while done < len(pictures):
            # The first picture, alone, says how large the others are.
            part = pictures[done : done + (rows_at_once(side * side) if side else 1)]
            contents = readers.map(lambda one: _read(location, one.path), part)
            images = _decode(contents, side)
            labels = [one.label for one in part if one.label is not None]
            done, side = done + len(part), math.isqrt(images.shape[1])
            share = done / len(pictures)
            yield Block(images, np.array(labels, np.uint8) if labels else None, share)
    if _list_pictures(location, labels_required) != pictures:
        raise location.changed()


def has_pictures(schema: pa.Schema) -> bool:
    """Return whether a Parquet file has the layout of Hugging Face's data sets of pictures."""
    return IMAGE in schema.names


def picture_column_blocks(
    name: str, file: pyarrow.parquet.ParquetFile, labels_required: bool
) -> Generator[Block, None, None]:
    """Yield the pictures of a Parquet file: PNG files in a column `image`, digits in `label`.

    Raises:
        InputError: the columns have other types, or a picture or a label is not accepted.
    """
    columns = _check_columns(name, file.schema_arrow, labels_required)
    rows = side = 0
    for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
        images = _decode(_cells(name, batch.column(IMAGE), rows), side)
        side = math.isqrt(images.shape[1])
        labels = _labels(name, batch.column("label"), rows) if "label" in columns else None
        rows += len(batch)
        yield Block(images, labels, rows / file.metadata.num_rows)


def _list_pictures(location: Location, labels_required: bool) -> list[_Picture]:
    """Return the PNG files of a folder in their order."""
    entries = location.entries()
    if any(entry.type == FileType.Directory for entry in entries):
        pictures = [picture for folder in entries for picture in _of_digit(location, folder)]
    else:
        pictures = [_picture(location, entry, None) for entry in entries]
    if not pictures:
        raise InputError(f"{location.name}: no .png files; expected them, or {_LABELLED}")
    if labels_required and pictures[0].label is None:
        raise InputError(f"{location.name}: pictures without labels; expected {_LABELLED}")
    return sorted(pictures, key=lambda picture: picture.order)


def _of_digit(location: Location, folder: FileInfo) -> list[_Picture]:
    if folder.type != FileType.Directory or folder.base_name not in _DIGITS:
        raise InputError(f"{location.name_of(folder.path)}: expected only {_LABELLED}")
    label = int(folder.base_name)
    return [_picture(location, entry, label) for entry in location.entries(folder.path)]


def _picture(location: Location, entry: FileInfo, label: int | None) -> _Picture:
    """Return an entry of a folder as a picture.

    Raises:
        InputError: by its name or its size, it is none.
    """
    if entry.type != FileType.File or not entry.base_name.lower().endswith(".png"):
        raise InputError(f"{location.name_of(entry.path)}: expected only .png files here")
    if entry.size > _MOST_BYTES:
        raise InputError(
            f"{location.name_of(entry.path)}: {entry.size / 2**20:.0f} MiB; expected a picture of "
            f"at most {_MOST_BYTES // 2**20} MiB"
        )
    return _Picture(entry.path, entry.size, entry.mtime_ns, label)


def _read(location: Location, path: str) -> tuple[str, bytes]:
    """Return the name and the content of a file."""
    name = location.name_of(path)
    try:
        with location.filesystem.open_input_file(path) as content:
            return name, content.read(_MOST_BYTES)
    except OSError as error:
        raise replace(location, name=name, kind="PNG").unreadable(error) from error


def _decode(pictures: Iterable[tuple[str, bytes]], side: int = 0) -> NDArray[np.uint8]:
    """Return pictures, given as their names and contents, as images (B, D).

    Args:
        pictures: at least one.
        side: that of the pictures before them; 0: there are none.
    """
    images = []
    for name, content in pictures:
        pixels = decode_png(name, content)
        side = side or len(pixels)
        if len(pixels) != side:
            raise InputError(
                f"{name}: {len(pixels)} x {len(pixels)} pixels; the pictures before it have "
                f"{side} x {side}"
            )
        images.append(pixels.reshape(-1))
    return np.stack(images)


def _check_columns(name: str, schema: pa.Schema, labels_required: bool) -> list[str]:
    """Check the columns of a Parquet file of pictures; return those to read."""
    kind = schema.field(IMAGE).type
    if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise InputError(
            f"{name}: column {IMAGE} holds {kind}; expected a struct with the bytes of PNG files"
        )
    if "label" not in schema.names:
        if labels_required:
            raise InputError(f"{name}: no 'label' column; expected columns {IMAGE} and label")
        return [IMAGE]
    if not pa.types.is_integer(schema.field("label").type):
        raise InputError(
            f"{name}: column label holds {schema.field('label').type}; expected whole numbers"
        )
    return [IMAGE, "label"]


def _cells(
    name: str, column: pa.StructArray, rows_before: int
) -> Generator[tuple[str, bytes], None, None]:
    """Yield the place and the content of each picture."""
    for row, cell in enumerate(column, start=rows_before + 1):
        place = f"{name}: row {row}, column {IMAGE}"
        content = (cell.as_py() or {}).get("bytes")
        if not isinstance(content, bytes):
            raise InputError(f"{place}: no bytes of a picture")
        yield place, content


def _labels(name: str, column: pa.Array, rows_before: int) -> NDArray[np.uint8]:
    values = np.array(column.fill_null(-1) if column.null_count else column)
    wrong = refused(values, HIGHEST_LABEL)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{name}: row {rows_before + row + 1}, column label: {column[row].as_py()} is not a "
            f"whole number from 0 to {HIGHEST_LABEL}"
        )
    return values.astype(np.uint8)
