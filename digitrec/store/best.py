"""What `best/model.json` says of the winner."""

from typing import Any

from digitrec.store.folder import Folder

MODEL, ABOUT = "model.safetensors", "model.json"


def read_best(study: Folder) -> dict[str, Any] | None:
    """Return what `best/model.json` says; None where there is no model, or it is damaged."""
    best = study / "best"
    try:
        about: dict[str, Any] = best.read_json(ABOUT)
        _check_best(about)
        return about if MODEL in best.names() else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _check_best(about: dict[str, Any]) -> None:
    """Check what the rest of the code relies on.

    Raises:
        ValueError, TypeError, KeyError: something is missing or of another kind.
    """
    parts = [about[name] for name in ("test", "refit") if name in about]
    rows = [part["rows"] for part in parts]
    tests = [about["test"]] if "test" in about else []
    texts = [about["trial"], *(test["source"] for test in tests)]
    numbers = [test[name] for test in tests for name in ("accuracy", "loss")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is no text")
    if not all(isinstance(number, int) and number >= 1 for number in rows):
        raise ValueError("rows are counted from 1")
    if not all(isinstance(number, float | int) for number in numbers):
        raise TypeError("a measure is no number")
