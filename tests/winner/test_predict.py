import errno
import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from rich.console import Console

from digitrec.cli import main as cli
from digitrec.data.digits import read_digits
from digitrec.errors import InputError
from digitrec.winner.classifier import Classifier
from digitrec.winner.predict import write_predictions
from tests.saved_model import (
    SIZES,
    make_average,
    make_classifier,
    make_images,
    write_average,
    write_model,
)

PIXELS = SIZES[0]
ROWS = 20


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test name its files as a user would: by a short relative path."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "study" / "best")


def as_csv(images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> bytes:
    table = pd.DataFrame(images).add_prefix("pixel")
    if labels is not None:
        table.insert(0, "label", labels)
    return table.to_csv(index=False).encode()


def expected_labels(rows: int = ROWS) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = make_classifier().log_probabilities(make_images(rows)).argmax(1)
    return labels


def submission(labels: NDArray[np.int64]) -> bytes:
    lines = [f"{number},{label}\n" for number, label in enumerate(labels.tolist(), start=1)]
    return "".join(["ImageId,Label\n", *lines]).encode()


def written(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


def written_parquet(name: str, images: NDArray[np.uint8]) -> str:
    pq.write_table(pa.table({f"pixel{i}": column for i, column in enumerate(images.T)}), name)
    return name


def refusal(source: str, to: str = "submission.csv") -> str:
    console = Console(file=io.StringIO())
    with pytest.raises(InputError) as caught:
        write_predictions(
            make_classifier(),
            source,
            to,
            directory=Path("study"),
            probabilities=False,
            console=console,
        )
    return str(caught.value)


def files() -> set[str]:
    return {path.name for path in Path().iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["test.csv", "test.csv.gz", "test.parquet"])
def test_a_file_without_labels_becomes_a_submission_to_kaggle_to_the_byte(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(ROWS)
    if name.endswith(".parquet"):
        written_parquet(name, images)
    else:
        written(name, gzip.compress(as_csv(images)) if name.endswith(".gz") else as_csv(images))
    assert cli.main(["predict", "study", name, "--to", "submission.csv"]) == 0
    assert Path("submission.csv").read_bytes() == submission(expected_labels())
    assert capsys.readouterr().out == "20 predictions   submission.csv\n"
    assert files() == {name, "submission.csv"}


def test_a_file_with_labels_is_scored_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    right = expected_labels()
    labels = right.copy()
    labels[:3] = (right[:3] + 1) % 10
    written("labelled.csv", as_csv(make_images(ROWS), labels))
    assert cli.main(["predict", "study", "labelled.csv", "--to", "submission.csv"]) == 0
    assert Path("submission.csv").read_bytes() == submission(right)
    said = capsys.readouterr().out
    assert "85.00% of the images recognised: 17 of 20" in said
    rows = [line.split() for line in said.splitlines() if line.strip()[:1].isdigit()]
    for digit in range(10):
        counts = [str(n) for n in np.bincount(right[labels == digit], minlength=10) if n]
        shown = rows[digit]
        assert shown[0] == str(digit)
        assert shown[1 : 1 + len(counts)] == counts
        assert (shown[-1] == "none") == (not counts)


def test_the_score_counts_labels_by_row_and_predictions_by_column() -> None:
    predicted = expected_labels()
    labels = (predicted + np.arange(ROWS) % 2) % 10
    source = written("labelled.csv", as_csv(make_images(ROWS), labels))
    made = write_predictions(
        make_classifier(),
        source,
        "s.csv",
        directory=None,
        probabilities=False,
        console=Console(quiet=True),
    )
    assert made.images == ROWS
    assert made.score is not None
    assert (made.score.right, made.score.images) == (10, 20)
    expected = np.zeros((10, 10), np.int64)
    for label, prediction in zip(labels, predicted, strict=True):
        expected[label, prediction] += 1
    assert made.score.confusion.tolist() == expected.tolist()


def test_probabilities_stand_beside_the_label_and_add_up_to_one() -> None:
    written("test.csv", as_csv(make_images(ROWS)))
    assert cli.main(["predict", "study", "test.csv", "--to", "p.csv", "--probabilities"]) == 0
    table = pd.read_csv("p.csv")
    assert list(table) == ["ImageId", "Label", *(f"probability{digit}" for digit in range(10))]
    assert table["ImageId"].tolist() == list(range(1, ROWS + 1))
    assert table["Label"].tolist() == expected_labels().tolist()
    probabilities = table.filter(like="probability").to_numpy()
    expected = np.exp(make_classifier().log_probabilities(make_images(ROWS)))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_an_average_predicts_the_largest_mean_probability_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_average(Path("averaged/best"))
    images = make_images(ROWS)
    written("test.csv", as_csv(images))
    command = ["predict", "averaged", "test.csv", "--to", "p.csv", "--probabilities"]
    assert cli.main(command) == 0
    said = "20 predictions   p.csv; mean of the probabilities of 3 models\n"
    assert capsys.readouterr().out == said
    table = pd.read_csv("p.csv")
    each = [np.exp(member.log_probabilities(images)) for member in make_average().members]
    expected = np.mean(each, axis=0)
    np.testing.assert_allclose(table.filter(like="probability").to_numpy(), expected, rtol=1e-5)
    assert table["Label"].tolist() == expected.argmax(1).tolist()


def test_ids_go_on_through_the_blocks_of_a_file() -> None:
    rows = 10_000
    written_parquet("test.parquet", make_images(rows))
    assert cli.main(["predict", "study", "test.parquet", "--to", "submission.csv"]) == 0
    assert Path("submission.csv").read_bytes() == submission(expected_labels(rows))


def test_images_of_another_size_are_refused_with_both_sizes() -> None:
    source = written("test.csv", as_csv(make_images(3)[:, :4]))
    assert refusal(source) == "test.csv: images of 2 x 2 pixels; the model takes 6 pixels"
    assert refusal("sample") == "sample: images of 28 x 28 pixels; the model takes 6 pixels"
    assert files() == {"test.csv"}


def test_a_bad_cell_leaves_an_earlier_submission_as_it_is() -> None:
    written("submission.csv", b"earlier")
    rows = as_csv(make_images(5000)) + b"1,2,3,4,5,256\n"
    message = "row 5001, column pixel5: '256' is not a whole number from 0 to 255"
    assert refusal(written("test.csv", rows)) == f"test.csv: {message}"
    assert Path("submission.csv").read_bytes() == b"earlier"
    assert files() == {"test.csv", "submission.csv"}


def test_an_interruption_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    written("test.csv", as_csv(make_images(ROWS)))
    monkeypatch.setattr(Classifier, "log_probabilities", interrupted)
    assert cli.main(["predict", "study", "test.csv", "--to", "submission.csv"]) == 1
    assert files() == {"test.csv"}


def test_a_full_disk_is_one_line_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    written("test.csv", as_csv(make_images(ROWS)))
    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["predict", "study", "test.csv", "--to", "submission.csv"]) == 1
    path = Path("submission.csv").resolve()
    assert capsys.readouterr().err == f"digitrec: {path}: No space left on device\n"
    assert files() == {"test.csv"}


def test_a_target_that_cannot_be_written_is_refused_before_anything_is_read() -> None:
    Path("folder").mkdir()
    here = Path.cwd()
    for target, message in (
        ("none/s.csv", f"none/s.csv: there is no directory {here}/none; make it first"),
        ("folder", "folder: a directory or a device of this name already exists"),
        ("/dev/null", "/dev/null: a directory or a device of this name already exists"),
        ("s3://bucket/s.csv", "s3://bucket/s.csv: an address; give the name of a file on this"),
    ):
        assert refusal("none.csv", target).startswith(message)


def test_the_images_themselves_are_never_overwritten() -> None:
    written("test.csv", as_csv(make_images(3)))
    Path("link.csv").symlink_to("test.csv")
    for target in ("test.csv", "link.csv"):
        message = f"{target}: this is the file of images; give --to another name"
        assert refusal("test.csv", target) == message
    assert Path("test.csv").read_bytes() == as_csv(make_images(3))


def test_nothing_is_written_to_the_study() -> None:
    written("test.csv", as_csv(make_images(3)))
    Path("link.csv").symlink_to("study/best/model.json")
    before = Path("study/best/model.json").read_bytes()
    for target in ("study/best/model.json", "study/submission.csv", "link.csv"):
        assert cli.main(["predict", "study", "test.csv", "--to", target]) == 2
        assert refusal("test.csv", target).startswith(f"{target}: this lies in the study directory")
    assert Path("study/best/model.json").read_bytes() == before
    assert not Path("study/submission.csv").exists()


def test_a_link_to_an_earlier_submission_stays_a_link() -> None:
    written("earlier.csv", b"earlier")
    Path("link.csv").symlink_to("earlier.csv")
    written("test.csv", as_csv(make_images(3)))
    assert cli.main(["predict", "study", "test.csv", "--to", "link.csv"]) == 0
    assert Path("link.csv").is_symlink()
    assert Path("earlier.csv").read_bytes() == submission(expected_labels(3))


def test_a_directory_without_a_model_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written("test.csv", as_csv(make_images(3)))
    assert cli.main(["predict", "nowhere", "test.csv", "--to", "submission.csv"]) == 2
    path = Path("nowhere/best/model.safetensors").resolve()
    message = f"digitrec: {path}: no such model; `digitrec tune` writes it\n"
    assert capsys.readouterr().err == message


def test_a_file_without_labels_cannot_be_learned_from() -> None:
    with pytest.raises(InputError, match="no 'label' column"):
        read_digits(written("test.csv", as_csv(make_images(3))))


def test_a_terminal_shows_the_progress_and_a_log_does_not() -> None:
    source = written_parquet("test.parquet", make_images(10_000))
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal)
        write_predictions(
            make_classifier(), source, "s.csv", directory=None, probabilities=False, console=console
        )
        assert isinstance(console.file, io.StringIO)
        assert ("10,000 images" in console.file.getvalue()) == is_terminal


def test_predicting_imports_neither_torch_nor_ray_nor_pandas() -> None:
    written("test.csv", as_csv(make_images(3)))
    code = (
        "import sys; from digitrec.cli import main as cli; "
        "assert cli.main(['predict', 'study', 'test.csv', '--to', 's.csv']) == 0; "
        "sys.exit(bool({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
