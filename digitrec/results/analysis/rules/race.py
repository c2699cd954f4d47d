"""What did the race drop, and what can that have cost?"""

import itertools
import math

import pandas as pd

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding, Level
from digitrec.results.analysis.statistics import ERROR_RATE
from digitrec.results.text import count, join_words, percent, points
from digitrec.space.race import Race

MOST_LEADERS = 3  # whose order is compared
LITTLE_AGREEMENT = 0.5  # of ranks; below it, a rung said little about the next one


def judge_race(evidence: Evidence) -> Finding | None:
    """Say how many trials went on from each rung, and how well the rungs agree.

    Source: Playbook, "Determining the number of steps for each training run": short rounds are for
    finding what is worth training longer, and a few longer runs check what they found.
    """
    race = evidence.spec.raced
    if race is None or not race.cuts:
        return None
    entered = count(len(evidence.spec.points()), "trial")
    went_on = join_words(
        [
            f"{len(cut.kept):,} {'went on ' if cut is race.cuts[0] else ''}after epoch {rung}"
            for rung, cut in zip(race.rungs, race.cuts, strict=False)
        ]
    )
    agreements = _agreements(evidence.epochs, race)
    poor = [rungs for rungs, value in agreements.items() if value < LITTLE_AGREEMENT]
    return Finding(
        rule="race",
        level="caution" if poor else "note",
        sentence=f"Of {entered}, {went_on}.{say_gain(evidence.epochs, race)}{_say_doubt(poor)}",
        evidence=_describe_agreements(agreements),
    )


def _agreements(epochs: pd.DataFrame, race: Race) -> dict[tuple[int, int], float]:
    """Return the agreement of each two successive rungs, where there are trials enough."""
    found = {}
    for rungs, cut in zip(itertools.pairwise(race.rungs), race.cuts, strict=False):
        went_on = epochs["trial"].isin([*cut.kept, *race.audited])
        value = rank_agreement(epochs[went_on], *rungs)
        if value is not None:
            found[rungs] = value
    return found


def _describe_agreements(agreements: dict[tuple[int, int], float]) -> str:
    if not agreements:
        return "too few trials went on to compare their order at two rungs"
    said = [
        f"{value:.2f} between epochs {first} and {later}"
        for (first, later), value in agreements.items()
    ]
    return f"rank correlation (Spearman) of the trials that went on: {', '.join(said)}"


def say_gain(epochs: pd.DataFrame, race: Race) -> str:
    """Say what the last rung was worth: the gain of the trials that it kept, and their order."""
    if not race.decided:
        return ""
    finalists = epochs[epochs["trial"].isin(race.cuts[-1].kept)]
    before, after = (
        finalists[finalists["epoch"] == epoch].set_index("trial")["val_accuracy"].dropna()
        for epoch in race.rungs[-2:]
    )
    gain = (after - before).mean()
    if math.isnan(gain):
        return ""
    return (
        f" From there to epoch {race.rungs[-1]}, their accuracy {'rose' if gain >= 0 else 'fell'} "
        f"by {points(abs(gain))} on average{_say_order(before[after.index], after)}."
    )


def _say_order(before: pd.Series, after: pd.Series) -> str:
    """Say whether the leaders are in the order in which they were at the rung before."""
    first, last = (
        each.sort_values(ascending=False, kind="stable").index[:MOST_LEADERS].tolist()
        for each in (before, after)
    )
    if len(last) < 2:
        return ""
    if first == last:
        return f", and the order of the best {len(last)} stayed the same"
    leader = "they have another leader" if first[0] != last[0] else "their leader stayed ahead"
    return f", and the order of the best {len(last)} changed: {leader}"


def _say_doubt(poor: list[tuple[int, int]]) -> str:
    if not poor:
        return ""
    first, later = poor[-1]
    return (
        f" How trials rank after epoch {first} says little about how they rank after epoch "
        f"{later}, so good ones may have been dropped; later rungs (--rungs) are safer."
    )


def judge_audit(evidence: Evidence) -> Finding | None:
    """Say how the dropped trials that were trained to the end did, and what that proves.

    If none of n trials drawn at random is better, then with 95 % confidence fewer than
    1 - 0.05**(1/n) of all dropped trials are.
    """
    race = evidence.spec.raced
    if race is None or not race.audited or not evidence.compared:
        return None
    trials = evidence.trials[evidence.trials["trial"].isin(race.audited)]
    done = trials[trials["status"] == "completed"]
    if len(trials[trials["status"] == "stopped"]):
        return None
    n = len(trials)
    audited = "that the audit trained to the end"
    if done.empty:
        return _audit("note", f"{_dropped_trials(n, 'The ')} {audited} diverged.", "")
    best = done.sort_values("val_accuracy", ascending=False).iloc[0]
    who = f"{'The ' if n == 1 else 'The best of '}{_dropped_trials(n)} {audited}"
    alike = {trial for each in evidence.alike for trial in each.trials}
    reached = f"{percent(best['val_accuracy'])} with {evidence.spell_beside_winner(best.to_dict())}"
    safer = "later rungs (--rungs)" + (" or more survivors (--halve 2)" if race.halve > 2 else "")
    if best["trial"] in evidence.winner.trials:
        return _audit(
            "caution",
            f"{who} is the winner. So the race dropped it too early, and may have dropped others "
            f"like it; {safer} are safer.",
            reached,
        )
    if best["trial"] in alike:
        return _audit(
            "note",
            f"{who} reached {percent(best['val_accuracy'])} and cannot be told apart from the "
            f"winner. So the race may have dropped trials as good as it; {safer} are safer.",
            reached,
        )
    share = 1 - ERROR_RATE ** (1 / n)
    return _audit(
        "good",
        f"{who} reached {percent(best['val_accuracy'])}, "
        f"{points(evidence.winner.accuracy - best['val_accuracy'])} less than the winner. So with "
        f"95% confidence, fewer than {percent(share, 0)} of the dropped trials would have beaten "
        "the winner; a larger --audit narrows this.",
        reached,
    )


def _dropped_trials(number: int, article: str = "") -> str:
    return f"{article}dropped trial" if number == 1 else f"{article}{number:,} dropped trials"


def _audit(level: Level, sentence: str, evidence: str) -> Finding:
    return Finding(rule="audit", level=level, sentence=sentence, evidence=evidence)


def rank_agreement(epochs: pd.DataFrame, first: int, later: int) -> float | None:
    """Return Spearman's correlation of the accuracies after two numbers of epochs.

    Args:
        epochs: EPOCH_COLUMNS.
        first: the earlier number of epochs.
        later: the later one; trials that were not trained so long are left out.

    Returns:
        None where fewer than five trials, or no differences, tell nothing.
    """
    accuracies = [
        epochs[epochs["epoch"] == epoch].set_index("trial")["val_accuracy"]
        for epoch in (first, later)
    ]
    both = pd.concat(accuracies, axis=1, join="inner").dropna()
    if len(both) < 5 or (both.nunique() == 1).any():
        return None
    return float(both.rank().corr().to_numpy()[0, 1])
