"""Studies of the hyperparameters that divide stacks: shapes of the MLP, and augmentation."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from digitrec.data.digits import read_digits, split_rows
from digitrec.errors import InputError
from digitrec.space.points import Space
from digitrec.winner.classifier import load_classifier
from tests.studies import folder, run

RECIPES = Space.of(
    lr=(0.2,),
    batch_size=(64,),
    momentum=(0.0, 0.9),
    hidden_sizes=((32,), (48, 24, 16)),
    augmentation=("none", "shift2"),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(run(tmp_path_factory.mktemp("recipes") / "study", RECIPES, epochs=2))


def test_each_recipe_has_its_row_and_its_name(study: Path) -> None:
    trials = pd.read_csv(study / "trials.csv")
    assert set(trials["status"]) == {"completed"}
    assert len(trials) == trials["trial"].nunique() == 8
    assert set(trials["hidden_sizes"]) == {"32", "48-24-16"}
    assert "lr0.2-bs64-momentum0.9-hidden48-24-16-shift2-seed0" in set(trials["trial"])


@pytest.mark.parametrize("augmentation", ["none", "shift2"])
def test_the_saved_model_predicts_as_it_was_validated(augmentation: str, tmp_path: Path) -> None:
    space = Space.of(
        lr=(0.2,), batch_size=(64,), hidden_sizes=((32, 16),), augmentation=(augmentation,)
    )
    result = run(tmp_path / "study", space, epochs=2)
    digits = read_digits("sample")
    val = split_rows(digits.labels, 0.2, 42).val
    classifier = load_classifier(folder(result) / "best")
    assert classifier.layer_sizes == [784, 32, 16, 10]
    labels = classifier.log_probabilities(digits.images[val]).argmax(1)
    assert np.mean(labels == digits.labels[val]) == result.tables.trials["val_accuracy"][0]


@pytest.mark.slow
def test_a_study_grows_in_shapes_and_epochs(study: Path, tmp_path: Path) -> None:
    first = Space.of(lr=(0.2,), batch_size=(64,), hidden_sizes=((32,),), augmentation=("shift2",))
    run(tmp_path / "study", first, epochs=1)
    run(tmp_path / "study", RECIPES, epochs=2)
    grown, whole = (
        pd.read_csv(directory / "trials.csv").drop(columns="seconds")
        for directory in (tmp_path / "study", study)
    )
    pd.testing.assert_frame_equal(grown, whole, rtol=1e-5)


def test_a_file_from_when_all_trials_had_one_shape_is_read(tmp_path: Path) -> None:
    space = Space.of(lr=(0.2,), batch_size=(256,))
    run(tmp_path / "study", space, epochs=1)
    path = tmp_path / "study" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_sizes": [784, 256, 128, 10]}))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "study").glob("stacks/*")}
    run(tmp_path / "study", space, epochs=1)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_augmentation_of_images_that_are_not_square_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 12))
    table = pd.DataFrame(pixels, columns=[f"pixel{number}" for number in range(12)])
    table.insert(0, "label", np.arange(100) % 10)
    table.to_csv(tmp_path / "digits.csv", index=False)
    space = Space.of(batch_size=(32,), augmentation=("none", "affine"))
    with pytest.raises(
        InputError, match=r"augmentation affine needs square images; those of .* 12"
    ):
        run(tmp_path / "study", space, data=str(tmp_path / "digits.csv"))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("sizes", [(), (0,), (256, -1), (9000,), (1.5,), (8,) * 9])
def test_hidden_sizes_that_make_no_mlp_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"hidden sizes .* is not 1 to 8 whole numbers from 1 to"):
        Space.of(hidden_sizes=(sizes,))


def test_an_augmentation_that_is_unknown_is_refused() -> None:
    with pytest.raises(InputError, match="augmentation 'flip' is not one of none, shift2, affine"):
        Space.of(augmentation=("flip",))
