"""What a person asks for, checked; light to import, so that a wrong option is said at once."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from digitrec.errors import InputError
from digitrec.space.hyperparameters import Precision
from digitrec.space.points import Space, check_count
from digitrec.store.folder import Folder

IN_A_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # which Ray sets for the entry point


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asks for.

    Raises:
        InputError: a value is out of its range.
    """

    data: str = "sample"  # sample, openml, or a file
    space: Space = field(default_factory=Space)
    epochs: int = 3
    val_fraction: float = 0.2  # of the rows, for validation
    precision: Precision = "float32"  # of the factors of the matrix products
    confirm: int = 0  # how many leaders are trained again with fresh seeds
    confirm_seeds: int = 3  # with how many
    refit: bool = False  # train the winner on all rows before it is kept
    test_data: str | None = None  # labelled digits that the winner is scored on once
    out: str | None = None  # the study directory; None: results/ and the name of the data
    stack_size: int | None = None  # the most trials trained as one; None: what ends soonest
    cpus_per_trial: float = 1  # of a stack, that is, of one trial of Ray Tune
    gpus_per_trial: float = 0
    max_failures: int = 3  # how often a stack is tried again whose worker or node is lost
    address: str | None = None  # of a Ray cluster; None: the one around us, or a fresh one

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"epochs {self.epochs} is not a whole number above 0")
        _check(0 < self.val_fraction < 1, f"val-fraction {self.val_fraction} is not within 0 and 1")
        _check(
            self.stack_size is None or self.stack_size >= 1,
            f"stack-size {self.stack_size} is neither 'auto' nor a whole number above 0",
        )
        _check_share("cpus-per-trial", self.cpus_per_trial, self.cpus_per_trial > 0)
        _check_share("gpus-per-trial", self.gpus_per_trial, self.gpus_per_trial >= 0)
        _check(self.confirm >= 0, f"confirm {self.confirm} is less than 0")
        _check(
            self.confirm_seeds >= 1,
            f"confirm-seeds {self.confirm_seeds} is not a whole number above 0",
        )
        leaders = min(self.confirm, len(self.space) // len(self.space.seeds))
        check_count(len(self.space) + leaders * self.confirm_seeds)
        _check(self.max_failures >= 0, f"max-failures {self.max_failures} is less than 0")
        _check(
            not IN_A_RAY_JOB or Path(self.out or "").is_absolute() or "://" in (self.out or ""),
            "inside a Ray job, --out must be an absolute path or a URI such as s3://bucket/study, "
            "on storage that outlives the job",
        )
        _ = self.directory  # refuses what is no place

    @property
    def directory(self) -> Folder:
        """The study directory, absolute: workers run elsewhere."""
        name = Path(self.data).name.split(".")[0]
        return Folder.at(self.out or Path("results") / name)


def _check_share(name: str, share: float, in_range: bool) -> None:
    _check(
        in_range and math.isfinite(share) and (share <= 1 or float(share).is_integer()),
        f"{name} {share:g} is neither a fraction up to 1 nor a whole number",
    )


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise InputError(otherwise)
