"""What did the cooldown of the finalists change?"""

from digitrec.results.analysis.evidence import Evidence, RankedConfiguration
from digitrec.results.analysis.finding import Finding
from digitrec.results.text import count, first_few, percent, points


def judge_cooldown(evidence: Evidence) -> Finding | None:
    """Say how accurate the finalists were before and after their learning rates fell to 0.

    Source: Playbook, "Deciding how long to train when training is not compute-bound": tune with a
    constant learning rate, then let it decay for the final training.
    """
    epochs, trials = count(evidence.spec.cooldown, "epoch"), evidence.cooled_trials
    bad = trials[trials["status"] == "diverged"]
    lost = f"{len(bad)} of {count(len(trials), 'trial')} diverged in the cooldown"
    if len(trials) == 1:
        lost = "The only trial that cooled down diverged"
    if not evidence.cooled:
        if bad.empty:
            return None
        return Finding(
            rule="cooldown",
            level="caution",
            sentence=f"{lost}, so the winner is chosen without it.",
            evidence=first_few(bad["trial"]),
        )
    gains = [each.accuracy - accuracy_before(evidence, each) for each in evidence.cooled]
    return Finding(
        rule="cooldown",
        level="caution" if len(bad) else "good" if min(gains) > 0 else "note",
        sentence=f"A cooldown of {epochs} {_say_gains(evidence, gains)}."
        f"{_say_leader(evidence)}{f' {lost}.' if len(bad) else ''}",
        evidence="mean validation accuracy before and after: "
        + "; ".join(
            f"{each} {percent(accuracy_before(evidence, each))}, {percent(each.accuracy)} "
            f"({count(len(each.trials), 'seed')})"
            for each in evidence.cooled
        ),
    )


def accuracy_before(evidence: Evidence, cooled: RankedConfiguration) -> float:
    """Return the mean accuracy of the same trials before they cooled down."""
    before = [evidence.accuracies[evidence.spec.cooled_trials[trial]] for trial in cooled.trials]
    return sum(before) / len(before)


def _say_gains(evidence: Evidence, gains: list[float]) -> str:
    said = [
        f"{each} from {percent(accuracy_before(evidence, each))} to {percent(each.accuracy)}"
        for each in evidence.cooled
    ]
    if len(said) == 1:
        return f"{'raised' if gains[0] > 0 else 'did not raise'} the accuracy of {said[0]}"
    mean = sum(gains) / len(gains)
    verb = "raised" if mean > 0 else "lowered"
    return (
        f"{verb} the accuracy of the {len(said)} finalists by {points(mean)} on average: "
        f"{first_few(said)}"
    )


def _say_leader(evidence: Evidence) -> str:
    """Say which finalist was ahead before, if it is another one."""
    before = evidence.configurations[0]
    same = before.values == evidence.winner.values
    return "" if same else f" Before it, {before} was ahead."
