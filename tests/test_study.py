"""Real studies of real MNIST digits from the packaged sample.

They run in this process, where they end with the same files as on Ray (see `test_on_ray.py`); those
that are about processes start a Ray of their own.
"""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from digitrec.cli import main as cli
from digitrec.cli.display import describe, describe_verdict
from digitrec.cli.options import make_parser, make_request
from digitrec.data.digits import Digits, fit_scaler, read_digits, split_rows
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.outcome import StudyResult
from digitrec.space.points import Space
from digitrec.space.ranges import Range
from digitrec.store.folder import Folder
from digitrec.store.spec import write_spec
from digitrec.store.stacks import write_failure
from digitrec.store.timings import Timings
from digitrec.study import run_study
from digitrec.tuning.address import check_address
from digitrec.tuning.in_process import InProcess
from digitrec.tuning.session import Session, count_workers, local_runtime_env
from digitrec.winner.classifier import load_classifier
from tests.head import ONE_CORE
from tests.studies import (
    SMALL,
    folder,
    leave_out_pictures,
    make_spec,
    read_once,
    run,
    untimed,
)
from tune_jobs import best_digits, mnist_grid


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run(tmp_path_factory.mktemp("finished") / "study")


@pytest.mark.slow
def test_a_study_leaves_what_the_contract_says(tmp_path: Path) -> None:
    result = run(tmp_path, pictures=True)
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert there >= {
        "study.json",
        "trials.csv",
        "epochs.csv",
        "best/model.safetensors",
        "best/model.json",
        "plots/comparison.png",
        "plots/heatmap.png",
        "plots/updates.png",
    }
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert trials["status"].to_list() == ["completed"] * 4
    assert trials["updates"].to_list() == [32, 16, 32, 16]
    assert len(pd.read_csv(tmp_path / "epochs.csv")) == 8
    assert result.tables.complete


def test_the_saved_winner_has_the_validation_accuracy_of_its_row(finished: StudyResult) -> None:
    digits = read_digits("sample")
    val = split_rows(digits.labels, 0.2, 42).val
    classifier = load_classifier(folder(finished) / "best")
    predicted = classifier.log_probabilities(digits.images[val]).argmax(1)
    accuracy = float((predicted == digits.labels[val]).mean())
    assert accuracy == finished.ranked["val_accuracy"].iloc[0]


def test_predictions_of_the_validation_rows_have_the_accuracy_of_the_winner(
    finished: StudyResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = read_digits("sample")
    val = split_rows(digits.labels, 0.2, 42).val
    images = pd.DataFrame(digits.images[val]).add_prefix("pixel")
    images.assign(label=digits.labels[val]).to_parquet(tmp_path / "val.parquet")
    words = ["predict", str(folder(finished)), str(tmp_path / "val.parquet")]
    assert cli.main([*words, "--to", str(tmp_path / "submission.csv")]) == 0
    submission = pd.read_csv(tmp_path / "submission.csv")
    accuracy = float((submission["Label"] == digits.labels[val]).mean())
    assert accuracy == finished.ranked["val_accuracy"].iloc[0]
    assert f"{accuracy:.2%} of the images recognised" in capsys.readouterr().out


def test_the_saved_winner_loads_into_a_plain_sequential(finished: StudyResult) -> None:
    tensors = load_file(folder(finished) / "best" / "model.safetensors")
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )
    weights = {name: torch.from_numpy(v) for name, v in tensors.items() if "scaler" not in name}
    assert model.load_state_dict(weights).missing_keys == []
    digits = read_digits("sample")
    scaler = fit_scaler(digits.images[split_rows(digits.labels, 0.2, 42).train])
    assert np.array_equal(tensors["scaler.data_max"], scaler.data_max)


def test_same_seed_gives_the_same_table(finished: StudyResult, tmp_path: Path) -> None:
    run(tmp_path)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(tmp_path, name), untimed(folder(finished), name), check_exact=True
        )


@pytest.mark.slow
def test_one_trial_per_configuration_gives_the_same_table_up_to_rounding(
    finished: StudyResult, tmp_path: Path
) -> None:
    run(tmp_path, stack_size=1)
    assert len(list((tmp_path / "stacks").glob("*.safetensors"))) == 4
    pd.testing.assert_frame_equal(
        untimed(tmp_path, "trials.csv"), untimed(folder(finished), "trials.csv"), atol=0.01
    )


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a finished study was trained")


def test_a_finished_study_trains_nothing(finished: StudyResult) -> None:
    again = run(folder(finished), runner=refuse)
    pd.testing.assert_frame_equal(again.tables.trials, finished.tables.trials)


def test_a_wider_grid_trains_only_its_new_trials(tmp_path: Path) -> None:
    run(tmp_path, Space.of(lr=(0.1,), batch_size=(512,)))
    (first,) = (tmp_path / "stacks").glob("*.safetensors")
    written = first.stat().st_mtime_ns
    wider = run(tmp_path, Space.of(lr=(0.1, 0.5), batch_size=(512,)))
    assert wider.tables.trials["status"].to_list() == ["completed", "completed"]
    assert first.stat().st_mtime_ns == written
    names = sorted(p.name.rsplit("-", 2)[0] for p in (tmp_path / "stacks").glob("*.safetensors"))
    assert names == ["bs512-seed0-lr0.1", "bs512-seed0-lr0.5"]


@pytest.mark.slow
def test_more_points_train_only_the_new_ones(tmp_path: Path) -> None:
    values = {"lr": (Range(0.05, 0.5),), "batch_size": (256, 512), "momentum": (Range(0, 0.9),)}
    run(tmp_path / "study", epochs=1)  # a grid grows to points, too
    few = run(tmp_path / "study", Space(values, points=4), epochs=1)
    stacks = {path.name for path in (tmp_path / "study" / "stacks").iterdir()}
    more = run(tmp_path / "study", Space(values, points=6), epochs=1)
    new = {path.name for path in (tmp_path / "study" / "stacks").iterdir()} - stacks
    assert few.tables.complete
    assert more.tables.complete
    assert len(more.tables.trials) == 6
    assert list(more.tables.trials["trial"][:4]) == list(few.tables.trials["trial"])
    members = [
        member.name
        for stack in more.record.results
        if f"{stack.key}.safetensors" in new
        for member in stack.stack.members
    ]
    assert sorted(members) == sorted(more.tables.trials["trial"][4:])


def test_a_narrower_grid_shows_fewer_rows_and_trains_nothing(tmp_path: Path) -> None:
    wide = run(tmp_path, Space.of(lr=(0.1, 0.5), batch_size=(512,)), stack_size=2)
    narrow = run(tmp_path, Space.of(lr=(0.1,), batch_size=(512,)))
    assert (wide.winner, narrow.winner) == ("lr0.5-bs512-seed0", "lr0.1-bs512-seed0")
    about = json.loads((tmp_path / "best" / "model.json").read_text())
    assert about["configuration"]["lr"] == 0.1
    assert narrow.best == about
    assert len(list((tmp_path / "stacks").iterdir())) == 1


@pytest.mark.slow
def test_a_grown_study_equals_one_that_was_asked_at_once(
    finished: StudyResult, tmp_path: Path
) -> None:
    first = run(tmp_path, Space.of(lr=(0.1,), batch_size=(256,)), epochs=1, stack_size=1)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stacks/*.safetensors")}
    run(tmp_path, epochs=1, stack_size=1)
    run(tmp_path, epochs=2, stack_size=1)
    run(tmp_path / "at once", epochs=2, stack_size=1)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(tmp_path, name), untimed(tmp_path / "at once", name), check_exact=True
        )
    models = [path / "best" / "model.safetensors" for path in (tmp_path, tmp_path / "at once")]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert len(written) == len(first.tables.trials) == 1
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


@pytest.mark.slow
def test_a_study_of_plain_sgd_grows_to_momentum_dropout_and_adamw(tmp_path: Path) -> None:
    plain = Space.of(lr=(0.1,), batch_size=(256,))
    richer = Space.of(
        lr=(0.1,),
        batch_size=(256,),
        momentum=(0.0, 0.9),
        dropout=(0.0, 0.2),
        optimizer=("sgd", "adamw"),
    )
    run(tmp_path / "grown", plain, epochs=1, stack_size=1)
    run(tmp_path / "grown", richer, epochs=1, stack_size=1)
    grown = run(tmp_path / "grown", richer, epochs=2, stack_size=1)
    at_once = run(tmp_path / "at once", richer, epochs=2, stack_size=1)
    assert len(grown.tables.trials) == 6
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(folder(grown), name), untimed(folder(at_once), name), check_exact=True
        )
    models = [folder(each) / "best" / "model.safetensors" for each in (grown, at_once)]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert load_classifier(grown.directory / "best")


def test_more_epochs_go_on_from_where_a_study_ended_and_fewer_delete_nothing(
    tmp_path: Path,
) -> None:
    space, said = Space.of(lr=(0.1,), batch_size=(512,)), io.StringIO()
    run(tmp_path, space, epochs=2)
    before = pd.read_csv(tmp_path / "epochs.csv")
    run(tmp_path, space, epochs=3, console=Console(file=said, width=200))
    assert "1 of them continue from fewer epochs" in said.getvalue()
    after = pd.read_csv(tmp_path / "epochs.csv")
    assert after["epoch"].to_list() == [1, 2, 3]
    # Times as well: the first two epochs were not trained again.
    pd.testing.assert_frame_equal(after.head(2), before, check_exact=True)
    kept = {path.name for path in tmp_path.glob("*/*.safetensors")}
    run(tmp_path, space, epochs=1)  # fewer delete nothing
    assert {path.name for path in tmp_path.glob("*/*.safetensors")} > kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["removed", "damaged"])
def test_growth_without_the_earlier_weights_says_so_and_trains_anew(
    kind: str, tmp_path: Path
) -> None:
    space, said = Space.of(lr=(0.1,), batch_size=(512,)), io.StringIO()
    run(tmp_path / "cut", space, epochs=1)
    (weights,) = (tmp_path / "cut").glob("weights/*")
    if kind == "removed":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    grown = run(tmp_path / "cut", space, epochs=2, console=Console(file=said, width=200))
    reason = {"removed": "its weights is missing", "damaged": "its weights are damaged"}[kind]
    assert re.search(rf"set aside stacks/.*{reason}", said.getvalue())
    assert "continue from fewer epochs" not in said.getvalue()
    assert grown.tables.complete
    run(tmp_path / "whole", space, epochs=2)
    pd.testing.assert_frame_equal(
        untimed(tmp_path / "cut", "epochs.csv"),
        untimed(tmp_path / "whole", "epochs.csv"),
        check_exact=True,
    )


@pytest.mark.parametrize("content", [b"", b"garbage \xff", b'{"format": 99}'])
def test_a_damaged_question_is_set_aside_and_its_results_are_kept(
    content: bytes, finished: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(finished), study)
    (study / "study.json").write_bytes(content)
    said = io.StringIO()
    mended = run(study, runner=refuse, console=Console(file=said, width=200))
    assert "set aside study.json: it " in said.getvalue()
    assert (study / "damaged" / "study.json").read_bytes() == content
    pd.testing.assert_frame_equal(mended.tables.trials, finished.tables.trials)


@pytest.mark.parametrize(("fraction", "warned"), [(1e-9, True), (0.0197, True), (0.02, False)])
def test_few_validation_images_are_warned_of(fraction: float, warned: bool, tmp_path: Path) -> None:
    study, said = Folder.at(tmp_path), io.StringIO()
    write_spec(study, make_spec())
    with pytest.raises(InputError, match="holds another study"):  # said before Ray is needed
        run(tmp_path, val_fraction=fraction, console=Console(file=said, width=200))
    rows = math.ceil(5000 * fraction)
    warning = f"warning  validation images: {rows} of 5,000, so accuracy moves in steps of "
    assert (f"{warning}{100 / rows:.3g} percentage points" in said.getvalue()) is warned


def test_a_study_of_which_every_trial_diverged_says_what_to_try(tmp_path: Path) -> None:
    result = run(tmp_path, Space.of(lr=(1e20, 1e25), batch_size=(512,)), epochs=1)
    assert result.winner is None
    assert not result.complete
    assert pd.read_csv(tmp_path / "trials.csv")["status"].to_list() == ["diverged"] * 2
    assert len(pd.read_csv(tmp_path / "epochs.csv")) == 2
    assert not (tmp_path / "best").exists()
    said = "\n".join(describe_verdict(result.findings) + describe(result))
    assert "2 of 2 trials diverged." in said
    assert "There is no winner. All 2 trials diverged" in said
    assert "--lr 0.1,1.0 " in str(result.findings[0].command)


def test_a_stack_whose_worker_was_lost_after_its_last_write_has_not_failed(
    finished: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(finished), study)
    write_failure(Folder.at(study), "any", ["lr0.1-bs256-seed0"], "its worker was lost")
    result = run(study)
    assert result.failures == {}
    assert result.complete


def test_a_refused_command_leaves_the_study_as_it_is(finished: StudyResult) -> None:
    before = (folder(finished) / "study.json").read_bytes()
    with pytest.raises(InputError, match="needs 64 CPUs"):
        run(folder(finished), Space.of(lr=(0.1, 0.7), batch_size=(256,)), cpus_per_stack=64)
    assert (folder(finished) / "study.json").read_bytes() == before


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory; give "):
        run(tmp_path / "file")


def test_a_class_too_small_to_split_is_refused_by_file_and_label(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("label,pixel0\n1,0\n1,9\n2,7\n")
    with pytest.raises(InputError) as caught:
        run(tmp_path / "out", data=str(path))
    assert str(caught.value).startswith(f"{path}: labels: label 2 has 1 row, too small to split")


def test_the_job_is_the_same_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def remember(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(mnist_grid, "digitrec", remember)
    assert mnist_grid.main(["--out", str(tmp_path)]) == 0
    assert asked == [["tune", "--out", str(tmp_path)]]


def test_the_recipe_is_a_study_that_arguments_can_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def remember(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(best_digits, "digitrec", remember)
    assert best_digits.main(["--out", str(tmp_path), "--rungs", "1,2", "--points", "8"]) == 0
    request = make_request(make_parser().parse_args(asked[0]))
    assert (request.epochs, request.refit) == (2, True)
    assert len(request.space.trials()) == 8
    images = {trial.configuration.of_role("images") for trial in request.space.trials()}
    assert images == {"affine", "shift2"}


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a runner starts; no figures are drawn."""
    leave_out_pictures(monkeypatch)
    started = threading.Event()
    enter = InProcess.__enter__

    def note(self: InProcess) -> InProcess:
        started.set()
        return enter(self)

    monkeypatch.setattr(InProcess, "__enter__", note)
    return started


def test_workers_start_while_the_data_of_a_new_study_is_read(
    starts: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_slowly(source: str) -> Digits:
        assert starts.wait(timeout=60)
        return read_once(source)

    monkeypatch.setattr("digitrec.study.read_digits", read_slowly)
    request = Request(space=SMALL, epochs=1, out=str(tmp_path / "study"))
    assert run_study(request, Console(file=io.StringIO()), InProcess).complete


def test_no_worker_starts_for_data_that_is_not_there(
    starts: threading.Event, tmp_path: Path
) -> None:
    request = Request(data=str(tmp_path / "none.csv"), out=str(tmp_path / "study"))
    with pytest.raises(InputError, match="No such file"):
        run_study(request, Console(file=io.StringIO()), InProcess)
    assert not starts.is_set()


def test_another_study_in_the_directory_is_refused_by_its_differences(
    finished: StudyResult,
) -> None:
    with pytest.raises(InputError) as caught:
        run(folder(finished), precision="bf16", val_fraction=0.3)
    differences = "its val_fraction is 0.2, not 0.3; its precision is float32, not bf16"
    assert differences in str(caught.value)


def test_a_diverged_trial_keeps_its_row_and_never_wins(tmp_path: Path) -> None:
    result = run(tmp_path, Space.of(lr=(0.1, 1e20), batch_size=(512,)))
    assert result.tables.trials["status"].to_list() == ["completed", "diverged"]
    assert result.winner == "lr0.1-bs512-seed0"
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert epochs[epochs["lr"] == 1e20]["val_loss"].isna().all()


def test_batch_sizes_over_the_training_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch size 4001 is more than the 4000 training rows"):
        run(tmp_path, Space.of(batch_size=(4001,)))
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"), [(1, 0, 6), (2, 0, 3), (0.5, 0, 12), (1, 1, 2), (1, 0.5, 4)]
)
def test_workers_are_counted_node_by_node(cpus: float, gpus: float, workers: int) -> None:
    assert count_workers([{"CPU": 4, "GPU": 2}, {"CPU": 2}], cpus, gpus) == workers


def test_a_request_says_what_is_wrong_with_it() -> None:
    for options, message in (
        ({"epochs": 0}, "epochs 0 is not a whole number above 0"),
        ({"val_fraction": 1.0}, "val-fraction 1.0 is not between 0 and 1"),
        ({"stack_size": 0}, "stack-size 0 is neither 'auto' nor a whole number above 0"),
        ({"cpus_per_stack": 0}, "cpus-per-stack 0 is neither a fraction up to 1 nor a whole"),
        ({"gpus_per_stack": 1.5}, "gpus-per-stack 1.5 is neither a fraction up to 1 nor a whole"),
        ({"out": "ftp://host/x"}, "ftp://host/x: neither a path nor one of s3://"),
        ({"max_failures": -1}, "max-failures -1 is less than 0"),
    ):
        with pytest.raises(InputError) as caught:
            Request(**options)
        assert str(caught.value).startswith(message)


def test_a_python_whose_path_has_a_space_is_quoted_for_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/me/my digits/.venv/bin/python")
    assert local_runtime_env() == {"py_executable": "'/home/me/my digits/.venv/bin/python'"}
    monkeypatch.setattr(sys, "executable", "/home/me/digits/.venv/bin/python")
    assert local_runtime_env() is None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "is not the address of a Ray cluster, which is HOST:PORT"),
        ("nonsense", "is not the address of a Ray cluster, which is HOST:PORT"),
        ("127.0.0.1:1", r"no Ray cluster answers at 127\.0\.0\.1:1"),
        ("127.0.0.1:99999999", r"no Ray cluster answers at 127\.0\.0\.1:99999999"),
    ],
)
def test_a_wrong_address_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_address(address)


def test_an_empty_ray_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    console = Console(file=io.StringIO())
    assert Session(None, console, Timings()).address == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert Session(None, console, Timings()).address == "10.0.0.1:6379"
    assert Session("10.0.0.2:6379", console, Timings()).address == "10.0.0.2:6379"


def test_a_study_is_kept_under_the_name_of_its_data() -> None:
    assert Request().directory == Folder.at(Path.cwd() / "results" / "sample")
    assert Request(data="/data/train.csv.gz").directory == Folder.at(
        Path.cwd() / "results" / "train"
    )


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["__enter__", "nodes", "train", "end"])
def test_a_ctrl_c_at_any_moment_of_the_training_leaves_tables(
    moment: str, finished: StudyResult, tmp_path: Path
) -> None:
    def interrupted(self: InProcess, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return getattr(InProcess, moment)(self, *arguments)

    interrupting: type[InProcess] = type("Interrupting", (InProcess,), {moment: interrupted})
    result = run(tmp_path / "study", runner=interrupting)
    trials = pd.read_csv(tmp_path / "study" / "trials.csv")
    assert set(trials["status"]) == {"completed" if moment == "end" else "stopped"}
    assert result.tables.complete == (moment == "end")
    run(tmp_path / "study")
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(tmp_path / "study", name), untimed(folder(finished), name), check_exact=True
        )


CUT = Space.of(lr=(0.05, 0.1, 0.2, 0.3, 0.5), batch_size=(32, 64))


def start(out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.undrawn", "tune", "--out", str(out), "--stack-size=1"]
    command += ["--lr", "0.05,0.1,0.2,0.3,0.5", "--batch-size", "32,64", "--epochs", "4"]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | ONE_CORE,
    )


def cut(out: Path, stop: signal.Signals) -> tuple[int, str, set[str]]:
    """Start a study and stop it after one more stack; returns its exit code, words and statuses."""
    there = len(list(out.glob("stacks/*.safetensors")))
    process = start(out)
    deadline = time.monotonic() + 120
    while len(list(out.glob("stacks/*.safetensors"))) <= there and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output, set(pd.read_csv(out / "trials.csv")["status"])


@pytest.mark.ray
def test_a_study_that_is_cut_short_twice_goes_on_to_the_same_tables(tmp_path: Path) -> None:
    study, whole = tmp_path / "cut", tmp_path / "whole"
    for stop in (signal.SIGINT, signal.SIGTERM):
        code, output, statuses = cut(study, stop)
        assert code == 1, output
        assert "to train the rest" in output
        assert "stopped" in statuses
    assert run(study, CUT, epochs=4, stack_size=1).complete
    run(whole, CUT, epochs=4, stack_size=1)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(untimed(study, name), untimed(whole, name), check_exact=True)
