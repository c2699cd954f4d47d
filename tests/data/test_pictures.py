"""Pictures and arrays are the same digits as the table of their pixels, or refused in one line."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from digitrec.data.digits import fingerprint, fit_scaler, read_digits
from digitrec.data.readers import read_blocks
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.winner.classifier import Classifier
from digitrec.winner.predict import write_predictions
from tests.conftest import S3Server
from tests.data.test_location import put
from tests.saved_model import make_parameters

SIDE = 5
IMAGES = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 0], np.uint8)
FOLDERS = "one folder of .png files per digit, named 0 to 9"
IDX = "train-images-idx3-ubyte"
IDX_LABELS = "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test name its files as a user would: by a short relative path."""
    monkeypatch.chdir(tmp_path)


def png(image: NDArray[Any], mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).convert(mode).save(content, "PNG")
    return content.getvalue()


def written(name: str, content: bytes) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)
    return name


def idx(values: NDArray[np.uint8]) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def written_csv() -> str:
    names = ["label", *(f"pixel{number}" for number in range(SIDE**2))]
    rows = [
        ",".join(map(str, [label, *image.ravel()]))
        for label, image in zip(LABELS, IMAGES, strict=True)
    ]
    return written("train.csv", "\n".join([",".join(names), *rows]).encode())


def written_folders() -> str:
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True), start=1):
        written(f"digits/{label}/{number}.png", png(image))
    written("digits/.DS_Store", b"")
    return "digits"


def written_idx() -> str:
    written(IDX_LABELS, idx(LABELS))
    return written(IDX, idx(IMAGES))


def written_idx_gz() -> str:
    written("mnist/train-labels.idx1-ubyte.gz", gzip.compress(idx(LABELS)))
    return written("mnist/train-images.idx3-ubyte.gz", gzip.compress(idx(IMAGES)))


def written_npz(name: str = "train.npz", **arrays: Any) -> str:
    np.savez_compressed(name, **(arrays or {"images": IMAGES, "labels": LABELS.astype(int)}))
    return name


def written_flat_npz() -> str:
    flat = IMAGES.reshape(len(IMAGES), -1).astype(np.float32)
    return written_npz("keras.npz", x_train=flat, y_train=LABELS, x_test=flat[:2], other="text")


def written_parquet(name: str = "train.parquet", **columns: Any) -> str:
    cells = [{"bytes": png(image), "path": f"{row}.png"} for row, image in enumerate(IMAGES)]
    table = {"image": cells, "label": pa.array(LABELS, pa.int64()), "id": range(12)} | columns
    pq.write_table(pa.table({key: cell for key, cell in table.items() if cell is not None}), name)
    return name


WRITERS = [written_folders, written_idx, written_idx_gz, written_npz, written_flat_npz]
WRITERS.append(written_parquet)


def refusal(source: str) -> str:
    with pytest.raises(InputError) as caught:
        read_digits(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_has_the_fingerprint_of_the_table(write: Callable[[], str]) -> None:
    table, digits = read_digits(written_csv()), read_digits(write())
    np.testing.assert_array_equal(digits.images, table.images)
    np.testing.assert_array_equal(digits.labels, table.labels)
    assert fingerprint(digits) == fingerprint(table)


def test_a_study_of_a_folder_is_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Request(data="digits/").directory.name == "digits"
    assert Request(data="s3://bucket/digits?region=eu-west-1").directory.name == "digits"
    Path("2024").mkdir()
    monkeypatch.chdir("2024")
    assert Request(data=".").directory.name == "2024"


def test_pictures_of_the_trained_size_are_recognised_and_no_others() -> None:
    flat = IMAGES.reshape(len(IMAGES), -1)
    classifier = Classifier.from_parameters(make_parameters((SIDE**2, 10)), fit_scaler(flat))
    predict = partial(
        write_predictions, classifier, directory=None, probabilities=False, console=Console()
    )
    predicted = predict(written_folders(), "p.csv")
    assert predicted.images == len(IMAGES)
    assert predicted.score is not None
    labels = classifier.log_probabilities(flat).argmax(1).tolist()
    lines = [f"{number},{label}" for number, label in enumerate(labels, start=1)]
    assert Path("p.csv").read_text().split() == ["ImageId,Label", *lines]
    large = written("large.png", png(np.zeros((SIDE + 1, SIDE + 1), np.uint8)))
    with pytest.raises(InputError, match=r"large\.png: images of 6 x 6 pixels; the model takes 5"):
        predict(large, "p.csv")
    with pytest.raises(InputError, match=r"p\.csv: this lies among the images"):
        predict("digits", "digits/p.csv")


def images_of(source: str) -> list[NDArray[np.uint8]]:
    blocks = list(read_blocks(source, labels_required=False))
    assert all(block.labels is None for block in blocks)
    assert blocks[-1].share == 1
    return [image.reshape(SIDE, SIDE) for block in blocks for image in block.images]


def test_pictures_without_labels_can_be_recognised_but_not_learned_from() -> None:
    for number, image in enumerate(IMAGES, start=1):
        written(f"flat/img_{number}.png", png(image))
    assert refusal("flat") == f"flat: pictures without labels; expected {FOLDERS}"
    one = "flat/img_2.png"
    assert refusal(one) == f"{one}: a picture without a label; expected {FOLDERS}"
    np.testing.assert_array_equal(images_of("flat"), IMAGES)  # 2 before 10
    np.testing.assert_array_equal(images_of(one), IMAGES[1:2])


def test_arrays_without_labels_can_be_recognised_but_not_learned_from() -> None:
    written(IDX, idx(IMAGES))
    npz = written_npz("test.npz", images=IMAGES)
    parquet = written_parquet("test.parquet", label=None)
    assert refusal(IDX) == f"{IDX}: the labels are missing; expected {IDX_LABELS} beside it"
    expected = "expected the arrays images and labels or x_train and y_train"
    assert refusal(npz) == f"{npz}: holds images; {expected}"
    assert refusal(parquet) == f"{parquet}: no 'label' column; expected columns image and label"
    for source in (IDX, npz, parquet):
        np.testing.assert_array_equal(images_of(source), IMAGES)


GREY16 = IMAGES[0].astype(np.uint16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(IMAGES[0], "RGB"), "8-bit colour; expected 8-bit grey"),
        (png(IMAGES[0], "LA"), "8-bit grey with transparency; expected 8-bit grey"),
        (png(IMAGES[0], "P"), "8-bit palette; expected 8-bit grey"),
        (png(IMAGES[0], "1"), "1-bit grey; expected 8-bit grey"),
        (png(GREY16, "I;16"), "16-bit grey; expected 8-bit grey"),
        (png(IMAGES[0][:3]), "5 x 3 pixels; expected a square of at most 2048 x 2048"),
        (png(np.zeros((2049, 2049), np.uint8)), "2049 x 2049 pixels; expected a square"),
        (png(IMAGES[0])[:20], "damaged or cut short"),
        (png(IMAGES[0])[:50], "damaged or cut short"),
        (b"", "not a PNG file"),
        (b"\xff\xd8\xff\xe0 JPEG", "not a PNG file"),
        (png(IMAGES[0, 1:, 1:]), "4 x 4 pixels; the pictures before it have 5 x 5"),
    ],
)
def test_a_bad_picture_is_named(content: bytes, message: str) -> None:
    written("digits/3/1.png", png(IMAGES[0]))
    bad = written("digits/3/2.png", content)
    assert refusal("digits").startswith(f"{bad}: {message}")
    cells = [{"bytes": png(IMAGES[0])}, {"bytes": content}]
    source = written_parquet(image=cells, label=[1, 2], id=None)
    assert refusal(source).startswith(f"{source}: row 2, column image: {message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits/3/thumbs.db", "expected only .png files here"),
        ("digits/3/1.jpg", "expected only .png files here"),
        ("digits/3/more/1.png", "expected only .png files here"),
        ("digits/10/1.png", f"expected only {FOLDERS}"),
        ("digits/train/1.png", f"expected only {FOLDERS}"),
        ("digits/1.png", f"expected only {FOLDERS}"),
    ],
)
def test_what_does_not_belong_in_a_folder_is_named(name: str, message: str) -> None:
    written("digits/3/1.png", png(IMAGES[0]))
    written(name, png(IMAGES[0]))
    place = "/".join(name.split("/")[: 2 if "only one" in message else 3])
    assert refusal("digits/") == f"{place}: {message}"


def test_a_folder_that_grows_while_it_is_read_is_refused() -> None:
    blocks = read_blocks(written_folders(), labels_required=True)
    next(blocks)
    written("digits/3/99.png", png(IMAGES[0]))
    with pytest.raises(InputError, match="digits: the folder changed while it was read; try again"):
        list(blocks)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", idx(LABELS), f"{IDX}: begins with 0x; expected the magic number"),
        (idx(IMAGES)[:3], idx(LABELS), f"{IDX}: begins with 0x000008; expected the magic number"),
        (idx(IMAGES)[:12], idx(LABELS), f"{IDX}: cut short within its header"),
        (idx(IMAGES)[:-26], idx(LABELS), f"{IDX}: cut short: 12 rows are announced, 10 are there"),
        (idx(IMAGES) + b"x", idx(LABELS), f"{IDX}: more bytes than the 12 rows announced"),
        (
            idx(LABELS),
            idx(LABELS),
            f"{IDX}: begins with 0x00000801; expected the magic number of images, 0x00000803",
        ),
        (idx(IMAGES[:, :3]), idx(LABELS), f"{IDX}: 5 x 3 pixels; expected a square"),
        (idx(IMAGES[:, :0, :0]), idx(LABELS), f"{IDX}: 0 x 0 pixels; expected a square"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), f"{IDX}: no rows; expected one row per image"),
        (idx(IMAGES), idx(LABELS[1:]), f"{IDX_LABELS}: 11 labels for the 12 images of {IDX}"),
        (idx(IMAGES), idx(LABELS)[:-1], f"{IDX_LABELS}: cut short: 12 rows are announced, 11 are"),
        (
            idx(IMAGES),
            idx(LABELS + 1),
            f"{IDX_LABELS}: label 6 is 10, not a whole number from 0 to",
        ),
        (idx(IMAGES), idx(IMAGES), f"{IDX_LABELS}: begins with 0x00000803; expected the magic"),
        (idx(IMAGES), b"", f"{IDX_LABELS}: begins with 0x; expected the magic number of labels"),
    ],
)
def test_what_is_wrong_with_an_idx_file_is_named(
    images: bytes, labels: bytes, message: str
) -> None:
    written(IDX_LABELS, labels)
    assert refusal(written(IDX, images)).startswith(message)


def test_a_truncated_idx_gz_is_refused() -> None:
    source = written_idx_gz()
    Path(source).write_bytes(Path(source).read_bytes()[:-9])
    assert refusal(source).startswith(f"{source}: not a readable IDX file; it is damaged")
    source = written_idx_gz()
    labels = Path("mnist/train-labels.idx1-ubyte.gz")
    labels.write_bytes(labels.read_bytes()[:-9])
    assert refusal(source).startswith(f"{labels}: not a readable IDX file; it is damaged")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": IMAGES}, ": holds data; expected the arrays images and labels or x_train and"),
        ({"images": IMAGES[:, :3], "labels": LABELS}, ": images: 5 x 3 pixels; expected a square"),
        (
            {"images": IMAGES[0, 0], "labels": LABELS[:5]},
            ": images: an array of 5; expected images",
        ),
        ({"images": IMAGES, "labels": LABELS[1:]}, ": labels: 11 labels for the 12 images of"),
        ({"images": IMAGES, "labels": np.eye(12)}, ": labels: an array of 12 x 12; expected one"),
        ({"images": IMAGES, "labels": LABELS + 1}, ": labels: label 6 is 10, not a whole number"),
        (
            {"images": IMAGES, "labels": LABELS * 0.5},
            ": labels: label 1 is 1.5, not a whole number",
        ),
        (
            {"images": IMAGES / 255, "labels": LABELS},
            ": images: image 1, pixel 0: 0.37254901960784315 is not a whole number from 0 to 255",
        ),
        ({"images": IMAGES, "labels": LABELS.astype(str)}, ": labels: holds <U3; expected whole"),
        ({"images": IMAGES > 99, "labels": LABELS}, ": images: holds bool; expected whole numbers"),
        ({"images": IMAGES.astype(object), "labels": LABELS}, ": images: holds object; expected"),
        ({"images": IMAGES.T, "labels": LABELS[:5]}, ": images: in Fortran order; save numpy."),
    ],
)
def test_what_is_wrong_with_arrays_is_named(arrays: dict[str, Any], message: str) -> None:
    assert refusal(written_npz(**arrays)).startswith(f"train.npz{message}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1] * 11 + [10]}, "row 12, column label: 10 is not a whole number from 0 to 9"),
        ({"label": [1] * 11 + [None]}, "row 12, column label: None is not a whole number from"),
        ({"label": ["1"] * 12}, "column label holds string; expected whole numbers"),
        ({"image": [1] * 12}, "column image holds int64; expected a struct with the bytes of PNG"),
        ({"image": [{"path": "a"}] * 12}, "column image holds struct<path: string>; expected a"),
        (
            {"image": pa.array([{"bytes": None}] * 12, pa.struct([("bytes", pa.binary())]))},
            "row 1, column image: no bytes of a picture",
        ),
    ],
)
def test_what_is_wrong_with_a_column_of_pictures_is_named(
    columns: dict[str, Any], message: str
) -> None:
    assert refusal(written_parquet(**columns)).startswith(f"train.parquet: {message}")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from(["a.png", "a.npz", "aidx3-ubyte", "aidx3-ubyte.gz"]), data=st.data())
def test_damaged_pictures_and_arrays_are_digits_or_refused_in_one_line(
    kind: str, data: st.DataObject
) -> None:
    sound = {
        "a.png": png(IMAGES[0]),
        "a.npz": Path(written_npz()).read_bytes(),
        "aidx3-ubyte": idx(IMAGES),
        "aidx3-ubyte.gz": gzip.compress(idx(IMAGES), mtime=0),
    }
    content = bytearray(sound[kind])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if kind == "a.png" and data.draw(st.booleans()):  # a checksum that fits
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    length = data.draw(st.integers(1, len(content)) | st.just(len(content)))
    source = written(kind, bytes(content[:length]))
    message, rows = "", 0
    try:
        rows = sum(len(block.images) for block in read_blocks(source, labels_required=False))
    except InputError as error:
        message = str(error)
    assert rows > 0 or message.startswith(f"{source}: ")
    assert "\n" not in message


def test_pictures_and_arrays_are_read_from_s3(s3_server: S3Server) -> None:
    for path in Path(written_folders()).rglob("*.png"):
        put(s3_server, str(path), path.read_bytes())
    put(s3_server, f"my mnist/{IDX_LABELS}", idx(LABELS))
    npz = Path(written_npz()).read_bytes()
    expected = fingerprint(read_digits("digits"))
    for source in (
        s3_server.uri("digits"),
        put(s3_server, f"my mnist/{IDX}", idx(IMAGES)),
        put(s3_server, "train.npz", npz),
    ):
        assert fingerprint(read_digits(source)) == expected
    put(s3_server, "digits/3/1.png", b"x")
    place = s3_server.uri("digits").partition("?")[0]
    assert refusal(s3_server.uri("digits")) == f"{place}/3/1.png: not a PNG file"
