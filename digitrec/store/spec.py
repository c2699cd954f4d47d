"""What a study is asked for: `study.json`."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from digitrec.errors import DamagedError, InputError
from digitrec.space.hyperparameters import Trial
from digitrec.space.points import Space, check_count
from digitrec.store.arrays import FORMAT
from digitrec.store.folder import Folder

NAME = "study.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """What a study asks; `study.json`."""

    data: dict[str, Any]  # source, fingerprint, rows, train_rows, val_rows, pixels
    space: dict[str, list[Any]]  # of `Space.to_json`
    epochs: int
    val_fraction: float
    split_seed: int  # random_state of the split
    layer_sizes: list[int]  # of the MLP, from input to output
    precision: str  # of the factors of the matrix products
    refit: bool = False  # whether the winner is trained on all rows
    test_data: str | None = None  # what the winner is scored on
    confirmed: list[dict[str, Any]] = field(default_factory=list)  # trials beyond the space
    versions: dict[str, str] = field(default_factory=dict)  # of what computed it
    format: int = FORMAT

    @property
    def key(self) -> str:
        """What all results of a directory must share: data, split, model and arithmetic."""
        shared = [
            self.data["fingerprint"],
            self.val_fraction,
            self.split_seed,
            self.layer_sizes,
            self.precision,
        ]
        return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:16]

    @property
    def confirmed_trials(self) -> list[str]:
        """The trials that train the leaders again."""
        return [Trial.of(values).name for values in self.confirmed]

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials of the grid, then those that confirm its leaders."""
        grid = Space.from_json(self.space).trials()
        return grid + tuple(Trial.of(values) for values in self.confirmed)

    def differences(self, other: "StudySpec") -> list[str]:
        """Return in words why `other` cannot share a directory with this spec."""
        pairs = [
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


def write_spec(directory: Folder, spec: StudySpec) -> None:
    """Write `study.json`."""
    text = json.dumps(asdict(spec), indent=2, ensure_ascii=False) + "\n"
    directory.write(NAME, text.encode())


def read_spec(directory: Folder) -> StudySpec:
    """Return the spec of a study directory.

    Raises:
        InputError: there is none.
        DamagedError: `study.json` is not one that this digitrec can read.
    """
    try:
        values = directory.read_json(NAME)
    except FileNotFoundError as error:
        raise InputError(f"{directory} holds no study (no {NAME})") from error
    try:
        version = values.pop("format")
        if version != FORMAT:
            raise DamagedError(f"it has format {version}; this digitrec reads {FORMAT}")
        spec = StudySpec(**values)
        _check(spec)
    except InputError as error:
        raise DamagedError(f"it does not describe a study: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError("it is cut short, damaged or not a file of digitrec") from error
    return spec


def _check(spec: StudySpec) -> None:
    """Touch everything that the rest of the code relies on.

    Raises:
        ValueError, TypeError, KeyError: something is missing or of another kind.
    """
    check_count(len(Space.from_json(spec.space)) + len(spec.confirmed))
    spec.trials()
    counts = [spec.data[name] for name in ("rows", "train_rows", "val_rows", "pixels")]
    if not all(type(count) is int and count >= 1 for count in [*counts, *spec.layer_sizes]):
        raise ValueError("a count is not a whole number above 0")
    texts = [spec.data["source"], spec.data["fingerprint"], spec.precision]
    texts += [*spec.versions.keys(), *spec.versions.values()]
    texts += [text for text in (spec.test_data, spec.data.get("location")) if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    if not isinstance(spec.refit, bool) or type(spec.epochs) is not int:
        raise TypeError("a value of another kind")
    if not (spec.key and spec.epochs >= 1 and 0 < spec.val_fraction < 1):
        raise ValueError("values out of their range")


def _described(data: dict[str, Any]) -> str:
    return f"{data['source']} ({data['rows']} rows, fingerprint {data['fingerprint']})"
