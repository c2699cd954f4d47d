"""What a difference between trials is worth: intervals, paired comparisons, optimism, best of n.

Letters: n cells, S seeds of a cell, N' validation images. A cell is a configuration without its
seed; its accuracy is the mean over its seeds.

All trials are judged on the same N' images, so two cells are compared image by image. What is left
to chance then is which images there are and, where cells have several seeds, which seeds. The
claim that is guarded is "this cell is worse than the winner": the chance that any such claim about
a study is false is at most 5%, although the winner is chosen by the same numbers. Tests hold
the functions below to that in simulated studies of equal cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ERROR_RATE = 0.05  # the chance of a false claim that is accepted; intervals hold 1 minus it
RESAMPLES = 500  # of the bootstrap
LEAST_STUDIES, MOST_STUDIES = 2_000, 10_000  # simulated, to correct p-values by
CELLS_SIMULATED = 1_000_000  # in these studies together, if they can be so few or so many
STUDIES_AT_A_TIME = 500
MOST_COPIES_BYTES = 64 * 2**20  # of the per-image means of cells that are worked on at a time


class Interval(NamedTuple):
    """The values that the data does not contradict."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Correctness:
    """How often each validation image is recognised, over the seeds of each cell."""

    means: NDArray[np.float32]
    """Shape (n, N'): the share of a cell's seeds that recognise an image."""
    seeds: NDArray[np.int64]
    """Shape (n,)."""
    spread: Floats
    """Shape (n,): the variance of accuracy over a cell's seeds; NaN for a cell with one seed."""

    @property
    def accuracies(self) -> Floats:
        """The mean accuracy of each cell."""
        return np.asarray(self.means.mean(axis=1, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The first cell, the winner, against each of the others, in their order."""

    differences: Floats
    """By how much the winner's accuracy is higher, as a fraction."""
    errors: Floats
    """The standard errors of the differences."""
    p_values: Floats
    """Of each comparison alone."""
    adjusted: Floats
    """The same, corrected for all comparisons and for having chosen the winner."""

    @property
    def told_apart(self) -> NDArray[np.bool_]:
        """Whether the winner is better for certain, or nearly so: the error rate is kept."""
        return self.adjusted <= ERROR_RATE


def score_images(
    cells: Sequence[Sequence[str]],
    predictions: Mapping[str, NDArray[np.uint8]],
    labels: NDArray[np.uint8],
) -> Correctness:
    """Return how the cells do image by image.

    Args:
        cells: the trials of each cell.
        predictions: trial -> predicted labels, (N',).
        labels: the right ones, (N',).
    """
    means = np.empty((len(cells), len(labels)), np.float32)
    spread = np.full(len(cells), np.nan)
    for place, trials in enumerate(cells):
        correct = np.stack([predictions[trial] == labels for trial in trials])  # (S, N')
        means[place] = correct.mean(axis=0, dtype=np.float32)
        if len(trials) > 1:
            spread[place] = correct.mean(axis=1).var(ddof=1)
    return Correctness(means, np.array([len(trials) for trials in cells]), spread)


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
    """Return the interval of the first cell's accuracy: of its images and, if several, its seeds.

    With seeds, the variance is that of `compare_with_winner`, expressed as the number of images
    that would give as much, and Student's t takes the place of the normal distribution.
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


def compare_with_winner(correctness: Correctness) -> Comparisons:
    """Compare the first cell with each of the others, on the same images.

    With one seed everywhere, by McNemar's test. With several, by Welch's t-test on the difference
    of the means over seeds, whose variance has two parts:

    - the seeds' own. Seeds are not paired between cells, although a seed starts all cells from the
      same weights: over five seeds of 42,000 digits, the accuracies of the eleven best cells were
      correlated by 0.09 on average, and to leave that out errs to the safe side. Nor are variances
      pooled, for a cell near the edge of stability varies far more than its neighbours;
    - the images': the variance over images of the difference of the cells' means. What of it
      stems from images that are right under one seed and wrong under the next is taken off,
      for the seeds' own part has it already.

    Student's t takes seeds to scatter to both sides alike. Where one of two equal cells now and
    then fails, so that its seeds scatter far to one side, false claims were 8% of 1,500 simulated
    studies of 3 or 5 seeds, not 5%.

    Raises:
        ValueError: some cells have one seed, others several.
    """
    seeds = correctness.seeds
    if (seeds == 1).all():
        return _compare_answers(correctness)
    if (seeds == 1).any():
        raise ValueError("cells with one seed cannot be compared with cells of several")
    return _compare_means(correctness)


def _compare_answers(correctness: Correctness) -> Comparisons:
    images = correctness.means.shape[1]
    right = correctness.means > 0.5
    won = np.count_nonzero(right[0] & ~right[1:], axis=1)
    lost = np.count_nonzero(~right[0] & right[1:], axis=1)
    differences = (won - lost) / images
    errors = np.sqrt((won + lost) / images - differences**2) / np.sqrt(images)
    p_values = mcnemar(won, lost)
    return Comparisons(differences, errors, p_values, adjust_for_choice(p_values, None))


def _compare_means(correctness: Correctness) -> Comparisons:
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
        adjust_for_choice(p_values, int(seeds.max())),
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
    """Return the two-sided p-values of McNemar's exact test.

    The exact form is taken, not the mid-p form, because only it keeps its error rate for certain;
    what it loses is little once some dozens of images tell two trials apart.

    Args:
        won: images that only the first trial of each pair recognises.
        lost: images that only the second does.

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
    """Return t and its degrees of freedom for the first of the last axis against the others.

    Args:
        means: over the seeds.
        variances: of those means, as estimated from the seeds.
        seeds: how many each mean is over.
        more: variance of the differences that is known well.

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


def adjust_for_choice(p_values: Floats, seeds: int | None) -> Floats:
    """Return p-values of a winner against the others, corrected for their number and its choice.

    The corrected value is the share of studies of k equal cells in which the best of the cells
    gets, against any of the others, a p-value as small. Cells that are told apart so are then
    left out, and the rest corrected among themselves, until no more come off: Holm's step-down
    with the joint distribution in the place of Bonferroni's bound. Holm's own count, of n - 1
    comparisons, holds for a cell that was named beforehand; of 25 equal cells it calls one worse
    than the best in a quarter of all studies.

    Args:
        p_values: two-sided, shape (n - 1,).
        seeds: that each cell has; None: one, compared over images alone.

    Source: P. H. Westfall, S. S. Young, "Resampling-based multiple testing" (1993);
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted = np.array(p_values)
    in_question = np.ones(len(p_values), bool)
    least = 0.0  # what came off before was told apart by this; the rest are not told apart better
    while in_question.any():
        by_chance = smallest_p_values(int(in_question.sum()) + 1, seeds)
        shares = np.searchsorted(by_chance, p_values[in_question], side="right") / len(by_chance)
        adjusted[in_question] = np.maximum(np.maximum(shares, p_values[in_question]), least)
        off = in_question & (adjusted <= ERROR_RATE)
        if not off.any():
            break
        least = float(adjusted[off].max())
        in_question &= ~off
    return adjusted


@lru_cache(maxsize=256)
def smallest_p_values(cells: int, seeds: int | None) -> Floats:
    """Return the smallest p-value of the best against the others in studies of equal cells, sorted.

    In many simulated studies; the same ones at every call. `seeds` is that of `adjust_for_choice`.
    """
    from scipy.special import ndtr

    random = np.random.default_rng(cells)
    studies = min(MOST_STUDIES, max(LEAST_STUDIES, CELLS_SIMULATED // cells))
    smallest = []
    for _ in range(0, studies, STUDIES_AT_A_TIME):
        means = random.standard_normal((STUDIES_AT_A_TIME, cells))
        if seeds is None:
            smallest.append(2 * ndtr(-np.ptp(means, axis=1) / np.sqrt(2)))
        else:
            variances = random.chisquare(seeds - 1, means.shape) / (seeds - 1)
            order = np.argsort(-means, axis=1)
            means, variances = (np.take_along_axis(x, order, 1) for x in (means, variances))
            smallest.append(student(*welch(means, variances, seeds)).min(axis=1))
    return np.sort(np.concatenate(smallest))


def flip_variance(correctness: Correctness) -> Floats:
    """Return what images that change between seeds add to the variance of one seed's accuracy.

    0 for a cell with one seed, where it cannot be seen.
    """
    seeds, images = correctness.seeds, correctness.means.shape[1]
    squares = np.einsum("ij,ij->i", correctness.means, correctness.means, dtype=np.float64)
    uncertain = np.maximum(0.0, correctness.accuracies - squares / images)
    variance = np.where(seeds > 1, uncertain * seeds / np.maximum(1, seeds - 1), 0.0)
    return np.asarray(variance / images)


def seed_variance(correctness: Correctness) -> Floats:
    """Return the variance of one seed's accuracy; 0 for a cell with one seed.

    Two or three seeds lie close together by chance now and then. The variance is therefore never
    taken to be below `flip_variance`, which is known from as many values as there are images.
    """
    return np.fmax(correctness.spread, flip_variance(correctness))


def estimate_optimism(
    means: NDArray[np.float32], resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Return by how much the winner's accuracy is too high for having been chosen on its images.

    The choice is repeated on images drawn with replacement, and what is chosen there is judged on
    the images that were not drawn. The winner of all images is judged on these as well; the
    optimism is by how much it does better, on average: what it gains from images that took
    part in its choice. (The winner's average over the images left out is its accuracy, so this
    is the method below with less noise from resampling.)

    Args:
        means: shape (n, N'), the winner first; see `Correctness`.
        resamples: how often the choice is repeated.
        seed: of the resampling.

    Source: I. Tsamardinos, E. Greasidou, G. Borboudakis, "Bootstrapping the out-of-sample
    predictions for efficient and accurate cross-validation", Machine Learning 107 (2018).
    """
    images = means.shape[1]
    random = np.random.default_rng(seed)
    drawn = random.multinomial(images, np.full(images, 1 / images), size=resamples)
    chosen = (drawn.astype(np.float32) @ means.T).argmax(axis=1)
    left_out = drawn == 0
    gains = means[0] - means[chosen]
    counts = left_out.sum(axis=1)
    if not counts.any():
        return 0.0  # one image: none is ever left out
    return float(((gains * left_out).sum(axis=1)[counts > 0] / counts[counts > 0]).mean())


def summarise_best_of_n(trials: pd.DataFrame, confidence: float = 0.9) -> pd.DataFrame:
    """Return what the best of fewer trials would have been, for every number of them.

    Of all ways to draw so many of these trials without replacement, exactly, with no resampling.
    Diverged trials can be drawn as well and are never the best; a draw of nothing else is left out.

    Args:
        trials: columns status and val_accuracy; those that were neither completed nor diverged are
            left out.
        confidence: the share of the draws between low and high.

    Returns:
        Columns n (trials drawn, from 1), expected (mean of the best validation accuracy), low and
        high (of the best). Without a completed trial, no rows.

    Source: J. Dodge et al., "Show your work: improved reporting of experimental results", EMNLP
    2019; without replacement as in R. Tang et al., "Showing your work doesn't always
    work", ACL 2020, because drawing with replacement says too little of the best.
    """
    values = np.sort(trials.loc[trials["status"] == "completed", "val_accuracy"].to_numpy(float))
    diverged = int((trials["status"] == "diverged").sum())
    total = len(values) + diverged
    drawn = np.arange(1, total + 1 if len(values) else 1)
    # The chance that none of the drawn trials is better than that of this rank, from 0 on.
    at_most = np.exp(
        _log_choose(np.arange(diverged, total + 1)[None, :], drawn[:, None])
        - _log_choose(np.array(total), drawn)[:, None]
    )
    some = 1 - at_most[:, :1]
    cumulative = (at_most[:, 1:] - at_most[:, :1]) / some
    tails = (1 - confidence) / 2
    low, high = (
        values[np.minimum((cumulative < share).sum(axis=1), len(values) - 1)]
        if len(values)
        else np.empty(0)
        for share in (tails, 1 - tails)
    )
    chances = np.diff(cumulative, axis=1, prepend=0.0)
    return pd.DataFrame({"n": drawn, "expected": chances @ values, "low": low, "high": high})


def _log_choose(things: NDArray[np.int64], drawn: NDArray[np.int64]) -> Floats:
    """Return the logarithm of the number of ways to draw so many of these; -inf for none."""
    from scipy.special import gammaln

    left = np.maximum(things - drawn, 0)
    ways = gammaln(things + 1) - gammaln(drawn + 1) - gammaln(left + 1)
    return np.where(things >= drawn, ways, -np.inf)
