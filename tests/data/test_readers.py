"""Any small table is read as pandas reads it, or refused by the row and column of its first bad
cell; splits and scaling are scikit-learn's.
"""

import gzip
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from digitrec.data.digits import fit_scaler, read_digits, split_rows
from digitrec.data.readers import read_blocks
from digitrec.errors import InputError

SPELLINGS = ["{}", "{}.0", "{}.", '"{}"', "0{}", " {} ", "+{}", "{}e0"]
BAD = ["", " ", "x", "-1", "256", "12.5", "nan", "NA", "inf", "1e3", '"1,000"', "0x1ff", "1_0", "½"]
PROPERTY = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Table(NamedTuple):
    """A file's columns, and its cells as text, (rows, columns)."""

    names: list[str]
    cells: list[list[str]]
    first_bad: tuple[int, str] | None  # row from 1 and column of the first bad cell


@st.composite
def tables(draw: st.DrawFn, bad: list[str], spellings: list[str]) -> Table:
    rows, pixels = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    names = draw(st.permutations(["label", *(f"pixel{number}" for number in range(pixels))]))
    cells = []
    for _ in range(rows):
        row = [draw(st.integers(0, 9 if name == "label" else 255)) for name in names]
        cells.append([draw(st.sampled_from(spellings)).format(value) for value in row])
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, pixels))
    damage = draw(st.dictionaries(places, st.sampled_from(bad), max_size=3))
    for (place, column), text in damage.items():
        cells[place][column] = text
    first = min(damage, default=None)
    return Table(names, cells, None if first is None else (first[0] + 1, names[first[1]]))


def check(source: str, table: Table, expected: pd.DataFrame | None) -> None:
    """Check that a file is read as pandas read it, or refused by its first bad cell."""
    if table.first_bad is None:
        digits = read_digits(source)
        assert expected is not None
        pixels = [f"pixel{number}" for number in range(len(table.names) - 1)]
        np.testing.assert_array_equal(digits.images, expected[pixels].to_numpy())
        np.testing.assert_array_equal(digits.labels, expected["label"].to_numpy())
        return
    row, column = table.first_bad
    with pytest.raises(InputError) as caught:
        read_digits(source)
    place = re.escape(f"{source}: row {row}, column {column}: ")
    assert re.fullmatch(rf"{place}.* is not a whole number from 0 to (9|255)", str(caught.value))


@pytest.mark.slow
@PROPERTY
@given(
    table=tables(BAD, SPELLINGS),
    end=st.sampled_from(["\n", "\r\n"]),
    blank=st.integers(0, 2),
    mark=st.booleans(),
    compressed=st.booleans(),
    last=st.booleans(),
)
def test_any_csv_is_read_as_by_pandas_or_refused_by_row_and_column(
    table: Table, end: str, blank: int, mark: bool, compressed: bool, last: bool, tmp_path: Path
) -> None:
    lines = [",".join(table.names), *(",".join(row) for row in table.cells)]
    text = (end * (blank + 1)).join(lines) + (end if last else "")
    content = text.encode("utf-8-sig" if mark else "utf-8")
    path = tmp_path / ("digits.csv.gz" if compressed else "digits.csv")
    path.write_bytes(gzip.compress(content) if compressed else content)
    expected = pd.read_csv(io.BytesIO(content)) if table.first_bad is None else None
    check(str(path), table, expected)


@pytest.mark.slow
@PROPERTY
@given(table=tables(["256", "-1", "12.5", "nan", "inf", "none"], ["{}"]), data=st.data())
def test_any_parquet_is_read_as_by_pandas_or_refused_by_row_and_column(
    table: Table, data: st.DataObject, tmp_path: Path
) -> None:
    columns: dict[str, Any] = {}
    for name, texts in zip(table.names, zip(*table.cells, strict=True), strict=True):
        values = [None if text == "none" else float(text) for text in texts]
        kinds = [pa.float64(), pa.float32(), pa.float16()]
        whole = [value for value in values if value is not None]
        if all(value.is_integer() for value in whole):
            kinds += [pa.int16(), pa.int32(), pa.int64()]
            kinds += [pa.uint16(), pa.uint64()] if min(whole, default=0) >= 0 else []
            kinds += [pa.uint8()] if all(0 <= value <= 255 for value in whole) else []
        kind = data.draw(st.sampled_from(kinds))
        columns[name] = pa.array(values, pa.float64()).cast(kind)
    path = tmp_path / "digits.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=data.draw(st.integers(1, 6)))
    check(str(path), table, pd.read_parquet(path) if table.first_bad is None else None)


@PROPERTY
@given(content=st.binary(max_size=200), name=st.sampled_from(["a.csv", "a.csv.gz", "a.parquet"]))
def test_random_bytes_are_refused_in_one_line(content: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_digits(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def sound_file(name: str) -> bytes:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.integers(0, 256, (30, 5), np.uint8)).add_prefix("pixel")
    frame.insert(0, "label", random.integers(0, 10, 30, np.uint8))
    text = frame.to_csv(index=False).encode()
    if name.endswith(".parquet"):
        return frame.to_parquet()
    return gzip.compress(text, mtime=0) if name.endswith(".gz") else text


SOUND = {name: sound_file(name) for name in ("a.csv", "a.csv.gz", "a.parquet")}


@PROPERTY
@given(name=st.sampled_from(list(SOUND)), data=st.data())
def test_a_damaged_file_is_digits_or_refused_in_one_line(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    content = bytearray(SOUND[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(1, len(content)) | st.just(len(content)))])
    message, rows = "", 0
    try:
        rows = sum(len(block.images) for block in read_blocks(str(path), labels_required=False))
    except InputError as error:
        message = str(error)
    assert rows > 0 or message.startswith(f"{path}: ")
    assert "\n" not in message


@PROPERTY
@given(
    labels=st.lists(st.sampled_from([3, 5, 8]), min_size=4, max_size=60),
    val_fraction=st.floats(0.05, 0.95),
    random_state=st.integers(0, 2**32 - 1),
)
def test_any_split_is_that_of_scikit_learn_or_refused(
    labels: list[int], val_fraction: float, random_state: int
) -> None:
    rows = np.arange(len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1 or counts.min() < 2 or np.ceil(val_fraction * len(labels)) == len(labels):
        with pytest.raises(InputError, match=r"labels: |val_fraction: "):
            split_rows(np.array(labels, np.uint8), val_fraction, random_state)
        return
    split = split_rows(np.array(labels, np.uint8), val_fraction, random_state)
    expected = train_test_split(rows, test_size=val_fraction, random_state=random_state)
    np.testing.assert_array_equal(split.train, expected[0])
    np.testing.assert_array_equal(split.val, expected[1])


@PROPERTY
@given(data=st.data())
def test_any_images_are_scaled_as_by_scikit_learn(data: st.DataObject) -> None:
    rows, pixels = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    cells = st.lists(st.integers(0, 255), min_size=rows * pixels, max_size=rows * pixels)
    train, images = (np.array(data.draw(cells), np.uint8).reshape(rows, pixels) for _ in range(2))
    expected = MinMaxScaler().fit(train).transform(images)
    np.testing.assert_allclose(fit_scaler(train).scale(images), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"", b"x" * 2**16),
        (b"", b"pixel0," * 2**13),
        (b"label,pixel0\n1,2\n", b"1" * 2**16),
        (b"label,pixel0\n1,2\n", b"1," * 2**15),
        (b"label,pixel0\n1,2\n", b'"\n",' * 2**14),
    ],
    ids=["header", "names", "cell", "cells", "quoted"],
)
def test_a_row_that_never_ends_is_refused_before_it_is_read_whole(
    start: bytes, part: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "row.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(2**28 // len(part)):  # 256 MiB
            file.write(part)
    read = (
        "import resource, sys\n"
        "from digitrec.data.readers import read_blocks\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**28 + 2**27,) * 2)\n"
        "for _ in read_blocks(sys.argv[1], labels_required=False): pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", read, str(path)], capture_output=True, text=True, check=False
    )
    last = run.stderr.splitlines()[-1]
    assert re.search(r"line [0-9]+: (a row of more than|field larger than field limit)", last)
