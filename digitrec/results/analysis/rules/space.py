"""Was the right space searched?"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from digitrec.errors import InputError
from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.naming import spell
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.text import count, first_few, join_words, percent
from digitrec.space.hyperparameters import (
    HYPERPARAMETERS,
    Hyperparameter,
    rates_between,
    with_role,
)
from digitrec.space.points import Space
from digitrec.space.ranges import Range

MANY_DIVERGED = 0.25  # of the trials
MOST_NAMED = 5  # values that a sentence names
LEADING, FEWEST_LEADERS = 0.1, 5  # of the configurations: those that show where to search further
OUTER = 0.1  # of the points of a list: where most of the leaders show that a range ends too early


class Edge(NamedTuple):
    """An end of the values of a hyperparameter, where the winner is."""

    name: str
    highest: bool  # or the lowest
    beyond: list[Any]  # the next values to try


def judge_edge(evidence: Evidence) -> Finding | None:
    """Say that the winner is on the edge of the search space, and give the next grid.

    Source: Playbook, "Identifying bad search space boundaries".
    """
    edges = find_edges(evidence)
    if not edges:
        return None
    winner, space = evidence.winner, searched_space(evidence).values
    inside = [
        each
        for each in evidence.alike
        if all(each.values[edge.name] != winner.values[edge.name] for edge in edges)
    ]
    comfort = (
        f" But {inside[0]}, which is not on this edge, cannot be told apart from the winner."
        if inside
        else ""
    )
    wider = {edge.name: sorted([*space[edge.name], *edge.beyond]) for edge in edges}
    return Finding(
        rule="edge",
        level="note" if inside else "caution",
        sentence=f"The winner is on the edge of the search space: {_say_ends(evidence, edges)}. "
        f"The best configuration may lie beyond it.{comfort} {_say_cost(evidence)}",
        evidence="; ".join(_describe_line(evidence, edge.name) for edge in edges),
        command=tune_command(evidence.record, wider),
    )


def _say_cost(evidence: Evidence) -> str:
    """Say which trials the command trains that searches more values."""
    if searched_space(evidence).points is None:
        return "The command trains only the trials that the wider grid adds."
    return "The points of a wider space are others, so the command trains most of them anew."


def searched_space(evidence: Evidence) -> Space:
    """Return the search space of a study."""
    return evidence.spec.search_space


def _say_ends(evidence: Evidence, edges: list[Edge]) -> str:
    said = []
    for highest, end in ((True, "highest"), (False, "lowest")):
        names = [
            spell(edge.name, evidence.winner.values[edge.name])
            for edge in edges
            if edge.highest == highest
        ]
        verb = (
            f"is the {end} value that was" if len(names) == 1 else f"are the {end} values that were"
        )
        said += [f"{join_words(names)} {verb} searched"] if names else []
    return "; ".join(said)


def find_edges(evidence: Evidence) -> list[Edge]:
    """Return the edges of the lists that the winner is on and that can be moved."""
    edges = []
    for name, values in searched_space(evidence).values.items():
        hyperparameter = HYPERPARAMETERS[name]
        if hyperparameter.beyond is None or len(values) < 2 or _has_range(values):
            continue
        own = evidence.winner.values[name]
        for highest, end in ((False, min(values)), (True, max(values))):
            if own != end or (highest and _is_refuted(evidence, name)):
                continue
            beyond = _within_data(evidence, name, hyperparameter.beyond(values, highest))
            if beyond:
                edges.append(Edge(name, highest, beyond))
    return edges


def _has_range(items: Sequence[Any]) -> bool:
    return any(isinstance(item, Range) for item in items)


def judge_range_edge(evidence: Evidence) -> Finding | None:
    """Say that the leaders lie at an end of a range, and give the command with a wider one.

    The winner alone says little where every configuration has a value of its own.

    Source: Playbook, "Identifying bad search space boundaries".
    """
    space, ranked = searched_space(evidence), _best_first(evidence)
    wider: dict[str, Any] = {}
    said, counts = [], []
    for name, items in space.values.items():
        for item in items:
            if not isinstance(item, Range):
                continue
            outer = OUTER * len(items)  # as each item has an equal share of the points
            found = find_range_edge(evidence, ranked, name, item, outer)
            if found is None:
                continue
            near, highest, extended = found
            wider[name] = [extended if each == item else each for each in wider.get(name, items)]
            end = item.high if highest else item.low
            said.append(f"{spell(name, end)}, the {'upper' if highest else 'lower'} end")
            counts.append(
                f"{near} of {_count_leaders(ranked)} in the outer {percent(outer, 0)} of {item}"
            )
    if not said:
        return None
    kind = "trials of the race" if evidence.spec.raced else "configurations"
    return Finding(
        rule="edge of a range",
        level="caution",
        sentence=f"Most of the best {_count_leaders(ranked)} {kind} lie at the end of a "
        f"range, next to {join_words(said)}. The best configuration may lie beyond. The points of "
        "a wider range are others, so the command trains them all.",
        evidence="; ".join(counts),
        command=tune_command(evidence.record, wider),
    )


def _best_first(evidence: Evidence) -> list[dict[Any, Any]]:
    """Return the values of the configurations with a result, best first.

    Of a race, those of its trials, the ones that it kept longest first. The audit's were dropped.
    """
    race = evidence.spec.raced
    if race is None:
        return [each.values for each in evidence.configurations]
    trials = evidence.trials.drop(evidence.fresh.index).dropna(subset="val_accuracy")
    raced = trials[~trials["trial"].isin(race.audited)]
    order = ["epochs", "val_accuracy"]
    return raced.sort_values(order, ascending=False, kind="stable").to_dict("records")


def find_range_edge(
    evidence: Evidence, ranked: Sequence[dict[Any, Any]], name: str, item: Range, outer: float
) -> tuple[int, bool, Range] | None:
    """Return how many leaders lie at an end of a range, whether it is the upper, and a wider range.

    None: most of them lie elsewhere, or no accepted value lies beyond the end.

    Args:
        evidence: of the study.
        ranked: the values of configurations, best first.
        name: of the hyperparameter.
        item: the range.
        outer: the share of the range, on its scale, that is its end.
    """
    leaders = ranked[: _count_leaders(ranked)]
    if len(ranked) < 2 * len(leaders):
        return None  # too few to lead the others
    values = [float(each[name]) for each in leaders]
    shares = [item.share(value) for value in values if item.low <= value <= item.high]
    for highest in (False, True):
        near = sum(share >= 1 - outer if highest else share <= outer for share in shares)
        refuted = highest and _is_refuted(evidence, name)
        extended = _extend(HYPERPARAMETERS[name], item, highest)
        if 2 * near > len(leaders) and extended is not None and not refuted:
            return near, highest, extended
    return None


def _count_leaders(ranked: Sequence[dict[Any, Any]]) -> int:
    return max(FEWEST_LEADERS, math.ceil(LEADING * len(ranked)))


def _extend(each: Hyperparameter, item: Range, highest: bool) -> Range | None:
    """Return a range that goes on at one end; None: there are no further values."""
    beyond = each.beyond((item.low, item.high), highest) if each.beyond else []
    if not beyond:
        return None
    low, high = (item.low, max(beyond)) if highest else (min(beyond), item.high)
    accepted = low < high and each.is_right(low) and each.is_right(high)
    return Range(low, high, item.scale) if accepted else None


def _is_refuted(evidence: Evidence, name: str) -> bool:
    """Return whether fresh seeds speak against larger steps than the winner's."""
    return HYPERPARAMETERS[name].role == "step size" and evidence.winner.name in (
        evidence.unconfirmed
    )


def _within_data(evidence: Evidence, name: str, values: Sequence[Any]) -> list[Any]:
    """Return the values that the data allow: no batch is larger than the training rows."""
    if HYPERPARAMETERS[name].role != "batch":
        return list(values)
    rows = int(evidence.spec.data["train_rows"])
    return [value for value in values if value <= rows]


def _describe_line(evidence: Evidence, name: str) -> str:
    """Return the accuracies along one hyperparameter, with the winner's values of the others."""
    line = sorted(
        (each.values[name], each.accuracy)
        for each in evidence.configurations
        if each.differs_only_in(name, evidence.winner.values)
    )
    return ", ".join(f"{spell(name, value)} {percent(accuracy)}" for value, accuracy in line)


def judge_edge_of_stability(evidence: Evidence) -> Finding | None:
    """Say that the winner has the largest step size that trains: all larger ones diverged.

    Source: Playbook, "Identifying bad search space boundaries": where all trials above a rate are
    infeasible and the best are next to it, instability keeps the model from higher rates.
    """
    step = with_role("step size")
    own = evidence.winner.values[step.name]
    above = _trials_above(evidence, step.name)
    if above.empty or not (above["status"] == "diverged").all():
        return None
    searched = searched_space(evidence).values[step.name]
    lists = not _has_range(searched)
    between = rates_between(own, float(above[step.name].min())) if lists else []
    finer = {step.name: sorted({*searched, *between}) if lists else searched}
    advice = f" The command tries {step.label}s in between." if between else ""
    others = [HYPERPARAMETERS[name].heading for name in evidence.named if name != step.name]
    return Finding(
        rule="edge of stability",
        level="note",
        sentence=f"The winner's {spell(step.name, own)} is the highest {step.label} that does not "
        f"diverge: with the same {join_words(others)}, every higher one diverged.{advice}",
        evidence=f"diverged: {first_few(above['trial'])}",
        command=tune_command(evidence.record, finer) if between else None,
    )


def _trials_above(evidence: Evidence, name: str) -> pd.DataFrame:
    """Return the trials that differ from the winner only in a higher value, and in the seed."""
    winner, trials = evidence.winner, evidence.trials
    above = trials[name] > winner.values[name]
    for other in HYPERPARAMETERS:
        if other != name:
            above &= trials[other] == winner.values[other]
    found: pd.DataFrame = trials[above]
    return found


def judge_divergence(evidence: Evidence) -> Finding | None:
    """Say what share of the trials diverged, and at which step sizes.

    Source: Playbook, "Extracting insight from experimental results": the fraction of infeasible
    trials; where it is very large, the space should be changed to avoid them.
    """
    step, trials = with_role("step size"), evidence.trials
    diverged = trials["status"] == "diverged"
    if not diverged.any():
        return None
    counts = diverged.groupby(trials[step.name]).agg(["sum", "size"])
    counts = counts[counts["sum"] > 0]
    said = [
        spell(step.name, value) + ("" if bad == every else f" ({bad} of {every})")
        for value, bad, every in counts.itertuples()
    ]
    hopeless = set(counts.index[counts["sum"] == counts["size"]])
    searched = searched_space(evidence).values[step.name]
    rest = _without(searched, hopeless, float(trials.loc[~diverged, step.name].max()))
    many = diverged.mean() > MANY_DIVERGED
    narrower = many and hopeless and rest and rest != [*searched]
    command = _narrower_command(evidence, {step.name: rest}) if narrower else None
    advice = f" The command leaves out the {step.label}s that always diverged." if command else ""
    return Finding(
        rule="diverged",
        level="caution" if many else "note",
        sentence=f"{diverged.sum()} of {count(len(trials), 'trial')} diverged "
        f"({percent(diverged.mean(), 0)}), at {_join_values(said)}.{advice}",
        evidence=first_few(trials.loc[diverged, "trial"]),
        command=command,
    )


def _narrower_command(evidence: Evidence, changes: dict[str, Any]) -> str | None:
    """Return the command that searches less; None: the rest has fewer points than are drawn."""
    try:
        return tune_command(evidence.record, changes)
    except InputError:
        return None


def _without(items: Sequence[Any], hopeless: set[Any], highest: float) -> list[Any]:
    """Return the values and ranges to search without those that always diverged.

    Args:
        items: the values and ranges that were searched.
        hopeless: the values that always diverged.
        highest: the highest value that did not always diverge; NaN: there is none.
    """
    rest = []
    for item in items:
        if not isinstance(item, Range):
            rest += [item] if item not in hopeless else []
        elif item.low < highest:
            rest.append(Range(item.low, min(item.high, highest), item.scale))
    return rest


def _join_values(said: Sequence[str]) -> str:
    return join_words(said) if len(said) <= MOST_NAMED else first_few(said, MOST_NAMED)


def judge_nothing_but_divergence(evidence: Evidence) -> Finding | None:
    """Say why there is no winner where trials diverged and none completed; try smaller steps.

    Source: Playbook, "Extracting insight from experimental results": infeasible trials.
    """
    step, trials = with_role("step size"), evidence.trials
    diverged = trials[trials["status"] == "diverged"]
    if diverged.empty:
        return None
    lowest = float(diverged[step.name].min())
    highest = min(lowest / 10, max(step.values))
    low, high = (float(f"{value:.3g}") for value in (highest / 10, highest))
    drawn = searched_space(evidence).points is not None
    lower = [Range(low, high, "log")] if drawn else [low, high]
    return Finding(
        rule="diverged",
        level="caution",
        sentence=f"There is no winner. {_count_diverged(len(diverged), len(trials))}: even "
        f"{spell(step.name, lowest)}, the lowest {step.label} among them, is too high. The command "
        "tries lower ones.",
        evidence=first_few(diverged["trial"]),
        command=tune_command(evidence.record, {step.name: lower}),
    )


def _count_diverged(diverged: int, trials: int) -> str:
    if diverged < trials:
        return f"{diverged} of {count(trials, 'trial')} diverged and none completed"
    return "The only trial diverged" if trials == 1 else f"All {count(trials, 'trial')} diverged"


def judge_chance(evidence: Evidence) -> Finding | None:
    """Say that the models learned nothing, and try other step sizes for longer.

    Source: the interval of the winner against the accuracy of a model that knows the labels'
    frequencies and nothing else; Playbook, "Identifying bad search space boundaries".
    """
    if evidence.most_frequent is None or not evidence.at_chance:
        return None
    step, epochs = with_role("step size"), evidence.spec.epochs
    changes = {step.name: _other_steps(evidence), "epochs": 2 * epochs}
    return Finding(
        rule="chance",
        level="caution",
        sentence="The winner has learned nothing that shows on these images: always answering the "
        f"most frequent digit is right for {percent(evidence.most_frequent)} of them. So no "
        f"configuration is worth choosing. The command also tries other {step.label}s, and twice "
        "as many epochs.",
        evidence=f"the winner's 95% interval, {percent(evidence.interval.low)} to "
        f"{percent(evidence.interval.high)}, is not above that",
        command=tune_command(evidence.record, changes),
    )


def _other_steps(evidence: Evidence) -> list[Any]:
    """Return the step sizes that trained, with the usual others or else with smaller ones.

    A range goes on at its lower end.
    """
    step = with_role("step size")
    searched = searched_space(evidence).values[step.name]
    if _has_range(searched):
        return [
            (_extend(step, item, False) or item) if isinstance(item, Range) else item
            for item in searched
        ]
    others = {*step.values} - {*searched}
    if not others and step.beyond is not None:
        others = {*step.beyond(searched, False)}
    trained = {each.values[step.name] for each in evidence.configurations}
    return sorted({*searched} & trained | others)
