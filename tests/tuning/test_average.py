"""Studies whose saved model averages the best trials, on real digits without Ray."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digitrec.cli import main as cli
from digitrec.data.digits import read_digits, split_rows
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.outcome import StudyResult
from digitrec.results.report.summary import averaged_trials
from digitrec.space.points import Space
from digitrec.store.folder import Folder
from digitrec.store.record import read_record
from digitrec.store.spec import read_spec
from digitrec.tuning.in_process import InProcess
from digitrec.winner.classifier import Classifier, load_classifier
from tests.studies import folder, interrupting, run, split_sample

SPACE = Space.of(lr=(0.1, 0.5), batch_size=(512,), hidden_sizes=((16,), (24, 12)))
BEST = ("model.safetensors", "model.json", "validation.safetensors")


def best_of(result: StudyResult) -> Classifier:
    return load_classifier(folder(result) / "best")


def about(result: StudyResult) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder(result) / "best" / "model.json").read_text())
    return content


def refuse(*_: object, **__: object) -> InProcess:
    raise AssertionError("a finished study was trained")


def sentence(result: StudyResult) -> str:
    findings = {finding.rule: finding for finding in reach_verdict(result.record)}
    return findings["average"].sentence


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run(tmp_path_factory.mktemp("plain") / "study", SPACE, 1)


@pytest.fixture(scope="module")
def averaged(plain: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """The plain study, asked for again with an average; nothing is trained."""
    study = tmp_path_factory.mktemp("averaged") / "study"
    shutil.copytree(folder(plain), study)
    return run(study, SPACE, 1, average=3, runner=refuse, pictures=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The sample, a tenth of it kept for the test, as files."""
    return split_sample(tmp_path_factory.mktemp("parts"))


def whole_recipe(parts: tuple[str, str]) -> dict[str, Any]:
    return {
        "data": parts[0],
        "test_data": parts[1],
        "cooldown": 1,
        "refit": True,
        "average": 2,
    }


@pytest.fixture(scope="module")
def recipe(parts: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run(tmp_path_factory.mktemp("recipe") / "study", SPACE, 1, **whole_recipe(parts))


def sizes_of(result: StudyResult) -> list[list[int]]:
    return [member.layer_sizes for member in best_of(result).members]


@pytest.mark.slow
def test_the_members_are_the_best_trials_the_winner_first(averaged: StudyResult) -> None:
    names = [member["trial"] for member in about(averaged)["members"]]
    assert names == averaged.ranked["trial"].tolist()[:3]
    assert about(averaged)["trial"] == averaged.winner == names[0]
    for member in about(averaged)["members"]:
        row = averaged.tables.trials.set_index("trial").loc[member["trial"]]
        assert member["metrics"]["val_accuracy"] == row["val_accuracy"]
        assert member["configuration"]["lr"] == row["lr"]
        assert member["configuration"]["seed"] == row["seed"]
    assert len({len(sizes) for sizes in sizes_of(averaged)}) == 2
    assert sizes_of(averaged) == [each["layer_sizes"] for each in about(averaged)["members"]]


def test_the_accuracy_of_the_average_is_that_of_its_predictions(averaged: StudyResult) -> None:
    digits = read_digits("sample")
    val = split_rows(digits.labels, 0.2, 42).val
    predicted = best_of(averaged).log_probabilities(digits.images[val]).argmax(1)
    accuracy = np.mean(predicted == digits.labels[val])
    assert about(averaged)["average"]["val_accuracy"] == accuracy
    alone = best_of(averaged).members[0].log_probabilities(digits.images[val]).argmax(1)
    assert np.mean(alone == digits.labels[val]) == averaged.ranked["val_accuracy"].iloc[0]


def test_without_an_average_the_files_are_those_from_before_there_was_any(
    plain: StudyResult, averaged: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(averaged), study)
    run(study, SPACE, 1, average=1, runner=refuse)
    for name in BEST:
        assert (study / "best" / name).read_bytes() == (folder(plain) / "best" / name).read_bytes()
    text = (study / "study.json").read_text()
    assert text == (folder(plain) / "study.json").read_text()
    assert "average" not in text
    assert "members" not in about(plain)


def test_the_report_and_the_verdict_name_what_is_averaged(averaged: StudyResult) -> None:
    said = sentence(averaged)
    assert "mean of the probabilities of 3 models: lr 0." in said
    assert said.count("(seed 0)") == 3
    accuracy = f"{about(averaged)['average']['val_accuracy']:.2%}"
    assert f"Together they recognise {accuracy} of the validation images" in said
    report = (folder(averaged) / "report.md").read_text()
    assert "predictions: mean of the probabilities of 3 trials" in report
    assert "The saved model averages the probabilities of 3 trials" in report
    page = (folder(averaged) / "report.html").read_text()
    assert "those of the winner alone; the saved model averages it with 2 more" in page
    assert "average of 3 models" in page


def test_the_winner_is_judged_as_without_an_average(
    plain: StudyResult, averaged: StudyResult
) -> None:
    before, after = (
        {finding.rule: finding.sentence for finding in reach_verdict(result.record)}
        for result in (plain, averaged)
    )
    assert after.keys() - before.keys() == {"average"}
    assert all(after[rule] == before[rule] for rule in before)


def test_the_next_commands_ask_for_the_average(averaged: StudyResult) -> None:
    words = shlex.split(tune_command(averaged.record))
    assert words[words.index("--average") + 1] == "3"
    for finding in reach_verdict(averaged.record):
        if finding.command is not None:
            assert "--average 3" in finding.command


def test_a_next_command_with_fewer_trials_averages_all_of_them(averaged: StudyResult) -> None:
    words = shlex.split(tune_command(averaged.record, {"lr": [0.1]}))
    assert words[words.index("--average") + 1] == "2"


@pytest.mark.slow
def test_as_many_trials_cool_down_as_are_averaged(recipe: StudyResult) -> None:
    trials = recipe.tables.trials
    cooled = trials[trials["cooldown"] > 0]["trial"].tolist()
    names = [member["trial"] for member in about(recipe)["members"]]
    assert len(cooled) == 2
    assert set(names) == set(cooled)
    assert names == recipe.ranked["trial"].tolist()[:2]
    searched = recipe.tables.trials.query("cooldown == 0").sort_values(
        ["val_accuracy", "val_loss"], ascending=[False, True]
    )
    assert {name.removesuffix("-cooldown1") for name in cooled} == set(searched["trial"].head(2))


def test_every_member_is_refitted_and_does_not_depend_on_their_number(
    recipe: StudyResult, parts: tuple[str, str], tmp_path: Path
) -> None:
    assert about(recipe)["refit"] == {"rows": 4500}
    names = {path.name for path in (folder(recipe) / "refit" / "stacks").iterdir()}
    assert len(names) == 2
    study = tmp_path / "study"
    shutil.copytree(folder(recipe), study)
    alone = run(study, SPACE, 1, **whole_recipe(parts) | {"average": 1})
    assert {path.name for path in (study / "refit" / "stacks").iterdir()} >= names
    trials = [member["trial"] for member in about(recipe)["members"]]
    same = best_of(recipe).members[trials.index(about(alone)["trial"])]
    ours, theirs = same.as_tensors(), best_of(alone).as_tensors()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_the_score_on_test_data_is_that_of_the_average_and_of_the_winner(
    recipe: StudyResult, parts: tuple[str, str]
) -> None:
    test, model = read_digits(parts[1]), best_of(recipe)
    right = [
        np.mean(each.log_probabilities(test.images).argmax(1) == test.labels)
        for each in (model, model.members[0])
    ]
    assert [about(recipe)["test"][name] for name in ("accuracy", "winner_accuracy")] == right
    judged = next(each for each in reach_verdict(recipe.record) if each.rule == "test")
    assert f"the winner alone recognises {right[1]:.2%}" in judged.sentence


def test_another_number_trains_only_the_missing_cooldowns_and_refits(
    recipe: StudyResult, parts: tuple[str, str], tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(recipe), study)
    before = {path: path.stat().st_mtime_ns for path in study.glob("**/stacks/*")}
    more = run(study, SPACE, 1, **whole_recipe(parts) | {"average": 3})
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    new = set(study.glob("**/stacks/*")) - before.keys()
    assert len(new) in (2, 3)  # a cooldown; a refit, and another if it replaced a member
    assert len(about(more)["members"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_an_average_that_is_cut_short_goes_on_to_the_same_end(
    number: int, recipe: StudyResult, parts: tuple[str, str], tmp_path: Path
) -> None:
    """The second round is the cooldown, the third the refit."""
    cut = run(tmp_path, SPACE, 1, runner=interrupting(number, []), **whole_recipe(parts))
    assert "refit" not in about(cut)
    again = run(tmp_path, SPACE, 1, **whole_recipe(parts))
    model = (tmp_path / "best" / "model.safetensors").read_bytes()
    assert model == (folder(recipe) / "best" / "model.safetensors").read_bytes()
    assert about(again)["test"] == about(recipe)["test"]


@pytest.mark.slow
def test_a_diverged_trial_is_never_a_member(tmp_path: Path) -> None:
    space = Space.of(lr=(0.1, 1e20), batch_size=(512,), hidden_sizes=((16,),))
    result = run(tmp_path, space, 1, average=2)
    assert averaged_trials(result.record) == [result.winner]
    assert "members" not in about(result)
    assert sentence(result) == (
        "The saved model holds only 1 of the 2 trials to average. Predictions are those of the "
        "winner alone."
    )
    diverged = run(tmp_path / "all", Space.of(lr=(1e20,), batch_size=(512,)), 1, average=1)
    assert averaged_trials(diverged.record) == []


def test_fresh_seeds_are_averaged_where_they_decide(tmp_path: Path) -> None:
    space = Space.of(lr=(0.1, 0.5), batch_size=(512,), hidden_sizes=((16,),))
    result = run(tmp_path, space, 1, confirm=2, confirm_seeds=2, average=3)
    rows = result.tables.trials.set_index("trial").loc[averaged_trials(result.record)]
    assert len(rows) == 3
    assert (rows["seed"] > 0).all()
    assert "(seeds 1 and 2)" in sentence(result) or "(seeds 2 and 1)" in sentence(result)


def test_a_model_of_an_earlier_run_is_not_described_as_that_of_this_one(
    averaged: StudyResult, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder(averaged), study)
    path = study / "best" / "model.json"
    content = json.loads(path.read_text())
    content["members"][2]["trial"] = "lr9.0-bs512-seed0"
    path.write_text(json.dumps(content))
    findings = reach_verdict(read_record(Folder.at(study)))
    assert "average" not in {finding.rule for finding in findings}


def test_the_number_is_kept_with_the_study(averaged: StudyResult) -> None:
    assert read_spec(averaged.directory).average == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": 0}, "average 0 is not a whole number above 0"),
        ({"average": -2}, "average -2 is not a whole number above 0"),
        ({"average": 5, "space": SPACE}, "average 5 is more than the 4 trials of the search"),
        (
            {"average": 5, "confirm": 2, "confirm_seeds": 2},
            "average 5 is more than the 4 trials that --confirm trains with fresh seeds",
        ),
    ],
)
def test_a_number_of_trials_that_there_cannot_be_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Request(**options)


def test_an_average_of_no_number_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in ("three", "1.5", "0", "26"):
        try:
            code: Any = cli.main(["tune", "--average", number, "--out", str(tmp_path / "study")])
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr().err
        assert code == 2
        assert said.count("\n") == 1
        assert "average" in said
    assert not (tmp_path / "study").exists()


def test_the_trials_that_cool_down_for_an_average_count_among_those_a_study_can_have() -> None:
    space = Space.of(lr=(0.1, 0.5), batch_size=(64,), seeds=range(3_000))
    Request(space=space, cooldown=1, average=3_000)
    with pytest.raises(InputError, match="12,000 trials are more than"):
        Request(space=space, cooldown=1, average=3_001)
