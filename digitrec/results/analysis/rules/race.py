"""What did the race drop, and what can that have cost?"""

import pandas as pd

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding, Level
from digitrec.results.analysis.statistics import ERROR_RATE
from digitrec.results.text import count, join_words, percent, points

LITTLE_AGREEMENT = 0.5  # of ranks; below it, a rung said little about the next one


def judge_race(evidence: Evidence) -> Finding | None:
    """Say how many trials went on from each rung, and how well the rungs agree.

    Source: Playbook, "Determining the number of steps for each training run": short rounds are for
    finding what is worth training longer, and a few longer runs check what they found.
    """
    race = evidence.spec.raced
    if race is None or not race.cuts:
        return None
    entered = len(evidence.spec.points())
    parts = []
    for rung, cut in zip(race.rungs, race.cuts, strict=False):
        parts.append(f"{len(cut.kept):,} went on after {count(rung, 'epoch')}")
    agreements = {
        rung: rank_agreement(evidence.epochs, rung, after)
        for rung, after in zip(race.rungs, race.rungs[1:], strict=False)
    }
    known = {rung: value for rung, value in agreements.items() if value is not None}
    poor = [rung for rung, value in known.items() if value < LITTLE_AGREEMENT]
    doubt = ""
    if poor:
        doubt = (
            f" The order after {count(poor[-1], 'epoch')} says little about the order at the next "
            "rung, so good trials may have been dropped there: later rungs are safer."
        )
    gains = _gain_of_last_rung(evidence.epochs, race.rungs)
    gain = f" The last rung raised the finalists by {gains} on average." if gains else ""
    return Finding(
        rule="race",
        level="caution" if poor else "note",
        sentence=f"Of {count(entered, 'trial')}, {join_words(parts)}.{gain}{doubt}",
        evidence="rank agreement (Spearman) of the trials that went on: "
        + (
            ", ".join(f"{value:.2f} from epoch {rung}" for rung, value in known.items())
            or "too few trials to say"
        ),
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
    who = f"{count(len(trials), 'dropped trial')} that the audit trained to the end"
    if done.empty:
        return _audit("note", f"The {who} diverged.", "")
    best = done.sort_values("val_accuracy", ascending=False).iloc[0]
    alike = {trial for each in evidence.alike for trial in each.trials}
    reached = f"{percent(best['val_accuracy'])} with {evidence.spell(best.to_dict())}"
    if best["trial"] in {*evidence.winner.trials, *alike}:
        same = "is the winner" if best["trial"] in evidence.winner.trials else "is as good as it"
        return _audit(
            "caution",
            f"The best of {who} {same}: the race dropped it too early, and may have dropped others "
            "like it. Later rungs (--rungs) or more trials kept (--halve 2) are safer.",
            reached,
        )
    share = 1 - ERROR_RATE ** (1 / len(trials))
    return _audit(
        "good",
        f"The best of {who} reached {percent(best['val_accuracy'])}, "
        f"{points(evidence.winner.accuracy - best['val_accuracy'])} less than the winner. So with "
        f"95% confidence, fewer than {percent(share, 0)} of the dropped trials would have done "
        "better; a larger --audit narrows this.",
        reached,
    )


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


def _gain_of_last_rung(epochs: pd.DataFrame, rungs: tuple[int, ...]) -> str:
    """Return by how much the last rung raised the accuracy of the trials that finished."""
    ends = [
        epochs[epochs["epoch"] == epoch].set_index("trial")["val_accuracy"] for epoch in rungs[-2:]
    ]
    gains = (ends[1] - ends[0]).dropna()
    return "" if gains.empty or gains.mean() <= 0 else points(gains.mean())
