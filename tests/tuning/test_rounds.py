import io
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from digitrec.data.digits import fit_scaler, read_digits, split_rows
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.ranking import rank, rank_configurations
from digitrec.results.outcome import StudyResult
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.points import Space
from digitrec.tuning.in_process import InProcess
from digitrec.tuning.rounds import fresh_seeds, spec_of_refit
from digitrec.tuning.runner import Assignment
from digitrec.winner.classifier import load_classifier
from tests.studies import DEFAULTS, folder, make_spec, run, split_sample

LEADERS = Space.of(lr=(0.001, 0.1, 0.5), batch_size=(256,))


class Parts(NamedTuple):
    """The sample, a tenth of it kept for the test, as files."""

    train: str
    test: str


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(*split_sample(tmp_path_factory.mktemp("parts")))


def run_confirmed(out: Path, parts: Parts) -> StudyResult:
    return run(
        out,
        LEADERS,
        epochs=1,
        data=parts.train,
        confirm=2,
        confirm_seeds=2,
        refit=True,
        test_data=parts.test,
    )


@pytest.fixture(scope="module")
def confirmed(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_confirmed(tmp_path_factory.mktemp("confirmed") / "study", parts)


def test_the_leaders_are_trained_again_with_the_same_fresh_seeds(confirmed: StudyResult) -> None:
    trials = confirmed.tables.trials
    fresh = trials[trials["seed"] != 0]
    assert sorted(set(fresh["lr"])) == [0.1, 0.5]
    assert [sorted(cell["seed"]) for _, cell in fresh.groupby("lr")] == [[1, 2], [1, 2]]
    assert len(trials) == 3 + 4
    assert confirmed.tables.complete


def test_search_fresh_seeds_and_cooldown_are_one_training(tmp_path: Path) -> None:
    trainings: list[Assignment] = []

    class Counting(InProcess):
        def train(self, assignment: Assignment) -> None:
            trainings.append(assignment)
            super().train(assignment)

    said = io.StringIO()
    run(
        tmp_path,
        LEADERS,
        1,
        confirm=2,
        confirm_seeds=2,
        cooldown=1,
        runner=Counting,
        console=Console(file=said, width=200),
    )
    assert len(trainings) == 1
    expected = [
        "4,000 digits to train on, 1,000 to validate on; "
        "3 configurations in 2 stacks, 1 epoch each",
        "3/3 configurations | 3/3 epochs",
        "The leaders again with fresh seeds: 4 trials in 2 stacks, 1 epoch each",
        "fresh seeds | 4/4 configurations | 4/4 epochs",
        "Cooldown of 4 trials in 2 stacks, to epoch 2, while the learning rate falls to 0",
        "cooldown | 4/4 configurations | 8/8 epochs",
    ]
    lines = [re.sub(r" \| \d+ s .*", "", line) for line in said.getvalue().splitlines()]
    assert [line for line in lines if line in expected] == expected


def test_the_mean_over_fresh_seeds_decides(confirmed: StudyResult) -> None:
    configurations = confirmed.configurations
    best = confirmed.ranked.iloc[0]
    assert (best["lr"], best["seed"] != 0) == (configurations["lr"].iloc[0], True)
    fresh = confirmed.tables.trials.query("seed != 0 and lr == @best.lr")
    assert configurations["val_accuracy"].iloc[0] == pytest.approx(fresh["val_accuracy"].mean())
    assert configurations["seeds"].to_list() == [2, 2]


def test_the_verdicts_winner_is_the_saved_model(confirmed: StudyResult) -> None:
    best = confirmed.best
    assert best is not None
    assert best["trial"] in Evidence(confirmed.record).winner.trials


def test_the_same_command_confirms_nothing_anew(confirmed: StudyResult, parts: Parts) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder(confirmed).glob("stacks/*")}
    again = run_confirmed(folder(confirmed), parts)
    pd.testing.assert_frame_equal(again.tables.trials, confirmed.tables.trials)
    after = {path: path.stat().st_mtime_ns for path in folder(confirmed).glob("stacks/*")}
    assert after == before


def test_a_refitted_model_is_scaled_by_all_rows_and_says_so(
    confirmed: StudyResult, parts: Parts
) -> None:
    digits = read_digits(parts.train)
    classifier = load_classifier(folder(confirmed) / "best")
    everything = fit_scaler(digits.images)
    training = fit_scaler(digits.images[split_rows(digits.labels, 0.2, 42).train])
    assert not np.array_equal(everything.data_max, training.data_max)
    assert np.array_equal(classifier.scaler.data_max, everything.data_max)
    about = json.loads((folder(confirmed) / "best" / "model.json").read_text())
    assert about["refit"] == {"rows": 4500}
    assert about["metrics"]["val_accuracy"] == confirmed.ranked["val_accuracy"].iloc[0]


@pytest.mark.parametrize(
    "values",
    [
        {"momentum": 0.9, "nesterov": True, "dropout": 0.2, "weight_decay": 0.001},
        {"optimizer": "adamw", "label_smoothing": 0.1},
    ],
)
def test_a_refit_repeats_every_value_of_the_winner(values: dict[str, Any]) -> None:
    winner = Trial(Configuration(lr=0.1, batch_size=32, **values), seed=3)
    assert spec_of_refit(make_spec(), [winner]).trials() == (winner,)


def test_the_score_on_test_data_is_that_of_the_saved_model(
    confirmed: StudyResult, parts: Parts
) -> None:
    test = read_digits(parts.test)
    classifier = load_classifier(folder(confirmed) / "best")
    right = classifier.log_probabilities(test.images).argmax(1) == test.labels
    about = json.loads((folder(confirmed) / "best" / "model.json").read_text())
    assert about["test"]["rows"] == 500
    assert about["test"]["accuracy"] == right.mean()


def test_the_commands_of_the_verdict_keep_refit_and_test_data(
    confirmed: StudyResult, parts: Parts
) -> None:
    words = shlex.split(tune_command(confirmed.record))
    assert "--refit" in words
    assert words[words.index("--test-data") + 1] == parts.test
    assert words[words.index("--data") + 1] == parts.train


def test_the_winners_validation_is_that_of_the_model_before_the_refit(
    confirmed: StudyResult, parts: Parts
) -> None:
    validation, labels = confirmed.record.validation, confirmed.record.labels
    assert validation is not None
    assert labels is not None
    accuracy = (validation.probabilities.argmax(1) == labels).mean()
    assert accuracy == confirmed.ranked["val_accuracy"].iloc[0]
    wrong = validation.probabilities.argmax(1)[validation.mistakes] != labels[validation.mistakes]
    assert wrong.all()
    confidence = validation.probabilities[validation.mistakes].max(1)
    assert (np.diff(confidence) <= 0).all()
    digits = read_digits(parts.train)
    assert np.array_equal(digits.images[validation.mistake_rows], validation.mistake_images)


def test_without_confirmation_its_rows_are_gone_and_its_files_stay(tmp_path: Path) -> None:
    run(tmp_path, Space.of(lr=(0.1,), batch_size=(512,)), epochs=1, confirm=1, confirm_seeds=1)
    files = sorted(path.name for path in tmp_path.glob("stacks/*"))
    plain = run(tmp_path, Space.of(lr=(0.1,), batch_size=(512,)), epochs=1)
    assert plain.tables.trials["trial"].to_list() == ["lr0.1-bs512-seed0"]
    assert sorted(path.name for path in tmp_path.glob("stacks/*")) == files
    assert len(files) == 2


def test_test_data_of_other_pixels_is_refused_before_training(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("label,pixel0\n" + "1,0\n2,9\n" * 4)
    with pytest.raises(
        InputError, match="images of 1 x 1 pixels; those of sample have 28 x 28 pixels"
    ):
        run(tmp_path / "study", test_data=str(other))
    assert not (tmp_path / "study").exists()


def test_test_data_that_were_learned_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="5,000 of its 5,000 images are also in sample"):
        run(tmp_path / "study", test_data="sample")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("taken", "fresh"), [((0,), [1, 2]), ((5, 3), [6, 7]), ((0, 2**32 - 1), [1, 2])]
)
def test_fresh_seeds_are_none_of_those_taken(taken: tuple[int, ...], fresh: list[int]) -> None:
    assert fresh_seeds(taken, 2) == fresh


@pytest.mark.parametrize("options", [{"confirm": -1}, {"confirm_seeds": 0}])
def test_counts_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"^confirm"):
        Request(**options)  # type: ignore[arg-type]


def test_a_cell_with_a_seed_that_diverged_comes_last() -> None:
    trials = pd.DataFrame(
        DEFAULTS
        | {
            "trial": ["a0", "a1", "b0", "b1"],
            "lr": [0.1, 0.1, 0.5, 0.5],
            "batch_size": [32] * 4,
            "status": ["completed", "diverged", "completed", "completed"],
            "val_accuracy": [0.99, float("nan"), 0.9, 0.8],
            "val_loss": [0.1, float("nan"), 0.2, 0.3],
            "seconds": [1.0] * 4,
        }
    )
    cells = rank_configurations(trials)
    assert cells[["lr", "seeds", "lowest", "highest"]].to_numpy().tolist() == [
        [0.5, 2, 0.8, 0.9],
        [0.1, 1, 0.99, 0.99],
    ]
    assert cells["compared"].to_list() == [True, False]
    assert rank(trials)["trial"].to_list() == ["b0", "b1", "a0"]
    assert rank(trials, ["b1"])["trial"].to_list() == ["b1", "b0", "a0"]
