"""Did the training go well: long enough, not too long, stable?"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from digitrec.results.analysis.evidence import STANDARD_ERRORS, Evidence, RankedConfiguration
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.naming import spell
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.text import first_few, join_words, percent, points
from digitrec.space.hyperparameters import with_role

LAST_QUARTER = 0.75  # of the epochs; a gain after it shows that training still improves
STILL_IMPROVING = 0.05  # of the errors, removed in the last quarter
OVERFITTING = 0.05  # by which the loss is above its lowest, as a fraction
OVERFITTING_EPOCHS = 2  # that the loss stays above it
MOST_STEPS_NAMED = 8
MANY_ERRORS = 3.0  # times the errors of a stable training: unstable


def judge_convergence(evidence: Evidence) -> Finding | None:
    """Say that the winner was still improving when training ended.

    The gain is that of the last quarter of the epochs. It counts where it exceeds its noise and
    removed a twentieth of the errors.

    Source: Playbook, "Examining the training curves" (are trials still improving at the end) and
    "Deciding how long to train when training is not compute-bound" (best step in the last quarter).
    """
    epochs = evidence.spec.epochs
    since = max(1, math.floor(LAST_QUARTER * epochs))
    if since == epochs:
        return None
    curve = evidence.mean_curve(evidence.winner)
    before, after = curve.iloc[since - 1], curve.iloc[epochs - 1]
    gain = after["val_accuracy"] - before["val_accuracy"]
    noise, source = _noise_of_gain(evidence, before["val_accuracy"], after["val_accuracy"])
    if (
        gain <= STANDARD_ERRORS * noise
        or gain < STILL_IMPROVING * (1 - before["val_accuracy"])
        or after["val_loss"] >= before["val_loss"]
    ):
        return None
    end = "its cooldown began" if evidence.cooled else "training ended"
    last = "last epoch" if epochs - since == 1 else f"last {epochs - since} epochs"
    return Finding(
        rule="unconverged",
        level="caution",
        sentence=f"The winner was still improving when {end}: it gained {points(gain)} in its "
        f"{last}{' before' if evidence.cooled else ''}. More epochs may change both its accuracy "
        "and the ranking.",
        evidence=f"validation accuracy {percent(before['val_accuracy'])} after epoch {since}, "
        f"{percent(after['val_accuracy'])} after epoch {epochs}; noise: {points(noise)}, {source}; "
        f"validation loss {before['val_loss']:.3f}, then {after['val_loss']:.3f}",
        command=tune_command(evidence.record, {"epochs": 2 * epochs}),
    )


def _noise_of_gain(evidence: Evidence, before: float, after: float) -> tuple[float, str]:
    """Return the standard error of a gain between two epochs, and its source.

    The predictions of earlier epochs are not kept. Two epochs of a trial differ on fewer images
    than two trials do, so the error is that of the comparison with the nearest other
    configuration. Without one, it is an upper bound: that no image was missed at both epochs.
    """
    if evidence.comparisons is None:
        return math.sqrt((2 - before - after) / evidence.images), "an upper bound"
    nearest = evidence.nearest
    error = float(evidence.comparisons.errors[nearest])
    return error, f"the standard error against {evidence.compared[1 + nearest]}"


def judge_overfitting(evidence: Evidence) -> Finding | None:
    """Say that the winner's validation loss rises while its training accuracy rises.

    A single epoch with a higher loss is common at high learning rates and means nothing; the loss
    must have stayed above its lowest in all epochs since, and in two at least.

    Source: Playbook, "Examining the training curves": problematic overfitting.
    """
    curve = evidence.mean_curve(evidence.winner)
    place, last = int(curve["val_loss"].argmin()), len(curve)
    best, low, end = place + 1, curve.iloc[place], curve.iloc[-1]
    since = curve["val_loss"].iloc[place + 1 :]
    if len(since) < OVERFITTING_EPOCHS or (since / low["val_loss"] - 1 < OVERFITTING).any():
        return None
    if end["train_accuracy"] <= low["train_accuracy"]:
        return None
    risen = end["val_loss"] / low["val_loss"] - 1
    noise = math.hypot(*map(evidence.standard_error, (low["val_accuracy"], end["val_accuracy"])))
    worse = low["val_accuracy"] - end["val_accuracy"] > STANDARD_ERRORS * noise
    effect = (
        f"Fewer epochs are better: it recognised {percent(low['val_accuracy'])} after epoch {best} "
        f"and {percent(end['val_accuracy'])} at the end."
        if worse
        else "Its accuracy has not fallen beyond noise, but its probabilities are overconfident."
    )
    return Finding(
        rule="overfitting",
        level="caution" if worse else "note",
        sentence=f"The winner overfits: its validation loss has risen by {percent(risen, 0)} since "
        f"epoch {best} while its training accuracy rose. {effect}",
        evidence=f"validation loss {low['val_loss']:.3f} after epoch {best}, "
        f"{end['val_loss']:.3f} after epoch {last}; training accuracy "
        f"{percent(low['train_accuracy'])}, then {percent(end['train_accuracy'])}",
        command=tune_command(evidence.record, {"epochs": best}) if worse else None,
    )


def judge_stability(evidence: Evidence) -> Finding | None:
    """Say at which step sizes training is unstable though it does not always diverge.

    Among configurations that differ in the step size alone, look at those with a larger step than
    the best. Unstable is one with three times the errors of the best, since a step that is merely
    too large loses less; or one of whose seeds ends with three times the errors of another. Of the
    winner, look at seeds and epochs.

    Source: Playbook, "How can optimization failures be debugged and mitigated?".
    """
    step = with_role("step size").name
    unstable = _unstable_configurations(evidence, step)
    if not unstable:
        return None
    diverged = evidence.trials[evidence.trials["status"] == "diverged"]
    own, values = evidence.winner.values[step], {each.values[step] for each, _ in unstable}
    said = [spell(step, value) for value in sorted(values | set(diverged[step]))]
    warning = (
        f" The winner has {spell(step, own)}, so another seed or longer training may end "
        "differently."
        if own in values
        else ""
    )
    return Finding(
        rule="unstable",
        level="caution" if own in values else "note",
        sentence=f"Training is unstable at {_join_few(said)}.{warning}",
        evidence=first_few(f"{each}: {why}" for each, why in unstable),
    )


def _join_few(said: Sequence[str]) -> str:
    return join_words(said) if len(said) <= MOST_STEPS_NAMED else first_few(said, MOST_STEPS_NAMED)


def _unstable_configurations(
    evidence: Evidence, step: str
) -> list[tuple[RankedConfiguration, str]]:
    """Return the configurations that completed and are unstable, each with the reason."""
    found = []
    best: dict[tuple[Any, ...], RankedConfiguration] = {}
    for each in evidence.configurations:  # best first, so the first of a line is its best
        line = tuple(value for name, value in each.values.items() if name != step)
        top = best.setdefault(line, each)
        why = None
        if each.values[step] > top.values[step]:
            why = _scatter(evidence, each) or _collapse(evidence, each, top, step)
        elif each is evidence.configurations[0]:
            why = _scatter(evidence, each) or _setback(evidence, each)
        if why:
            found.append((each, why))
    return found


def _collapse(
    evidence: Evidence, each: RankedConfiguration, top: RankedConfiguration, step: str
) -> str | None:
    """Say that a configuration has many times the errors of a better one, beyond noise."""
    many = 1 - each.accuracy >= MANY_ERRORS * (1 - top.accuracy)
    noise = evidence.standard_error(each.accuracy) + evidence.standard_error(top.accuracy)
    if not many or top.accuracy - each.accuracy <= STANDARD_ERRORS * noise:
        return None
    return (
        f"{percent(each.accuracy)} against {percent(top.accuracy)} at "
        f"{spell(step, top.values[step])}"
    )


def _scatter(evidence: Evidence, each: RankedConfiguration) -> str | None:
    """Say that one seed ends with many times the errors of another, beyond noise."""
    ends = [evidence.accuracies[trial] for trial in each.trials]
    low, high = min(ends), max(ends)
    noise = evidence.standard_error(low) + evidence.standard_error(high)
    if 1 - low < MANY_ERRORS * (1 - high) or high - low <= STANDARD_ERRORS * noise:
        return None
    return f"its seeds end between {percent(low)} and {percent(high)}"


def _setback(evidence: Evidence, each: RankedConfiguration) -> str | None:
    """Say that the errors grew many times from one epoch to the next, beyond noise."""
    for trial in each.trials:
        accuracies = evidence.curves[trial]["val_accuracy"].to_numpy(float)
        for before, after in itertools.pairwise(accuracies):
            noise = evidence.standard_error(before) + evidence.standard_error(after)
            many = 1 - after >= MANY_ERRORS * (1 - before)
            if many and before - after > STANDARD_ERRORS * noise:
                return f"it fell from {percent(before)} to {percent(after)} within an epoch"
    return None
