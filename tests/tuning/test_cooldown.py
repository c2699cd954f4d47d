"""The round in which the finalists of a study cool down, on real digits without Ray."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from digitrec.cli.display import print_result
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.outcome import StudyResult, conclude
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.points import Space
from digitrec.store.spec import read_spec
from digitrec.tuning.in_process import InProcess
from digitrec.tuning.runner import Round
from tests.studies import folder, interrupting, make_spec, run, untimed

SPACE = Space.of(lr=(0.1, 0.5), batch_size=(256,), momentum=(0.5,), hidden_sizes=((32,),))
WINNER = "lr0.5-bs256-momentum0.5-hidden32-seed0"
CONFIRMED: dict[str, Any] = {"confirm": 2, "confirm_seeds": 2}


def assert_same_end(directory: Path, other: Path) -> None:
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(directory, name), untimed(other, name), check_exact=True
        )
    models = [path / "best" / "model.safetensors" for path in (directory, other)]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run(tmp_path_factory.mktemp("plain") / "study", SPACE)


@pytest.fixture(scope="module")
def cooled(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run(tmp_path_factory.mktemp("cooled") / "study", SPACE, cooldown=2)


@pytest.fixture(scope="module")
def finalists(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    out = tmp_path_factory.mktemp("finalists") / "study"
    return run(out, SPACE, 1, cooldown=1, refit=True, **CONFIRMED)


def test_the_winner_goes_on_from_its_last_epoch(plain: StudyResult, cooled: StudyResult) -> None:
    assert (plain.winner, cooled.winner) == (WINNER, f"{WINNER}-cooldown2")
    assert cooled.complete
    epochs = untimed(folder(cooled), "epochs.csv")
    (before, after) = (epochs[epochs["trial"] == name] for name in (WINNER, cooled.winner))
    assert after["epoch"].to_list() == [1, 2, 3, 4]
    metrics = ["updates", "train_loss", "val_loss", "val_accuracy"]
    assert after[metrics].head(2).to_numpy().tolist() == before[metrics].to_numpy().tolist()


def test_the_columns_of_a_study_name_the_cooldown_only_where_there_is_one(
    plain: StudyResult, cooled: StudyResult
) -> None:
    for name in ("trials.csv", "epochs.csv"):
        frames = [pd.read_csv(folder(study) / name) for study in (plain, cooled)]
        assert "cooldown" not in frames[0]
        names = frames[1].columns.to_list()
        assert names[names.index("cooldown") + 1] == "seed"
        assert sorted(set(frames[1]["cooldown"])) == [0, 2]
    assert "cool" not in (folder(plain) / "study.json").read_text()
    (row,) = cooled.tables.trials.query("cooldown == 2").to_dict("records")
    assert (row["trial"], row["epochs"], row["updates"]) == (f"{WINNER}-cooldown2", 4, 64)


def test_the_saved_model_is_the_cooled_winner(cooled: StudyResult) -> None:
    about = json.loads((folder(cooled) / "best" / "model.json").read_text())
    row = cooled.tables.trials.set_index("trial").loc[f"{WINNER}-cooldown2"]
    assert about["trial"] == row.name
    assert (about["configuration"]["epochs"], about["configuration"]["cooldown"]) == (2, 2)
    assert about["metrics"]["val_accuracy"] == row["val_accuracy"]


def test_all_seeds_of_the_winner_cool_down(tmp_path: Path) -> None:
    space = Space.of(lr=(0.01, 0.5), batch_size=(512,), seeds=(0, 1))
    trials = run(tmp_path, space, 1, cooldown=1).tables.trials
    cooled = trials[trials["cooldown"] == 1]
    assert cooled["trial"].to_list() == [f"lr0.5-bs512-seed{seed}-cooldown1" for seed in (0, 1)]


@pytest.mark.slow
def test_a_cooldown_that_is_asked_later_ends_as_one_asked_at_once(
    plain: StudyResult, cooled: StudyResult, tmp_path: Path
) -> None:
    later = tmp_path / "later"
    shutil.copytree(folder(plain), later)
    kept = {path: path.stat().st_mtime_ns for path in later.glob("stacks/*")}
    run(later, SPACE, cooldown=2)
    assert_same_end(later, folder(cooled))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    without = run(later, SPACE)
    assert without.winner == WINNER
    assert "cooldown" not in without.tables.trials


def test_another_cooldown_trains_the_finalists_anew_and_only_them(
    cooled: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(cooled), study)
    before = {path.name for path in study.glob("stacks/*")}
    other = run(study, SPACE, cooldown=1)
    assert other.winner == f"{WINNER}-cooldown1"
    (new,) = {path.name for path in study.glob("stacks/*")} - before
    assert new.startswith("bs256-hidden32-seed0-cooldown1-lr0.5")


@pytest.mark.slow
def test_more_epochs_grow_the_search_and_cool_down_from_there(
    cooled: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(cooled), study)
    run(study, SPACE, 3, cooldown=2)
    run(tmp_path / "at once", SPACE, 3, cooldown=2)
    assert_same_end(study, tmp_path / "at once")


@pytest.mark.slow
def test_a_cooldown_without_the_finished_weights_trains_them_again(
    plain: StudyResult, cooled: StudyResult, tmp_path: Path
) -> None:
    study, said = tmp_path / "study", io.StringIO()
    shutil.copytree(folder(plain), study)
    for weights in study.glob("weights/*"):
        weights.unlink()
    run(study, SPACE, cooldown=2, console=Console(file=said, width=200))
    assert "set aside" in said.getvalue()
    assert_same_end(study, folder(cooled))


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_study_that_is_cut_short_in_any_round_goes_on_to_the_same_end(
    number: int, finalists: StudyResult, tmp_path: Path
) -> None:
    """The rounds are the search, the fresh seeds, the cooldown and the refit."""
    begun: list[Round] = []
    options = {"cooldown": 1, "refit": True, **CONFIRMED}
    run(tmp_path, SPACE, 1, runner=interrupting(number, begun), **options)
    assert len(begun) == number
    assert read_spec(run(tmp_path, SPACE, 1, **options).directory).cooldown == 1
    assert_same_end(tmp_path, folder(finalists))


def test_the_confirming_trials_of_all_leaders_cool_down(finalists: StudyResult) -> None:
    trials = finalists.tables.trials
    cooled = trials[trials["cooldown"] > 0]
    assert [sorted(part["seed"]) for _, part in cooled.groupby("lr")] == [[1, 2], [1, 2]]
    assert set(cooled["epochs"]) == {2}
    assert len(trials) == 2 + 4 + 4


def test_the_cooled_decide_and_the_others_follow(finalists: StudyResult) -> None:
    ranked, means = finalists.ranked, finalists.configurations
    assert (ranked["cooldown"].diff().dropna() <= 0).all()
    assert ranked["lr"].iloc[0] == means["lr"].iloc[0]
    assert means["seeds"].to_list() == [2, 2]
    assert all(name.endswith("-cooldown1") for name in means["trials"].iloc[0])


def test_a_refit_repeats_the_recipe_of_the_winner(finalists: StudyResult) -> None:
    about = json.loads((folder(finalists) / "best" / "model.json").read_text())
    assert about["refit"] == {"rows": 5000}
    assert about["configuration"]["cooldown"] == 1
    (refitted,) = (folder(finalists) / "refit" / "stacks").glob("*.safetensors")
    assert "-cooldown1-" in refitted.name
    assert refitted.name.endswith("-2epochs.safetensors")


def test_the_same_command_trains_nothing_anew(finalists: StudyResult) -> None:
    def refuse(*_: object, **__: object) -> InProcess:
        raise AssertionError("a finished study was trained")

    options = {"cooldown": 1, "refit": True, **CONFIRMED}
    again = run(folder(finalists), SPACE, 1, runner=refuse, **options)
    pd.testing.assert_frame_equal(again.tables.trials, finalists.tables.trials)


def test_the_next_commands_ask_for_the_cooldown(finalists: StudyResult) -> None:
    words = shlex.split(tune_command(finalists.record))
    assert words[words.index("--cooldown") + 1] == "1"
    assert words[words.index("--confirm") + 1] == "2"


@pytest.mark.slow
def test_the_report_shows_the_cooldown(cooled: StudyResult) -> None:
    conclude(cooled.directory)
    report = (folder(cooled) / "report.md").read_text()
    assert "A cooldown of 2 epochs" in report
    assert "cooldown: 2 epochs, 1 trial of the finalists" in report
    assert "cooldown, epochs |" in report
    assert "cooldown2" in (folder(cooled) / "report.html").read_text()
    said = io.StringIO()
    print_result(cooled, Console(file=said, width=200))
    assert re.search(r"cooldown +seed", said.getvalue())


def test_a_study_whose_trials_all_diverge_has_nothing_to_cool(tmp_path: Path) -> None:
    result = run(tmp_path, Space.of(lr=(1e20,), batch_size=(512,)), 1, cooldown=1)
    assert result.winner is None
    assert result.tables.trials["status"].to_list() == ["diverged"]


def test_a_cooldown_below_0_is_refused() -> None:
    with pytest.raises(InputError, match=r"^cooldown -1 is less than 0$"):
        Request(cooldown=-1)


def test_the_trials_that_cool_down_count_among_those_a_study_can_have() -> None:
    space = Space.of(lr=(0.1,), batch_size=(64,), seeds=range(6_000))
    with pytest.raises(InputError, match="12,000 trials are more than"):
        Request(space=space, cooldown=1)


@pytest.mark.parametrize("cooldown", [-1, 1.0, "1", None, True])
def test_a_trial_with_another_cooldown_than_a_count_is_refused(cooldown: Any) -> None:
    with pytest.raises(ValueError, match="cooldown"):
        Trial.of({"lr": 0.1, "batch_size": 32, "seed": 0, "cooldown": cooldown})


def test_a_trial_is_read_as_it_is_written() -> None:
    for trial in (Trial(Configuration(lr=0.1, batch_size=32), 1, cooldown) for cooldown in (0, 3)):
        assert Trial.of(trial.values()) == trial
        assert ("cooldown" in trial.values()) == ("cooldown" in trial.name) == bool(trial.cooldown)


def test_the_names_of_cooled_trials_lead_back() -> None:
    point = {"lr": 0.1, "batch_size": 32, "seed": 0}
    spec = make_spec(cooldown=2, cooled=[point | {"cooldown": 2}])
    assert spec.cooled_trials == {"lr0.1-bs32-seed0-cooldown2": "lr0.1-bs32-seed0"}
