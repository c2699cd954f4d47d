"""Points that are suggested from results."""

import importlib.metadata
import json
import math
from typing import Any

import pytest

from digitrec.cli import main as cli
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.space import tpe
from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration
from digitrec.space.points import Space
from digitrec.space.quasi_random import draw
from digitrec.space.ranges import Range
from digitrec.space.tpe import GENERATION, suggest

WIDE: dict[str, Any] = {
    "lr": (Range(1e-3, 2),),
    "batch_size": (64, 128, 256),
    "momentum": (Range(0.0, 0.98),),
    "weight_decay": (0.0, Range(1e-6, 1e-2)),
    "hidden_sizes": ((64,), (128,)),
}
VALUES = Space(WIDE, points=1).values
ITEMS = tuple(VALUES.items())
INSTALL = "pip install 'digitrec[search]'"


@pytest.fixture(autouse=True)
def _optuna(request: pytest.FixtureRequest) -> None:
    if "without_optuna" not in request.fixturenames:
        pytest.importorskip("optuna", reason=f"optuna is not installed: {INSTALL}")


@pytest.fixture
def without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def missing(name: str) -> str:
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)


def accuracy(point: Configuration) -> float:
    """The nearer the rate is to 0.1 and the smaller the batch, the better."""
    return 0.99 - 0.1 * abs(math.log10(point.lr / 0.1)) - 0.0001 * point.batch_size


def results(points: int = 32) -> dict[Configuration, float | None]:
    return {point: accuracy(point) for point in draw(ITEMS, points, 0)}


def test_the_same_results_give_the_same_suggestions() -> None:
    suggested = suggest(VALUES, results(), 2, 0)
    assert suggest(VALUES, results(), 2, 0) == suggested
    assert suggest(VALUES, results(), 3, 0) != suggested
    assert suggest(VALUES, results(), 2, 1) != suggested
    assert suggest(VALUES, dict.fromkeys(results(), 0.5), 2, 0) != suggested


def test_suggestions_are_new_points_of_the_space_with_three_digits() -> None:
    suggested = suggest(VALUES, results(), 2, 0)
    assert len(set(suggested) - set(results())) == GENERATION
    for point in suggested:
        assert 1e-3 <= point.lr <= 2
        assert float(f"{point.lr:.3g}") == point.lr
        assert point.weight_decay == 0 or 1e-6 <= point.weight_decay <= 1e-2
        assert point.batch_size in WIDE["batch_size"]
        assert point.hidden_sizes in WIDE["hidden_sizes"]


def test_suggestions_are_better_than_points_that_are_drawn_evenly() -> None:
    for seed in range(3):
        drawn = sorted(map(accuracy, draw(ITEMS, GENERATION, seed)))
        suggested = sorted(map(accuracy, suggest(VALUES, results(), 2, seed)))
        assert suggested[GENERATION // 2] > drawn[GENERATION // 2]


def test_what_diverges_is_suggested_less_than_what_fails() -> None:
    """A failed trial says nothing about its point; a diverged one says that it is bad."""

    def above(outcome: float | None) -> int:
        seen = {point: outcome if point.lr > 0.1 else 0.5 for point in results()}
        again = (suggest(VALUES, seen, 2, seed) for seed in range(8))
        return sum(point.lr > 0.1 for suggested in again for point in suggested)

    assert above(math.nan) < above(None)


@pytest.mark.parametrize("point", draw(ITEMS, 12, 3))
def test_a_value_lies_where_the_axis_has_it(point: Configuration) -> None:
    for name, items in ITEMS:
        value = getattr(point, name)
        assert tpe._value(name, items, tpe._place(name, items, value)) == value


def test_zero_lies_beside_the_smallest_values_of_a_range() -> None:
    zero, low, high = (
        tpe._place("weight_decay", (0.0, Range(1e-6, 1e-2, "log")), value)
        for value in (0.0, 1e-6, 1e-2)
    )
    assert (zero, low, high) == (0.25, 0.5, 1.0)


def test_a_value_without_effect_is_on_its_axis() -> None:
    assert tpe._place("momentum", (0.5, Range(0.6, 0.9, "linear")), 0.0) == 0.0
    assert tpe._place("nesterov", (True,), False) == 0


def test_a_small_space_is_suggested_to_its_last_point() -> None:
    space = {"lr": (0.1, 0.2, 0.3), "batch_size": (32, 64), "momentum": (0.0, 0.9)}
    values = Space(space, points=1).values
    known: dict[Configuration, float | None] = dict.fromkeys(draw(tuple(values.items()), 8, 0), 0.5)
    assert len({*suggest(values, known, 0, 0), *known}) == 12


def test_every_hyperparameter_can_be_suggested() -> None:
    values: dict[str, Any] = {
        name: (Range(0.01, 0.5),) if each.takes_ranges else each.values
        for name, each in HYPERPARAMETERS.items()
    }
    values |= {"nesterov": (False, True), "optimizer": ("sgd", "adamw")}
    space = Space(values, points=20, sampler="tpe")
    accuracies = {trial: accuracy(trial.configuration) for trial in space.trials()}
    assert len(set(space.with_suggested(1, accuracies).configurations())) == 20


def suggested_space(points: int = 40) -> Space:
    space = Space(WIDE, points=points, sampler="tpe")
    accuracies = {trial: accuracy(trial.configuration) for trial in space.trials()}
    return space.with_suggested(1, accuracies)


def test_points_are_those_that_are_drawn_and_then_those_that_are_suggested() -> None:
    space = Space(WIDE, points=40, sampler="tpe")
    assert space.configurations() == draw(ITEMS, GENERATION, 0)
    assert (len(space), space.unsuggested) == (40, 40 - GENERATION)
    more = suggested_space()
    assert more.configurations()[:GENERATION] == space.configurations()
    assert len(set(more.configurations())) == 2 * GENERATION
    assert (len(more), more.unsuggested) == (40, 40 - 2 * GENERATION)
    assert [len(generation) for generation in more.generations] == [16, 16, 8]


def test_more_points_suggest_what_they_would_have_suggested_at_once() -> None:
    for few in (GENERATION + 1, 2 * GENERATION - 1):
        grown = Space(WIDE, points=40, sampler="tpe").with_points_of(suggested_space(few))
        assert len(grown.configurations()) == few
        accuracies = {trial: accuracy(trial.configuration) for trial in grown.trials()}
        assert grown.with_suggested(1, accuracies) == suggested_space()


def test_another_space_keeps_no_suggestions() -> None:
    other = Space(WIDE | {"lr": (Range(1e-3, 1),)}, points=40, sampler="tpe")
    assert other.with_points_of(suggested_space()) == other
    drawn = Space(WIDE, points=40)
    assert drawn.with_points_of(suggested_space()) == drawn


def test_a_space_with_suggestions_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(suggested_space().to_json()))
    assert Space.from_json(written) == suggested_space()
    assert set(written["suggested"][0]) <= {*WIDE}
    assert "sampler" not in Space(WIDE, points=40).to_json()


@pytest.mark.parametrize(
    "damage",
    [
        {"points": 20},
        {"sampler": "quasi-random"},
        {"sampler": "random"},
        {"suggested": [{"lr": 0.1, "batch_size": 64}] * 2},
        {"suggested": [{"lr": -0.1, "batch_size": 64}]},
        {"suggested": [{"batch_size": 64}]},
        {"suggested": 3},
    ],
)
def test_damaged_suggestions_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((InputError, ValueError, TypeError)):
        Space.from_json(suggested_space().to_json() | damage)


def test_a_point_counts_with_its_mean_over_the_seeds_and_as_diverged_if_one_did() -> None:
    space = Space(WIDE, (0, 1), points=40, sampler="tpe")
    even = {trial: accuracy(trial.configuration) for trial in space.trials()}
    once = {trial: even[trial] for trial in even if trial.seed == 0}
    points = space.with_suggested(1, even).configurations()
    assert space.with_suggested(1, once).configurations() == points
    spoilt = {trial: math.nan if trial.seed else even[trial] for trial in even}
    assert space.with_suggested(1, spoilt).configurations() != points


@pytest.mark.usefixtures("without_optuna")
def test_without_optuna_one_line_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--sampler", "tpe", "--points", "20"]) == 2
    assert capsys.readouterr().err == (
        f"digitrec: --sampler tpe needs optuna 5 or newer, which is not installed: {INSTALL}\n"
    )
    assert len(Request(space=Space(WIDE, points=20)).space) == 20


def test_an_optuna_that_is_too_old_is_named(
    without_optuna: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.5.0")
    with pytest.raises(InputError, match=r"optuna 5 or newer, and 4\.5\.0 is installed"):
        Request(space=Space(WIDE, points=20, sampler="tpe"))


def test_suggestions_need_a_number_of_points(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--sampler", "tpe"]) == 2
    assert capsys.readouterr().err == (
        "digitrec: tpe needs points to draw; give --points, their number\n"
    )
