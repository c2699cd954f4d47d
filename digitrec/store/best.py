"""The description of the winner, `best/model.json`."""

from typing import Any

from digitrec.errors import DamagedError
from digitrec.store.folder import Folder

MODEL, ABOUT = "model.safetensors", "model.json"


def read_best(directory: Folder) -> dict[str, Any] | None:
    """Return the content of `best/model.json`; None if the model is missing or damaged."""
    best = directory / "best"
    try:
        about: dict[str, Any] = best.read_json(ABOUT)
    except (FileNotFoundError, DamagedError):
        return None
    try:
        _check_best(about)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return about if MODEL in best.names() else None


def _check_best(about: dict[str, Any]) -> None:
    """Check the fields that the rest of the code uses.

    Raises:
        ValueError, TypeError, KeyError: a field is missing or of another type.
    """
    parts = [about[name] for name in ("test", "refit") if name in about]
    rows = [part["rows"] for part in parts]
    tests = [about["test"]] if "test" in about else []
    texts = [about["trial"], *(test["source"] for test in tests)]
    numbers = [test[name] for test in tests for name in ("accuracy", "loss")]
    if "members" in about:
        texts += [member["trial"] for member in about["members"]]
        numbers += [about["average"][name] for name in ("val_accuracy", "val_loss")]
        numbers += [test["winner_accuracy"] for test in tests]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is not text")
    if not all(isinstance(number, int) and number >= 1 for number in rows):
        raise ValueError("rows are counted from 1")
    if not all(isinstance(number, float | int) for number in numbers):
        raise TypeError("a measure is not a number")
