"""Which hyperparameters mattered?"""

import pandas as pd

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.statistics import ERROR_RATE, Share, kruskal_wallis
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

FEWEST_HYPERPARAMETERS = 3  # of two, the heat map shows all
FEWEST_PER_HYPERPARAMETER = 4  # configurations
LEAST_GROUP, GROUPS = 3, 4  # configurations to a value; with fewer, so many groups of neighbours
LAST = -1.0  # in place of the accuracy of a trial that diverged


def judge_importance(evidence: Evidence) -> Finding | None:
    """Say how much of the configurations' order goes with each hyperparameter, taken alone.

    They are ordered by their mean over the seeds; seeds of one configuration are no independent
    evidence. In a race, the order is that at the first rung, which all reached. With Bonferroni's
    correction, hyperparameters without effect are named in 5 % of studies at most.

    Source: the test of Kruskal and Wallis; see `kruskal_wallis`.
    """
    trials, race = evidence.evenly_trained, evidence.spec.raced
    trials = trials[trials["status"].isin(["completed", "diverged"])]
    accuracy = trials["val_accuracy"].astype(float).fillna(LAST)
    groups = trials.assign(accuracy=accuracy).groupby(list(HYPERPARAMETERS), as_index=False)
    found = groups.agg(accuracy=("accuracy", "mean"))
    names = [name for name in HYPERPARAMETERS if found[name].nunique() > 1]
    least = FEWEST_PER_HYPERPARAMETER * len(names)
    if (
        len(names) < FEWEST_HYPERPARAMETERS
        or len(found) < least
        or found["accuracy"].nunique() == 1
    ):
        return None
    shares = {name: kruskal_wallis(found["accuracy"], _groups(found[name])) for name in names}
    names.sort(key=lambda name: -shares[name].share)
    mattered = [name for name in names if shares[name].p_value * len(names) <= ERROR_RATE]
    others = [name for name in names if name not in mattered]
    when = f"After epoch {race.rungs[0]}, the first rung" if race else "At the end"
    ranked = count(len(found), "configuration")
    return Finding(
        rule="importance",
        level="note",
        sentence=f"{when}, {_say_mattered(mattered, shares, ranked)}."
        f"{_say_others(others) if mattered else ''}",
        evidence="share of the variance of ranks that lies between the values of a hyperparameter "
        f"(Kruskal-Wallis): {join_words([_describe(name, shares[name]) for name in names])}",
    )


def _groups(values: pd.Series) -> pd.Series:
    """Return the group of each value: of neighbours where most configurations have their own."""
    few = LEAST_GROUP * values.nunique() <= len(values)
    if few or not pd.api.types.is_numeric_dtype(values):
        return values
    return pd.qcut(values, GROUPS, labels=False, duplicates="drop")


def _say_mattered(names: list[str], shares: dict[str, Share], ranked: str) -> str:
    if not names:
        return f"no hyperparameter alone accounts for the order of {ranked}"
    first, *rest = names
    most = (
        f"the {_label(first)} alone accounts for {percent(shares[first].share, 0)} of the variance "
        f"of the ranks of {ranked}"
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
