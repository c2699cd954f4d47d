"""The next command to run: `digitrec tune` with a study's options, some of them changed."""

import shlex
from typing import Any

from digitrec.request import DEFAULT_EPOCHS, default_of, most_averaged, option_words
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.space.points import NO_HYPERPARAMETERS, Space
from digitrec.store.record import StudyRecord


def tune_command(record: StudyRecord, changes: dict[str, Any] | None = None) -> str:
    """Return the `digitrec tune` command of a study with some of its values changed.

    It is understood from any directory: its paths are absolute. The changes are to hyperparameters
    and seed (lists), points, epochs, confirm, confirm_seeds or cooldown. If they leave fewer trials
    than the study averages, the command averages all of them.
    """
    spec = record.spec
    seeds = {int(point["seed"]) for point in spec.confirmed}
    epochs = (changes or {}).get("epochs", spec.epochs)
    asked = {
        **spec.space,
        "epochs": epochs,
        "confirm": len(spec.confirmed) // max(1, len(seeds)),
        "confirm_seeds": len(seeds) or default_of("confirm_seeds"),
        "cooldown": spec.cooldown,
        **(changes or {}),
    }
    if race := spec.raced:
        rules = {"halve": race.halve, "rungs": race.rungs_to(epochs), "audit": race.audit}
        asked |= {"race": True, **rules}
    if race or epochs == DEFAULT_EPOCHS:
        del asked["epochs"]
    of_space = (*HYPERPARAMETERS, *NO_HYPERPARAMETERS)
    written = {name: asked.pop(name) for name in of_space if name in asked}
    space = Space.from_json(written | {"suggested": []})
    values = {
        "data": spec.data.get("location", spec.data["source"]),
        "test_data": spec.test_data,
        "val_fraction": spec.val_fraction,
        "space": space,
        "precision": spec.precision,
        "refit": spec.refit,
        "average": _fewer_if_needed(spec.average, space, asked),
        "out": str(record.directory),
        **asked,
    }
    return shlex.join(["digitrec", "tune", *option_words(values)])


def _fewer_if_needed(average: int, space: Space, asked: dict[str, Any]) -> int:
    """Return the number of trials to average, at most as many as there are finalists."""
    if average == 1:
        return 1
    return min(average, most_averaged(space, asked["confirm"], asked["confirm_seeds"]))
