"""The question that a study asks: `study.json`."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from digitrec.errors import InputError
from digitrec.results.stacks import write_atomically

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a study asks; `study.json`."""

    data: dict[str, Any]  # source, fingerprint, rows, train_rows, val_rows, pixels
    space: dict[str, list[float] | list[int]]  # lr, batch_size, seed
    epochs: int
    val_fraction: float
    split_seed: int  # random_state of the split
    layer_sizes: list[int]  # of the MLP, from input to output
    precision: str  # of the factors of the matrix products
    versions: dict[str, str] = field(default_factory=dict)  # of what computed it
    format: int = FORMAT

    def differences(self, other: "Question") -> list[str]:
        """Return in words in what `other` cannot share a directory with this question."""
        pairs = [
            ("epochs", self.epochs, other.epochs),
            ("val_fraction", self.val_fraction, other.val_fraction),
            ("split_seed", self.split_seed, other.split_seed),
            ("layer_sizes", self.layer_sizes, other.layer_sizes),
            ("precision", self.precision, other.precision),
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
        InputError: `study.json` is not one that this digitrec can read.
    """
    path = directory / "study.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise InputError(f"{path}: format {values['format']}; this digitrec reads {FORMAT}")
        return Question(**values)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise InputError(f"{path} is not a study that this digitrec can read: {error}") from error


def _described(data: dict[str, Any]) -> str:
    return f"{data['source']} ({data['rows']} rows, fingerprint {data['fingerprint']})"
