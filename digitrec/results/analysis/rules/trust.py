"""How far can the winner's accuracy be trusted?"""

from typing import Any

from digitrec.request import default_of
from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.statistics import estimate_optimism, wilson_interval
from digitrec.results.text import count, first_few, percent, points
from digitrec.space.hyperparameters import with_role

CONFIRMED = 5  # leaders to train again
WORTH_SAYING = 0.0005  # of accuracy; a smaller optimism is not mentioned


def judge_seeds(evidence: Evidence) -> Finding | None:
    """Ask for fresh seeds of the leaders, or say which leaders diverged or failed with them.

    Source: Playbook, "Determining whether to adopt a training pipeline change or hyperparameter
    configuration": before adopting a change, run the best trial several times, for the variance
    between seeds alone often makes two runs of one configuration differ significantly.
    """
    if evidence.spec.confirmed:
        return _judge_fresh_seeds(evidence)
    if evidence.several_seeds or not evidence.record.tables.complete or len(evidence.compared) < 2:
        return None
    leaders = min(CONFIRMED, len(evidence.compared))
    why = "may tell them apart" if evidence.alike else "shows whether the winner stays ahead"
    seeds = default_of("confirm_seeds")
    return Finding(
        rule="seeds",
        level="note",
        sentence=f"Training the best {leaders} again with {seeds} fresh seeds "
        f"{why}, and measures how much a seed changes.",
        evidence=f"{count(len(evidence.compared), 'configuration')}, one seed each",
        command=tune_command(evidence.record, {"confirm": leaders, "confirm_seeds": seeds}),
    )


def _judge_fresh_seeds(evidence: Evidence) -> Finding | None:
    bad = evidence.unconfirmed
    if not bad:
        return None
    leaders = len({evidence.spell(row) for row in evidence.fresh.to_dict("records")})
    trials = [trial for names in bad.values() for trial in names]
    statuses = set(evidence.fresh.set_index("trial").loc[trials, "status"])
    what = " or ".join(sorted(statuses))
    who = f"{len(bad)} of the {leaders} leaders" if leaders > 1 else "The only leader"
    return Finding(
        rule="seeds",
        level="caution",
        sentence=f"{who} {what} with fresh seeds: {first_few(bad)}."
        f"{_say_of_refuted(evidence, only_diverged=statuses == {'diverged'})}",
        evidence=f"{what}: {first_few(trials)}",
    )


def _say_of_refuted(evidence: Evidence, *, only_diverged: bool) -> str:
    if evidence.winner.name in evidence.unconfirmed:
        step = with_role("step size").label
        safer = f", and a lower {step} is safer" if only_diverged else ""
        return f" The winner is one of them, so nothing confirms it{safer}."
    return " Their earlier accuracy was luck." if only_diverged else ""


def judge_optimism(evidence: Evidence) -> Finding | None:
    """Say how much of the winner's accuracy comes from having been chosen on the same images.

    Source: `estimate_optimism`; Playbook, "After exploration concludes": then check on test data.
    """
    if evidence.correctness is None or len(evidence.compared) < 2 or _find_test(evidence):
        return None
    chosen_from = evidence.chosen_from
    optimism = estimate_optimism(chosen_from)
    if optimism < WORTH_SAYING:
        return None
    return Finding(
        rule="optimism",
        level="note",
        sentence="The winner was chosen on the same images that measure its accuracy, which makes "
        f"this accuracy about {points(optimism)} too high: expect "
        f"{percent(evidence.winner.accuracy - optimism)} on new images. The option --test-data "
        "scores the winner on labelled digits that had no part in the choice.",
        evidence=f"best of {len(chosen_from):,} on {count(evidence.images, 'image')}; the "
        "choice was repeated on resampled images and scored on the images left out",
    )


def judge_test(evidence: Evidence) -> Finding | None:
    """Say how the saved model does on test data, and whether validation promised more.

    Source: Playbook, "After exploration concludes": check the performance on the test set.
    """
    test = _find_test(evidence)
    if test is None:
        return None
    rows, accuracy = int(test["rows"]), float(test["accuracy"])
    low, high = wilson_interval(accuracy, rows)
    promised = evidence.interval
    below = high < promised.low
    doubt = (
        " That is less than validation promised: check that the test digits are of the same kind "
        "as the study's, with the same meaning of pixels and labels."
        if below
        else ""
    )
    return Finding(
        rule="test",
        level="caution" if below else "note" if evidence.at_chance else "good",
        sentence=f"On {count(rows, 'test digit')}, which had no part in any choice, the saved "
        f"model recognises {percent(accuracy)} (95% interval {percent(low)} to {percent(high)})."
        f"{_say_of_winner_alone(test)}{doubt}",
        evidence=f"{test['source']}, loss {float(test['loss']):.4f}; validation: "
        f"{percent(evidence.winner.accuracy)} (95% interval {percent(promised.low)} to "
        f"{percent(promised.high)})",
    )


def _say_of_winner_alone(test: dict[str, Any]) -> str:
    if "winner_accuracy" not in test:
        return ""
    return f" It averages several; the winner alone recognises {percent(test['winner_accuracy'])}."


def _find_test(evidence: Evidence) -> dict[str, Any] | None:
    """Return how the saved model did on test data; None where it is not the winner's."""
    return None if evidence.saved is None else evidence.saved.get("test")
