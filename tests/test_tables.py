import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digitrec.errors import InputError
from digitrec.results import stacks, tables
from digitrec.results.question import Question, read_question, write_question
from digitrec.results.stacks import (
    StackResult,
    clear_failures,
    read_failures,
    read_stacks,
    read_weights,
    write_atomically,
    write_failure,
    write_stack,
)
from digitrec.space import EpochRecord, Space, Stack

NAN = math.nan


def record(epoch: int, val_accuracy: float, val_loss: float = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 10 * epoch, 0.4, 0.8, val_loss, val_accuracy, 0.25)


def diverged(epoch: int, updates: int) -> EpochRecord:
    return EpochRecord(epoch, updates, NAN, NAN, NAN, NAN, 0.25)


def finished(lrs: tuple[float, ...], epochs: list[list[EpochRecord]]) -> StackResult:
    return StackResult(
        stack=Stack(Space(lrs=lrs, batch_sizes=(32,)).configurations()),
        epochs=epochs,
        predictions=np.arange(4 * len(lrs), dtype=np.uint8).reshape(len(lrs), 4),
    )


CALM_AND_WILD = finished(
    (0.1, 9.0),
    [
        [record(1, 0.7), record(1, 0.9)],
        [record(2, 0.9), diverged(2, 20)],
        [record(3, 0.8), diverged(3, 20)],
    ],
)


def question(**changes: object) -> Question:
    values: dict[str, object] = {
        "data": {"source": "digits.csv", "fingerprint": "0123456789abcdef", "rows": 10},
        "space": {"lr": [0.1, 9.0], "batch_size": [32], "seed": [0]},
        "epochs": 3,
        "val_fraction": 0.2,
        "split_seed": 42,
        "layer_sizes": [4, 3, 10],
        "precision": "float32",
    }
    return Question(**(values | changes))  # type: ignore[arg-type]


def test_a_finished_stack_reads_back_as_it_was_written(tmp_path: Path) -> None:
    weights = {
        "lr0.1-bs32-seed0": {"0.weight": np.eye(3, 2, dtype=np.float32)},
        "lr9.0-bs32-seed0": {"0.weight": np.full((3, 2), NAN, np.float32)},
    }
    write_stack(tmp_path, CALM_AND_WILD, weights)
    (back,) = read_stacks(tmp_path)
    assert back.stack == CALM_AND_WILD.stack
    assert back.epochs[0] == CALM_AND_WILD.epochs[0]
    assert np.isnan(back.epochs[2][1].val_loss)
    assert np.array_equal(back.predictions, CALM_AND_WILD.predictions)
    for trial, parameters in weights.items():
        kept = read_weights(tmp_path, trial)["0.weight"]
        assert np.array_equal(kept, parameters["0.weight"], equal_nan=True)
    with pytest.raises(FileNotFoundError, match=r"lr5\.0-bs32-seed0"):
        read_weights(tmp_path, "lr5.0-bs32-seed0")


def test_a_stack_of_another_format_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stack(tmp_path, CALM_AND_WILD, {})
    monkeypatch.setattr(stacks, "FORMAT", 2)
    with pytest.raises(InputError, match=r"safetensors: format 1; this digitrec reads 2"):
        read_stacks(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomically(path, b"before")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_tables_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    configurations = Space(lrs=(0.1, 9.0), batch_sizes=(32,)).configurations()
    tables.write_tables(tmp_path, tables.make_tables(configurations, [CALM_AND_WILD], {}))
    assert (tmp_path / "trials.csv").read_text().splitlines()[0] == (
        "trial,lr,batch_size,seed,status,epochs,updates,train_loss,train_accuracy,val_loss,"
        "val_accuracy,best_val_accuracy,best_epoch,seconds"
    )
    assert (tmp_path / "epochs.csv").read_text().splitlines()[0] == (
        "trial,lr,batch_size,seed,epoch,updates,train_loss,train_accuracy,val_loss,val_accuracy,"
        "seconds"
    )


def test_a_diverged_trial_keeps_its_row() -> None:
    configurations = Space(lrs=(0.1, 9.0), batch_sizes=(32,)).configurations()
    study = tables.make_tables(configurations, [CALM_AND_WILD], {})
    calm, wild = study.trials.to_dict("records")
    assert (calm["status"], calm["epochs"], calm["updates"]) == ("completed", 3, 30)
    assert (calm["val_accuracy"], calm["best_val_accuracy"], calm["best_epoch"]) == (0.8, 0.9, 2)
    assert (wild["status"], wild["epochs"], wild["updates"]) == ("diverged", 2, 20)
    assert math.isnan(wild["val_accuracy"])
    assert (wild["best_val_accuracy"], wild["best_epoch"]) == (0.9, 1)
    assert calm["seconds"] == wild["seconds"] == 0.75
    assert len(study.epochs) == 6
    assert study.complete


def test_a_trial_without_a_result_is_failed_or_stopped() -> None:
    configurations = Space(lrs=(0.1, 0.5), batch_sizes=(64,)).configurations()
    study = tables.make_tables(configurations, [], {"lr0.5-bs64-seed0": "out of memory"})
    assert study.trials["status"].to_list() == ["stopped", "failed"]
    assert study.trials["val_accuracy"].isna().all()
    assert study.trials["best_epoch"].isna().all()
    assert not study.complete


def test_whole_numbers_stay_whole_beside_an_unfinished_trial(tmp_path: Path) -> None:
    result = finished((0.1,), [[record(1, 0.9)]])
    configurations = Space(lrs=(0.1, 0.5), batch_sizes=(32,)).configurations()
    tables.write_tables(tmp_path, tables.make_tables(configurations, [result], {}))
    done, stopped = csv.DictReader((tmp_path / "trials.csv").read_text().splitlines())
    assert (done["best_epoch"], done["epochs"], done["updates"]) == ("1", "1", "10")
    assert (stopped["best_epoch"], stopped["epochs"], stopped["updates"]) == ("", "0", "0")


def test_ranking_is_by_validation_accuracy_then_loss_and_leaves_diverged_trials_out() -> None:
    result = finished(
        (0.1, 0.2, 0.3, 0.4),
        [[record(1, 0.9, 0.30), record(1, 0.9, 0.20), record(1, 0.95), diverged(1, 10)]],
    )
    study = tables.make_tables(result.stack.members, [result], {})
    assert tables.rank(study.trials)["lr"].to_list() == [0.3, 0.2, 0.1]


def test_numbers_survive_the_tables_to_the_last_bit(tmp_path: Path) -> None:
    accuracy = 0.1 + 0.2
    result = finished((1e-05,), [[record(1, accuracy)]])
    tables.write_tables(tmp_path, tables.make_tables(result.stack.members, [result], {}))
    (row,) = csv.DictReader((tmp_path / "trials.csv").read_text().splitlines())
    assert (float(row["val_accuracy"]), float(row["lr"])) == (accuracy, 1e-05)


def test_a_question_reads_back_and_names_its_differences(tmp_path: Path) -> None:
    write_question(tmp_path, question())
    there = read_question(tmp_path)
    assert there == question()
    assert there.differences(question(space={"lr": [5.0]}, versions={"ray": "3"})) == []
    other = question(epochs=5, data={"source": "b.csv", "fingerprint": "ff", "rows": 9})
    assert there.differences(other) == [
        "its data is digits.csv (10 rows, fingerprint 0123456789abcdef), "
        "not b.csv (9 rows, fingerprint ff)",
        "its epochs is 3, not 5",
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"epochs": 3}', "null"])
def test_a_foreign_study_json_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(InputError, match=r"study\.json is not a study"):
        read_question(tmp_path)


def test_a_directory_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no study"):
        tables.read_tables(tmp_path)


def test_failures_read_back_until_they_are_cleared(tmp_path: Path) -> None:
    write_failure(tmp_path, "some-stack", ["a", "b"], "out of memory")
    assert read_failures(tmp_path) == {"a": "out of memory", "b": "out of memory"}
    clear_failures(tmp_path)
    assert read_failures(tmp_path) == {}


def test_study_json_is_plain_json(tmp_path: Path) -> None:
    write_question(tmp_path, question())
    assert json.loads((tmp_path / "study.json").read_text())["format"] == 1


def test_results_need_neither_ray_nor_torch() -> None:
    code = (
        "import sys, digitrec.results.outcome; assert not {'ray', 'torch'} & set(sys.modules), "
        "set(sys.modules) & {'ray', 'torch'}"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
