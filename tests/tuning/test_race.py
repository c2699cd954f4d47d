"""Races that are really trained, in this process: their decisions, cuts and tables."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from digitrec.cli import main as cli
from digitrec.results.outcome import StudyResult
from digitrec.signals import Interrupted
from digitrec.space.points import Space
from digitrec.space.race import Cut, Race
from digitrec.tuning import in_process
from digitrec.tuning.course import describe_cut
from digitrec.tuning.runner import Node
from tests.studies import fail_often, folder, run

SPACE = Space.of(
    lr=(0.001, 0.01, 0.05, 0.1, 0.3, 0.5),
    batch_size=(256, 512),
    momentum=(0.0, 0.9),
    hidden_sizes=((32,),),
)
RACE: dict[str, Any] = {"race": True, "rungs": (1, 2, 4), "audit": 2}


def race(out: Path, space: Space = SPACE, **options: Any) -> StudyResult:
    return run(out, space, epochs=None, **{**RACE, **options})


def outcome(study: Path) -> dict[str, Any]:
    """What must be the same, however a race came to its end."""
    tables = {
        name: pd.read_csv(study / f"{name}.csv").drop(columns="seconds").to_csv()
        for name in ("trials", "epochs")
    }
    model = (study / "best" / "model.safetensors").read_bytes()
    return tables | {"model": model, "race": json.loads((study / "study.json").read_text())["race"]}


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return race(tmp_path_factory.mktemp("race") / "study")


def test_dropped_trials_keep_their_rows_with_the_epochs_they_had(raced: StudyResult) -> None:
    trials = raced.tables.trials
    assert raced.complete
    assert set(trials["status"]) == {"completed", "dropped"}
    epochs = trials.groupby("status")["epochs"].agg(set)
    assert epochs["completed"] == {4}
    assert epochs["dropped"] == {1, 2}
    counted = raced.tables.epochs.groupby("trial").size()
    assert trials["trial"].map(counted).tolist() == trials["epochs"].tolist()


def test_the_ranking_has_the_finalists_first_then_the_others_by_rung(raced: StudyResult) -> None:
    assert raced.ranked["epochs"].is_monotonic_decreasing
    assert raced.winner == raced.ranked["trial"].iloc[0]
    assert len(raced.ranked) == len(SPACE)


def test_the_verdict_tells_of_the_race_and_its_audit(raced: StudyResult) -> None:
    rules = {finding.rule: finding for finding in raced.findings}
    assert "Of 24 trials" in rules["race"].sentence
    assert "2 dropped trials that the audit trained to the end" in rules["audit"].sentence
    assert "--race --rungs 1,2,4 --audit 2" in (rules["seeds"].command or "")


def test_only_the_trials_of_the_last_rung_keep_their_weights(raced: StudyResult) -> None:
    weights = {path.stem.rpartition("-")[2] for path in folder(raced).glob("weights/*")}
    assert weights == {"4epochs"}


def test_the_same_command_again_trains_nothing(raced: StudyResult, tmp_path: Path) -> None:
    before = outcome(folder(raced))
    stacks = sorted(folder(raced).glob("stacks/*"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(in_process, "_train", None)
        race(folder(raced))
    assert sorted(folder(raced).glob("stacks/*")) == stacks
    assert outcome(folder(raced)) == before


@pytest.mark.slow
def test_a_race_that_is_cut_anywhere_ends_with_the_same_decisions(
    raced: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in fail_often(monkeypatch):
        try:
            race(tmp_path / "study")
        except RuntimeError:
            continue
        break
    assert outcome(tmp_path / "study") == outcome(folder(raced))


@pytest.mark.slow
def test_stacks_of_one_make_the_same_decisions(raced: StudyResult, tmp_path: Path) -> None:
    alone = race(tmp_path / "study", stack_size=1)
    assert alone.record.spec.race == raced.record.spec.race
    both = [result.tables.trials.set_index("trial") for result in (alone, raced)]
    assert (both[0]["val_accuracy"] - both[1]["val_accuracy"]).abs().max() < 0.01


@pytest.mark.slow
def test_a_race_grows_by_points_and_decides_anew(raced: StudyResult, tmp_path: Path) -> None:
    small = Space.of(lr=SPACE.values["lr"][:4], batch_size=(256, 512), momentum=(0.0, 0.9))
    race(tmp_path / "study", small)
    before = outcome(tmp_path / "study")
    grown = race(tmp_path / "study")
    assert grown.complete
    decided, expected = grown.record.spec.raced, raced.record.spec.raced
    assert decided is not None
    assert expected is not None
    assert [set(cut.kept) for cut in decided.cuts] == [set(cut.kept) for cut in expected.cuts]
    race(tmp_path / "study", small)
    assert outcome(tmp_path / "study") == before


def test_a_decision_that_is_damaged_is_made_again(raced: StudyResult, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(raced), study)
    spec = json.loads((study / "study.json").read_text())
    spec["race"]["cuts"][0]["kept"][0] = "nobody"
    (study / "study.json").write_text(json.dumps(spec))
    said = io.StringIO()
    race(study, console=Console(file=said, width=200))
    assert "set aside study.json: it " in said.getvalue()
    assert outcome(study) == outcome(folder(raced))


def test_a_race_that_is_stopped_ranks_no_dropped_trial_before_those_still_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = in_process._train

    def stop_after_the_first_rung(assignment: Any, task: Any, display: Any) -> None:
        if task.epochs > 1:
            raise Interrupted
        train(assignment, task, display)

    monkeypatch.setattr(in_process, "_train", stop_after_the_first_rung)
    space = Space.of(lr=(0.01, 0.1, 0.3, 0.5), batch_size=(512,))
    stopped = race(tmp_path / "study", space, audit=0)
    assert set(stopped.tables.trials["status"]) == {"dropped", "stopped"}
    assert set(stopped.tables.trials["epochs"]) == {1}
    assert stopped.ranked.empty


def test_a_race_goes_on_where_all_nodes_are_lost_between_two_rungs(tmp_path: Path) -> None:
    class Lost(in_process.InProcess):
        asked = 0

        def nodes(self) -> list[Node]:
            self.asked += 1
            return super().nodes() if self.asked == 1 else []

    space = Space.of(lr=(0.01, 0.1, 0.5), batch_size=(512,))
    assert race(tmp_path / "study", space, runner=Lost).complete


def test_the_trials_of_the_audit_are_not_among_those_that_can_go_on(tmp_path: Path) -> None:
    said = io.StringIO()
    race(tmp_path / "study", console=Console(file=said, width=200))
    first, second = re.findall(r"(\d+) of (\d+) trials go on", said.getvalue())
    assert first[1] == str(len(SPACE))
    assert second[1] == first[0]


def test_a_race_of_one_rung_says_that_it_drops_nothing(tmp_path: Path) -> None:
    said = io.StringIO()
    space = Space.of(lr=(0.1, 0.5), batch_size=(512,))
    result = race(tmp_path / "study", space, rungs=(1,), console=Console(file=said, width=200))
    assert "this race has one rung, so it drops no trial" in said.getvalue()
    assert set(result.tables.trials["status"]) == {"completed"}


@pytest.mark.parametrize(
    ("names", "audited", "line"),
    [
        ("abc", ("d",), "After 1 epoch, 3 of 9 trials go on, 1 more for the audit"),
        ("a", (), "After 1 epoch, 1 of 9 trials goes on"),
    ],
)
def test_a_line_says_who_goes_on(names: str, audited: tuple[str, ...], line: str) -> None:
    race = Race((1, 3, 9), cuts=(Cut("", tuple(names), audited),))
    assert describe_cut(race, 9) == line
    later = Race((1, 3, 9), cuts=(*race.cuts, Cut("", ("a",))))
    audit = ", 1 more for the audit" if audited else ""
    assert describe_cut(later, 4) == f"After 3 epochs, 1 of 4 trials goes on{audit}"


@pytest.mark.slow
def test_a_trial_that_fails_at_a_rung_is_out_until_it_is_trained(
    raced: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = in_process._attempt

    def fail(assignment: Any, task: Any, display: Any) -> Exception | None:
        if task.epochs == 2:
            return RuntimeError("no room")
        return attempt(assignment, task, display)

    with monkeypatch.context() as patched:
        patched.setattr(in_process, "_attempt", fail)
        failed = race(tmp_path / "study", max_failures=0)
    assert not failed.complete
    assert (failed.tables.trials["status"] == "failed").sum() > 0
    mended = race(tmp_path / "study")
    assert mended.record.spec.race == raced.record.spec.race
    statuses = [result.tables.trials["status"].tolist() for result in (mended, raced)]
    assert statuses[0] == statuses[1]


@pytest.mark.slow
def test_the_leaders_of_a_race_are_confirmed_and_cooled(tmp_path: Path) -> None:
    small = Space.of(lr=(0.01, 0.1, 0.3, 0.5), batch_size=(512,))
    result = race(tmp_path / "study", small, confirm=2, confirm_seeds=2, cooldown=1, audit=0)
    assert result.complete
    trials = result.tables.trials
    assert (trials["cooldown"] == 1).sum() == 2  # one leader with two fresh seeds
    assert result.winner is not None
    assert result.winner.endswith("cooldown1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rungs", "1,3"], "--rungs needs --race"),
        (["--halve", "2"], "--halve needs --race"),
        (["--audit", "0"], "--audit needs --race"),
        (["--race", "--rungs", "3,1"], "rungs '3,1' are not ascending whole numbers above 0"),
        (["--race", "--rungs", "1,x"], "'1,x' is not whole numbers separated by commas"),
        (["--race", "--rungs", ""], "'' is not whole numbers separated by commas"),
        (["--race", "--halve", "1"], "halve 1 is not a whole number above 1"),
        (["--race", "--audit", "-1"], "audit -1 is less than 0"),
        (["--race", "--seeds", "0,1"], "a race has one seed, not 0,1"),
        (["--race", "--rungs", "1,9", "--epochs", "5"], "epochs 5 is not the last of the rungs"),
        (["--race", "--rungs", "1,9", "--epochs", "3"], "epochs 3 is not the last of the rungs"),
    ],
)
def test_a_race_that_makes_no_sense_is_refused_in_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(["tune", "--out", str(tmp_path / "study"), *options])
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert not (tmp_path / "study").exists()
