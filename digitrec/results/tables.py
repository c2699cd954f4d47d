"""The study directory: the question, the tables derived from finished stacks, the ranking.

Columns, once released, do not change; `README.md` describes them with their units.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from digitrec.errors import InputError
from digitrec.results.stacks import StackResult, read_stacks, write_atomically
from digitrec.space import Configuration, EpochRecord, Space

TRIAL_COLUMNS = [
    "trial", "lr", "batch_size", "seed", "status", "epochs", "updates", "train_loss",
    "train_accuracy", "val_loss", "val_accuracy", "best_val_accuracy", "best_epoch", "seconds",
]  # fmt: skip
EPOCH_COLUMNS = [
    "trial", "lr", "batch_size", "seed", "epoch", "updates", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "seconds",
]  # fmt: skip
METRICS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a study asks; `study.json`."""

    data: dict[str, Any]  # source, fingerprint, rows, train_rows, val_rows, pixels
    space: dict[str, list[float] | list[int]]  # lr, batch_size, seed
    epochs: int
    val_fraction: float
    split_seed: int  # random_state of the split
    layer_sizes: list[int]  # of the MLP, from input to output
    versions: dict[str, str] = field(default_factory=dict)  # of what computed it
    format: int = 1

    def differences(self, other: "Question") -> list[str]:
        """Return in words in what `other` cannot share a directory with this question."""
        pairs = [
            ("epochs", self.epochs, other.epochs),
            ("val_fraction", self.val_fraction, other.val_fraction),
            ("split_seed", self.split_seed, other.split_seed),
            ("layer_sizes", self.layer_sizes, other.layer_sizes),
        ]
        if self.data["fingerprint"] != other.data["fingerprint"]:
            pairs.insert(0, ("data", _described(self.data), _described(other.data)))
        return [
            f"its {name} is {there}, not {asked}" for name, there, asked in pairs if there != asked
        ]


def write_question(directory: Path, question: Question) -> None:
    """Write `study.json`."""
    text = json.dumps(asdict(question), indent=2, ensure_ascii=False) + "\n"
    write_atomically(directory / "study.json", text.encode())


def read_question(directory: Path) -> Question | None:
    """Return the question of a study directory; None where there is none.

    Raises:
        InputError: `study.json` is not one that this version wrote.
    """
    path = directory / "study.json"
    if not path.exists():
        return None
    try:
        return Question(**json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise InputError(f"{path} is not a study that this digitrec can read: {error}") from error


def write_failure(directory: Path, stack_key: str, trials: Sequence[str], error: str) -> None:
    """Record that a stack failed, so that its trials keep their rows."""
    text = json.dumps({"trials": list(trials), "error": error}, indent=2) + "\n"
    write_atomically(directory / f"{stack_key}.failed.json", text.encode())


def read_failures(directory: Path) -> dict[str, str]:
    """Return trial -> error for the trials whose stack failed when it was last tried."""
    failures: dict[str, str] = {}
    for path in sorted(directory.glob("*.failed.json")):
        failure = json.loads(path.read_text())
        failures |= dict.fromkeys(failure["trials"], failure["error"])
    return failures


def clear_failures(directory: Path) -> None:
    """Forget earlier failures, because their stacks are about to be tried again."""
    for path in directory.glob("*.failed.json"):
        path.unlink()


@dataclass(frozen=True, slots=True)
class Tables:
    """The study as two frames, in the order of the grid."""

    trials: pd.DataFrame  # TRIAL_COLUMNS
    epochs: pd.DataFrame  # EPOCH_COLUMNS

    @property
    def complete(self) -> bool:
        """Whether every trial was trained to its end (or to its divergence)."""
        return bool(self.trials["status"].isin(["completed", "diverged"]).all())


def read_tables(directory: Path) -> Tables:
    """Derive the tables of a study directory from its question and its finished stacks.

    Raises:
        InputError: there is no study in the directory.
    """
    question = read_question(directory)
    if question is None:
        raise InputError(f"{directory} holds no study (no study.json)")
    space = Space(
        lrs=tuple(question.space["lr"]),
        batch_sizes=tuple(int(size) for size in question.space["batch_size"]),
        seeds=tuple(int(seed) for seed in question.space["seed"]),
    )
    stacks = directory / "stacks"
    return make_tables(space.configurations(), read_stacks(stacks), read_failures(stacks))


def make_tables(
    configurations: Iterable[Configuration],
    results: Iterable[StackResult],
    failures: dict[str, str],
) -> Tables:
    """Return the tables of a grid; a trial without a result is failed, or else stopped."""
    histories = {
        member: [records[k] for records in result.epochs]
        for result in results
        for k, member in enumerate(result.stack.members)
    }
    trial_rows, epoch_rows = [], []
    for configuration in configurations:
        history = histories.get(configuration, [])
        trial_rows.append(_trial_row(configuration, history, failures))
        epoch_rows += [_identity(configuration) | record._asdict() for record in history]
    return Tables(
        pd.DataFrame(trial_rows, columns=TRIAL_COLUMNS),
        pd.DataFrame(epoch_rows, columns=EPOCH_COLUMNS),
    )


def rank(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, best first: validation accuracy, then validation loss."""
    completed = trials[trials["status"] == "completed"]
    return completed.sort_values(
        ["val_accuracy", "val_loss"], ascending=[False, True], kind="stable", ignore_index=True
    )


def write_tables(directory: Path, tables: Tables) -> None:
    """Write `trials.csv` and `epochs.csv`; an empty cell is a value that there is not."""
    for name, frame in (("trials.csv", tables.trials), ("epochs.csv", tables.epochs)):
        write_atomically(directory / name, frame.to_csv(index=False, lineterminator="\n").encode())


def _described(data: dict[str, Any]) -> str:
    return f"{data['source']} ({data['rows']} rows, fingerprint {data['fingerprint']})"


def _identity(configuration: Configuration) -> dict[str, Any]:
    return {"trial": configuration.trial, **asdict(configuration)}


def _trial_row(
    configuration: Configuration, history: list[EpochRecord], failures: dict[str, str]
) -> dict[str, Any]:
    row = _identity(configuration)
    if not history:
        status = "failed" if configuration.trial in failures else "stopped"
        return row | {"status": status, "epochs": 0, "updates": 0, "seconds": 0.0}
    last = history[-1]
    finite = [record for record in history if not record.diverged]
    best = max(finite, key=lambda record: record.val_accuracy, default=None)
    return row | {
        "status": "diverged" if last.diverged else "completed",
        "epochs": min(len(finite) + 1, len(history)),
        "updates": last.updates,
        **{metric: getattr(last, metric) for metric in METRICS},
        "best_val_accuracy": best.val_accuracy if best else math.nan,
        "best_epoch": best.epoch if best else pd.NA,
        "seconds": sum(record.seconds for record in history),
    }
