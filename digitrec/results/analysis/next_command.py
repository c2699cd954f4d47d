"""The next command to run: `digitrec tune` with a study's options, some of them changed."""

import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from digitrec.space.points import Space
from digitrec.store.record import StudyRecord

# Of `digitrec tune`; a test holds them to it.
DEFAULT_SOURCE, DEFAULT_EPOCHS = "sample", 3
DEFAULT_VAL_FRACTION, DEFAULT_PRECISION = 0.2, "float32"
DEFAULT_CONFIRM_SEEDS = 3


def tune_command(record: StudyRecord, changes: dict[str, Any] | None = None) -> str:
    """Return the `digitrec tune` command of a study with some of its values changed.

    Options at their defaults are left out.

    Args:
        record: of the study.
        changes: lr, batch_size, seed (lists), epochs, confirm, confirm_seeds.
    """
    question = record.question
    seeds = {int(point["seed"]) for point in question.confirmed}
    asked: dict[str, Any] = {
        **question.space,
        "epochs": question.epochs,
        "confirm": len(question.confirmed) // max(1, len(seeds)),
        "confirm_seeds": len(seeds) or DEFAULT_CONFIRM_SEEDS,
        **(changes or {}),
    }
    words = ["digitrec", "tune"]
    source = question.data.get("location", question.data["source"])
    if source != DEFAULT_SOURCE:
        words += ["--data", str(source)]
    options: list[tuple[str, Any, Any]] = [
        ("--lr", tuple(asked["lr"]), Space().lrs),
        ("--batch-size", tuple(asked["batch_size"]), Space().batch_sizes),
        ("--seeds", tuple(asked["seed"]), Space().seeds),
        ("--epochs", (asked["epochs"],), (DEFAULT_EPOCHS,)),
        ("--val-fraction", (question.val_fraction,), (DEFAULT_VAL_FRACTION,)),
        ("--precision", (question.precision,), (DEFAULT_PRECISION,)),
    ]
    for option, values, default in options:
        if values != default:
            words += [option, ",".join(map(str, values))]
    if question.test_data is not None:
        words += ["--test-data", question.test_data]
    words += ["--out", str(record.directory)]
    if asked["confirm"]:
        words += ["--confirm", str(asked["confirm"])]
        words += ["--confirm-seeds", str(asked["confirm_seeds"])]
    if question.refit:
        words.append("--refit")
    return shlex.join(words)


def continue_rates(values: Sequence[float], up: bool, record: StudyRecord) -> list[float]:
    """Return the next two of ... 0.1, 0.2, 0.5, 1, 2, 5 ... beyond the highest or lowest rate."""
    low, high = min(values), max(values)
    return rates_between(high, 21 * high)[:2] if up else rates_between(low / 21, low)[-2:]


def continue_batch_sizes(values: Sequence[int], up: bool, record: StudyRecord) -> list[int]:
    """Return the next two by doubling or halving, as far as there are training rows for them."""
    if up:
        train_rows = int(record.question.data["train_rows"])
        return [size for size in (2 * max(values), 4 * max(values)) if size <= train_rows]
    return [size for size in (min(values) // 4, min(values) // 2) if size >= 1]


def rates_between(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten that lie between, neither end included."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    series = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return [lr for lr in series if 1.001 * low < lr < 0.999 * high]


# How the values of a hyperparameter go on beyond an edge; others are not extended.
CONTINUATIONS: dict[str, Callable[[Sequence[Any], bool, StudyRecord], list[Any]]] = {
    "lr": continue_rates,
    "batch_size": continue_batch_sizes,
}
