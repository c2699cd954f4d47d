"""Ranges, and the points that are drawn from a space."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from digitrec.cli.main import main
from digitrec.cli.options import make_parser, make_request
from digitrec.errors import WRONG_INPUT, InputError
from digitrec.request import Request, option_words
from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration
from digitrec.space.points import Space
from digitrec.space.quasi_random import LEAP, column
from digitrec.space.ranges import Range, RangeScale

LR, MOMENTUM, DROPOUT = Range(1e-3, 2), Range(0, 0.98), Range(0, 0.5)
WIDE: dict[str, Any] = {
    "lr": (LR,),
    "batch_size": (32, 128, 512),
    "momentum": (MOMENTUM,),
    "weight_decay": (0.0, Range(1e-6, 1e-2)),
    "dropout": (DROPOUT,),
}
SPACES = st.sampled_from(
    [
        WIDE,
        {"lr": (LR,)},
        {"lr": (LR,), "batch_size": (64,), "optimizer": ("sgd", "adamw"), "momentum": (0.0, 0.9)},
        {"lr": (0.1, Range(0.2, 0.3, "linear")), "hidden_sizes": ((32,), (64, 32))},
        {"lr": (0.01, 0.1, 1.0), "momentum": (0.0, 0.5, 0.9), "nesterov": (False, True)},
    ]
)
SEARCH_SEEDS = st.integers(0, 2**32 - 1)


def draw(values: dict[str, Any], points: int, search_seed: int = 0) -> tuple[Configuration, ...]:
    return Space(values, points=points, search_seed=search_seed).configurations()


@given(SPACES, st.integers(1, 20), st.integers(1, 20), SEARCH_SEEDS)
def test_more_points_change_none_that_are_there(
    values: dict[str, Any], points: int, more: int, seed: int
) -> None:
    assert draw(values, points + more, seed)[:points] == draw(values, points, seed)


@given(st.integers(1, 100), SEARCH_SEEDS)
def test_another_hyperparameter_changes_no_value_of_the_others(points: int, seed: int) -> None:
    few = {name: WIDE[name] for name in ("lr", "batch_size", "dropout")}
    before, after = draw(few, points, seed), draw(WIDE, points, seed)
    for name in few:
        assert [getattr(c, name) for c in before] == [getattr(c, name) for c in after]


def test_another_hyperparameter_that_divides_stacks_keeps_the_points_with_its_default() -> None:
    more = WIDE | {"augmentation": ("none", "shift2")}
    kept = [each for each in draw(more, 60) if each.augmentation == "none"]
    assert kept == list(draw(WIDE, 30))


@given(SPACES, st.integers(1, 40), SEARCH_SEEDS)
def test_points_are_distinct_and_there_are_as_many_as_asked_for(
    values: dict[str, Any], points: int, seed: int
) -> None:
    try:
        drawn = draw(values, points, seed)
    except InputError:
        assert not any(isinstance(item, Range) for items in values.values() for item in items)
        return
    assert len(set(drawn)) == len(drawn) == points
    assert all(each.with_effect() == each for each in drawn)
    assert len({each.name for each in drawn}) == points


def test_the_points_of_lists_are_all_of_the_grid_where_that_many_are_asked_for() -> None:
    values = {"lr": (0.01, 0.1, 1.0), "momentum": (0.0, 0.5, 0.9), "nesterov": (False, True)}
    grid = Space(values).configurations()
    assert set(draw(values, len(grid))) == set(grid)
    with pytest.raises(InputError) as caught:
        draw(values, len(grid) + 1)
    assert str(caught.value) == (
        "the search space has 75 distinct points, and --points asks for 76; give fewer points or "
        "more values"
    )


def test_values_that_divide_stacks_take_turns() -> None:
    values = WIDE | {"hidden_sizes": ((32,), (64, 32))}
    turns = [(each.batch_size, each.hidden_sizes) for each in draw(values, 60)]
    assert len(set(turns[:6])) == 6
    assert turns == turns[:6] * 10


@pytest.mark.parametrize("sizes", [(32,), (32, 128), (32, 128, 512), (16, 32, 64, 128, 256, 512)])
def test_the_points_of_each_batch_size_are_spread_over_the_whole_range(
    sizes: tuple[int, ...],
) -> None:
    drawn = draw({"lr": (LR,), "batch_size": sizes}, 16 * len(sizes))
    for size in sizes:
        shares = [LR.on("log").share(each.lr) for each in drawn if each.batch_size == size]
        counts, _ = np.histogram(shares, 8, (0, 1))
        assert set(counts) <= {1, 2, 3}
    shares = [LR.on("log").share(each.lr) for each in drawn]
    counts, _ = np.histogram(shares, 8, (0, 1))
    assert set(counts) <= {*range(2 * len(sizes) - 2, 2 * len(sizes) + 3)}


def test_each_item_of_a_list_gets_an_equal_share_of_the_points() -> None:
    decays = [each.weight_decay for each in draw(WIDE, 90)]
    assert 43 <= decays.count(0.0) <= 47
    below = sum(0 < decay < 1e-4 for decay in decays)
    assert 20 <= below <= 25  # half of the others, as the scale is logarithmic


@pytest.mark.parametrize(("points", "columns"), [(16, 3), (64, 5), (243, 6)])
def test_points_are_as_even_as_those_of_scipy(points: int, columns: int) -> None:
    def discrepancy(leap: int, seed: int) -> float:
        drawn = [column(place, f"{seed} {place}") for place in range(columns)]
        sample = [[at(leap * index) for at in drawn] for index in range(points)]
        return float(qmc.discrepancy(sample, method="CD"))

    theirs = np.mean(
        [
            qmc.discrepancy(qmc.Halton(columns, rng=seed).random(points), method="CD")
            for seed in range(20)
        ]
    )
    for leap in (1, LEAP):
        assert np.mean([discrepancy(leap, seed) for seed in range(20)]) < 1.1 * theirs


def test_a_column_without_its_permutations_is_the_van_der_corput_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "digitrec.space.quasi_random._permutation", lambda base, key: list(range(base))
    )
    for place, base in enumerate((2, 3, 5)):
        at = column(place, "")
        theirs = qmc.Halton(place + 1, scramble=False).random(100)[:, -1]
        assert [at(index) for index in range(100)] == pytest.approx(theirs), base


def test_the_points_of_a_space_are_the_same_for_ever() -> None:
    assert [each.name for each in draw(WIDE, 4)] == [
        "lr0.0842-bs32-momentum0.752-dropout0.263",
        "lr0.00188-bs128-momentum0.9326-wd0.000106-dropout0.399",
        "lr0.563-bs512-momentum0.085-wd0.00147-dropout0.49",
        "lr0.0417-bs32-momentum0.727-dropout0.0276",
    ]


def test_other_search_seeds_draw_other_points() -> None:
    assert not set(draw(WIDE, 50, 0)) & set(draw(WIDE, 50, 1))


@given(
    st.sampled_from([LR.on("log"), Range(0.1, 0.9, "linear"), MOMENTUM.on("complement")]),
    st.floats(0, 1, exclude_max=True),
)
def test_a_value_of_a_range_has_three_significant_digits_and_lies_within(
    drawn_from: Range, share: float
) -> None:
    value = drawn_from.at(share)
    assert drawn_from.low <= value <= drawn_from.high
    scaled = 1 - value if drawn_from.scale == "complement" else value
    assert scaled == pytest.approx(float(f"{scaled:.3g}"), rel=1e-12, abs=1e-15)
    assert len(repr(value)) <= len("0.98765")
    assert drawn_from.share(value) == pytest.approx(share, abs=0.01)


def test_momentum_is_drawn_evenly_in_the_logarithm_of_its_distance_from_one() -> None:
    assert MOMENTUM.on("complement").at(0.5) == 0.859  # 1 - value is the root of 1 x 0.02
    assert Range(0.9, 0.999, "complement").at(0.5) == 0.99


@pytest.mark.parametrize("scale", ["log", "linear", "complement"])
def test_a_space_with_ranges_is_read_from_json_as_it_was_written(scale: RangeScale) -> None:
    space = Space.of(lr=(Range(0.01, 0.5, scale), 0.7), points=5, search_seed=3)
    written = json.loads(json.dumps(space.to_json()))
    assert written["lr"] == [{scale: [0.01, 0.5]}, 0.7]
    assert (written["points"], written["search_seed"]) == (5, 3)
    assert Space.from_json(written) == space


def test_a_grid_is_written_as_before_there_were_points() -> None:
    assert Space.of(lr=(0.1,), batch_size=(32,)).to_json() == {
        "lr": [0.1],
        "batch_size": [32],
        "seed": [0],
    }


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"lr": [{"log": [0.1]}]}, ValueError),
        ({"lr": [{"log": [0.1, 0.2], "linear": [0.1, 0.2]}]}, ValueError),
        ({"lr": [{"loud": [0.1, 0.2]}]}, InputError),
        ({"lr": [{"log": [0.1, "0.2"]}]}, InputError),
        ({"lr": [{"log": [1, 10**400]}]}, InputError),
        ({"points": "5"}, InputError),
        ({"points": 0}, InputError),
        ({"search_seed": None}, InputError),
    ],
)
def test_a_damaged_space_is_no_space(damage: dict[str, Any], error: type[Exception]) -> None:
    written = Space.of(lr=(LR,), points=5).to_json()
    with pytest.raises(error):
        Space.from_json(written | damage)


@pytest.mark.parametrize(
    "options",
    [
        ["--lr", "0.001..2.0", "--points", "7"],
        ["--lr", "0.1,linear:0.2..0.5", "--points", "7", "--search-seed", "3"],
        ["--momentum", "0.0..0.98", "--weight-decay", "0.0,1e-06..0.01", "--points", "9"],
        ["--dropout", "log:0.01..0.5", "--seeds", "0,1", "--points", "9"],
    ],
)
def test_the_options_of_a_drawn_space_can_be_pasted(options: list[str]) -> None:
    request = make_request(make_parser().parse_args(["tune", *options]))
    assert option_words({"space": request.space}) == options


def test_ranges_are_the_same_in_python_and_on_the_command_line() -> None:
    typed = "tune --lr 1e-3..2 --batch-size 32,128,512 --momentum 0..0.98 --dropout 0..0.5"
    words = [*typed.split(), "--weight-decay", "0,1e-6..1e-2", "--points", "20"]
    assert make_request(make_parser().parse_args(words)).space == Space.of(**WIDE, points=20)
    assert Space.of(lr=LR, points=3) == Space.of(lr=(LR,), points=3)  # type: ignore[arg-type]


def test_seeds_multiply_points() -> None:
    space = Space.of(lr=(LR,), points=3, seeds=(0, 1))
    assert len(space) == len(space.trials()) == 6
    assert [trial.seed for trial in space.trials()] == [0, 1] * 3


NUMBER_OR_RANGE = "a number or a range such as 0.1..0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--lr 1e-3..2",
            "learning rate 0.001..2.0 is a range; give --points, the number of points to draw",
        ),
        ("--lr 2..1 --points 3", "the range 2.0..1.0 does not go from a number to a higher one"),
        ("--lr 1..1 --points 3", "the range 1.0..1.0 does not go from a number to a higher one"),
        ("--lr 1..inf --points 3", "the range 1.0..inf does not go from a number to a higher one"),
        (
            "--lr 0..1 --points 3",
            "learning rate 0.0, an end of 0.0..1.0, is not a finite number above 0",
        ),
        (
            "--weight-decay 0..0.1 --points 3",
            "weight decay: the range 0.0..0.1 is logarithmic and does not start above 0; give "
            "linear:0.0..0.1, or 0 as a value and a range above it",
        ),
        (
            "--dropout 0..1.2 --points 3",
            "dropout 1.2, an end of 0.0..1.2, is not a number from 0 to below 1",
        ),
        (
            "--batch-size 32..64 --points 3",
            "batch size takes no range such as 32..64; give a list of values",
        ),
        (
            "--hidden-sizes 64..128 --points 3",
            "hidden sizes takes no range such as 64..128; give a list of values",
        ),
        (
            "--nesterov false..true --points 3",
            "Nesterov momentum takes no range such as false..true; give a list of values",
        ),
        ("--lr 0.1..x --points 3", f"argument --lr: '0.1..x' is not {NUMBER_OR_RANGE}"),
        ("--lr 1.. --points 3", f"argument --lr: '1..' is not {NUMBER_OR_RANGE}"),
        (
            "--lr loud:0.1..0.2 --points 3",
            f"argument --lr: 'loud:0.1..0.2' is not {NUMBER_OR_RANGE}",
        ),
        (
            "--lr=-1..1 --points 3",
            "learning rate -1.0, an end of -1.0..1.0, is not a finite number above 0",
        ),
        ("--lr 0.1..0.2,0.1..0.2 --points 3", "learning rate 0.1..0.2 is given more than once"),
        (
            "--momentum 0..0.9 --optimizer adamw --points 3",
            "momentum 0.9 has no effect in any trial: it needs optimizer sgd",
        ),
        ("--points 0", "points 0 is not a whole number above 0"),
        ("--points some", "argument --points: 'some' is not a whole number"),
        ("--points 20000", "20,000 trials are more than the 10,000 that a study can have"),
        ("--search-seed 1", "a search seed needs points to draw; give --points, their number"),
        (
            "--points 3 --search-seed -1",
            "search seed -1 is not a whole number from 0 to 2**32 - 1",
        ),
        (
            "--points 26",
            "the search space has 25 distinct points, and --points asks for 26; give fewer points "
            "or more values",
        ),
    ],
)
def test_a_wrong_range_is_refused_in_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["tune", *options.split(), "--data", "/nowhere.csv"])
    except SystemExit as exit_:  # of argparse
        code = exit_.code
    assert code == WRONG_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_every_hyperparameter_takes_ranges_unless_it_divides_stacks_or_is_a_category() -> None:
    for each in HYPERPARAMETERS.values():
        assert each.takes_ranges == (not each.divides and each.scale != "category"), each.name


def test_a_request_of_many_points_is_made_in_no_time_the_second_time() -> None:
    space = Space.of(**WIDE, points=200)
    assert Space.of(**WIDE, points=200).configurations() is space.configurations()
    assert len(Request(space=space).space) == 200
