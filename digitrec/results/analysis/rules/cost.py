"""What does the winner cost, in updates and in seconds?"""

import math
from typing import Any, NamedTuple

import numpy as np

from digitrec.results.analysis.evidence import STANDARD_ERRORS, Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.naming import spell
from digitrec.results.analysis.statistics import Floats
from digitrec.results.text import percent, points
from digitrec.space.hyperparameters import with_role

PRICE = 1.5  # times as long, to be worth mentioning
PAIRS = 2  # of stacks; fewer say nothing about seconds
SMALL_GAIN = 0.005  # of accuracy, within which a faster configuration is worth naming


class Pair(NamedTuple):
    """The best accuracy of two batch sizes, over all other hyperparameters."""

    updates: float  # of the smaller batch size
    ours: float
    theirs: float

    @property
    def lead(self) -> float:
        """The lead of ours over theirs."""
        return self.ours - self.theirs


class UpdatesCompared(NamedTuple):
    """The winner's batch size against a larger one."""

    size: Any  # the larger batch size
    at_equal: Pair  # after the same number of updates
    at_end: Pair  # after the last epoch


def judge_updates(evidence: Evidence) -> Finding | None:
    """Say how batch sizes compare at an equal number of updates, where their curves overlap.

    With equal epochs a small batch has had more updates. The winner's batch size is compared with
    the larger ones at the number of updates that these ended with, each with its best
    configuration there, and between epochs by interpolation over the logarithm of the updates.

    Source: Playbook, "Choosing the batch size to minimize training time" (an epoch budget is not a
    step budget) and "Why shouldn't the batch size be tuned to directly improve validation set
    performance?"; C. J. Shallue et al., "Measuring the effects of data parallelism on neural
    network training", JMLR 20 (2019).
    """
    batch = with_role("batch")
    sizes = sorted({each.values[batch.name] for each in evidence.configurations})
    own = evidence.winner.values[batch.name]
    seen = [found for size in sizes if size > own if (found := _compare(evidence, own, size))]
    if not seen:
        return None
    who = "All finalists" if evidence.spec.race else f"All {batch.label}s"
    return Finding(
        rule="updates",
        level="note",
        sentence=f"{who} were trained for the same number of epochs, so "
        f"{spell(batch.name, sizes[0])} had {sizes[-1] / sizes[0]:.3g} times as many updates as "
        f"{sizes[-1]}. {_say_lead(evidence, own, seen[0])}",
        evidence="; ".join(
            f"after {even.updates:,.0f} updates: {spell(batch.name, own)} {percent(even.ours)}, "
            f"{spell(batch.name, size)} {percent(even.theirs)}; after the last epoch "
            f"{percent(end.ours)} and {percent(end.theirs)}"
            for size, even, end in seen
        ),
    )


def _say_lead(evidence: Evidence, own: Any, compared: UpdatesCompared) -> str:
    """Say whether the winner's batch size leads at equal updates, if the curves can tell.

    A difference within noise does not show equality. So more updates are given as the reason
    only where the winner leads and its lead at equal updates is smaller beyond noise.
    """
    size, at_equal, at_end = compared
    batch = with_role("batch").name
    ours, theirs = f"the winner's {spell(batch, own)}", spell(batch, size)
    accuracies = (at_equal.ours, at_equal.theirs, at_end.ours, at_end.theirs)
    errors = [evidence.standard_error(accuracy) for accuracy in accuracies]
    noise = STANDARD_ERRORS * math.hypot(*errors[:2])
    if at_equal.lead > noise:
        return f"At equal updates, {ours} is ahead of {theirs} as well."
    if -at_equal.lead > noise:
        return (
            f"At equal updates, {theirs} is ahead of {ours}, so any lead of the winner comes from "
            "more updates."
        )
    leads = all(each.values[batch] != size for each in evidence.alike)
    if leads and at_end.lead - at_equal.lead > STANDARD_ERRORS * math.hypot(*errors):
        return (
            f"At equal updates, {ours} is not ahead of {theirs} beyond noise, so its lead comes "
            "from more updates."
        )
    return (
        f"The curves cannot tell whether {ours} is ahead of {theirs} at equal updates "
        f"({percent(at_equal.ours)} and {percent(at_equal.theirs)}, a difference within noise)."
    )


def _compare(evidence: Evidence, own: Any, size: Any) -> UpdatesCompared | None:
    """Return two batch sizes at equal updates and at the end; None where no curves overlap."""
    (at, ours), (their_at, theirs) = (_curves_of(evidence, each) for each in (own, size))
    updates = min(float(at[-1]), float(their_at[-1]))
    if updates < at[0] or updates < their_at[0]:
        return None
    even = (
        max(float(np.interp(math.log(updates), np.log(places), line)) for line in lines)
        for places, lines in ((at, ours), (their_at, theirs))
    )
    last = Pair(float(at[-1]), float(ours[:, -1].max()), float(theirs[:, -1].max()))
    return UpdatesCompared(size, Pair(updates, *even), last)


def _curves_of(evidence: Evidence, size: Any) -> tuple[Floats, Floats]:
    """Return the updates of a batch size, (E,), and the accuracy of each configuration, (n, E)."""
    batch = with_role("batch").name
    places = [k for k, each in enumerate(evidence.configurations) if each.values[batch] == size]
    curves = evidence.mean_curves.loc[places]
    lines = curves["val_accuracy"].unstack("epoch").to_numpy(float)
    return curves["updates"].unstack("epoch").to_numpy(float)[0], lines


def judge_price(evidence: Evidence) -> Finding | None:
    """Say what the winner costs in seconds against a batch size that is faster and nearly as good.

    Nearly as good is within half a point of its accuracy. The seconds of a trial are its share of
    the seconds of its stack. They depend on how many trials the stack trains together and on how
    busy the machine was, so a stack is compared only with stacks of the same run that train as
    many trials and have the other hyperparameters and a seed in common. Equal stacks were measured
    to differ by a factor of two, so the batch size must cost as much more in every pair, of two
    at least.

    Source: Playbook, "Choosing the batch size to minimize training time" and "Choosing the batch
    size to minimize resource consumption".
    """
    winner, batch = evidence.compared[0], with_role("batch").name
    near = [each for each in evidence.compared if winner.accuracy - each.accuracy <= SMALL_GAIN]
    found = [
        (min(ratios), rival, ratios)
        for rival in near
        for ratios in [evidence.ratios_of_seconds(winner.values[batch], rival.values[batch])]
        if len(ratios) >= PAIRS and min(ratios) >= PRICE
    ]
    if not found:
        return None
    least, rival, ratios = max(found, key=lambda price: (price[0], price[1].accuracy))
    doubt = ", which cannot be told apart from it," if rival in evidence.alike else ""
    return Finding(
        rule="price",
        level="note",
        sentence=f"The winner takes at least {least:.1f} times as long to train as {rival}{doubt} "
        f"and is {points(winner.accuracy - rival.accuracy)} better.",
        evidence=f"{spell(batch, winner.values[batch])} took {least:.2f} to {max(ratios):.2f} "
        f"times as long as {rival.values[batch]} in {len(ratios)} pairs of stacks of the same run "
        "and size",
    )
