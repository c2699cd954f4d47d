"""The spec of a study: `study.json`."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from digitrec.errors import DamagedError, InputError
from digitrec.space.hyperparameters import Trial
from digitrec.space.points import Space, check_count
from digitrec.space.race import Goal, Race
from digitrec.space.shape import layer_sizes
from digitrec.store.arrays import FORMAT
from digitrec.store.folder import NOT_OURS, Folder

NAME = "study.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """The data, search space and settings of a study: the content of `study.json`."""

    data: dict[str, Any]  # source, fingerprint, rows, train_rows, val_rows, pixels
    space: dict[str, Any]  # as `Space.to_json` returns it
    epochs: int
    val_fraction: float
    split_seed: int  # random_state of the split
    precision: str  # of the factors of the matrix products
    refit: bool = False  # whether the winner is trained on all rows
    test_data: str | None = None  # the source that the winner is scored on
    confirmed: list[dict[str, Any]] = field(default_factory=list)  # trials outside the space
    cooldown: int = 0  # epochs that the finalists are asked to cool down for
    cooled: list[dict[str, Any]] = field(default_factory=list)  # the finalists, cooling down
    race: dict[str, Any] | None = None  # as `Race.to_json` returns it; None: all are trained fully
    average: int = 1  # the number of trials whose probabilities the saved model averages
    versions: dict[str, str] = field(default_factory=dict)  # of Python and the packages used
    format: int = FORMAT

    @property
    def key(self) -> str:
        """A digest of what all results in a directory share: data, split, model and arithmetic."""
        shared = [
            self.data["fingerprint"],
            self.val_fraction,
            self.split_seed,
            layer_sizes(self.data["pixels"]),  # the default shape, as before there were others
            self.precision,
        ]
        return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:16]

    @property
    def confirmed_trials(self) -> list[str]:
        """The names of the trials that train the leaders again."""
        return [Trial.of(values).name for values in self.confirmed]

    @property
    def cooled_trials(self) -> dict[str, str]:
        """The names of the trials that cool down, each with that of the trial it continues."""
        trials = map(Trial.of, self.cooled)
        return {trial.name: trial.before_cooldown.name for trial in trials}

    @property
    def raced(self) -> Race | None:
        """The race and its decisions; None: all trials are trained to the end."""
        return None if self.race is None else Race.from_json(self.race)

    @property
    def search_space(self) -> Space:
        """The search space."""
        return Space.from_json(self.space)

    def points(self) -> tuple[Trial, ...]:
        """Return the trials of the search space, as far as their points are known."""
        return self.search_space.trials()

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials of the space, those that confirm its leaders, and those that cool."""
        return tuple(self.goals())

    def goals(self) -> dict[Trial, Goal]:
        """Return how long each trial is trained, as far as a race has decided."""
        race, whole = self.raced, Goal(self.epochs, "completed")
        points = self.points()
        more = [Trial.of(values) for values in (*self.confirmed, *self.cooled)]
        goals = race.goals(points) if race else dict.fromkeys(points, whole)
        return goals | dict.fromkeys(more, whole)

    def epochs_of(self) -> dict[Trial, int]:
        """Return the epochs that each trial is to be trained for, without those of a cooldown."""
        return {trial: goal.epochs for trial, goal in self.goals().items()}

    def differences(self, other: "StudySpec") -> list[str]:
        """Return the differences, in words, that keep `other` from sharing this directory."""
        pairs = [
            ("val_fraction", self.val_fraction, other.val_fraction),
            ("split_seed", self.split_seed, other.split_seed),
            ("precision", self.precision, other.precision),
        ]
        if self.data["fingerprint"] != other.data["fingerprint"]:
            pairs.insert(0, ("data", _described(self.data), _described(other.data)))
        return [
            f"its {name} is {there}, not {asked}" for name, there, asked in pairs if there != asked
        ]


def write_spec(directory: Folder, spec: StudySpec) -> None:
    """Write `study.json`; without cooldown, race and average, as before there were any."""
    values = asdict(spec)
    for name, default in (("cooldown", 0), ("cooled", []), ("race", None), ("average", 1)):
        if values[name] == default:
            del values[name]
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    directory.write(NAME, text.encode())


def read_spec(directory: Folder) -> StudySpec:
    """Return the spec of a study directory.

    Raises:
        InputError: the directory has no `study.json`.
        DamagedError: this version of digitrec cannot read `study.json`.
    """
    try:
        values = directory.read_json(NAME)
    except FileNotFoundError as error:
        raise InputError(f"{directory} holds no study (no {NAME})") from error
    try:
        version = values.pop("format")
        if version != FORMAT:
            raise DamagedError(f"it has format {version}; this digitrec reads {FORMAT}")
        values.pop("layer_sizes", None)  # of files from when all trials had one shape
        spec = StudySpec(**values)
        _check(spec)
    except InputError as error:
        raise DamagedError(f"it does not describe a study: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(NOT_OURS) from error
    return spec


def _check(spec: StudySpec) -> None:
    """Check every value that the rest of the code relies on.

    Raises:
        ValueError, TypeError, KeyError: a value is missing, of another type or out of its range.
    """
    check_count(len(spec.search_space) + len(spec.confirmed) + len(spec.cooled))
    trials = set(spec.trials())
    cooled = [Trial.of(values) for values in spec.cooled]
    if not all(trial.cooldown and trial.before_cooldown in trials for trial in cooled):
        raise ValueError("a trial cools down that is none of the study's")
    counts = [spec.data[name] for name in ("rows", "train_rows", "val_rows", "pixels")]
    if not all(type(count) is int and count >= 1 for count in counts):
        raise ValueError("a count is not a whole number above 0")
    texts = [spec.data["source"], spec.data["fingerprint"], spec.precision]
    texts += [*spec.versions.keys(), *spec.versions.values()]
    texts += [text for text in (spec.test_data, spec.data.get("location")) if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a value is not text")
    if (race := spec.raced) is not None:
        if race.rungs[-1] != spec.epochs:
            raise ValueError("the last rung of the race is not the number of epochs")
        if not race.fits(spec.points()):
            raise ValueError("a decision of the race names a trial that did not take part")
    numbers = {type(number) for number in (spec.epochs, spec.cooldown, spec.average)}
    if not isinstance(spec.refit, bool) or numbers != {int}:
        raise TypeError("a value has another type")
    if not (spec.key and spec.epochs >= 1 and spec.cooldown >= 0 and spec.average >= 1):
        raise ValueError("a value is out of its range")
    if not 0 < spec.val_fraction < 1:
        raise ValueError("the share of the validation rows is out of its range")


def _described(data: dict[str, Any]) -> str:
    return f"{data['source']} ({data['rows']} rows, fingerprint {data['fingerprint']})"
