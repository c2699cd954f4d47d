"""Which hyperparameters mattered?"""

import pandas as pd

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.statistics import ERROR_RATE, Share, kruskal_wallis
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

FEWEST_HYPERPARAMETERS = 3  # of two, the heat map shows all
FEWEST_PER_HYPERPARAMETER = 4  # trials
LEAST_GROUP, GROUPS = 3, 4  # trials to a value; with fewer, neighbouring values form so many groups
LAST = -1.0  # in place of the accuracy of a trial that diverged


def judge_importance(evidence: Evidence) -> Finding | None:
    """Say how much of the trials' order goes with each hyperparameter, taken alone.

    In a race, the order is that at the first rung, which all trials reached. With Bonferroni's
    correction, hyperparameters without effect are named in 5 % of studies at most.

    Source: the test of Kruskal and Wallis; see `kruskal_wallis`.
    """
    trials, race = evidence.evenly_trained, evidence.spec.raced
    trials = trials[trials["status"].isin(["completed", "diverged"])]
    accuracies = trials["val_accuracy"].astype(float).fillna(LAST)
    names = [name for name in HYPERPARAMETERS if trials[name].nunique() > 1]
    least = FEWEST_PER_HYPERPARAMETER * len(names)
    if len(names) < FEWEST_HYPERPARAMETERS or len(trials) < least or accuracies.nunique() == 1:
        return None
    shares = {name: kruskal_wallis(accuracies, _groups(trials[name])) for name in names}
    names.sort(key=lambda name: -shares[name].share)
    mattered = [name for name in names if shares[name].p_value * len(names) <= ERROR_RATE]
    others = [name for name in names if name not in mattered]
    when = f"After epoch {race.rungs[0]}, the first rung" if race else "At the end"
    ranks = count(len(trials), "trial")
    return Finding(
        rule="importance",
        level="note",
        sentence=f"{when}, {_say_mattered(mattered, shares, ranks)}."
        f"{_say_others(others) if mattered else ''}",
        evidence="share of the variance of ranks that lies between the values of a hyperparameter "
        f"(Kruskal-Wallis): {join_words([_describe(name, shares[name]) for name in names])}",
    )


def _groups(values: pd.Series) -> pd.Series:
    """Return the group of each value: of neighbours where most trials have one of their own."""
    few = LEAST_GROUP * values.nunique() <= len(values)
    if few or not pd.api.types.is_numeric_dtype(values):
        return values
    return pd.qcut(values, GROUPS, labels=False, duplicates="drop")


def _say_mattered(names: list[str], shares: dict[str, Share], trials: str) -> str:
    if not names:
        return f"no hyperparameter alone accounts for the order of {trials}"
    first, *rest = names
    most = (
        f"the {_label(first)} alone accounts for {percent(shares[first].share, 0)} of the variance "
        f"of the ranks of {trials}"
    )
    return join_words(
        [most, *(f"the {_label(name)} for {percent(shares[name].share, 0)}" for name in rest)]
    )


def _say_others(names: list[str]) -> str:
    if not names:
        return ""
    verb, own = ("shows", "its") if len(names) == 1 else ("show", "their")
    said = join_words([_label(name) for name in names])
    return f" {said[0].upper()}{said[1:]} {verb} no effect of {own} own."


def _label(name: str) -> str:
    return HYPERPARAMETERS[name].label


def _describe(name: str, found: Share) -> str:
    return f"{_label(name)} {percent(max(found.share, 0.0), 0)} (p = {found.p_value:.1g})"
