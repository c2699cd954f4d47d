"""What a report says in words: the state of a study, its question, its trials and its failures."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import pandas as pd

from digitrec.errors import visible
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.ranking import rank
from digitrec.results.analysis.verdict import Finding
from digitrec.results.figures.canvas import listed, share
from digitrec.results.figures.plots import count
from digitrec.store.directory import list_damage
from digitrec.store.record import StudyRecord
from digitrec.store.spec import StudySpec


class Column(NamedTuple):
    """A column of the report's table of trials."""

    name: str  # in the table of trials
    heading: str
    write: Callable[[Any], str]
    kind: Literal["number", "text"] = "number"
    first: Literal["ascending", "descending"] = "ascending"  # when it is first sorted by
    is_filter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error, and the trials that it ended."""

    error: str
    trials: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study in words."""

    name: str
    """Of its data."""
    state: str
    """How far it is, in a sentence."""
    unfinished: bool
    winner: str
    """The winner and its accuracy, in a sentence."""
    facts: list[tuple[str, str]]
    """The figures that matter most, each with its name."""
    question: list[tuple[str, str]]
    command: str
    """Asks the question again."""
    findings: list[Finding]
    ranking: str
    """How the trials are ranked, in a sentence."""
    rows: list[list[str]]
    """A row per trial, as `COLUMNS`; best first, those without a rank last."""
    failures: list[Failure]
    damaged: list[str]
    version: str
    """Of the digitrec that makes the report."""


LINES = "\n\t"  # what a text of several lines is made of


def make_visible(finding: Finding) -> Finding:
    """Return a finding of which every character shows."""
    command = finding.command
    return replace(
        finding,
        sentence=visible(finding.sentence),
        evidence=visible(finding.evidence),
        command=None if command is None else visible(command, LINES),
    )


def _number(digits: int, factor: float = 1) -> Callable[[float], str]:
    return lambda value: f"{factor * value:.{digits}f}"


COLUMNS = (
    Column("rank", "rank", _number(0)),
    Column("trial", "trial", str, kind="text"),
    Column("lr", "learning rate", "{:g}".format, is_filter=True),
    Column("batch_size", "batch size", str, is_filter=True),
    Column("seed", "seed", str, is_filter=True),
    Column("status", "status", str, kind="text", is_filter=True),
    Column("val_accuracy", "validation accuracy, %", _number(2, 100), first="descending"),
    Column("val_loss", "validation loss", _number(4)),
    Column("train_accuracy", "training accuracy, %", _number(2, 100), first="descending"),
    Column("train_loss", "training loss", _number(4)),
    Column("best_val_accuracy", "best epoch's accuracy, %", _number(2, 100), first="descending"),
    Column("best_epoch", "best epoch", str),
    Column("epochs", "epochs", str),
    Column("updates", "updates", str),
    Column("seconds", "seconds", _number(2)),
)


def summarise(record: StudyRecord, findings: Sequence[Finding]) -> Summary:
    """Return what a report says of a study."""
    trials, question = record.tables.trials, record.question
    ranked = rank_trials(record)
    return Summary(
        name=visible(PurePath(str(question.data["source"])).name),
        state=_state(trials),
        unfinished=not record.tables.complete,
        winner=_winner(ranked, record.best),
        facts=_facts(ranked, record),
        question=[(name, visible(value)) for name, value in _question(question)],
        command=visible(tune_command(record), LINES),
        findings=[make_visible(finding) for finding in findings],
        ranking=_ranking(question),
        rows=_rows(trials, ranked),
        failures=_failures(record.failures),
        damaged=list_damage(record.damaged),
        version=importlib.metadata.version("digitrec"),
    )


def rank_trials(record: StudyRecord) -> pd.DataFrame:
    """Return the completed trials of a study, the winner first."""
    return rank(record.tables.trials, record.question.confirmed_trials)


def _state(trials: pd.DataFrame) -> str:
    found = trials["status"].value_counts()
    trained = int(found.get("completed", 0) + found.get("diverged", 0))
    words = {"failed": "failed", "stopped": "not trained yet"}
    diverged = f" ({found['diverged']:,} diverged)" if "diverged" in found else ""
    parts = [f"{trained:,} of {count(len(trials), 'trial')} trained{diverged}"]
    parts += [f"{found[status]:,} {word}" for status, word in words.items() if status in found]
    return f"{'' if trained == len(trials) else 'Unfinished: '}{listed(parts)}."


def _winner(ranked: pd.DataFrame, best: dict[str, Any] | None) -> str:
    if ranked.empty:
        return "No trial has completed, so there is no winner."
    winner = ranked.iloc[0]
    said = (
        f"Winner: learning rate {winner['lr']:g}, batch size {winner['batch_size']}, seed "
        f"{winner['seed']}, {share(winner['val_accuracy'])} of the validation images recognised."
    )
    if best is not None and best["trial"] == winner["trial"] and "refit" in best:
        said += f" Its model was then trained on all {best['refit']['rows']:,} rows."
    return said


def _facts(ranked: pd.DataFrame, record: StudyRecord) -> list[tuple[str, str]]:
    trials, question, best = record.tables.trials, record.question, record.best
    trained = int(trials["status"].isin(["completed", "diverged"]).sum())
    accuracy = "none" if ranked.empty else share(ranked["val_accuracy"].iloc[0])
    facts = [
        ("validation accuracy", accuracy),
        ("trials trained", f"{trained:,} of {len(trials):,}"),
        ("rates x batch sizes x seeds", " x ".join(str(len(v)) for v in question.space.values())),
        ("epochs", f"{question.epochs}"),
        ("digits to train on", f"{question.data['train_rows']:,}"),
        ("digits to validate on", f"{question.data['val_rows']:,}"),
    ]
    if best is not None and "test" in best and [best["trial"]] == ranked["trial"].head(1).tolist():
        test = best["test"]
        facts.insert(1, (f"of {test['rows']:,} test images", share(test["accuracy"])))
    return facts


def _question(question: StudySpec) -> list[tuple[str, str]]:
    data, space = question.data, question.space
    items = [
        (
            "data",
            f"{data['source']}: {count(data['rows'], 'digit')} of {data['pixels']} pixels, "
            f"fingerprint {data['fingerprint']}",
        ),
        (
            "split",
            f"{data['train_rows']:,} to train on, {data['val_rows']:,} to validate on "
            f"(fraction {question.val_fraction:g}, random_state {question.split_seed})",
        ),
        ("learning rates", ", ".join(f"{lr:g}" for lr in space["lr"])),
        ("batch sizes", ", ".join(map(str, space["batch_size"]))),
        ("seeds", ", ".join(map(str, space["seed"]))),
        ("epochs", str(question.epochs)),
        (
            "model",
            f"MLP {' - '.join(map(str, question.layer_sizes))}, ReLU, plain SGD, "
            f"{question.precision}",
        ),
    ]
    if question.confirmed:
        items.insert(
            5,
            ("confirmed", f"{count(len(question.confirmed), 'trial')} of the leaders, fresh seeds"),
        )
    versions = ", ".join(f"{name} {version}" for name, version in question.versions.items())
    return [*items, ("versions", versions)]


def _ranking(question: StudySpec) -> str:
    said = "by validation accuracy after the last epoch; the lower validation loss breaks ties."
    if question.confirmed:
        return f"Ranked by the mean of the fresh seeds of the leaders, then {said}"
    return f"Ranked {said}"


def _rows(trials: pd.DataFrame, ranked: pd.DataFrame) -> list[list[str]]:
    order = ranked["trial"].tolist()
    ranks = pd.Series(range(1, len(order) + 1), index=order, dtype=float)
    table = trials.assign(rank=trials["trial"].map(ranks))
    table = table.sort_values("rank", kind="stable", na_position="last")
    cells = [
        [
            "" if missing else column.write(value)
            for value, missing in zip(values, gaps, strict=True)
        ]
        for column in COLUMNS
        for values, gaps in [(table[column.name].tolist(), table[column.name].isna().tolist())]
    ]
    return [list(row) for row in zip(*cells, strict=True)]


def _failures(failures: dict[str, str]) -> list[Failure]:
    return [
        Failure(
            error=visible(error.strip(), LINES),
            trials=[t for t, own in failures.items() if own == error],
        )
        for error in dict.fromkeys(failures.values())
    ]
