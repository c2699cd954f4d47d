import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from digitrec.errors import DamagedError, InputError
from digitrec.results.analysis.ranking import rank
from digitrec.space.points import Space
from digitrec.space.records import EpochRecord
from digitrec.store import arrays, tables
from digitrec.store.arrays import pack
from digitrec.store.best import read_best
from digitrec.store.folder import Folder
from digitrec.store.record import read_record
from digitrec.store.spec import read_spec, write_spec
from digitrec.store.stacks import (
    StackResult,
    clear_failures,
    read_failures,
    read_stacks,
    read_weights,
    set_aside,
    write_failure,
    write_stack,
)
from digitrec.store.validation import read_labels, write_labels
from tests.studies import DATA, make_result, make_spec, to_the_end

KEY = "0123456789abcdef"  # of a spec
NAN = math.nan


@pytest.fixture
def study(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path)


def record(epoch: int, val_accuracy: float, val_loss: float = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 10 * epoch, 0.4, 0.8, val_loss, val_accuracy, 0.25)


def diverged(epoch: int, updates: int) -> EpochRecord:
    return EpochRecord(epoch, updates, NAN, NAN, NAN, NAN, 0.25)


def finished(lrs: tuple[float, ...], epochs: list[list[EpochRecord]]) -> StackResult:
    return make_result(Space.of(lr=lrs, batch_size=(32,)).trials(), epochs)


CALM_AND_WILD = finished(
    (0.1, 9.0),
    [
        [record(1, 0.7), record(1, 0.9)],
        [record(2, 0.9), diverged(2, 20)],
        [record(3, 0.8), diverged(3, 20)],
    ],
)


def test_a_finished_stack_reads_back_as_it_was_written(study: Folder) -> None:
    weights = {
        "lr0.1-bs32-seed0": {"0.weight": np.eye(3, 2, dtype=np.float32)},
        "lr9.0-bs32-seed0": {"0.weight": np.full((3, 2), NAN, np.float32)},
    }
    write_stack(study, KEY, CALM_AND_WILD, weights)
    (back,), damaged = read_stacks(study, KEY)
    assert not damaged
    assert (back.stack, back.run) == (CALM_AND_WILD.stack, CALM_AND_WILD.run)
    assert back.epochs[0] == CALM_AND_WILD.epochs[0]
    assert np.isnan(back.epochs[2][1].val_loss)
    assert np.array_equal(back.predictions, CALM_AND_WILD.predictions)
    kept = read_weights(study, KEY, back.key, list(weights))
    for parameters, there in zip(weights.values(), kept, strict=True):
        assert np.array_equal(there["0.weight"], parameters["0.weight"], equal_nan=True)
    with pytest.raises(DamagedError, match=r"no weights of lr5\.0-bs32-seed0"):
        read_weights(study, KEY, back.key, ["lr5.0-bs32-seed0"])


def damage_by(change: str, content: bytes) -> bytes:
    changes = {
        "empty": b"",
        "cut short": content[: len(content) // 2],
        "one bit": content[:-1] + bytes([content[-1] ^ 1]),
        "not ours": save({"x": np.zeros(3)}),
        "of another kind": pack("weights", {"question": KEY}, {}),
        "text": b"hello, world, this is no array",
    }
    return changes[change]


@pytest.mark.parametrize(
    "change", ["empty", "cut short", "one bit", "not ours", "of another kind", "text"]
)
def test_a_damaged_stack_is_named_and_never_used(study: Folder, change: str) -> None:
    write_stack(study, KEY, CALM_AND_WILD, {})
    (name,) = (study / "stacks").names()
    content = (study / "stacks").read(name)
    (study / "stacks").write(name, damage_by(change, content))
    results, (damage,) = read_stacks(study, KEY)
    assert results == []
    assert str(damage).startswith(f"stacks/{name}: it")
    set_aside(study, damage)
    assert (study / "stacks").names() == []
    assert (study / "damaged").names() == [f"stacks-{name}"]


def test_a_stack_of_a_newer_version_or_of_another_study_is_never_used(
    study: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stack(study, KEY, CALM_AND_WILD, {})
    _, (damage,) = read_stacks(study, "another spec")
    assert damage.reason == "it belongs to a study of other data, split or model"
    monkeypatch.setattr(arrays, "FORMAT", 1)
    _, (damage,) = read_stacks(study, KEY)
    assert damage.reason == "it has format 2; this digitrec reads 1"


def test_tables_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    configurations = Space.of(lr=(0.1, 9.0), batch_size=(32,)).trials()
    tables.write_tables(
        Folder.at(tmp_path), tables.make_tables(to_the_end(configurations, 3), [CALM_AND_WILD], {})
    )
    assert (tmp_path / "trials.csv").read_text().splitlines()[0] == (
        "trial,lr,batch_size,momentum,nesterov,weight_decay,dropout,label_smoothing,optimizer,"
        "hidden_sizes,augmentation,"
        "seed,status,epochs,updates,train_loss,train_accuracy,val_loss,val_accuracy,best_val_accuracy,best_epoch,seconds"
    )
    assert (tmp_path / "runs.csv").read_text().splitlines()[0] == (
        "trial,stack,node,pid,started,ended,node_id"
    )
    assert (tmp_path / "epochs.csv").read_text().splitlines()[0] == (
        "trial,lr,batch_size,momentum,nesterov,weight_decay,dropout,label_smoothing,optimizer,"
        "hidden_sizes,augmentation,"
        "seed,epoch,updates,train_loss,train_accuracy,val_loss,val_accuracy,seconds"
    )


def test_a_diverged_trial_keeps_its_row() -> None:
    configurations = Space.of(lr=(0.1, 9.0), batch_size=(32,)).trials()
    study = tables.make_tables(to_the_end(configurations, 3), [CALM_AND_WILD], {})
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
    configurations = Space.of(lr=(0.1, 0.5), batch_size=(64,)).trials()
    study = tables.make_tables(
        to_the_end(configurations, 1), [], {"lr0.5-bs64-seed0": "out of memory"}
    )
    assert study.trials["status"].to_list() == ["stopped", "failed"]
    assert study.trials["val_accuracy"].isna().all()
    assert study.trials["best_epoch"].isna().all()
    assert not study.complete


def test_whole_numbers_stay_whole_beside_an_unfinished_trial(tmp_path: Path) -> None:
    result = finished((0.1,), [[record(1, 0.9)]])
    configurations = Space.of(lr=(0.1, 0.5), batch_size=(32,)).trials()
    tables.write_tables(
        Folder.at(tmp_path), tables.make_tables(to_the_end(configurations, 1), [result], {})
    )
    done, stopped = csv.DictReader((tmp_path / "trials.csv").read_text().splitlines())
    assert (done["best_epoch"], done["epochs"], done["updates"]) == ("1", "1", "10")
    assert (stopped["best_epoch"], stopped["epochs"], stopped["updates"]) == ("", "0", "0")


def test_ranking_is_by_validation_accuracy_then_loss_and_leaves_diverged_trials_out() -> None:
    result = finished(
        (0.1, 0.2, 0.3, 0.4),
        [[record(1, 0.9, 0.30), record(1, 0.9, 0.20), record(1, 0.95), diverged(1, 10)]],
    )
    study = tables.make_tables(to_the_end(result.stack.members, 1), [result], {})
    assert rank(study.trials)["lr"].to_list() == [0.3, 0.2, 0.1]


def test_numbers_survive_the_tables_to_the_last_bit(tmp_path: Path) -> None:
    accuracy = 0.1 + 0.2
    result = finished((1e-05,), [[record(1, accuracy)]])
    tables.write_tables(
        Folder.at(tmp_path), tables.make_tables(to_the_end(result.stack.members, 1), [result], {})
    )
    (row,) = csv.DictReader((tmp_path / "trials.csv").read_text().splitlines())
    assert (float(row["val_accuracy"]), float(row["lr"])) == (accuracy, 1e-05)


def test_a_question_reads_back_and_names_its_differences(study: Folder) -> None:
    write_spec(study, make_spec())
    there = read_spec(study)
    assert there == make_spec()
    grown = make_spec(space={"lr": [5.0], "batch_size": [1], "seed": [2]}, epochs=9, versions={})
    assert there.differences(grown) == []
    assert there.key == grown.key
    other = make_spec(
        val_fraction=0.5, data=DATA | {"source": "b.csv", "fingerprint": "ff", "rows": 9}
    )
    assert there.differences(other) == [
        "its data is digits.csv (500 rows, fingerprint 0123456789abcdef), "
        "not b.csv (9 rows, fingerprint ff)",
        "its val_fraction is 0.2, not 0.5",
    ]
    assert there.key != other.key


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 2, "epochs": 3}', "null", "\udcff", '{"format": 99}', "3"],
)
def test_a_foreign_study_json_is_no_question(study: Folder, content: str) -> None:
    study.write("study.json", content.encode(errors="surrogateescape"))
    with pytest.raises(DamagedError, match="it "):
        read_spec(study)
    with pytest.raises(InputError, match=r"study\.json: it .* writes it again"):
        read_record(study)


@pytest.mark.parametrize("number", ["rows", "train_rows", "val_rows", "pixels"])
def test_a_question_about_no_rows_is_damaged(study: Folder, number: str) -> None:
    write_spec(study, make_spec(data=DATA | {number: 0}))
    with pytest.raises(DamagedError, match="damaged"):
        read_spec(study)


AVERAGED = [{"trial": "a"}, {"trial": "b"}]
MEASURED = {"val_accuracy": 0.5, "val_loss": 1.0}
TESTED = {"source": "a.csv", "rows": 3, "accuracy": 0.5, "loss": 1.0}


@pytest.mark.parametrize(
    ("about", "sound"),
    [
        ({"trial": "a"}, True),
        ({"trial": "a", "test": TESTED, "refit": {"rows": 9}}, True),
        ({"trial": 3}, False),
        ({"test": TESTED}, False),
        ({"trial": "a", "test": []}, False),
        ({"trial": "a", "test": None}, False),
        ({"trial": "a", "test": TESTED | {"rows": 0}}, False),
        ({"trial": "a", "test": TESTED | {"loss": "low"}}, False),
        ({"trial": "a", "refit": 3}, False),
        ({"trial": "a", "members": AVERAGED, "average": MEASURED}, True),
        ({"trial": "a", "members": AVERAGED}, False),
        ({"trial": "a", "members": AVERAGED, "average": MEASURED, "test": TESTED}, False),
        ({"trial": "a", "members": [{}], "average": MEASURED}, False),
        ({"trial": "a", "members": 3, "average": MEASURED}, False),
        ({"trial": "a", "members": AVERAGED, "average": MEASURED | {"val_loss": "x"}}, False),
        ({"trial": "a", "refit": {"rows": "9"}}, False),
        ([], False),
    ],
)
def test_a_model_that_is_not_described_as_it_should_be_is_absent(
    study: Folder, about: object, sound: bool
) -> None:
    (study / "best").write("model.json", json.dumps(about).encode())
    (study / "best").write("model.safetensors", b"")
    assert read_best(study) == (about if sound else None)


def test_only_a_trial_of_the_question_that_has_no_result_can_have_failed(study: Folder) -> None:
    result = finished((0.1,), [[record(1, 0.7)]])
    asked = make_spec(
        space={"lr": [0.1, 0.2], "batch_size": [32], "seed": [result.stack.members[0].seed]},
        epochs=1,
    )
    write_spec(study, asked)
    write_stack(study, asked.key, result, {})
    done, missing = (member.name for member in asked.trials())
    write_failure(study, "some-stack", [done, missing, "lr9.0-bs32-seed0"], "out of memory")
    assert read_record(study).failures == {missing: "out of memory"}


def test_a_directory_without_a_study_is_refused(study: Folder) -> None:
    with pytest.raises(InputError, match=r"holds no study"):
        read_record(study)


def test_failures_read_back_until_they_are_cleared(study: Folder) -> None:
    write_failure(study, "some-stack", ["a", "b"], "out of memory")
    assert read_failures(study) == {"a": "out of memory", "b": "out of memory"}
    clear_failures(study, {"c"})
    assert list(read_failures(study)) == ["a", "b"]
    clear_failures(study, {"b", "c"})
    assert read_failures(study) == {"a": "out of memory"}
    clear_failures(study, {"a"})
    assert read_failures(study) == {}
    assert (study / "stacks").names() == []


def test_validation_labels_read_back_for_their_question_only(study: Folder) -> None:
    labels = np.array([3, 1, 4], np.uint8)
    write_labels(study, make_spec(), labels, np.arange(3))
    there = read_labels(study, make_spec())
    assert there is not None
    assert there.tolist() == [3, 1, 4]
    assert read_labels(study, make_spec(val_fraction=0.5)) is None


@pytest.mark.slow
def test_results_need_neither_ray_nor_torch_and_scikit_learn_only_to_draw_importances() -> None:
    code = (
        "import sys, digitrec.results.outcome; "
        "found = {'ray', 'torch', 'sklearn'} & set(sys.modules); assert not found, found"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
