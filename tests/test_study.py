"""Real studies, on real Ray with two CPUs and real MNIST digits from the packaged sample."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from digitrec.cli import main as cli
from digitrec.data.digits import fit_scaler, read_digits, split_rows
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.outcome import StudyResult
from digitrec.space.points import Space
from digitrec.store.folder import Folder
from digitrec.store.stacks import write_failure
from digitrec.store.timings import Timings
from digitrec.study import run_study
from digitrec.tuning import rounds, search
from digitrec.tuning.address import check_address
from digitrec.tuning.session import Session, count_workers, local_runtime_env
from digitrec.tuning.trainable import train_stack
from digitrec.winner.classifier import load_classifier
from tune_jobs import mnist_grid

SMALL = Space(lrs=(0.1, 0.5), batch_sizes=(256, 512))
TIMES = ["seconds"]


def run(out: Path, space: Space = SMALL, epochs: int = 2, **options: object) -> StudyResult:
    request = Request(space=space, epochs=epochs, out=str(out), **options)  # type: ignore[arg-type]
    return run_study(request, Console(file=io.StringIO()))


def folder(outcome: StudyResult) -> Path:
    assert outcome.directory.path is not None
    return outcome.directory.path


def untimed(directory: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(directory / name).drop(columns=TIMES)


@pytest.fixture(scope="module")
def finished(two_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run(tmp_path_factory.mktemp("finished") / "study")


def test_a_study_leaves_what_the_contract_says(finished: StudyResult) -> None:
    there = {str(p.relative_to(folder(finished))) for p in folder(finished).rglob("*")}
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
    trials = pd.read_csv(folder(finished) / "trials.csv")
    assert trials["status"].to_list() == ["completed"] * 4
    assert trials["updates"].to_list() == [32, 16, 32, 16]
    assert len(pd.read_csv(folder(finished) / "epochs.csv")) == 8
    assert finished.tables.complete


def test_the_saved_winner_has_the_validation_accuracy_of_its_row(finished: StudyResult) -> None:
    digits = read_digits("sample")
    val = split_rows(digits.labels).val
    classifier = load_classifier(folder(finished) / "best")
    predicted = classifier.log_probabilities(digits.images[val]).argmax(1)
    accuracy = float((predicted == digits.labels[val]).mean())
    assert accuracy == finished.ranked["val_accuracy"].iloc[0]


def test_predictions_of_the_validation_rows_have_the_accuracy_of_the_winner(
    finished: StudyResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = read_digits("sample")
    val = split_rows(digits.labels).val
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
    scaler = fit_scaler(digits.images[split_rows(digits.labels).train])
    assert np.array_equal(tensors["scaler.data_max"], scaler.data_max)


def test_same_seed_gives_the_same_table(finished: StudyResult, tmp_path: Path) -> None:
    run(tmp_path)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(tmp_path, name), untimed(folder(finished), name), check_exact=True
        )


def test_one_trial_per_configuration_gives_the_same_table_up_to_rounding(
    finished: StudyResult, tmp_path: Path
) -> None:
    run(tmp_path, stack_size=1)
    assert len(list((tmp_path / "stacks").glob("*.safetensors"))) == 4
    pd.testing.assert_frame_equal(
        untimed(tmp_path, "trials.csv"), untimed(folder(finished), "trials.csv"), atol=0.01
    )


def test_a_finished_study_trains_nothing(
    finished: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a finished study was trained")

    monkeypatch.setattr(rounds, "Session", refuse)
    again = run(folder(finished))
    pd.testing.assert_frame_equal(again.tables.trials, finished.tables.trials)


def test_a_wider_grid_trains_only_its_new_cells(two_cpus: None, tmp_path: Path) -> None:
    run(tmp_path, Space(lrs=(0.1,), batch_sizes=(512,)))
    (first,) = (tmp_path / "stacks").glob("*.safetensors")
    written = first.stat().st_mtime_ns
    wider = run(tmp_path, Space(lrs=(0.1, 0.5), batch_sizes=(512,)))
    assert wider.tables.trials["status"].to_list() == ["completed", "completed"]
    assert first.stat().st_mtime_ns == written
    names = sorted(p.name.rsplit("-", 2)[0] for p in (tmp_path / "stacks").glob("*.safetensors"))
    assert names == ["bs512-seed0-lr0.1", "bs512-seed0-lr0.5"]


def test_a_narrower_grid_shows_fewer_rows_and_trains_nothing(
    two_cpus: None, tmp_path: Path
) -> None:
    wide = run(tmp_path, Space(lrs=(0.1, 0.5), batch_sizes=(512,)), stack_size=2)
    narrow = run(tmp_path, Space(lrs=(0.1,), batch_sizes=(512,)))
    assert (wide.winner, narrow.winner) == ("lr0.5-bs512-seed0", "lr0.1-bs512-seed0")
    about = json.loads((tmp_path / "best" / "model.json").read_text())
    assert about["configuration"]["lr"] == 0.1
    assert narrow.best == about
    assert len(list((tmp_path / "stacks").iterdir())) == 1


def test_a_grown_study_equals_one_that_was_asked_at_once(
    two_cpus: None, finished: StudyResult, tmp_path: Path
) -> None:
    first = run(tmp_path, Space(lrs=(0.1,), batch_sizes=(256,)), epochs=1, stack_size=1)
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


def test_more_epochs_go_on_from_where_a_study_ended_and_fewer_delete_nothing(
    two_cpus: None, tmp_path: Path
) -> None:
    space, said = Space(lrs=(0.1,), batch_sizes=(512,)), io.StringIO()
    run(tmp_path, space, epochs=2)
    before = pd.read_csv(tmp_path / "epochs.csv")
    request = Request(space=space, epochs=3, out=str(tmp_path))
    run_study(request, Console(file=said, width=200))
    assert "1 of them go on from fewer epochs" in said.getvalue()
    after = pd.read_csv(tmp_path / "epochs.csv")
    assert after["epoch"].to_list() == [1, 2, 3]
    # Times as well: the first two epochs were not trained again.
    pd.testing.assert_frame_equal(after.head(2), before, check_exact=True)
    kept = {path.name for path in tmp_path.glob("*/*.safetensors")}
    run(tmp_path, space, epochs=1)  # fewer delete nothing
    assert {path.name for path in tmp_path.glob("*/*.safetensors")} > kept


@pytest.mark.parametrize("kind", ["removed", "damaged"])
def test_growth_without_the_earlier_weights_says_so_and_trains_anew(
    kind: str, two_cpus: None, tmp_path: Path
) -> None:
    space, said = Space(lrs=(0.1,), batch_sizes=(512,)), io.StringIO()
    run(tmp_path / "cut", space, epochs=1)
    (weights,) = (tmp_path / "cut").glob("weights/*")
    if kind == "removed":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    request = Request(space=space, epochs=2, out=str(tmp_path / "cut"))
    outcome = run_study(request, Console(file=said, width=200))
    reason = {"removed": "its weights is missing", "damaged": "its weights are damaged"}[kind]
    assert re.search(rf"set aside stacks/.*{reason}", said.getvalue())
    assert "go on from fewer epochs" not in said.getvalue()
    assert outcome.tables.complete
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
    request = Request(space=SMALL, epochs=2, out=str(study))
    outcome = run_study(request, Console(file=said, width=200))  # trains nothing: needs no Ray
    assert "set aside study.json: it " in said.getvalue()
    assert (study / "damaged" / "study.json").read_bytes() == content
    pd.testing.assert_frame_equal(outcome.tables.trials, finished.tables.trials)


def test_a_study_of_which_every_trial_diverged_says_what_to_try(
    two_cpus: None, tmp_path: Path
) -> None:
    outcome = run(tmp_path, Space(lrs=(1e20, 1e25), batch_sizes=(512,)), epochs=1)
    assert outcome.winner is None
    assert not outcome.complete
    assert pd.read_csv(tmp_path / "trials.csv")["status"].to_list() == ["diverged"] * 2
    assert len(pd.read_csv(tmp_path / "epochs.csv")) == 2
    assert not (tmp_path / "best").exists()
    said = "\n".join(cli.describe(outcome))
    assert "2 of 2 trials diverged." in said
    assert "No trial has completed, so there is no winner." in said
    assert "--lr 0.1,1.0 " in str(outcome.findings[0].command)


def test_a_stack_whose_worker_was_lost_after_its_last_write_has_not_failed(
    finished: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(finished), study)
    write_failure(Folder.at(study), "any", ["lr0.1-bs256-seed0"], "its worker was lost")
    outcome = run(study)
    assert outcome.failures == {}
    assert outcome.complete


def test_a_refused_command_leaves_the_study_as_it_is(finished: StudyResult) -> None:
    before = (folder(finished) / "study.json").read_bytes()
    with pytest.raises(InputError, match="asks for 64 CPUs"):
        run(folder(finished), Space(lrs=(0.1, 0.7), batch_sizes=(256,)), cpus_per_trial=64)
    assert (folder(finished) / "study.json").read_bytes() == before


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory; give --out another"):
        run(tmp_path / "file")


def test_a_class_too_small_to_split_is_refused_by_file_and_label(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("label,pixel0\n1,0\n1,9\n2,7\n")
    with pytest.raises(InputError) as caught:
        run(tmp_path / "out", data=str(path))
    assert str(caught.value).startswith(f"{path}: labels: label 2 has 1 row, too small to split")


def test_rays_own_logs_carry_each_member_by_name(finished: StudyResult) -> None:
    trials = {path.parent.name: path for path in folder(finished).glob("ray/*/*/result.json")}
    assert all(name.startswith("bs") and "-seed0-lr" in name for name in trials)
    for path in trials.values():
        reports = [json.loads(line) for line in path.read_text().splitlines()]
        assert [report["epoch"] for report in reports] == [1, 2]
        for lr in reports[0]["config"]["stack"]["lrs"]:
            assert 0 < reports[0][f"val_accuracy/lr{lr!r}"] < 1
        assert list(path.parent.glob("events.out.tfevents.*"))


def test_workers_are_used_again(two_cpus: None, tmp_path: Path) -> None:
    run(tmp_path, Space(lrs=(0.1,), batch_sizes=(64, 128, 256, 512)), epochs=1)
    logs = [path.read_text() for path in tmp_path.glob("ray/*/*/result.json")]
    assert len(logs) == 4
    assert len({json.loads(log)["pid"] for log in logs}) <= 2


def test_the_job_is_the_same_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def remember(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(mnist_grid, "digitrec", remember)
    assert mnist_grid.main(["--out", str(tmp_path)]) == 0
    assert asked == [["tune", "--out", str(tmp_path)]]


def test_another_study_in_the_directory_is_refused_by_its_differences(
    finished: StudyResult,
) -> None:
    with pytest.raises(InputError) as caught:
        run(folder(finished), precision="bf16", val_fraction=0.3)
    differences = "its val_fraction is 0.2, not 0.3; its precision is float32, not bf16"
    assert differences in str(caught.value)


def test_a_diverged_trial_keeps_its_row_and_never_wins(two_cpus: None, tmp_path: Path) -> None:
    outcome = run(tmp_path, Space(lrs=(0.1, 1e20), batch_sizes=(512,)))
    assert outcome.tables.trials["status"].to_list() == ["completed", "diverged"]
    assert outcome.winner == "lr0.1-bs512-seed0"
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert epochs[epochs["lr"] == 1e20]["val_loss"].isna().all()


def test_a_failed_stack_keeps_its_rows_and_its_reason(
    two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_512(config: dict[str, Any], **parts: Any) -> None:
        if config["stack"]["batch_size"] == 512:
            raise RuntimeError("no luck today")
        train_stack(config, **parts)

    with monkeypatch.context() as patched:
        patched.setattr(search, "train_stack", fail_at_512)
        outcome = run(tmp_path, max_failures=0)
    assert outcome.tables.trials["status"].to_list() == ["completed", "failed"] * 2
    assert outcome.failures["lr0.1-bs512-seed0"].strip().endswith("RuntimeError: no luck today")
    assert outcome.winner == "lr0.5-bs256-seed0"
    again = run(tmp_path)
    assert again.tables.complete
    assert again.failures == {}


def test_batch_sizes_over_the_training_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch size 4001 is more than the 4000 training rows"):
        run(tmp_path, Space(batch_sizes=(4001,)))
    assert not (tmp_path / "study.json").exists()


def test_more_resources_than_there_are_are_refused_with_the_numbers(
    two_cpus: None, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"asks for 64 CPUs and 0 GPUs.*: 2 CPUs, 0 GPUs"):
        run(tmp_path, cpus_per_trial=64)
    with pytest.raises(InputError, match=r"asks for 1 CPUs and 1 GPUs"):
        run(tmp_path, gpus_per_trial=1)
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"), [(1, 0, 6), (2, 0, 3), (0.5, 0, 12), (1, 1, 2), (1, 0.5, 4)]
)
def test_workers_are_counted_node_by_node(cpus: float, gpus: float, workers: int) -> None:
    assert count_workers([{"CPU": 4, "GPU": 2}, {"CPU": 2}], cpus, gpus) == workers


def test_a_request_says_what_is_wrong_with_it() -> None:
    for options, message in (
        ({"epochs": 0}, "epochs 0 is not a whole number above 0"),
        ({"val_fraction": 1.0}, "val-fraction 1.0 is not within 0 and 1"),
        ({"stack_size": 0}, "stack-size 0 is neither 'auto' nor a whole number above 0"),
        ({"cpus_per_trial": 0}, "cpus-per-trial 0 is neither a fraction up to 1 nor a whole"),
        ({"gpus_per_trial": 1.5}, "gpus-per-trial 1.5 is neither a fraction up to 1 nor a whole"),
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


def start(out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "digitrec", "tune", "--out", str(out), "--stack-size", "1"]
    command += ["--lr", "0.1,0.2,0.3,0.5", "--batch-size", "16,32,64", "--epochs", "6"]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ
    )


def go_on(out: Path) -> Path:
    again = start(out)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go_on(tmp_path_factory.mktemp("whole") / "study")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_cut_short_goes_on_to_the_same_tables(
    stop: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    process = start(cut)
    deadline = time.monotonic() + 120
    while not list(cut.glob("stacks/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "goes on" in output
    assert "stopped" in set(pd.read_csv(cut / "trials.csv")["status"])
    go_on(cut)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(untimed(cut, name), untimed(whole, name), check_exact=True)
