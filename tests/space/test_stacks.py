import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitrec.errors import InputError
from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration, Trial
from digitrec.space.points import Space
from digitrec.space.stacks import Stack, plan_stacks

SPACES = st.builds(
    lambda lrs, sizes, seeds: Space.of(lr=tuple(lrs), batch_size=tuple(sizes), seeds=tuple(seeds)),
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9, unique=True),
    st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
)


def test_the_default_space_is_five_learning_rates_by_five_batch_sizes() -> None:
    configurations = Space().trials()
    assert len(configurations) == 25
    assert configurations[0].name == "lr0.001-bs32-seed0"
    assert configurations[-1].name == "lr1.0-bs512-seed0"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"lr": ()}, "no learning rate is given; at least one is needed"),
        ({"batch_size": ()}, "no batch size is given; at least one is needed"),
        ({"seeds": ()}, "no seed is given; at least one is needed"),
        ({"lr": (0.1, 0.0)}, "learning rate 0.0 is not a finite number above 0"),
        ({"lr": (-0.1,)}, "learning rate -0.1 is not a finite number above 0"),
        ({"lr": (math.nan,)}, "learning rate nan is not a finite number above 0"),
        ({"lr": (math.inf,)}, "learning rate inf is not a finite number above 0"),
        ({"lr": (0.1, 0.1)}, "learning rate 0.1 is given more than once"),
        ({"batch_size": (0,)}, "batch size 0 is not a whole number above 0"),
        ({"batch_size": (32, 64, 32)}, "batch size 32 is given more than once"),
        ({"batch_size": (32.5,)}, "batch size 32.5 is not a whole number above 0"),
        ({"momentum": (1.0,)}, "momentum 1.0 is not a number from 0 to below 1"),
        ({"nesterov": (1,)}, "Nesterov momentum 1 is not true or false"),
        ({"optimizer": (["sgd"],)}, "optimizer ['sgd'] is not one of sgd, adamw"),
        (
            {"momentum": (0.5, 0.9), "optimizer": ("adamw",)},
            "momentum 0.5 has no effect in any trial: it needs optimizer sgd",
        ),
        ({"lr": ("high",)}, "learning rate 'high' is not a finite number above 0"),
        (
            {"rate": (0.1,)},
            "'rate' is not a hyperparameter; there are " + ", ".join(HYPERPARAMETERS),
        ),
        ({"seeds": (-1,)}, "seed -1 is not a whole number from 0 to 2**32 - 1"),
    ],
)
def test_a_wrong_space_is_refused_by_its_value(lists: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Space.of(**lists)
    assert str(caught.value) == message


@given(SPACES)
def test_a_space_is_read_from_json_as_it_was_written(space: Space) -> None:
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_values_take_the_type_of_their_hyperparameter() -> None:
    (trial,) = Space.of(lr=(1,), batch_size=(np.int64(32),)).trials()
    assert trial.name == "lr1.0-bs32-seed0"


def names(**values: tuple[Any, ...]) -> list[str]:
    space = Space({"lr": (0.1,), "batch_size": (32,), **values})
    assert len(space) == len(space.trials())
    assert Space.from_json(json.loads(json.dumps(space.to_json()))).trials() == space.trials()
    return [trial.configuration.name.removeprefix("lr0.1-bs32") for trial in space.trials()]


def test_momentum_is_searched_for_sgd_alone() -> None:
    found = names(momentum=(0.0, 0.9), optimizer=("sgd", "adamw"))
    assert found == ["", "-adamw", "-momentum0.9"]
    assert names(momentum=(0.9,), optimizer=("sgd", "adamw")) == ["-momentum0.9", "-adamw"]


def test_nesterov_momentum_without_momentum_is_plain_sgd() -> None:
    both = names(momentum=(0.0, 0.9), nesterov=(False, True))
    assert both == ["", "-momentum0.9", "-momentum0.9-nesterovtrue"]
    assert names(momentum=(0.0, 0.9), nesterov=(True,)) == ["", "-momentum0.9-nesterovtrue"]


def test_a_stack_has_one_optimizer() -> None:
    trials = Space.of(lr=(0.1, 0.5), batch_size=(32,), optimizer=("sgd", "adamw")).trials()
    stacks = plan_stacks(trials, workers=1, images=9000)
    assert [stack.name for stack in stacks] == [
        "bs32-adamw-seed0-lr0.1,0.5",  # its step takes longer
        "bs32-seed0-lr0.1,0.5",
    ]
    with pytest.raises(
        InputError, match="one batch size, one optimizer, one hidden sizes, one augm"
    ):
        Stack(trials)


def test_a_stack_has_one_batch_size_and_one_seed() -> None:
    one, other = (Trial(Configuration(lr=0.1, batch_size=size), 0) for size in (32, 64))
    with pytest.raises(InputError):
        Stack((one, other))
    with pytest.raises(InputError):
        Stack(())


def test_a_stack_is_named_by_batch_size_and_learning_rates() -> None:
    def stack(lrs: tuple[float, ...]) -> Stack:
        return Stack(Space.of(lr=lrs, batch_size=(32,)).trials())

    assert stack((0.1, 0.5)).name == "bs32-seed0-lr0.1,0.5"
    many = tuple(rate / 100 for rate in range(1, 81))
    assert stack(many).name == "bs32-seed0-lr0.01..0.8x80"
    assert stack((*many[:40], 0.405, *many[41:])).name == stack(many).name
    assert stack((*many[:40], 0.405, *many[41:])).key != stack(many).key


@given(space=SPACES, workers=st.integers(1, 8), size=st.none() | st.integers(1, 12))
def test_every_configuration_is_in_exactly_one_stack(
    space: Space, workers: int, size: int | None
) -> None:
    stacks = plan_stacks(space.trials(), workers=workers, images=9000, stack_size=size)
    planned = itertools.chain.from_iterable(stack.members for stack in stacks)
    assert sorted(planned) == sorted(space.trials())
    assert size is None or max(len(stack.members) for stack in stacks) <= size


def test_a_stack_size_of_one_gives_one_stack_per_configuration() -> None:
    stacks = plan_stacks(Space().trials(), workers=2, images=9000, stack_size=1)
    assert len(stacks) == 25


def test_the_longest_stack_comes_first() -> None:
    stacks = plan_stacks(Space().trials(), workers=2, images=100_000, stack_size=5)
    assert [stack.configuration.batch_size for stack in stacks] == [32, 64, 128, 256, 512]


def test_few_stacks_are_cut_so_that_no_worker_idles() -> None:
    one_batch_size = Space.of(batch_size=(64,)).trials()
    stacks = plan_stacks(one_batch_size, workers=5, images=1_000_000)
    assert len(stacks) == 5


def test_many_workers_get_no_more_stacks_than_the_driver_can_start_in_time() -> None:
    space = Space.of(lr=tuple(0.001 * 1.01**k for k in range(400)), batch_size=(512,))
    few = plan_stacks(space.trials(), workers=400, images=9000)
    many = plan_stacks(space.trials(), workers=400, images=10_000_000)
    assert len(few) < len(many) == 400
