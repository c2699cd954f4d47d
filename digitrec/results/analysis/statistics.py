"""What a difference between trials is worth: intervals, paired comparisons, optimism, best of n.

Letters: n configurations, S seeds of a configuration, N' validation images. The accuracy of a
configuration is the mean over its seeds.

All trials are scored on the same N' images, so two configurations are compared image by image.
Chance then decides which images were drawn and, where configurations have several seeds, which
seeds. The functions guard the claim "this configuration is worse than the winner": the chance that
any such claim about a study is false is at most 5%, although the winner is chosen by the same
numbers. Tests check this error rate in simulated studies of equally good configurations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ERROR_RATE = 0.05  # the accepted chance of a false claim; intervals cover 1 minus it
RESAMPLES = 500  # of the bootstrap
DRAWS_IN_BAND = 0.9  # share of the draws of fewer trials, see `summarise_best_of_n`
LEAST_STUDIES, MOST_STUDIES = 2_000, 10_000  # that are simulated to correct p-values
CONFIGURATIONS_SIMULATED = 1_000_000  # in all these studies, within the two bounds above
STUDIES_AT_A_TIME = 500
MOST_COPIES_BYTES = 64 * 2**20  # of the per-image means that are processed at a time


class Interval(NamedTuple):
    """The values that are consistent with the data."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Correctness:
    """How often each validation image is recognised, over the seeds of each configuration."""

    means: NDArray[np.float32]
    """Shape (n, N'): the share of a configuration's seeds that recognise an image."""
    seeds: NDArray[np.int64]
    """Shape (n,)."""
    spread: Floats
    """Shape (n,): the variance of accuracy over the seeds; NaN for one seed."""

    @property
    def accuracies(self) -> Floats:
        """The mean accuracy of each configuration."""
        return np.asarray(self.means.mean(axis=1, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The first configuration, the winner, against each of the others, in their order."""

    differences: Floats
    """By how much the winner's accuracy is higher, as a fraction."""
    errors: Floats
    """The standard errors of the differences."""
    p_values: Floats
    """Of each comparison on its own."""
    adjusted: Floats
    """The same, corrected for the number of comparisons and for the choice of the winner."""

    @property
    def told_apart(self) -> NDArray[np.bool_]:
        """Whether the winner is better, at the accepted error rate."""
        return self.adjusted <= ERROR_RATE


def score_images(
    configurations: Sequence[Sequence[str]],
    predictions: Mapping[str, NDArray[np.uint8]],
    labels: NDArray[np.uint8],
) -> Correctness:
    """Return how often the trials of each configuration recognise each image."""
    means = np.empty((len(configurations), len(labels)), np.float32)
    spread = np.full(len(configurations), np.nan)
    for place, trials in enumerate(configurations):
        correct = np.stack([predictions[trial] == labels for trial in trials])  # (S, N')
        means[place] = correct.mean(axis=0, dtype=np.float32)
        if len(trials) > 1:
            spread[place] = correct.mean(axis=1).var(ddof=1)
    return Correctness(means, np.array([len(trials) for trials in configurations]), spread)


def wilson_interval(accuracy: float, images: float, deviations: float | None = None) -> Interval:
    """Return the interval of an accuracy measured on so many images.

    Args:
        accuracy: a fraction.
        images: how many, or how many independent ones it is worth.
        deviations: half the width of a 95% interval in standard errors; None: the normal 1.96.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927). Unlike accuracy +- 1.96 standard errors, it holds near 100%.
    """
    from scipy.special import ndtri

    squared = (float(ndtri(1 - ERROR_RATE / 2)) if deviations is None else deviations) ** 2
    centre = (accuracy + squared / (2 * images)) / (1 + squared / images)
    variance = accuracy * (1 - accuracy) / images + squared / (4 * images**2)
    half = float(np.sqrt(squared * variance)) / (1 + squared / images)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def winner_interval(correctness: Correctness) -> Interval:
    """Return the interval of the winner's accuracy, over its images and, if several, its seeds.

    With several seeds, the variance is that of `compare_with_winner`, expressed as the number of
    images that has the same variance, and Student's t replaces the normal distribution.
    """
    from scipy.special import stdtrit

    accuracy, images = float(correctness.accuracies[0]), correctness.means.shape[1]
    seeds = int(correctness.seeds[0])
    of_images = correctness.means[0].var(dtype=np.float64) / images
    of_images -= flip_variance(correctness)[0] / seeds
    variance = seed_variance(correctness)[0] / seeds + max(0.0, of_images)
    if seeds == 1 or variance == 0:
        return wilson_interval(accuracy, images)
    worth = min(images * seeds, accuracy * (1 - accuracy) / variance)
    return wilson_interval(accuracy, worth, float(stdtrit(seeds - 1, 1 - ERROR_RATE / 2)))


def compare_with_winner(correctness: Correctness, *, dropped: int = 0) -> Comparisons:
    """Compare the first configuration with each of the others, on the same images.

    Where all have one seed, use McNemar's test. With several, use Welch's t-test on the difference
    of the means over seeds, whose variance has two parts:

    - the variance over seeds. Seeds are not paired between configurations, although a seed starts
      all of them from the same weights: over five seeds of 42,000 digits, the accuracies of the
      eleven best configurations had a mean correlation of 0.09, and ignoring it is conservative.
      Variances are not pooled, because a configuration near the edge of stability varies far
      more than its neighbours;
    - the variance over images of the difference of the configurations' means, without the part
      from images that are right under one seed and wrong under the next: the variance over seeds
      already includes it.

    Student's t assumes that seeds scatter symmetrically. Where one of two equally good
    configurations fails now and then, so that its seeds scatter far to one side, the false claims
    were 8% of 1,500 simulated studies of 3 or 5 seeds, not 5%.

    Raises:
        ValueError: some configurations have one seed, others several.
    """
    seeds = correctness.seeds
    if (seeds == 1).all():
        return _compare_answers(correctness, dropped)
    if (seeds == 1).any():
        raise ValueError("configurations with one seed cannot be compared with those of several")
    return _compare_means(correctness, dropped)


def _compare_answers(correctness: Correctness, dropped: int) -> Comparisons:
    images = correctness.means.shape[1]
    right = correctness.means > 0.5
    won = np.count_nonzero(right[0] & ~right[1:], axis=1)
    lost = np.count_nonzero(~right[0] & right[1:], axis=1)
    differences = (won - lost) / images
    errors = np.sqrt((won + lost) / images - differences**2) / np.sqrt(images)
    p_values = mcnemar(won, lost)
    return Comparisons(differences, errors, p_values, adjust_for_choice(p_values, None, dropped))


def _compare_means(correctness: Correctness, dropped: int) -> Comparisons:
    seeds, accuracies = correctness.seeds, correctness.accuracies
    own, flips = seed_variance(correctness) / seeds, flip_variance(correctness) / seeds
    of_images = image_variances(correctness.means) / correctness.means.shape[1]
    of_images = np.maximum(0.0, of_images - flips[0] - flips[1:])
    # The degrees of freedom are those of the seeds' parts alone, known far worse than the images'.
    t_values, freedom = welch(accuracies, own, seeds, of_images)
    p_values = student(t_values, freedom)
    return Comparisons(
        accuracies[0] - accuracies[1:],
        np.sqrt(own[0] + own[1:] + of_images),
        p_values,
        adjust_for_choice(p_values, int(seeds.max()), dropped),
    )


def image_variances(means: NDArray[np.float32]) -> Floats:
    """Return the variance over the images of the first row minus each of the others."""
    variances = np.empty(len(means) - 1)
    step = max(1, MOST_COPIES_BYTES // max(1, means[0].nbytes))
    for start in range(0, len(variances), step):
        part = means[0] - means[1 + start : 1 + start + step]
        variances[start : start + step] = part.var(axis=1, dtype=np.float64)
    return variances


def mcnemar(won: ArrayLike, lost: ArrayLike) -> Floats:
    """Return the two-sided p-values of McNemar's exact test for pairs of trials.

    So many images were recognised by the first of a pair only (won), or by the second only (lost).

    The exact form is used, not the mid-p form, because only the exact form guarantees its error
    rate; it loses little power once a few dozen images distinguish two trials.

    Source: M. W. Fagerland, S. Lydersen, P. Laake, "The McNemar test for binary matched-pairs
    data: mid-p and asymptotic are better than exact conditional", BMC Medical Research Methodology
    13:91 (2013), which describes both forms.
    """
    from scipy.special import bdtr

    fewer, either = np.minimum(won, lost), np.add(won, lost)
    return np.asarray(np.minimum(1.0, 2.0 * bdtr(np.asarray(fewer, float), either, 0.5)))


def welch(
    means: Floats, variances: Floats, seeds: NDArray[np.int64] | int, more: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """Return t and its degrees of freedom for the first entry of the last axis against the others.

    Args:
        means: over the seeds.
        variances: of those means, as estimated from the seeds.
        seeds: how many each mean is over.
        more: further variance of the differences, which is known well.

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different
    population variances are involved", Biometrika 34 (1947).
    """
    ours, theirs = variances[..., :1], variances[..., 1:]
    freedom = np.broadcast_to(np.asarray(seeds, float) - 1, variances.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_values = (means[..., :1] - means[..., 1:]) / np.sqrt(ours + theirs + more)
        known = ours**2 / freedom[..., :1] + theirs**2 / freedom[..., 1:]
        together = (ours + theirs) ** 2 / known
    return t_values, np.nan_to_num(together, nan=1.0)


def student(t_values: Floats, freedom: Floats) -> Floats:
    """Return the two-sided p-values of t; 1 where the first mean is not the higher one."""
    from scipy.special import stdtr

    return np.where(t_values > 0, 2.0 * stdtr(freedom, -np.abs(t_values)), 1.0)


def adjust_for_choice(p_values: Floats, seeds: int | None, dropped: int = 0) -> Floats:
    """Return p-values of a winner against the others, corrected for their number and its choice.

    The corrected value is the share of studies of k equally good configurations in which the best
    of them gets a p-value as small against any of the others. The configurations that are told
    apart are then left out and the rest corrected among themselves, until no more are told apart:
    Holm's step-down with the joint distribution instead of Bonferroni's bound. Holm's own count,
    of n - 1 comparisons, holds for a configuration that was named beforehand; of 25 equally good
    ones it calls one worse than the best in a quarter of all studies.

    Args:
        p_values: two-sided, shape (n - 1,).
        seeds: of each configuration; None: one, compared over images alone.
        dropped: how many configurations took part in the choice and are not compared. They count
            as if they were as good as the others, which is on the safe side.

    Source: P. H. Westfall, S. S. Young, "Resampling-based multiple testing" (1993);
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted = np.array(p_values)
    in_question = np.ones(len(p_values), bool)
    least = 0.0  # the highest corrected value so far: later ones are never lower
    while in_question.any():
        by_chance = smallest_p_values(int(in_question.sum()) + 1 + dropped, seeds)
        shares = np.searchsorted(by_chance, p_values[in_question], side="right") / len(by_chance)
        adjusted[in_question] = np.maximum(np.maximum(shares, p_values[in_question]), least)
        off = in_question & (adjusted <= ERROR_RATE)
        if not off.any():
            break
        least = float(adjusted[off].max())
        in_question &= ~off
    return adjusted


@lru_cache(maxsize=256)
def smallest_p_values(configurations: int, seeds: int | None) -> Floats:
    """Return the smallest p-values of the best against the others, sorted, one for each study.

    The studies are simulated, of equally good configurations, and the same at every call. `seeds`
    is that of `adjust_for_choice`.
    """
    from scipy.special import ndtr

    random = np.random.default_rng(configurations)
    studies = min(MOST_STUDIES, max(LEAST_STUDIES, CONFIGURATIONS_SIMULATED // configurations))
    smallest = []
    for _ in range(0, studies, STUDIES_AT_A_TIME):
        means = random.standard_normal((STUDIES_AT_A_TIME, configurations))
        if seeds is None:
            smallest.append(2 * ndtr(-np.ptp(means, axis=1) / np.sqrt(2)))
        else:
            variances = random.chisquare(seeds - 1, means.shape) / (seeds - 1)
            order = np.argsort(-means, axis=1)
            means, variances = (np.take_along_axis(x, order, 1) for x in (means, variances))
            smallest.append(student(*welch(means, variances, seeds)).min(axis=1))
    return np.sort(np.concatenate(smallest))


def flip_variance(correctness: Correctness) -> Floats:
    """Return how much images that change between seeds add to the variance of one seed's accuracy.

    It is 0 for a configuration with one seed, where it cannot be measured.
    """
    seeds, images = correctness.seeds, correctness.means.shape[1]
    squares = np.einsum("ij,ij->i", correctness.means, correctness.means, dtype=np.float64)
    uncertain = np.maximum(0.0, correctness.accuracies - squares / images)
    variance = np.where(seeds > 1, uncertain * seeds / np.maximum(1, seeds - 1), 0.0)
    return np.asarray(variance / images)


def seed_variance(correctness: Correctness) -> Floats:
    """Return the variance of one seed's accuracy; 0 for a configuration with one seed.

    Two or three seeds are sometimes close together by chance. The variance is therefore at
    least `flip_variance`, which is estimated from as many values as there are images.
    """
    return np.fmax(correctness.spread, flip_variance(correctness))


def estimate_optimism(means: NDArray[np.float32], resamples: int = RESAMPLES) -> float:
    """Return how much too high the winner's accuracy is because its images served to choose it.

    The choice is repeated on images drawn with replacement, and the configuration chosen there is
    scored on the images that were not drawn. The winner of all images is scored on these as well.
    The optimism is its mean lead there: what it gains from images that were used to choose it.
    (The winner's mean over the images left out is its accuracy, so this is the method below with
    less noise from resampling.)

    Args:
        means: shape (n, N'), the winner first; see `Correctness`.
        resamples: how often the choice is repeated.

    Source: I. Tsamardinos, E. Greasidou, G. Borboudakis, "Bootstrapping the out-of-sample
    predictions for efficient and accurate cross-validation", Machine Learning 107 (2018).
    """
    images = means.shape[1]
    random = np.random.default_rng(0)
    drawn = random.multinomial(images, np.full(images, 1 / images), size=resamples)
    chosen = (drawn.astype(np.float32) @ means.T).argmax(axis=1)
    left_out = drawn == 0
    gains = means[0] - means[chosen]
    counts = left_out.sum(axis=1)
    if not counts.any():
        return 0.0  # one image: none is ever left out
    return float(((gains * left_out).sum(axis=1)[counts > 0] / counts[counts > 0]).mean())


def summarise_best_of_n(trials: pd.DataFrame) -> pd.DataFrame:
    """Return how good the best of fewer trials would have been, for every number of trials.

    The values are exact, over all ways to draw that many of these trials without replacement.
    Diverged trials can be drawn as well and are never the best; draws of diverged trials alone are
    left out.

    Args:
        trials: columns status and val_accuracy; trials that neither completed nor diverged are
            left out.

    Returns:
        Columns n (trials drawn, from 1), expected (mean of the best validation accuracy), low and
        high (90% of the best lie between them). Without a completed trial, no rows.

    Source: J. Dodge et al., "Show your work: improved reporting of experimental results", EMNLP
    2019; without replacement as in R. Tang et al., "Showing your work doesn't always
    work", ACL 2020, because drawing with replacement underestimates the best.
    """
    values = np.sort(trials.loc[trials["status"] == "completed", "val_accuracy"].to_numpy(float))
    diverged = int((trials["status"] == "diverged").sum())
    total = len(values) + diverged
    drawn = np.arange(1, total + 1 if len(values) else 1)
    # The chance that none of the drawn trials is better than the trial of this rank (from 0).
    at_most = np.exp(
        _log_choose(np.arange(diverged, total + 1)[None, :], drawn[:, None])
        - _log_choose(np.array(total), drawn)[:, None]
    )
    some = 1 - at_most[:, :1]
    cumulative = (at_most[:, 1:] - at_most[:, :1]) / some
    tails = (1 - DRAWS_IN_BAND) / 2
    low, high = (
        values[np.minimum((cumulative < share).sum(axis=1), len(values) - 1)]
        if len(values)
        else np.empty(0)
        for share in (tails, 1 - tails)
    )
    chances = np.diff(cumulative, axis=1, prepend=0.0)
    return pd.DataFrame({"n": drawn, "expected": chances @ values, "low": low, "high": high})


def _log_choose(things: NDArray[np.int64], drawn: NDArray[np.int64]) -> Floats:
    """Return the logarithm of the number of ways to draw that many; -inf for none."""
    from scipy.special import gammaln

    left = np.maximum(things - drawn, 0)
    ways = gammaln(things + 1) - gammaln(drawn + 1) - gammaln(left + 1)
    return np.where(things >= drawn, ways, -np.inf)


class Share(NamedTuple):
    """How much of the order of some numbers goes with the group that they belong to."""

    share: float  # of the variance of ranks; below 0 where groups differ less than by chance
    p_value: float


def kruskal_wallis(numbers: "pd.Series[float]", groups: "pd.Series[Any]") -> Share:
    """Return how much of the order of numbers goes with their groups; ties share a rank.

    The share is adjusted for the number of groups, so it is 0 on average where they do not matter.

    Args:
        numbers: (n,), not all equal.
        groups: of each number, (n,); a single one, or n of them, tell nothing.

    Source: W. H. Kruskal and W. A. Wallis, "Use of ranks in one-criterion variance analysis",
    Journal of the American Statistical Association 47 (1952); T. L. Kelley, "An unbiased
    correlation ratio measure", Proceedings of the National Academy of Sciences 21 (1935).
    """
    from scipy.special import chdtrc

    n, k = len(numbers), groups.nunique()
    if not 1 < k < n:
        return Share(0.0, 1.0)
    ranks = numbers.rank()
    means = ranks.groupby(groups).transform("mean")
    between = float(((means - ranks.mean()) ** 2).sum() / ((ranks - ranks.mean()) ** 2).sum())
    return Share(1 - (1 - between) * (n - 1) / (n - k), float(chdtrc(k - 1, (n - 1) * between)))
