"""What a report says in words and numbers: state, winner, setup, trials and failures."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import pandas as pd

from digitrec.errors import visible
from digitrec.results.analysis.evidence import Evidence, gather_evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.naming import named_hyperparameters, spell, write_value
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.ranking import choose_members, rank
from digitrec.results.analysis.rules.winner import name_winner
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS, Hyperparameter
from digitrec.space.race import Race
from digitrec.space.ranges import Range
from digitrec.store.directory import list_damage
from digitrec.store.record import StudyRecord
from digitrec.store.spec import StudySpec


class Column(NamedTuple):
    """A column of the report's trial table."""

    name: str  # in `trials.csv`; rank is the report's own
    heading: str
    write: Callable[[Any], str]
    kind: Literal["number", "text"] = "number"
    first: Literal["ascending", "descending"] = "ascending"  # the order after the first click
    is_filter: bool = False
    in_short: bool = False  # whether short tables of the best trials have it too


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error, and the trials that failed with it."""

    error: str
    trials: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study in words and numbers."""

    name: str
    """The name of its data."""
    state: str
    """How many trials are trained, in a sentence."""
    unfinished: bool
    winner: str
    """The winner and its accuracy, in a sentence."""
    model: str
    """The seed of the saved model and its last training, in sentences; may be empty."""
    facts: list[tuple[str, str]]
    """The most important numbers, each with its name."""
    setup: list[tuple[str, str]]
    """Data, search space, model and versions, each with its name."""
    command: str
    """The command that runs the study."""
    findings: list[Finding]
    ranking: str
    """How the trials are ranked, in a sentence."""
    columns: Sequence[Column]
    rows: list[list[str]]
    """A row per trial with a text per column; best first, trials without a rank last."""
    failures: list[Failure]
    damaged: list[str]
    version: str
    """The version of digitrec that made the report."""

    def best(self, most: int) -> tuple[list[str], list[list[str]]]:
        """Return the headings and rows of a short table of the best trials; no row without any."""
        places = [place for place, column in enumerate(self.columns) if column.in_short]
        ranked = [row for row in self.rows if row[0]][:most]
        headings = [self.columns[place].heading for place in places]
        return headings, [[row[place] for place in places] for row in ranked]


LINES = "\n\t"  # the control characters that a text of several lines may have


def make_visible(finding: Finding) -> Finding:
    """Return a finding in which every character is visible."""
    command = finding.command
    return replace(
        finding,
        sentence=visible(finding.sentence),
        evidence=visible(finding.evidence),
        command=None if command is None else visible(command, LINES),
    )


def _number(digits: int, factor: float = 1) -> Callable[[float], str]:
    return lambda value: f"{factor * value:.{digits}f}"


# The columns before and after the hyperparameters.
IDENTITY = (
    Column("rank", "rank", _number(0), in_short=True),
    Column("trial", "trial", str, kind="text"),
    Column(
        "val_accuracy", "validation accuracy, %", _number(2, 100), first="descending", in_short=True
    ),
)
RESULTS = (
    Column("seed", "seed", str, is_filter=True, in_short=True),
    Column("status", "status", str, kind="text", is_filter=True),
    Column("val_loss", "validation loss", _number(4), in_short=True),
    Column("train_accuracy", "training accuracy, %", _number(2, 100), first="descending"),
    Column("train_loss", "training loss", _number(4)),
    Column("best_val_accuracy", "best epoch's accuracy, %", _number(2, 100), first="descending"),
    Column("best_epoch", "best epoch", str),
    Column("epochs", "epochs", str),
    Column("updates", "updates", str, in_short=True),
    Column("seconds", "seconds", _number(2), in_short=True),
)
COOLED = Column("cooldown", "cooldown, epochs", str, is_filter=True, in_short=True)
TRAINED = ("completed", "diverged", "dropped")  # statuses of trials with a result
NOT_TO_THE_END = {"dropped": "dropped early", "diverged": "diverged"}
SETTLED = ("seed", "status", "epochs")


def choose_columns(trials: pd.DataFrame) -> tuple[Column, ...]:
    """Return the columns of the trial table, among them the hyperparameters that name a trial.

    Columns of `SETTLED` are left out where all trials have the same; the report says it elsewhere.
    """
    alike = {name for name in SETTLED if trials[name].nunique(dropna=False) == 1}
    in_short = {"status", "epochs"} if (trials["status"] == "dropped").any() else set()
    results = (
        column._replace(in_short=column.in_short or column.name in in_short)
        for column in RESULTS
        if column.name not in alike
    )
    cooled = [COOLED] if COOLED.name in trials else []
    return (*IDENTITY, *map(_column_of, named_hyperparameters(trials)), *cooled, *results)


def _column_of(name: str) -> Column:
    hyperparameter = HYPERPARAMETERS[name]
    return Column(
        name,
        hyperparameter.label,
        lambda value: write_value(name, value),
        kind="text" if hyperparameter.scale == "category" else "number",
        is_filter=True,
        in_short=True,
    )


def summarise(record: StudyRecord, findings: Sequence[Finding]) -> Summary:
    """Return what a report says about a study."""
    trials, spec = record.tables.trials, record.spec
    evidence, columns = gather_evidence(record), choose_columns(trials)
    return Summary(
        name=visible(PurePath(str(spec.data["source"])).name),
        state=_state(trials, spec.search_space.unsuggested),
        unfinished=not record.tables.complete,
        winner=name_winner(evidence),
        model=describe_model(record),
        facts=_facts(evidence),
        setup=[(name, visible(value)) for name, value in _setup(spec)],
        command=visible(tune_command(record), LINES),
        findings=[make_visible(finding) for finding in findings],
        ranking=_ranking(spec),
        columns=columns,
        rows=_rows(trials, rank_trials(record), columns),
        failures=_failures(record.failures),
        damaged=list_damage(record.damaged),
        version=importlib.metadata.version("digitrec"),
    )


@lru_cache(maxsize=1)  # a report asks ten times, and pandas takes a while for a small table, too
def rank_trials(record: StudyRecord) -> pd.DataFrame:
    """Return the trials of a study with a rank, the winner first; see `rank`."""
    spec = record.spec
    return rank(record.tables.trials, spec.confirmed_trials, spec.cooled_trials)


def winning_trial(record: StudyRecord) -> str | None:
    """Return the best trial; None: no trial completed."""
    ranked = rank_trials(record)
    return next(iter(ranked.loc[ranked["status"] == "completed", "trial"]), None)


def averaged_trials(record: StudyRecord) -> list[str]:
    """Return the trials whose probabilities the saved model is to average, the winner first."""
    spec = record.spec
    ranked = rank_trials(record)
    return choose_members(ranked, spec.confirmed_trials, spec.cooled_trials, spec.average)


def saved_winner(record: StudyRecord) -> dict[str, Any] | None:
    """Return the winner's `model.json`; None: the winner's model is not saved yet."""
    best = record.best
    return best if best is not None and best["trial"] == winning_trial(record) else None


def describe_model(record: StudyRecord) -> str:
    """Return sentences about the winner's saved model; empty where there is none."""
    best = saved_winner(record)
    if best is None:
        return ""
    several = "members" in best
    said = _describe_average(best) if several else _describe_single(record)
    if "refit" in best:
        who = "They were" if several else "It was"
        said += f". {who} then trained again on all {best['refit']['rows']:,} rows"
    return f"{said}."


def _describe_single(record: StudyRecord) -> str:
    saved = rank_trials(record).iloc[0]
    said = f"The saved model was trained with seed {saved['seed']}"
    if gather_evidence(record).several_seeds:  # so the winner's accuracy is their mean
        said += f" and recognises {percent(saved['val_accuracy'])}"
    return said


def _describe_average(best: dict[str, Any]) -> str:
    accuracy = percent(best["average"]["val_accuracy"])
    return (
        f"The saved model averages the probabilities of {len(best['members'])} trials, which "
        f"together recognise {accuracy} of the validation images"
    )


def _state(trials: pd.DataFrame, unsuggested: int) -> str:
    found = trials["status"].value_counts()
    trained = int(sum(found.get(status, 0) for status in TRAINED))
    begun = (trials["status"].eq("stopped") & trials["epochs"].gt(0)).any()
    words = {"failed": "failed", "stopped": f"not trained {'to the end ' if begun else ''}yet"}
    some = [
        f"{found[status]:,} {word}" for status, word in NOT_TO_THE_END.items() if status in found
    ]
    of_these = f" ({', '.join(some)})" if some else ""
    parts = [f"{trained:,} of {count(len(trials), 'trial')} trained{of_these}"]
    parts += [f"{found[status]:,} {word}" for status, word in words.items() if status in found]
    if unsuggested:
        parts.append(f"{count(unsuggested, 'point')} not suggested yet")
    unfinished = unsuggested or trained < len(trials)
    return f"{'Unfinished: ' if unfinished else ''}{join_words(parts)}."


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    trials, spec = evidence.record.tables.trials, evidence.spec
    trained = int(trials["status"].isin(TRAINED).sum())
    configurations = len(trials.drop_duplicates(list(HYPERPARAMETERS)))
    compared = evidence.compared
    return [
        *([("validation accuracy", percent(evidence.winner.accuracy))] if compared else []),
        *_average_fact(evidence.record),
        *_test_fact(evidence.record),
        ("trials trained", f"{trained:,} of {len(trials):,}"),
        *_race_fact(evidence),
        ("configurations", f"{configurations:,}"),
        ("epochs", f"{'up to ' if spec.race else ''}{spec.epochs}"),
        ("training images", f"{spec.data['train_rows']:,}"),
        ("validation images", f"{spec.data['val_rows']:,}"),
    ]


def _race_fact(evidence: Evidence) -> list[tuple[str, str]]:
    if evidence.spec.race is None:
        return []
    raced = evidence.trials.drop(evidence.fresh.index)
    ended = int((raced["status"] == "completed").sum())
    return [("trained to the end", f"{ended:,}")]


def _average_fact(record: StudyRecord) -> list[tuple[str, str]]:
    best = saved_winner(record)
    if best is None or "members" not in best:
        return []
    models = len(best["members"])
    return [(f"average of {models} models", percent(best["average"]["val_accuracy"]))]


def _test_fact(record: StudyRecord) -> list[tuple[str, str]]:
    best = saved_winner(record)
    if best is None or "test" not in best:
        return []
    test = best["test"]
    return [(f"accuracy on {count(test['rows'], 'test image')}", percent(test["accuracy"]))]


def _setup(spec: StudySpec) -> list[tuple[str, str]]:
    data = spec.data
    versions = ", ".join(f"{name} {version}" for name, version in spec.versions.items())
    return [
        (
            "data",
            f"{data['source']}: {count(data['rows'], 'digit')} of {data['pixels']} pixels, "
            f"fingerprint {data['fingerprint']}",
        ),
        (
            "split",
            f"{data['train_rows']:,} rows to train on, {data['val_rows']:,} to validate on "
            f"(fraction {spec.val_fraction:g}, random_state {spec.split_seed})",
        ),
        *_searched(spec),
        *([] if spec.race else [("epochs", str(spec.epochs))]),
        ("model", ", ".join(["MLP with ReLU between its layers", spec.precision, *_left(spec)])),
        ("versions", versions),
    ]


def _searched(spec: StudySpec) -> list[tuple[str, str]]:
    """Return the values that were searched, those that divide stacks at defaults too, and seeds."""
    space = spec.search_space
    items = [
        (each.label, ", ".join(_write_item(each, value) for value in space.values[name]))
        for name, each in HYPERPARAMETERS.items()
        if each.divides or name in spec.space
    ]
    items.append(("seed", ", ".join(map(str, space.seeds))))
    if space.points is not None:
        drawn = f"{space.points:,}, {space.sampler}, search seed {space.search_seed}"
        items.append(("points", drawn))
    if race := spec.raced:
        items.append(("race", _describe_race(race)))
    if spec.confirmed:
        trials = count(len(spec.confirmed), "trial")
        items.append(("confirmation", f"{trials} of the leaders with fresh seeds"))
    if spec.cooled:
        trials = count(len(spec.cooled), "trial")
        epochs = count(spec.cooldown, "epoch")
        items.append(("cooldown", f"{epochs}, {trials} of the finalists"))
    if spec.average > 1:
        items.append(("predictions", f"mean of the probabilities of {spec.average} trials"))
    return items


def _describe_race(race: Race) -> str:
    """Return the rules of a race in words."""
    rungs = [str(rung) for rung in race.rungs[:-1]]
    said = f"up to {count(race.rungs[-1], 'epoch')}"
    if rungs:
        said += f"; after {join_words(rungs)}, the best one in {race.halve} goes on"
    if rungs and race.audit:
        said += f"; {count(race.audit, 'dropped trial')} trained to the end as an audit"
    return said


def _write_item(each: Hyperparameter, item: Any) -> str:
    if not isinstance(item, Range):
        return write_value(each.name, item)
    ends = f"{write_value(each.name, item.low)} to {write_value(each.name, item.high)}"
    return f"{ends} ({item.scale})" if item.scale != each.scale else ends


def _left(spec: StudySpec) -> list[str]:
    """Return the hyperparameters that were left at their defaults."""
    return [
        spell(name, each.values[0])
        for name, each in HYPERPARAMETERS.items()
        if name not in spec.space
    ]


def _ranking(spec: StudySpec) -> str:
    said = "by validation accuracy after the last epoch; the lower validation loss breaks ties."
    if spec.cooled:
        return (
            f"Ranked by the mean over the seeds of the finalists after their cooldown, then {said}"
        )
    rung = "by the rung of the race that was reached, then " if spec.race else ""
    if spec.confirmed:
        return f"Ranked by the mean over the fresh seeds of the leaders, then {rung}{said}"
    if spec.race:
        return f"Ranked {rung}{said}"
    return f"Ranked {said}"


def _rows(trials: pd.DataFrame, ranked: pd.DataFrame, columns: Sequence[Column]) -> list[list[str]]:
    order = ranked["trial"].tolist()
    ranks = pd.Series(range(1, len(order) + 1), index=order, dtype=float)
    table = trials.assign(rank=trials["trial"].map(ranks))
    table = table.sort_values("rank", kind="stable", na_position="last")
    texts = [
        [
            "" if missing else column.write(value)
            for value, missing in zip(values, gaps, strict=True)
        ]
        for column in columns
        for values, gaps in [(table[column.name].tolist(), table[column.name].isna().tolist())]
    ]
    return [list(row) for row in zip(*texts, strict=True)]


def _failures(failures: dict[str, str]) -> list[Failure]:
    return [
        Failure(
            error=visible(error.strip(), LINES),
            trials=[t for t, own in failures.items() if own == error],
        )
        for error in dict.fromkeys(failures.values())
    ]
