"""The decisions of a race: who goes on after a rung."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from digitrec.errors import InputError
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.points import Space
from digitrec.space.race import Race, Standing, default_rungs, is_worse, learn_late

IMAGES = 1000


def standing(
    right: int, lr: float = 0.1, *, batch_size: int = 32, loss: float = 0.5, first: int = 0
) -> Standing:
    """A trial that recognises `right` images from image `first` on."""
    trial = Trial(Configuration(lr=lr, batch_size=batch_size), 0)
    places = (np.arange(IMAGES) - first) % IMAGES
    return Standing(trial, right / IMAGES, loss, places < right)


def ladder(count: int, *, batch_size: int = 32, step: int = 50) -> list[Standing]:
    """Trials of which each is far better than the one before."""
    return [
        standing(step * (k + 1), lr=0.001 * (k + 1), batch_size=batch_size) for k in range(count)
    ]


def names(standings: Sequence[Standing]) -> list[str]:
    return [each.trial.name for each in standings]


def test_the_best_third_goes_on_best_first() -> None:
    race = Race((1, 3, 9), audit=0).decide(ladder(9))
    assert list(race.cuts[0].kept) == names(ladder(9)[:5:-1])


@pytest.mark.parametrize("count", range(1, 20))
def test_never_fewer_than_a_third_and_at_most_half_as_many_again_go_on(count: int) -> None:
    alike = [standing(800, lr=0.001 * (k + 1), loss=k) for k in range(count)]
    kept = Race((1, 3), audit=0).decide(alike).cuts[0].kept
    places = -(-count // 3)
    assert len(kept) == min(count, places + places // 2)
    assert list(kept) == names(alike[: len(kept)])  # equal accuracies: the lower loss first


def test_whoever_cannot_be_told_apart_from_the_last_one_kept_goes_on() -> None:
    ranked = [standing(900), standing(800, 0.2), standing(795, 0.3, first=200), standing(500, 0.4)]
    far = [standing(10 + k, lr=k + 1.0) for k in range(2)]
    kept = Race((1, 3), audit=0).decide([*ranked, *far]).cuts[0].kept
    assert list(kept) == names(ranked[:3])


def test_an_answer_is_worse_by_mcnemars_one_sided_test() -> None:
    better = np.arange(IMAGES) < 900
    for lost in (1, 2, 3, 10):  # all images that differ speak against it
        worse = better & (np.arange(IMAGES) >= lost)
        assert is_worse(worse, better) == (lost / lost**0.5 > 1.6449)
        assert not is_worse(better, worse)
    assert not is_worse(better, better)


def test_the_first_cut_is_made_within_each_group_that_stacks_divide() -> None:
    slow = ladder(6, batch_size=512)
    fast = ladder(6, step=150)
    first = Race((1, 3, 9), audit=0).decide([*slow, *fast])
    assert len(set(first.cuts[0].kept) & set(names(slow))) == 2
    later = [each for each in (*slow, *fast) if each.trial.name in first.cuts[0].kept]
    second = first.decide(later)
    assert set(second.cuts[1].kept) <= set(names(fast))


def test_diverged_trials_are_out_and_are_no_part_of_the_audit() -> None:
    nan = float("nan")
    diverged = [standing(900, lr=k + 1.0)._replace(accuracy=nan, loss=nan) for k in range(3)]
    cut = Race((1, 3), audit=9).decide([*diverged, *ladder(3)]).cuts[0]
    assert set(cut.kept) | set(cut.audited) == set(names(ladder(3)))
    assert Race((1, 3)).decide(diverged).cuts[0].kept == ()


def test_a_decision_does_not_depend_on_the_order_of_its_results() -> None:
    standings = [*ladder(12), *ladder(7, batch_size=64)]
    decided = Race((1, 3, 9)).decide(standings)
    for seed in range(5):
        shuffled = random.Random(seed).sample(standings, len(standings))
        assert Race((1, 3, 9)).decide(shuffled) == decided


def test_the_audit_goes_to_the_end_and_takes_nobodys_place() -> None:
    standings = ladder(27, step=30)
    race = Race((1, 3, 9), audit=4).decide(standings)
    assert len(race.audited) == 4
    assert not set(race.audited) & set(race.cuts[0].kept)
    alive = [each for each in standings if each.trial in race.alive([s.trial for s in standings])]
    assert len(alive) == 9 + 4
    after = race.decide(alive)
    assert len(after.cuts[1].kept) == 3
    goals = after.goals([each.trial for each in standings])
    assert {goals[each.trial] for each in standings if each.trial.name in race.audited} == {
        (9, "completed")
    }


def test_the_audit_is_drawn_by_the_search_seed() -> None:
    drawn = {Race((1, 3), seed=seed).decide(ladder(27, step=30)).audited for seed in range(6)}
    assert len(drawn) > 1
    assert Race((1, 3), seed=1).decide(ladder(27, step=30)) == Race((1, 3), seed=1).decide(
        ladder(27, step=30)
    )


def test_goals_say_where_each_trial_ends() -> None:
    standings = ladder(9)
    trials = [each.trial for each in standings]
    race = Race((1, 3, 9), audit=0)
    assert set(race.goals(trials).values()) == {(1, "stopped")}
    race = race.decide(standings)
    assert list(race.goals(trials).values()) == [(1, "dropped")] * 6 + [(3, "stopped")] * 3
    race = race.decide(standings[6:])
    ends = [(1, "dropped")] * 6 + [(3, "dropped")] * 2 + [(9, "completed")]
    assert list(race.goals(trials).values()) == ends


@pytest.mark.parametrize(
    ("epochs", "halve", "late", "rungs"),
    [
        (27, 3, False, (1, 3, 9, 27)),
        (27, 3, True, (3, 9, 27)),
        (20, 3, False, (1, 3, 7, 20)),
        (8, 2, False, (1, 2, 4, 8)),
        (1, 3, False, (1,)),
        (2, 3, True, (2,)),
    ],
)
def test_the_default_rungs_divide_the_epochs(
    epochs: int, halve: int, late: bool, rungs: tuple[int, ...]
) -> None:
    assert default_rungs(epochs, halve, late=late) == rungs


def test_the_first_rung_is_late_where_values_are_searched_that_learn_late() -> None:
    assert not learn_late(Space.of(momentum=(0.0, 0.9)).values)
    assert learn_late(Space.of(dropout=(0.0, 0.2)).values)
    assert learn_late(Space.of(augmentation=("none", "affine")).values)


def test_a_race_is_read_as_it_was_written() -> None:
    race = Race((1, 3, 9), audit=2, seed=5).decide(ladder(9))
    assert Race.from_json(race.to_json()) == race


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, {"kept": ("nobody",)}),
        (0, {"audited": ("nobody",)}),
        (0, {"kept": tuple("lr")}),
        (1, {"kept": tuple(names(ladder(1)))}),  # dropped at the first rung
        (1, {"audited": tuple(names(ladder(9))[-1:])}),  # drawn at the first rung only
    ],
)
def test_a_decision_about_trials_that_did_not_take_part_does_not_fit(
    place: int, change: dict[str, Any]
) -> None:
    standings = ladder(9)
    race = Race((1, 3, 9), audit=0).decide(standings).decide(standings[6:])
    trials = [each.trial for each in standings]
    assert race.fits(trials)
    assert not race.fits(trials[:5])
    cuts = list(race.cuts)
    cuts[place] = replace(cuts[place], **change)
    assert not replace(race, cuts=tuple(cuts)).fits(trials)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rungs": ()}, "rungs"),
        ({"rungs": (3, 1)}, "3,1"),
        ({"rungs": (0, 1)}, "0,1"),
        ({"rungs": (1, 3), "halve": 1}, "halve 1"),
        ({"rungs": (1, 3), "audit": -1}, "audit -1"),
    ],
)
def test_a_race_that_makes_no_sense_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Race(**values)  # type: ignore[arg-type]


def test_dropped_trials_are_worse_than_the_last_one_kept_in_every_small_race() -> None:
    for rights in itertools.product((300, 600, 900), repeat=4):
        standings = [standing(right, lr=k + 1.0) for k, right in enumerate(rights)]
        kept = Race((1, 3), audit=0).decide(standings).cuts[0].kept
        least = min(each.accuracy for each in standings if each.trial.name in kept)
        out = [each.accuracy for each in standings if each.trial.name not in kept]
        assert all(accuracy <= least for accuracy in out)
