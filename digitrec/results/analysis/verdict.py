"""What a study shows, how sure that is, and what to run next: the rules, one function each.

A rule takes the evidence and returns a finding, or None where there is nothing to say. Its source
stands in its docstring. "Playbook" is V. Godbole, G. E. Dahl, J. Gilmer, C. J. Shallue, Z. Nado,
"Deep Learning Tuning Playbook" (2023), https://github.com/google-research/tuning_playbook, with the
section's name; the statistics and their sources are in `digitrec.results.analysis.statistics`.

A cell is a configuration without its seed: what is ranked, by its mean over the seeds.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from digitrec.results.analysis.evidence import Cell, Evidence, spell, spell_all
from digitrec.results.analysis.next_command import (
    CONTINUATIONS,
    DEFAULT_CONFIRM_SEEDS,
    continue_rates,
    rates_between,
    tune_command,
)
from digitrec.results.analysis.statistics import Floats, estimate_optimism, wilson_interval
from digitrec.space.points import Space
from digitrec.store.record import StudyRecord

Level = Literal["good", "note", "caution"]

NAMED = 5  # cells that a sentence names; the rest are counted
CONFIRMED = 5  # leaders to run again
LAST_QUARTER = 0.75  # of the epochs; what comes after shows whether training goes on improving
STILL_IMPROVING = 0.05  # of the errors gone in the last quarter
STANDARD_ERRORS = 2.0  # that a change must exceed
OVERFITTING = 0.05  # by which the loss must have risen from its lowest
OVERFITTING_EPOCHS = 2  # for which it must have
MANY_DIVERGED = 0.25  # of the trials
MANY_ERRORS = 3.0  # times those of a stable training: unstable
PRICE = 1.5  # times as long, to be worth a word
PAIRS = 2  # of stacks, the least to speak of seconds by
SMALL_GAIN = 0.005  # of accuracy, within which a faster batch size is worth naming
WORTH_SAYING = 0.0005  # of accuracy; the least optimism that is mentioned


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the study shows."""

    rule: str
    """A short identifier."""
    level: Level
    sentence: str
    """Plain text: what it is and what follows."""
    evidence: str
    """The numbers behind it, one line."""
    command: str | None
    """What to run next, complete; None: nothing."""


def reach_verdict(record: StudyRecord) -> list[Finding]:
    """Return what a study shows, the winner first; it need not be finished."""
    evidence = Evidence(record)
    rules = RULES if evidence.cells else RULES_WITHOUT_WINNER
    if evidence.cells and evidence.at_chance:
        rules = RULES_AT_CHANCE
    findings = (rule(evidence) for rule in rules)
    return [finding for finding in findings if finding is not None]


def judge_winner(evidence: Evidence) -> Finding:
    """Name the winner, its interval, and which others cannot be told apart from it.

    Source: Playbook, "Determining whether to adopt a training pipeline change or hyperparameter
    configuration", for the kinds of chance; `compare_with_winner` and `adjust_for_choice` for the
    tests, which keep the chance of any false "is better than" at 5%.
    """
    alike, comparisons = evidence.alike, evidence.comparisons
    clear = comparisons is not None and not alike
    return Finding(
        rule="winner",
        level="good" if clear and evidence.several_seeds else "note",
        sentence=" ".join([_accuracy_of_winner(evidence), *_told_apart(evidence)]),
        evidence=_evidence_of_comparison(evidence),
        command=None,
    )


def _accuracy_of_winner(evidence: Evidence) -> str:
    winner = evidence.winner
    low, high = evidence.interval
    lone = len(evidence.all_cells) == 1
    fresh = "fresh " if evidence.confirmed else ""
    seeds = f", mean of {len(winner.trials)} {fresh}seeds" if evidence.several_seeds else ""
    return (
        f"{'The only configuration with a result' if lone else 'The winner'} is {winner}: it "
        f"recognises {winner.accuracy:.2%} of the {_images(evidence, 'validation image')} "
        f"(95% interval {low:.2%} to {high:.2%}{seeds})."
    )


def _told_apart(evidence: Evidence) -> list[str]:
    others, alike = len(evidence.cells) - 1, evidence.alike
    said = []
    if evidence.comparisons is None and others:
        said.append("The study does not keep the labels, so the others were not compared with it.")
    elif others and not alike:
        every = "the only other" if others == 1 else f"each of the other {others} configurations"
        said.append(f"On these images it is better than {every}.")
    elif others:
        names = _listed(f"{cell} ({cell.accuracy:.2%})" for cell in alike)
        said.append(f"{_those_alike(len(alike), others)} be told apart from it: {names}.")
    said += _confirmation(evidence) + _left_out(evidence)
    if not evidence.several_seeds:
        said.append(
            "All this holds for one seed, that is, one draw of initial weights and one order of "
            "the images; how much another would change is not measured."
        )
    return said


def _those_alike(alike: int, others: int) -> str:
    if others == 1:
        return "The only other cannot"
    if alike == others:
        return f"None of the other {others} can"
    return f"{alike} of the other {others} cannot"


def _confirmation(evidence: Evidence) -> list[str]:
    """Say what fresh seeds changed."""
    if not evidence.confirmed:
        return []
    if evidence.ahead_before.values == evidence.winner.values:
        return ["It was ahead before the leaders were run again with fresh seeds, too."]
    return [
        f"Before the leaders were run again with fresh seeds, {evidence.ahead_before} was ahead."
    ]


def _left_out(evidence: Evidence) -> list[str]:
    frame = evidence.ranked[~evidence.ranked["compared"]]
    if evidence.confirmed:
        cells = frame[evidence.hyperparameters].to_dict("records")
        names = [spell_all(cell, evidence.hyperparameters) for cell in cells]
        again = sum(name in evidence.unconfirmed for name in names)
        reasons = ((len(names) - again, "that did not get"), (again, "that did not stand"))
        return [
            f"Not compared: {_counted(number, 'configuration')} {why} fresh seeds."
            for number, why in reasons
            if number
        ]
    diverged = int((frame["diverged"] > 0).sum())
    reasons = (
        (len(frame) - diverged, "with one seed only"),
        (diverged, "with a seed that diverged"),
    )
    return [
        f"Not compared: {_counted(number, 'configuration')} {why}."
        for number, why in reasons
        if number
    ]


def _evidence_of_comparison(evidence: Evidence) -> str:
    comparisons = evidence.comparisons
    winner = evidence.winner
    if comparisons is None:
        return f"{round(winner.accuracy * evidence.images):,} of {_images(evidence)} right"
    nearest = evidence.nearest
    test = (
        f"Welch's t-test over {len(winner.trials)} seeds and the same {_images(evidence)}"
        if evidence.several_seeds
        else f"McNemar's exact test on the same {_images(evidence)}"
    )
    return (
        f"{test}, corrected for {_counted(len(comparisons.p_values), 'comparison')} and for having "
        f"chosen the winner, 5% chance of any false claim; nearest is "
        f"{evidence.cells[1 + nearest]}, {_points(comparisons.differences[nearest])} lower "
        f"(standard error {_points(comparisons.errors[nearest])}), "
        f"p = {comparisons.p_values[nearest]:.2g}, corrected {comparisons.adjusted[nearest]:.2g}"
    )


def judge_unfinished(evidence: Evidence) -> Finding | None:
    """Say that the verdict is provisional where trials are missing."""
    stopped = evidence.trials[evidence.trials["status"] == "stopped"]
    if stopped.empty:
        return None
    verb = "is" if len(stopped) == 1 else "are"
    of = f"{len(stopped)} of {_counted(len(evidence.trials), 'trial')}"
    what = (
        f"{of} {verb} not trained yet, so this verdict is provisional"
        if len(stopped) < len(evidence.trials)
        else "No trial has been trained yet"
    )
    return Finding(
        rule="unfinished",
        level="caution",
        sentence=f"{what}. The command goes on with the study.",
        evidence=f"missing: {_listed(stopped['trial'])}",
        command=tune_command(evidence.record),
    )


def judge_failures(evidence: Evidence) -> Finding | None:
    """Say which trials failed with an error, and the error.

    Source: Playbook, "Extracting insight from experimental results": what fraction of trials is
    infeasible; many of them can mean a bug.
    """
    failed = evidence.trials[evidence.trials["status"] == "failed"]
    if failed.empty:
        return None
    of = f"{len(failed)} of {_counted(len(evidence.trials), 'trial')}"
    errors = [evidence.record.failures.get(trial, "").strip() for trial in failed["trial"]]
    reasons = dict.fromkeys(error.splitlines()[-1] for error in errors if error)
    return Finding(
        rule="failed",
        level="caution",
        sentence=f"{of} failed with an error and are not judged. The command tries them again.",
        evidence=f"{_listed(failed['trial'])}: {'; '.join(reasons) or 'no reason is kept'}",
        command=tune_command(evidence.record),
    )


def judge_seeds(evidence: Evidence) -> Finding | None:
    """Ask for more seeds of the leaders where there is one, or say which did not stand them.

    Source: Playbook, "Determining whether to adopt a training pipeline change or hyperparameter
    configuration": before adopting a change, run the best trial several times, for the variance
    between seeds alone often makes two runs of one configuration differ significantly.
    """
    if evidence.record.question.confirmed:
        return _judge_fresh_seeds(evidence)
    if evidence.several_seeds or not evidence.record.tables.complete or len(evidence.cells) < 2:
        return None
    leaders = min(CONFIRMED, len(evidence.cells))
    why = "may tell them apart" if evidence.alike else "shows whether the winner stays ahead"
    return Finding(
        rule="seeds",
        level="note",
        sentence=f"Running the best {leaders} again with {DEFAULT_CONFIRM_SEEDS} fresh seeds "
        f"{why}, and measures how much a seed changes.",
        evidence=f"{_counted(len(evidence.cells), 'configuration')}, one seed each",
        command=tune_command(
            evidence.record, {"confirm": leaders, "confirm_seeds": DEFAULT_CONFIRM_SEEDS}
        ),
    )


def _judge_fresh_seeds(evidence: Evidence) -> Finding | None:
    bad = evidence.unconfirmed
    if not bad:
        return None
    leaders = len(evidence.fresh.drop_duplicates(evidence.hyperparameters))
    trials = [trial for cell in bad.values() for trial in cell]
    statuses = evidence.fresh.set_index("trial").loc[trials, "status"]
    diverged = (statuses == "diverged").all()
    if str(evidence.winner) in bad:
        safer = ", and a lower rate is the safer choice" if diverged else ""
        winner = f" The winner is one of them: nothing confirms it{safer}."
    else:
        winner = " What an earlier seed made of them was luck." if diverged else ""
    what = _joined([each for each in ("diverged", "failed") if (statuses == each).any()])
    return Finding(
        rule="seeds",
        level="caution",
        sentence=f"Of the {_counted(leaders, 'leader')} that ran again with fresh seeds, "
        f"{len(bad)} did not stand it: {_listed(bad)}.{winner}",
        evidence=f"{what}: {_listed(trials)}",
        command=None,
    )


class Edge(NamedTuple):
    """An end of the values of a hyperparameter, with the winner on it."""

    name: str
    highest: bool  # or the lowest
    beyond: list[float]  # the next values to try


def judge_edge(evidence: Evidence) -> Finding | None:
    """Say that the winner lies on the edge of the space, and give the next grid.

    Source: Playbook, "Identifying bad search space boundaries".
    """
    edges = find_edges(evidence)
    if not edges:
        return None
    winner, space = evidence.winner, evidence.record.question.space
    said = [
        f"{spell(edge.name, winner.values[edge.name])} is the "
        f"{'highest' if edge.highest else 'lowest'} that was searched"
        for edge in edges
    ]
    inside = [cell for cell in evidence.alike if not any(_is_on(cell, winner, e) for e in edges)]
    comfort = f" ({inside[0]}, inside it, cannot be told apart from it.)" if inside else ""
    wider = {edge.name: sorted([*space[edge.name], *edge.beyond]) for edge in edges}
    return Finding(
        rule="edge",
        level="note" if inside else "caution",
        sentence=f"The winner is on the edge of the space: {' and '.join(said)}. The best may lie "
        f"beyond it.{comfort} The command trains only what the wider grid adds.",
        evidence="; ".join(_along(evidence, edge.name) for edge in edges),
        command=tune_command(evidence.record, wider),
    )


def find_edges(evidence: Evidence) -> list[Edge]:
    """Return the edges of the space that the winner is on and that can be moved."""
    edges = []
    for name, values in evidence.record.question.space.items():
        if name not in CONTINUATIONS or len(values) < 2:
            continue
        own = evidence.winner.values[name]
        refuted = name == "lr" and str(evidence.winner) in evidence.unconfirmed
        for highest, end in ((False, min(values)), (True, max(values))):
            if highest and refuted:  # a rate that does not hold asks for no higher ones
                continue
            beyond = CONTINUATIONS[name](values, highest, evidence.record) if own == end else []
            if beyond:
                edges.append(Edge(name, highest, beyond))
    return edges


def judge_edge_of_stability(evidence: Evidence) -> Finding | None:
    """Say that the winner has the highest rate that trains, those above it having diverged.

    Source: Playbook, "Identifying bad search space boundaries": where all trials above a rate are
    infeasible and the best are next to it, instability keeps the model from higher rates.
    """
    winner, trials = evidence.winner, evidence.trials
    same = pd.Series(True, trials.index)
    for name in evidence.hyperparameters:
        same &= (trials[name] == winner.values[name]) if name != "lr" else trials["lr"] > winner.lr
    above = trials[same]
    if above.empty or not (above["status"] == "diverged").all():
        return None
    next_rate = float(above["lr"].min())
    between = rates_between(winner.lr, next_rate)
    space = evidence.record.question.space
    finer = {"lr": sorted({*space["lr"], *between})}
    advice = " The command tries rates in between." if between else ""
    return Finding(
        rule="edge of stability",
        level="note",
        sentence=f"The winner's {spell('lr', winner.lr)} is the highest at which training holds: "
        f"with the same batch size, every higher rate diverged.{advice}",
        evidence=f"diverged: {_listed(above['trial'])}",
        command=tune_command(evidence.record, finer) if between else None,
    )


def judge_convergence(evidence: Evidence) -> Finding | None:
    """Say that the winner was still improving when training ended.

    The gain is that of the last quarter of the epochs. It counts where it exceeds its noise, and
    where it took a twentieth of the errors with it.

    Source: Playbook, "Examining the training curves" (are trials still improving at the end) and
    "Deciding how long to train when training is not compute-bound" (best step in the last quarter).
    """
    epochs = evidence.record.question.epochs
    since = max(1, math.floor(LAST_QUARTER * epochs))
    if since == epochs:
        return None
    curve = evidence.curve(evidence.winner)
    before, after = curve.iloc[since - 1], curve.iloc[epochs - 1]
    gain = after["val_accuracy"] - before["val_accuracy"]
    noise, of = _noise_of_gain(evidence, before["val_accuracy"], after["val_accuracy"])
    if (
        gain <= STANDARD_ERRORS * noise
        or gain < STILL_IMPROVING * (1 - before["val_accuracy"])
        or after["val_loss"] >= before["val_loss"]
    ):
        return None
    last = "last epoch" if epochs - since == 1 else f"last {epochs - since} epochs"
    return Finding(
        rule="unconverged",
        level="caution",
        sentence=f"The winner was still improving when training ended: {_points(gain)} in its "
        f"{last}. More epochs may change both its accuracy and the ranking.",
        evidence=f"validation accuracy {before['val_accuracy']:.2%} after epoch {since}, "
        f"{after['val_accuracy']:.2%} after epoch {epochs}; noise: {_points(noise)}, {of}; "
        f"validation loss {before['val_loss']:.3f}, then {after['val_loss']:.3f}",
        command=tune_command(evidence.record, {"epochs": 2 * epochs}),
    )


def _noise_of_gain(evidence: Evidence, before: float, after: float) -> tuple[float, str]:
    """Return the standard error of a gain between two epochs, and where it is from.

    The predictions of earlier epochs are not kept. Two epochs of a trial differ on fewer images
    than two trials do, so the error is that of a comparison with the nearest other cell; where
    there is none, a bound: that no image was missed at both epochs.
    """
    if evidence.comparisons is None:
        return math.sqrt((2 - before - after) / evidence.images), "an upper bound"
    nearest = evidence.nearest
    error = float(evidence.comparisons.errors[nearest])
    return error, f"the standard error against {evidence.cells[1 + nearest]}"


def judge_overfitting(evidence: Evidence) -> Finding | None:
    """Say that the winner's validation loss rises while its training accuracy does.

    One epoch with a higher loss is common at high rates and means nothing yet; the loss must have
    stayed above its lowest in all epochs since, two at the least.

    Source: Playbook, "Examining the training curves": problematic overfitting.
    """
    curve = evidence.curve(evidence.winner)
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
        f"Fewer epochs serve better: {low['val_accuracy']:.2%} recognised then, "
        f"{end['val_accuracy']:.2%} at the end."
        if worse
        else "Its accuracy has not fallen beyond noise, but its probabilities are too sure."
    )
    return Finding(
        rule="overfitting",
        level="caution" if worse else "note",
        sentence=f"The winner overfits: its validation loss has risen by {risen:.0%} since epoch "
        f"{best} while its training accuracy rose. {effect}",
        evidence=f"validation loss {low['val_loss']:.3f} after epoch {best}, "
        f"{end['val_loss']:.3f} after epoch {last}; training accuracy "
        f"{low['train_accuracy']:.2%}, then {end['train_accuracy']:.2%}",
        command=tune_command(evidence.record, {"epochs": best}) if worse else None,
    )


def judge_divergence(evidence: Evidence) -> Finding | None:
    """Say which share of the trials diverged, and at which rates.

    Source: Playbook, "Extracting insight from experimental results": the fraction of infeasible
    trials; where it is very large, the space should be changed to avoid them.
    """
    trials = evidence.trials
    diverged = trials["status"] == "diverged"
    if not diverged.any():
        return None
    rates = diverged.groupby(trials["lr"]).agg(["sum", "size"])
    rates = rates[rates["sum"] > 0]
    said = [
        spell("lr", float(lr)) + ("" if bad == every else f" ({bad} of {every})")
        for lr, bad, every in rates.itertuples()
    ]
    hopeless = set(rates.index[rates["sum"] == rates["size"]])
    many = diverged.mean() > MANY_DIVERGED
    rest = [lr for lr in evidence.record.question.space["lr"] if lr not in hopeless]
    advice = " A grid without these rates saves their time." if many and hopeless else ""
    return Finding(
        rule="diverged",
        level="caution" if many else "note",
        sentence=f"{diverged.sum()} of {_counted(len(trials), 'trial')} diverged "
        f"({diverged.mean():.0%}), at {_joined(said)}.{advice}",
        evidence=_listed(trials.loc[diverged, "trial"]),
        command=tune_command(evidence.record, {"lr": rest}) if advice and rest else None,
    )


def judge_nothing_but_divergence(evidence: Evidence) -> Finding | None:
    """Say why there is no winner where trials diverged and none completed, and try lower rates.

    Source: Playbook, "Extracting insight from experimental results": infeasible trials.
    """
    trials = evidence.trials
    diverged = trials[trials["status"] == "diverged"]
    if diverged.empty:
        return None
    lowest = float(diverged["lr"].min())
    lower = [float(f"{lowest / parts:.3g}") for parts in (100, 10)]
    all_of = "All" if len(diverged) == len(trials) else f"{len(diverged)} of"
    return Finding(
        rule="diverged",
        level="caution",
        sentence=f"There is no winner. {all_of} {_counted(len(trials), 'trial')} diverged and none "
        f"completed: even {spell('lr', lowest)}, the lowest rate among them, is too high. The "
        "command tries lower ones.",
        evidence=_listed(diverged["trial"]),
        command=tune_command(evidence.record, {"lr": lower}),
    )


def judge_stability(evidence: Evidence) -> Finding | None:
    """Say at which rates training is unstable though it does not always diverge.

    Per batch size, rates above its best one are looked at. Unstable is one with three times the
    errors of the best, where a rate that is merely too high loses less; or one of whose seeds
    ends with three times the errors of another. Of the winner, seeds and epochs are looked at.

    Source: Playbook, "How can optimization failures be debugged and mitigated?".
    """
    unstable = _unstable_cells(evidence)
    diverged = evidence.trials[evidence.trials["status"] == "diverged"]
    if not unstable:
        return None
    rates = sorted({cell.lr for cell, _ in unstable} | set(diverged["lr"]))
    own = evidence.winner.lr in {cell.lr for cell, _ in unstable}
    winner = (
        f" The winner's own {spell('lr', evidence.winner.lr)} is one of them, so another seed or "
        "a longer training may end differently."
        if own
        else ""
    )
    return Finding(
        rule="unstable",
        level="caution" if own else "note",
        sentence=f"Training is unstable at {_joined([spell('lr', lr) for lr in rates])}.{winner}",
        evidence=_listed(f"{cell}: {why}" for cell, why in unstable),
        command=None,
    )


def _unstable_cells(evidence: Evidence) -> list[tuple[Cell, str]]:
    """Return the cells that completed and are unstable, each with the reason."""
    found = []
    best: dict[tuple[Any, ...], Cell] = {}
    for cell in evidence.all_cells:  # best first, so the first of a line is its best
        line = tuple(value for name, value in cell.values.items() if name != "lr")
        top = best.setdefault(line, cell)
        why = None
        if cell.lr > top.lr:
            why = _scatter(evidence, cell) or _collapse(evidence, cell, top)
        elif cell is evidence.all_cells[0]:
            why = _scatter(evidence, cell) or _setback(evidence, cell)
        if why:
            found.append((cell, why))
    return found


def _collapse(evidence: Evidence, cell: Cell, top: Cell) -> str | None:
    """Say that a cell has many times the errors of a better one, beyond noise."""
    many = 1 - cell.accuracy >= MANY_ERRORS * (1 - top.accuracy)
    noise = evidence.standard_error(cell.accuracy) + evidence.standard_error(top.accuracy)
    if not many or top.accuracy - cell.accuracy <= STANDARD_ERRORS * noise:
        return None
    return f"{cell.accuracy:.2%} against {top.accuracy:.2%} at {spell('lr', top.lr)}"


def _scatter(evidence: Evidence, cell: Cell) -> str | None:
    """Say that a seed of a cell ends with many times the errors of another, beyond noise."""
    ends = [evidence.accuracies[trial] for trial in cell.trials]
    low, high = min(ends), max(ends)
    noise = evidence.standard_error(low) + evidence.standard_error(high)
    if 1 - low < MANY_ERRORS * (1 - high) or high - low <= STANDARD_ERRORS * noise:
        return None
    return f"its seeds end between {low:.2%} and {high:.2%}"


def _setback(evidence: Evidence, cell: Cell) -> str | None:
    """Say that a cell's errors grew many times from one epoch to the next, beyond noise."""
    for trial in cell.trials:
        accuracies = evidence.curves[trial]["val_accuracy"].to_numpy(float)
        for before, after in itertools.pairwise(accuracies):
            noise = evidence.standard_error(before) + evidence.standard_error(after)
            many = 1 - after >= MANY_ERRORS * (1 - before)
            if many and before - after > STANDARD_ERRORS * noise:
                return f"it fell from {before:.2%} to {after:.2%} within an epoch"
    return None


def judge_updates(evidence: Evidence) -> Finding | None:
    """Say what batch sizes are worth at an equal number of updates, where curves overlap.

    At equal epochs a small batch has had more updates. The winner's batch size is compared with
    the larger ones at the updates that these ended with, each with its best rate there, between
    epochs by interpolation over the logarithm of the updates.

    Source: Playbook, "Choosing the batch size to minimize training time" (an epoch budget is not a
    step budget) and "Why shouldn't the batch size be tuned to directly improve validation set
    performance?"; C. J. Shallue et al., "Measuring the effects of data parallelism on neural
    network training", JMLR 20 (2019).
    """
    sizes = sorted({cell.batch_size for cell in evidence.all_cells})
    if len(sizes) < 2:
        return None
    own = evidence.winner.batch_size
    pairs = [(size, _pairs_of_updates(evidence, own, size)) for size in sizes if size > own]
    seen = [(size, *pair) for size, pair in pairs if pair is not None]
    if not seen:
        return None
    size, at_equal, at_end = seen[0]
    return Finding(
        rule="updates",
        level="note",
        sentence=f"All batch sizes had the same epochs, so batch size {min(sizes)} had "
        f"{max(sizes) / min(sizes):.3g} times the updates of {max(sizes)}. As to the winner's "
        f"{own}, {_say_of_updates(evidence, size, at_equal, at_end)}.",
        evidence="; ".join(
            f"after {even.updates:,.0f} updates: batch size {own} {even.ours:.2%}, batch size {s} "
            f"{even.theirs:.2%}; after the last epoch {end.ours:.2%} and {end.theirs:.2%}"
            for s, even, end in seen
        ),
        command=None,
    )


class Pair(NamedTuple):
    """The best accuracy of two batch sizes, either with its best rate."""

    updates: float  # of the smaller batch size
    ours: float
    theirs: float

    @property
    def lead(self) -> float:
        """Ours over theirs."""
        return self.ours - self.theirs


def _say_of_updates(evidence: Evidence, size: int, at_equal: Pair, at_end: Pair) -> str:
    """Say where the lead over a batch size comes from, if the curves can tell.

    No difference beyond noise is not yet equality: that more updates make the lead is said only
    where there is a lead, and that at equal updates is smaller beyond noise.
    """
    accuracies = (at_equal.ours, at_equal.theirs, at_end.ours, at_end.theirs)
    errors = [evidence.standard_error(accuracy) for accuracy in accuracies]
    noise = STANDARD_ERRORS * math.hypot(*errors[:2])
    if at_equal.lead > noise:
        return f"it is ahead of batch size {size} at equal updates too"
    if -at_equal.lead > noise:
        return (
            f"batch size {size} is ahead of it at equal updates, so what lead it has comes from "
            "more updates"
        )
    leads = all(cell.batch_size != size for cell in evidence.alike)
    if leads and at_end.lead - at_equal.lead > STANDARD_ERRORS * math.hypot(*errors):
        return (
            f"it is not ahead of batch size {size} beyond noise at equal updates, so its lead "
            "comes from more updates"
        )
    return (
        f"the curves cannot tell whether it is ahead of batch size {size} at equal updates "
        f"({at_equal.ours:.2%} and {at_equal.theirs:.2%}, the difference within noise)"
    )


def _pairs_of_updates(evidence: Evidence, own: int, size: int) -> tuple[Pair, Pair] | None:
    """Return the batch sizes at equal updates, and after the last epoch; None: no overlap."""
    (at, ours), (their_at, theirs) = (_curves_of(evidence, batch) for batch in (own, size))
    updates = min(float(at[-1]), float(their_at[-1]))
    if updates < at[0] or updates < their_at[0]:
        return None
    even = (
        max(float(np.interp(math.log(updates), np.log(places), line)) for line in lines)
        for places, lines in ((at, ours), (their_at, theirs))
    )
    last = Pair(float(at[-1]), float(ours[:, -1].max()), float(theirs[:, -1].max()))
    return Pair(updates, *even), last


def _curves_of(evidence: Evidence, size: int) -> tuple[Floats, Floats]:
    """Return the updates of a batch size, (E,), and the accuracy of all its cells, (cells, E)."""
    places = [k for k, cell in enumerate(evidence.all_cells) if cell.batch_size == size]
    curves = evidence.cell_curves.loc[places]
    lines = curves["val_accuracy"].unstack("epoch").to_numpy(float)
    return curves["updates"].unstack("epoch").to_numpy(float)[0], lines


def judge_price(evidence: Evidence) -> Finding | None:
    """Say what the winner costs in seconds against a batch size that is nearly as good and faster.

    Nearly as good is within half a point of its accuracy. A trial's seconds are its share of its
    stack's, and depend on how many trials the stack trains together and on how busy the machine
    was. So a stack is compared only with one of the same run, the same number of trials, and a
    rate and a seed in common; and as equal ones were measured to differ by a factor of two, the
    batch size must cost as much more in every pair, of two at the least.

    Source: Playbook, "Choosing the batch size to minimize training time" and "Choosing the batch
    size to minimize resource consumption".
    """
    winner = evidence.winner
    near = [cell for cell in evidence.cells if winner.accuracy - cell.accuracy <= SMALL_GAIN]
    found = [
        (min(ratios), rival, ratios)
        for rival in near
        for ratios in [evidence.ratios_of_seconds(winner.batch_size, rival.batch_size)]
        if len(ratios) >= PAIRS and min(ratios) >= PRICE
    ]
    if not found:
        return None
    least, rival, ratios = max(found, key=lambda price: (price[0], price[1].accuracy))
    doubt = ", which cannot be told apart from it" if rival in evidence.alike else ""
    return Finding(
        rule="price",
        level="note",
        sentence=f"The winner takes at least {least:.1f} times as long to train as {rival}{doubt}, "
        f"for {_points(winner.accuracy - rival.accuracy)} more.",
        evidence=f"batch size {winner.batch_size} took {least:.2f} to {max(ratios):.2f} times as "
        f"long as {rival.batch_size} in {len(ratios)} pairs of stacks of the same run and size",
        command=None,
    )


def judge_optimism(evidence: Evidence) -> Finding | None:
    """Say how much of the winner's accuracy comes from having been chosen on the same images.

    Source: `estimate_optimism`; Playbook, "After exploration concludes": then check on test data.
    """
    if evidence.correctness is None or len(evidence.cells) < 2 or _test(evidence):
        return None
    optimism = estimate_optimism(evidence.correctness.means)
    if optimism < WORTH_SAYING:
        return None
    accuracy = evidence.winner.accuracy
    return Finding(
        rule="optimism",
        level="note",
        sentence=f"The winner was chosen on the images that measure it, which makes its accuracy "
        f"about {_points(optimism)} too good: expect {accuracy - optimism:.2%} of new images "
        "rather. `--test-data` scores the winner on labelled digits that took no part.",
        evidence=f"best of {len(evidence.cells)} on {_images(evidence)}; the choice "
        "repeated on resampled images and judged on those left out",
        command=None,
    )


def judge_test(evidence: Evidence) -> Finding | None:
    """Say how the saved model does on test data, and whether that is what validation promised.

    Source: Playbook, "After exploration concludes": check the performance on the test set.
    """
    test = _test(evidence)
    if test is None:
        return None
    rows, accuracy = int(test["rows"]), float(test["accuracy"])
    low, high = wilson_interval(accuracy, rows)
    promised = evidence.interval
    below = high < promised.low
    doubt = (
        " That is less than validation promised: see whether the test digits are of the same kind "
        "as the study's, with the same meaning of pixels and labels."
        if below
        else ""
    )
    return Finding(
        rule="test",
        level="caution" if below else "note" if evidence.at_chance else "good",
        sentence=f"On {_counted(rows, 'test digit')} that no choice was made by, the saved model "
        f"recognises {accuracy:.2%} (95% interval {low:.2%} to {high:.2%}).{doubt}",
        evidence=f"{test['source']}, loss {float(test['loss']):.4f}; validation: "
        f"{evidence.winner.accuracy:.2%} (95% interval {promised.low:.2%} to {promised.high:.2%})",
        command=None,
    )


def _test(evidence: Evidence) -> dict[str, Any] | None:
    """Return how the saved model did on test data; None: not tested, or another configuration's.

    The saved model is one trial, and where fresh seeds chose the winner, not always one of these.
    """
    best = evidence.record.best
    if best is None:
        return None
    saved = evidence.trials[evidence.trials["trial"] == best["trial"]]
    same = [(saved[name] == value).all() for name, value in evidence.winner.values.items()]
    return best.get("test") if len(saved) and all(same) else None


def judge_chance(evidence: Evidence) -> Finding | None:
    """Say that nothing was learned, and try other rates for longer.

    Source: the interval of the winner against the accuracy of a model that knows the labels'
    frequencies and nothing else; Playbook, "Identifying bad search space boundaries".
    """
    if evidence.most_frequent is None or not evidence.at_chance:
        return None
    question = evidence.record.question
    lrs = question.space["lr"]
    others = {*Space().lrs} - {*lrs} or {*continue_rates(lrs, False, evidence.record)}
    trains = {*lrs} & {cell.lr for cell in evidence.all_cells}
    changes = {"lr": sorted(trains | others), "epochs": 2 * question.epochs}
    return Finding(
        rule="chance",
        level="caution",
        sentence="Nothing was learned that shows on these images: to answer always the most "
        f"frequent digit is right for {evidence.most_frequent:.2%} of them. So no configuration is "
        "worth choosing. The command tries other rates too, and twice the epochs.",
        evidence=f"the winner's interval, {evidence.interval.low:.2%} to "
        f"{evidence.interval.high:.2%}, does not lie above that",
        command=tune_command(evidence.record, changes),
    )


RULES: tuple[Callable[[Evidence], Finding | None], ...] = (
    judge_winner,
    judge_unfinished,
    judge_failures,
    judge_seeds,
    judge_edge,
    judge_edge_of_stability,
    judge_convergence,
    judge_overfitting,
    judge_divergence,
    judge_stability,
    judge_updates,
    judge_price,
    judge_optimism,
    judge_test,
)
# What is best among equals that learned nothing needs no advice.
RULES_AT_CHANCE = (
    judge_winner,
    judge_chance,
    judge_unfinished,
    judge_failures,
    judge_divergence,
    judge_test,
)
RULES_WITHOUT_WINNER = (judge_nothing_but_divergence, judge_unfinished, judge_failures)


def _is_on(cell: Cell, winner: Cell, edge: Edge) -> bool:
    return bool(cell.values[edge.name] == winner.values[edge.name])


def _along(evidence: Evidence, name: str) -> str:
    """Return the accuracies along one hyperparameter, all others as the winner's."""
    winner = evidence.winner
    line = sorted(
        (cell.values[name], cell.accuracy)
        for cell in evidence.all_cells
        if all(cell.values[other] == winner.values[other] for other in cell.values if other != name)
    )
    return ", ".join(f"{spell(name, value)} {accuracy:.2%}" for value, accuracy in line)


def _listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    more = len(every) - NAMED
    return "; ".join(every[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _images(evidence: Evidence, noun: str = "image") -> str:
    return _counted(evidence.images, noun)


def _points(fraction: float) -> str:
    return f"{abs(fraction) * 100:.2f} percentage points"
