"""Studies whose points are suggested from results, really trained in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.rules.state import judge_unfinished
from digitrec.results.outcome import StudyResult
from digitrec.space.points import Space
from digitrec.space.ranges import Range
from digitrec.store.spec import read_spec
from digitrec.tuning import in_process
from digitrec.tuning.runner import Assignment
from tests.studies import fail_often, folder, make_drawn_record, run

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'digitrec[search]'")

SIZE = 4  # of a generation
RACE: dict[str, Any] = {"race": True, "rungs": (1, 2), "audit": 1}
ways = pytest.mark.parametrize("options", [{}, RACE], ids=["plain", "race"])


@pytest.fixture(autouse=True)
def _small_generations() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for module in ("points", "tpe"):
            patched.setattr(f"digitrec.space.{module}.GENERATION", SIZE)
        yield


def space(points: int) -> Space:
    return Space.of(
        lr=(Range(0.01, 1),),
        momentum=(Range(0, 0.9),),
        batch_size=(256, 512),
        hidden_sizes=((16,),),
        points=points,
        sampler="tpe",
    )


def study(out: Path, points: int, **options: Any) -> StudyResult:
    return run(out, space(points), None if "race" in options else 1, **options)


def outcome(result: StudyResult) -> dict[str, Any]:
    """What must be the same, however a study came to its end."""
    tables = {
        name: pd.read_csv(folder(result) / f"{name}.csv").drop(columns="seconds").to_csv()
        for name in ("trials", "epochs")
    }
    written = json.loads((folder(result) / "study.json").read_text())
    return tables | {"space": written["space"], "race": written.get("race")}


@pytest.mark.slow
@ways
def test_a_study_that_is_cut_anywhere_ends_with_the_same_points(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study(tmp_path / "whole", 10, **options)
    assert whole.complete
    assert len(whole.tables.trials) == 10
    for _ in fail_often(monkeypatch):
        try:
            result = study(tmp_path / "cut", 10, **options)
        except RuntimeError:
            continue
        break
    assert outcome(result) == outcome(whole)


def test_points_are_written_down_before_they_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, numbers = in_process._train, set()

    def look(assignment: Assignment, task: Any, display: Any) -> None:
        written = read_spec(assignment.directory).points()
        assert set(written).issuperset(task.stack.members)
        numbers.add(len(written))
        train(assignment, task, display)

    monkeypatch.setattr(in_process, "_train", look)
    study(tmp_path / "study", 10)
    assert numbers == {4, 8, 10}


def test_written_points_are_trained_though_the_results_would_suggest_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "study" / "study.json"
    with pytest.MonkeyPatch.context() as patched:
        for _ in fail_often(patched):
            with pytest.raises(RuntimeError):
                study(tmp_path / "study", 8)
            written = json.loads(file.read_text())
            if written["space"]["suggested"]:
                break
    written["space"]["suggested"][0]["lr"] = 0.123
    file.write_text(json.dumps(written))
    result = study(tmp_path / "study", 8)
    assert result.record.spec.space == written["space"]
    assert result.complete


@pytest.mark.slow
@ways
def test_a_study_that_grows_gets_the_points_that_it_would_have_got_at_once(
    options: dict[str, Any], tmp_path: Path
) -> None:
    alone = options | {"stack_size": 1}  # others would round differently
    whole = outcome(study(tmp_path / "whole", 10, **alone))
    few = study(tmp_path / "grown", 6, **alone)
    assert few.complete
    assert len(few.tables.trials) == 6
    assert outcome(study(tmp_path / "grown", 10, **alone)) == whole
    assert len(study(tmp_path / "grown", 3, **alone).tables.trials) == 3


def test_more_epochs_train_the_same_points_on(tmp_path: Path) -> None:
    before = study(tmp_path / "study", 6)
    after = run(tmp_path / "study", space(6), epochs=2)
    assert after.record.spec.space == before.record.spec.space
    assert set(after.tables.trials["epochs"]) == {2}


def test_the_same_command_again_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = outcome(study(tmp_path / "study", 6, **RACE))
    monkeypatch.setattr(in_process, "_train", None)
    assert outcome(study(tmp_path / "study", 6, **RACE)) == before


@pytest.mark.slow
@ways
def test_points_follow_though_stacks_fail_and_each_is_tried_once_a_run(
    options: dict[str, Any], tmp_path: Path
) -> None:
    attempt, tried = in_process._attempt, list[str]()

    def fail(assignment: Assignment, task: Any, display: Any) -> Exception | None:
        if task.epochs == 1:
            tried.extend(member.name for member in task.stack.members)
        if task.epochs == 1 and task.stack.configuration.batch_size == 256:
            return RuntimeError("no room")
        return attempt(assignment, task, display)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(in_process, "_attempt", fail)
        failed = study(tmp_path / "study", 8, max_failures=0, **options)
    assert not failed.complete
    assert len(failed.tables.trials) == len(tried) == len(set(tried)) == 8
    assert (failed.tables.trials["status"] == "failed").any()
    mended = study(tmp_path / "study", 8, **options)
    assert mended.complete
    assert mended.record.spec.space == failed.record.spec.space


def test_a_study_with_points_yet_to_suggest_is_unfinished(tmp_path: Path) -> None:
    record = make_drawn_record(tmp_path, lambda point: 0.8, space(10))
    assert set(record.tables.trials["status"]) == {"completed"}
    finding = judge_unfinished(Evidence(record))
    assert finding is not None
    assert finding.sentence.startswith("6 points are not suggested yet")
    assert "--points 10 --sampler tpe" in (finding.command or "")
    assert not StudyResult(record=record, ranked=record.tables.trials, findings=[]).complete
