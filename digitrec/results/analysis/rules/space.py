"""Was the right space searched?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.naming import spell
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.text import count, first_few, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS, rates_between, with_role

MANY_DIVERGED = 0.25  # of the trials
MOST_NAMED = 5  # values that a sentence names


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
    winner, space = evidence.winner, evidence.spec.space
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
        f"The best configuration may lie beyond it.{comfort} The command trains only the trials "
        "that the wider grid adds.",
        evidence="; ".join(_describe_line(evidence, edge.name) for edge in edges),
        command=tune_command(evidence.record, wider),
    )


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
    """Return the edges of the space that the winner is on and that can be moved."""
    edges = []
    for name, hyperparameter in HYPERPARAMETERS.items():
        values: Sequence[Any] = evidence.spec.space.get(name, [])
        if hyperparameter.beyond is None or len(values) < 2:
            continue
        own = evidence.winner.values[name]
        for highest, end in ((False, min(values)), (True, max(values))):
            if own != end or (highest and _is_refuted(evidence, name)):
                continue
            beyond = _within_data(evidence, name, hyperparameter.beyond(values, highest))
            if beyond:
                edges.append(Edge(name, highest, beyond))
    return edges


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
    between = rates_between(own, float(above[step.name].min()))
    finer = {step.name: sorted({*evidence.spec.space[step.name], *between})}
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
    rest = [value for value in evidence.spec.space[step.name] if value not in hopeless]
    many = diverged.mean() > MANY_DIVERGED
    advises = bool(many and hopeless and rest)
    advice = f" The command leaves out the {step.label}s that always diverged." if advises else ""
    return Finding(
        rule="diverged",
        level="caution" if many else "note",
        sentence=f"{diverged.sum()} of {count(len(trials), 'trial')} diverged "
        f"({percent(diverged.mean(), 0)}), at {_join_values(said)}.{advice}",
        evidence=first_few(trials.loc[diverged, "trial"]),
        command=tune_command(evidence.record, {step.name: rest}) if advises else None,
    )


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
    lower = [float(f"{value:.3g}") for value in (highest / 10, highest)]
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
    """Return the step sizes that trained, with the usual others or else with smaller ones."""
    step = with_role("step size")
    searched = evidence.spec.space[step.name]
    others = {*step.values} - {*searched}
    if not others and step.beyond is not None:
        others = {*step.beyond(searched, False)}
    trained = {each.values[step.name] for each in evidence.configurations}
    return sorted({*searched} & trained | others)
