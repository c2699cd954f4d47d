"""The Python API is the command line's equal. Studies run in this process but for one on Ray."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import digitrec
from digitrec.api import make_request
from digitrec.cli import main as cli
from digitrec.cli.options import make_parser
from digitrec.cli.options import make_request as request_of_options
from digitrec.data.digits import Digits, fingerprint
from digitrec.data.memory import as_digits
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.analysis.finding import as_call
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures.chart import FigureInputs
from digitrec.results.report import sections
from digitrec.tuning.in_process import InProcess
from tests.studies import (
    interrupting,
    leave_out_pictures,
    make_drawn_record,
    make_record,
    read_once,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ROWS = 400  # of the sample


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_pictures(monkeypatch)


@pytest.fixture
def without_ray(without_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digitrec.tuning.session.Session", InProcess)


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Some of each digit: the sample is sorted by label."""
    sample = read_once("sample")
    return Digits(
        images=np.ascontiguousarray(sample.images[:: 5000 // ROWS][:ROWS]),
        labels=sample.labels[:: 5000 // ROWS][:ROWS],
        source="some",
    )


@pytest.fixture(scope="module")
def study(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> digitrec.Study:
    """A study of arrays, (N, 28, 28)."""
    out = tmp_path_factory.mktemp("api") / "study"
    with pytest.MonkeyPatch.context() as patched:
        leave_out_pictures(patched)
        patched.setattr("digitrec.tuning.session.Session", InProcess)
        images = digits.images.reshape(-1, 28, 28)
        return digitrec.tune(images, digits.labels, lr=[0.1, 0.5], batch_size=32, epochs=2, out=out)


def frame_of(digits: Digits) -> pd.DataFrame:
    names = [f"pixel{number}" for number in range(digits.images.shape[1])]
    return pd.DataFrame(digits.images, columns=names).assign(label=digits.labels)


def test_every_option_of_the_command_line_is_a_keyword_with_its_default() -> None:
    parser = make_parser().parse_args(["tune"])
    names = set(vars(parser)) - {"command", "data", "live"}  # live: a process of the command
    keywords = inspect.signature(digitrec.tune).parameters
    assert set(keywords) == names | {"data", "labels"}
    for name in names:
        assert keywords[name].default == getattr(parser, name)
        assert f"\n    {name}: " in str(digitrec.tune.__doc__)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"lr": [0.1, 0.5], "batch_size": 32}, "--lr 0.1,0.5 --batch-size 32"),
        ({"lr": np.array([0.1, 0.5]), "seeds": range(2)}, "--lr 0.1,0.5 --seeds 0,1"),
        (
            {"lr": "1e-3..2", "momentum": [0, digitrec.Range(0.5, 0.9)], "points": 8},
            "--lr 1e-3..2 --momentum 0,0.5..0.9 --points 8",
        ),
        (
            {"optimizer": "adamw", "hidden_sizes": [(64, 32)]},
            "--optimizer adamw --hidden-sizes 64-32",
        ),
        (
            {"race": True, "rungs": [1, 3], "audit": np.int64(2)},
            "--race --rungs 1,3 --audit 2",
        ),
        ({"stack_size": "auto", "out": Path("there")}, "--out there"),
        ({"sampler": "quasi-random", "dashboard": True}, "--dashboard"),
    ],
)
def test_a_call_and_a_command_make_the_same_request(options: dict[str, Any], words: str) -> None:
    command = request_of_options(make_parser().parse_args(["tune", *words.split()]))
    assert make_request("sample", None, options) == (command, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.1}, "'learning_rate' is not an option; there are data, "),
        ({"lr": "fast"}, "lr: 'fast' is not a number"),
        ({"lr": [0.1, -1]}, "learning rate -1 is not a finite number above 0"),
        ({"lr": "1e-3..2"}, "learning rate 0.001..2.0 is a range; give --points"),
        ({"hidden_sizes": (64, 32)}, "hidden sizes 64 is not 1 to 8 whole numbers"),
        ({"epochs": 2.5}, "epochs: 2.5 is not a whole number"),
        ({"refit": 1}, "refit 1 is neither True nor False"),
        ({"precision": "half"}, "precision: 'half' is not one of float32, bf16, auto"),
        ({"rungs": [1, 3]}, "--rungs needs --race"),
        ({"data": "no.csv"}, "no.csv: "),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        digitrec.tune(**options)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_tables_are_those_of_the_csv_files(study: digitrec.Study) -> None:
    for name, table in (("trials", study.trials), ("epochs", study.epochs)):
        written = pd.read_csv(Path(study.directory) / f"{name}.csv")
        pd.testing.assert_frame_equal(table, written)
    changed = study.trials  # a copy
    changed["lr"] = 0.0
    assert set(study.trials["lr"]) == {0.1, 0.5}


def test_the_classifier_of_the_winner_follows_the_conventions_of_scikit_learn(
    study: digitrec.Study, digits: Digits
) -> None:
    from sklearn.metrics import accuracy_score, log_loss

    winner, classifier = study.winner, study.winner.classifier
    best = study.trials.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).iloc[0]
    assert (winner.trial, winner.val_accuracy) == (best["trial"], best["val_accuracy"])
    assert winner.configuration.lr == best["lr"]
    predicted = classifier.predict(digits.images)
    probabilities = classifier.predict_proba(digits.images)
    assert probabilities.shape == (ROWS, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (classifier.classes_[probabilities.argmax(axis=1)] == predicted).all()
    assert classifier.score(digits.images, digits.labels) == accuracy_score(
        digits.labels, predicted
    )
    assert log_loss(digits.labels, probabilities, labels=classifier.classes_) < 2.3


def test_a_file_a_frame_and_arrays_are_predicted_alike(
    study: digitrec.Study, digits: Digits, tmp_path: Path
) -> None:
    classifier, frame = study.winner.classifier, frame_of(digits).drop(columns="label")
    frame.to_csv(tmp_path / "test.csv", index=False)
    predicted = classifier.predict(digits.images)
    for images in (
        tmp_path / "test.csv",
        str(tmp_path / "test.csv"),
        frame,
        frame[frame.columns[::-1]],  # columns are found by their names
        digits.images.reshape(-1, 28, 28).astype(float),
        digits.images.tolist(),
    ):
        assert (classifier.predict(images) == predicted).all()


def test_an_opened_study_shows_the_same_and_writes_nothing(study: digitrec.Study) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(study.directory).rglob("*")}
    opened = digitrec.open_study(study.directory)
    assert opened.complete
    assert opened.verdict == study.verdict
    assert opened.winner == study.winner
    assert str(opened) == str(study)
    assert eval(repr(opened)).directory == study.directory
    pd.testing.assert_frame_equal(opened.trials, study.trials)
    assert {path: path.stat().st_mtime_ns for path in Path(study.directory).rglob("*")} == before


def test_a_directory_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        digitrec.open_study(tmp_path)


@pytest.mark.slow
def test_figures_are_drawn_when_they_are_asked_for(
    study: digitrec.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, make = digitrec.open_study(study.directory), sections._make
    drawn: list[str] = []

    def make_and_note(each: Any, inputs: FigureInputs) -> Any:
        drawn.append(each.__name__)
        return make(each, inputs)

    monkeypatch.setattr(sections, "_make", make_and_note)
    assert opened.figures["best-of-n"].axes
    assert drawn == ["make_best_of_n"]
    assert opened.figures["best-of-n"] is opened.figures["best-of-n"]
    assert {"comparison", "heatmap", "confusion"} <= set(opened.figures)
    with pytest.raises(KeyError, match=r"no figure 'race'; there are .*comparison"):
        opened.figures["race"]


def test_the_report_is_written_where_it_is_asked_for(
    study: digitrec.Study, without_pictures: None, tmp_path: Path
) -> None:
    study.report(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == (Path(study.directory) / "report.md").read_text()
    study.report(tmp_path / "report.html")
    assert "Content-Security-Policy" in (tmp_path / "report.html").read_text()
    with pytest.raises(InputError, match="lies in the study directory"):
        study.report(Path(study.directory) / "study.json")
    with pytest.raises(InputError, match=r"report\.pdf: a report is \.html or \.md"):
        study.report(tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


def test_what_a_notebook_shows_of_a_study_is_short(
    study: digitrec.Study, without_pictures: None
) -> None:
    assert repr(study.winner.classifier) == "<Classifier 784-256-128-10>"
    assert repr(study.figures).startswith("<Figures comparison, ")
    assert "object at" not in repr(study.winner)


def test_digits_in_memory_are_kept_so_that_the_next_command_finds_them(
    study: digitrec.Study, digits: Digits, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(study.directory) / "digits.parquet"
    assert fingerprint(digitrec.read_digits(str(path))) == fingerprint(digits)
    calls = [finding.call for finding in study.verdict if finding.call]
    assert all(call.startswith(f"digitrec.tune({str(path)!r}, ") for call in calls)
    words = ["tune", "--data", str(path), "--lr", "0.1,0.5", "--batch-size", "32", "--epochs", "2"]
    before = {each.name: each.stat().st_mtime_ns for each in path.parent.glob("stacks/*")}
    assert cli.main([*words, "--out", study.directory]) == 0
    assert {each.name: each.stat().st_mtime_ns for each in path.parent.glob("stacks/*")} == before


def test_other_digits_in_memory_are_refused_and_those_kept_stay(
    study: digitrec.Study, digits: Digits, without_ray: None
) -> None:
    kept = (Path(study.directory) / "digits.parquet").read_bytes()
    with pytest.raises(InputError, match="holds another study: its data is"):
        digitrec.tune(255 - digits.images, digits.labels, batch_size=32, out=study.directory)
    assert (Path(study.directory) / "digits.parquet").read_bytes() == kept


def test_test_data_may_be_in_memory_too(digits: Digits, without_ray: None, tmp_path: Path) -> None:
    half = slice(0, ROWS // 2), slice(ROWS // 2, ROWS)
    images = np.concatenate([digits.images[0::2], digits.images[1::2]])
    labels = np.concatenate([digits.labels[0::2], digits.labels[1::2]])
    train, test = ((images[each], labels[each]) for each in half)
    study = digitrec.tune(train, test_data=test, lr=0.1, batch_size=32, epochs=1, out=tmp_path)
    said = (tmp_path / "report.md").read_text()
    assert study.complete
    assert (tmp_path / "test.parquet").exists()
    assert "test" in said


@pytest.mark.parametrize("kind", ["frame", "parts", "text labels", "Digits", "pair"])
def test_digits_in_memory_are_read_from_what_programs_have(kind: str, digits: Digits) -> None:
    frame, labels = frame_of(digits), pd.Series(digits.labels)
    made: dict[str, tuple[Any, Any]] = {
        "frame": (frame[frame.columns[::-1]], None),
        "parts": (frame.drop(columns="label").add_prefix("p"), labels),
        "text labels": (digits.images.astype(np.float32), labels.astype(str)),
        "Digits": (digits, None),
        "pair": ((digits.images, digits.labels), None),
    }
    read = as_digits(*made[kind])
    assert read is not None
    assert fingerprint(read) == fingerprint(digits)


IMAGES, LABELS = np.zeros((4, 6)), [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES + 0.5, LABELS, "images[0, 0] is 0.5, not a whole number from 0 to 255"),
        (IMAGES - 1, LABELS, "images[0, 0] is -1.0, not a whole number from 0 to 255"),
        (IMAGES * np.nan, LABELS, "images[0, 0] is nan, not a whole number from 0 to 255"),
        (IMAGES, [0, 1, 10, 3], "labels[2] is 10, not a whole number from 0 to 9"),
        (IMAGES, ["0", "one", "2", "3"], "labels hold what is no number; expected 0 to 9"),
        (IMAGES, LABELS[:3], "4 images have 3 labels; give one for each"),
        (IMAGES, None, "no labels are given"),
        (IMAGES, [LABELS], "labels of shape 1 x 4; expected (images,)"),
        (IMAGES[0], LABELS, "images of shape 6; expected (images, pixels) or (images, height"),
        (IMAGES[:0], [], "images of shape 0 x 6; expected"),
        (IMAGES > 0, LABELS, "images hold bool; expected whole numbers from 0 to 255"),
        ([[1, 2], [3]], LABELS, "images: not an array of numbers"),
        (pd.DataFrame({"label": [1], "pixel0": [300]}), None, "DataFrame: row 1, column pixel0"),
        (pd.DataFrame({"label": [1], "pixel1": [3]}), None, "DataFrame: no column pixel0"),
        (pd.DataFrame({"label": [1], "pixel0": ["x"]}), None, "column pixel0 holds "),
        (pd.DataFrame({"label": [1], "pixel0": [1]}), [1], "a column label, and labels are given"),
        ("train.csv", LABELS, "train.csv: its own labels are used; give no others"),
    ],
)
def test_what_is_no_digit_is_refused_by_its_place(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        as_digits(images, labels)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_next_command_and_its_call_ask_for_the_same(tmp_path: Path) -> None:
    records = [make_record(tmp_path), make_drawn_record(tmp_path, lambda each: each.lr / 3)]
    findings = [finding for record in records for finding in reach_verdict(record)]
    commands = [finding.command for finding in findings if finding.command]
    assert commands
    race = "digitrec tune --data it\\'s.csv --race --rungs 1,3 --momentum 0.9 --nesterov true"
    for command in [*commands, race]:
        asked = request_of_options(make_parser().parse_args(shlex.split(command)[1:]))
        assert eval(as_call(command), {"digitrec": Asking}) == asked


class Asking:
    """Stands for the package; `tune` returns the request."""

    @staticmethod
    def tune(data: str = "sample", **options: Any) -> Request:
        return make_request(data, None, options)[0]


def test_the_first_ctrl_c_ends_a_call_when_what_is_finished_is_written(
    digits: Digits, without_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digitrec.tuning.session.Session", interrupting(1, []))
    with pytest.raises(KeyboardInterrupt, match="the same call continues the study"):
        digitrec.tune(digits, lr=0.1, batch_size=32, epochs=1, out=tmp_path)
    assert set(digitrec.open_study(tmp_path).trials["status"]) == {"stopped"}
    with pytest.raises(InputError, match="no trial has completed, so there is no winner"):
        _ = digitrec.open_study(tmp_path).winner


@pytest.mark.slow
def test_the_examples_of_the_readme_run(
    digits: Digits, without_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = frame_of(digits)
    frame.to_csv("train.csv", index=False)
    frame.drop(columns="label").to_csv("test.csv", index=False)
    assert len(EXAMPLES) > 3
    names: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(compile(example, "README.md", "exec"), names)
