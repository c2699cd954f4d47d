"""The statistics of the verdict, on made studies where the truth is known.

Letters: n configurations, S seeds, N' validation images.
"""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from digitrec.results.analysis import statistics as compare
from digitrec.results.analysis.ranking import rank_configurations
from digitrec.results.analysis.statistics import (
    Correctness,
    adjust_for_choice,
    compare_with_winner,
    estimate_optimism,
    flip_variance,
    kruskal_wallis,
    mcnemar,
    score_images,
    seed_variance,
    summarise_best_of_n,
    welch,
    wilson_interval,
    winner_interval,
)
from tests.studies import DEFAULTS

ERROR_RATE = 0.05
STUDIES = 2_000
# Two standard errors of a share of 5% that is counted in so many studies.
CHANCE = 2 * math.sqrt(ERROR_RATE * (1 - ERROR_RATE) / STUDIES)


def trials(accuracies: dict[tuple[float, int, int], float | None]) -> pd.DataFrame:
    """Trials by lr, batch size and seed; None diverged."""
    return pd.DataFrame(
        DEFAULTS
        | {
            "trial": f"lr{lr}-bs{size}-seed{seed}",
            "lr": lr,
            "batch_size": size,
            "seed": seed,
            "status": "diverged" if accuracy is None else "completed",
            "val_accuracy": math.nan if accuracy is None else accuracy,
            "val_loss": math.nan if accuracy is None else 1 - accuracy,
            "seconds": 2.0,
        }
        for (lr, size, seed), accuracy in accuracies.items()
    )


def configurations_of(correct: list[NDArray[np.bool_]]) -> Correctness:
    """Configurations from the images that each seed recognises, (S, N'); best mean first."""
    ranked = sorted(correct, key=lambda seeds: -float(seeds.mean()))
    return Correctness(
        np.stack([seeds.mean(axis=0, dtype=np.float32) for seeds in ranked]),
        np.array([len(seeds) for seeds in ranked]),
        np.array([s.mean(axis=1).var(ddof=1) if len(s) > 1 else math.nan for s in ranked]),
    )


class Simulation:
    """Studies of equally good configurations, on images that are easy or hard for all."""

    def __init__(self, images: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.images = images

    def study(
        self,
        configurations: int,
        seeds: int,
        scatter: float,
        handicap: NDArray[np.float64] | float = 0.0,
    ) -> tuple[Correctness, NDArray[np.float64]]:
        """A study, and each configuration's handicap, in its order.

        Args:
            configurations: how many.
            seeds: of each.
            scatter: how far seeds differ, in log odds.
            handicap: by how much the odds of configurations are worse, in log odds.
        """
        difficulty = self.random.normal(-3.6, 1.5, self.images)
        own = self.random.normal(
            0, 0.5, (configurations, 1, self.images)
        )  # what a configuration finds hard
        luck = scatter * self.random.normal(size=(configurations, seeds, 1))
        handicaps = np.broadcast_to(handicap, configurations)
        odds = difficulty + own + luck + handicaps[:, None, None]
        right = self.random.random(odds.shape) > 1 / (1 + np.exp(-odds))
        order = np.argsort(-right.mean(axis=(1, 2)), kind="stable")
        return configurations_of(list(right[order])), handicaps[order]


def false_claims(
    configurations: int, seeds: int, scatter: float, handicap: NDArray[np.float64] | float = 0.0
) -> tuple[float, float]:
    """The share of studies with a false clear winner, and with any false claim."""
    simulation = Simulation(images=300, seed=configurations + 100 * seeds)
    clear = wrong = 0
    for _ in range(STUDIES):
        study, handicaps = simulation.study(configurations, seeds, scatter, handicap)
        apart = compare_with_winner(study).told_apart
        false = apart & (handicaps[1:] <= handicaps[0])
        wrong += bool(false.any())
        clear += bool(apart.all() and false.any())
    return clear / STUDIES, wrong / STUDIES


@pytest.mark.slow
@pytest.mark.parametrize("configurations", [2, 5, 25])
def test_equal_configurations_rarely_have_a_clear_winner_or_a_clear_loser(
    configurations: int,
) -> None:
    clear, wrong = false_claims(configurations, seeds=1, scatter=0.0)
    assert clear <= wrong <= ERROR_RATE
    assert wrong > ERROR_RATE / 5  # the error rate is not kept by never claiming anything


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("configurations", [2, 5])
def test_seeds_that_scatter_rarely_make_a_clear_winner(configurations: int, seeds: int) -> None:
    clear, wrong = false_claims(configurations, seeds, scatter=0.4)
    assert clear <= wrong <= ERROR_RATE + CHANCE


@pytest.mark.slow
def test_scattering_seeds_make_false_winners_unless_there_are_several() -> None:
    # Why the verdict on one seed says that it holds for that seed.
    assert false_claims(2, seeds=1, scatter=0.8)[0] > 2 * ERROR_RATE
    assert false_claims(2, seeds=4, scatter=0.4)[0] <= ERROR_RATE + CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("handicap", [0.5, 1.0, 4.0])
def test_two_equal_leaders_are_rarely_told_apart_however_many_others_are_worse(
    handicap: float,
) -> None:
    handicaps = np.array([0.0, 0.0] + [handicap] * 10)
    clear, wrong = false_claims(12, 1, 0.0, handicaps)
    assert clear <= wrong <= ERROR_RATE + CHANCE


def test_a_configuration_that_is_far_better_is_told_apart_from_all_others() -> None:
    for seeds in (1, 5):
        study, _ = Simulation(2_000).study(10, seeds, 0.1, np.array([0.0] + [1.5] * 9))
        assert compare_with_winner(study).told_apart.all()


def test_configurations_with_one_seed_are_not_compared_with_those_of_several() -> None:
    right = np.ones((3, 10), bool)
    with pytest.raises(ValueError, match="one seed"):
        compare_with_winner(configurations_of([right, right[:1]]))


def test_mcnemar_is_the_sign_test_of_the_images_that_differ() -> None:
    # 8 of 10: twice the chance of 0, 1 or 2 heads in 10 tosses.
    assert mcnemar([8, 5, 0], [2, 5, 0]) == pytest.approx([2 * (1 + 10 + 45) / 1024, 1, 1])


def test_images_that_both_recognise_or_both_miss_do_not_matter() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.random((2, 1, 400)) < [[[0.9]], [[0.8]]]
    agree = np.ones((1, 10_000), bool)
    few = compare_with_winner(configurations_of([ours, theirs])).p_values
    many = compare_with_winner(
        configurations_of([np.hstack([ours, agree]), np.hstack([theirs, agree])])
    ).p_values
    assert few == pytest.approx(many)


def test_two_configurations_need_no_correction() -> None:
    p_values = np.array([0.04])
    assert adjust_for_choice(p_values, None) == pytest.approx([0.04], abs=0.006)
    assert adjust_for_choice(p_values, None) >= p_values


def test_corrected_values_keep_their_order_and_are_never_smaller() -> None:
    p_values = np.array([0.2, 1e-9, 0.03, 0.0004, 1.0])
    adjusted = adjust_for_choice(p_values, None)
    assert (adjusted >= p_values).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


def test_the_correction_counts_the_choice_of_the_winner() -> None:
    # The range of 20 normal means exceeds 5.01 standard errors in 5% of studies (tables of the
    # studentized range), and 2 Phi(-5.01 / sqrt(2)) is 0.0004. Holm would make 0.0076 of it.
    adjusted = adjust_for_choice(np.array([0.000396] + [1.0] * 18), None)
    assert adjusted[0] == pytest.approx(0.05, abs=0.01)


def test_what_was_told_apart_no_longer_counts() -> None:
    alone = adjust_for_choice(np.array([0.03]), None)
    after_many = adjust_for_choice(np.array([0.03] + [1e-12] * 30), None)
    assert after_many[0] == alone[0]


def test_welch_is_students_t_for_equal_variances() -> None:
    t_values, freedom = welch(np.array([3.0, 1.0]), np.array([0.5, 0.5]), 4)
    assert t_values == pytest.approx([2.0])
    assert freedom == pytest.approx([6.0])


def test_seed_variance_is_never_below_what_single_images_explain() -> None:
    # Both seeds recognise half the images, but not the same half: their equality is chance.
    halves = np.arange(100) % 2 == 0
    one = configurations_of([np.stack([halves, ~halves])])
    assert one.spread == pytest.approx([0.0])
    assert flip_variance(one) == pytest.approx([0.5 / 100])
    assert seed_variance(one) == pytest.approx([0.5 / 100])


def test_the_wilson_interval_is_that_of_the_literature() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I: 81/263, 15/148, 0/20, 1/29.
    for right, images, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(right / images, images) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_seeds_holds_the_truth() -> None:
    simulation = Simulation(images=300, seed=1)
    many = Simulation(images=200_000, seed=2)
    truth = np.mean([many.study(1, 1, 0.3)[0].accuracies[0] for _ in range(40)])
    intervals = [winner_interval(simulation.study(1, 3, 0.3)[0]) for _ in range(400)]
    held = np.mean([low <= truth <= high for low, high in intervals])
    assert held >= 0.94


def test_the_interval_of_one_seed_is_wilsons() -> None:
    right = np.arange(200)[None, :] < 150
    assert winner_interval(configurations_of([right])) == wilson_interval(0.75, 200)


def test_a_winner_without_a_mistake_has_an_interval_below_one() -> None:
    low, high = winner_interval(configurations_of([np.ones((3, 100), bool)]))
    assert 0.9 < low < high == 1


def test_one_image_says_nothing_of_optimism() -> None:
    assert estimate_optimism(np.array([[1.0], [0.0]], np.float32)) == 0


def test_optimism_of_equal_configurations_is_what_choosing_the_luckiest_gains() -> None:
    random = np.random.default_rng(0)
    accuracy, images, gains, estimates = 0.9, 400, [], []
    for _ in range(60):
        right = random.random((20, images)) < accuracy
        means = right[np.argsort(-right.mean(axis=1))].astype(np.float32)
        gains.append(float(means[0].mean()) - accuracy)
        estimates.append(estimate_optimism(means, resamples=100))
    assert np.mean(estimates) == pytest.approx(np.mean(gains), rel=0.2)


def test_a_choice_that_images_do_not_change_is_not_optimistic() -> None:
    means = (np.arange(500)[None, :] < [[480], [300], [50]]).astype(np.float32)
    assert estimate_optimism(means) == 0


def test_the_best_of_n_is_the_mean_over_all_ways_to_draw_n() -> None:
    values = [0.5, 0.9, 0.7, 0.6, 0.95]
    table = pd.DataFrame({"status": "completed", "val_accuracy": values})
    curve = summarise_best_of_n(table)
    expected = [np.mean([max(draw) for draw in combinations(values, n)]) for n in range(1, 6)]
    assert curve["n"].to_list() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(curve["expected"], expected)
    assert (curve["low"] <= curve["expected"] + 1e-12).all()
    assert (curve["expected"] <= curve["high"] + 1e-12).all()
    assert curve.iloc[-1][["low", "expected", "high"]].to_list() == pytest.approx([0.95] * 3)


def test_a_diverged_trial_is_drawn_and_is_never_the_best() -> None:
    table = trials({(0.1, 32, 0): 0.5, (0.2, 32, 0): 0.9, (9.0, 32, 0): None})
    curve = summarise_best_of_n(table)
    # Of the three pairs, one has both, and the others have one of them and the diverged trial.
    np.testing.assert_allclose(curve["expected"], [0.7, (0.9 + 0.9 + 0.5) / 3, 0.9])


def test_without_a_completed_trial_there_is_no_curve() -> None:
    assert summarise_best_of_n(trials({(9.0, 32, 0): None})).empty
    assert summarise_best_of_n(trials({(9.0, 32, 0): None})[:0]).empty


def test_a_configuration_is_ranked_by_the_mean_of_its_seeds() -> None:
    table = trials({(0.1, 32, 0): 0.90, (0.1, 32, 1): 0.90, (0.5, 32, 0): 0.99, (0.5, 32, 1): 0.50})
    ranked = rank_configurations(table)
    assert ranked["lr"].to_list() == [0.1, 0.5]
    assert ranked["val_accuracy"].to_list() == pytest.approx([0.9, 0.745])
    assert ranked["trials"].iloc[0] == ("lr0.1-bs32-seed0", "lr0.1-bs32-seed1")


def test_a_configuration_with_a_diverged_seed_is_not_the_best() -> None:
    table = trials({(0.1, 32, 0): 0.8, (0.1, 32, 1): 0.8, (0.5, 32, 0): 0.99, (0.5, 32, 1): None})
    ranked = rank_configurations(table)
    assert ranked["lr"].to_list() == [0.1, 0.5]
    assert ranked["compared"].to_list() == [True, False]


def test_a_configuration_with_one_seed_is_not_the_best_beside_those_with_several() -> None:
    table = trials({(0.1, 32, 0): 0.8, (0.1, 32, 1): 0.8, (0.5, 32, 0): 0.99})
    ranked = rank_configurations(table)
    assert ranked["lr"].to_list() == [0.1, 0.5]
    assert ranked["compared"].to_list() == [True, False]


def test_configurations_are_ranked_although_each_has_a_diverged_seed() -> None:
    table = trials({(0.1, 32, 0): 0.8, (0.1, 32, 1): None, (0.5, 32, 0): 0.9, (0.5, 32, 1): None})
    ranked = rank_configurations(table)
    assert ranked["lr"].to_list() == [0.5, 0.1]
    assert ranked["compared"].all()


def test_images_are_scored_by_the_share_of_seeds_that_recognise_them() -> None:
    labels = np.array([1, 2, 3], np.uint8)
    predictions = {
        "a": np.array([1, 2, 9], np.uint8),
        "b": np.array([1, 9, 9], np.uint8),
        "c": labels,
    }
    scored = score_images([("a", "b"), ("c",)], predictions, labels)
    assert scored.means.tolist() == [[1, 0.5, 0], [1, 1, 1]]
    assert scored.seeds.tolist() == [2, 1]
    assert scored.spread[0] == pytest.approx(1 / 18)
    assert math.isnan(scored.spread[1])


def test_images_are_compared_the_same_in_one_piece_and_in_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, _ = Simulation(200).study(30, 3, 0.2)
    whole = compare_with_winner(study).p_values
    monkeypatch.setattr(compare, "MOST_COPIES_BYTES", 1)
    assert (compare_with_winner(study).p_values == whole).all()


def test_kruskal_wallis_is_that_of_scipy_with_ties() -> None:
    from scipy.stats import kruskal

    random = np.random.default_rng(0)
    groups = pd.Series(random.integers(0, 4, 60))
    numbers = pd.Series(random.integers(0, 20, 60) + 2 * groups, dtype=float)
    expected = kruskal(*(part for _, part in numbers.groupby(groups)))
    found = kruskal_wallis(numbers, groups)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.share == pytest.approx((expected.statistic - 3) / (60 - 4))


def test_groups_that_do_not_matter_have_no_share_on_average() -> None:
    random = np.random.default_rng(1)
    groups = pd.Series(np.arange(40) % 5)
    found = [kruskal_wallis(pd.Series(random.random(40)), groups) for _ in range(300)]
    assert np.mean([each.share for each in found]) == pytest.approx(0, abs=0.02)
    assert np.mean([each.p_value <= ERROR_RATE for each in found]) <= ERROR_RATE + 0.03


def test_one_group_or_a_group_for_each_number_tells_nothing() -> None:
    numbers = pd.Series([1.0, 2.0, 3.0])
    for groups in ([0, 0, 0], [0, 1, 2]):
        assert kruskal_wallis(numbers, pd.Series(groups)) == (0.0, 1.0)
