"""A checked request for a study; quick to import, so that a wrong option is reported at once.

Each field is declared once: default, help and option. `digitrec.cli.options` makes the options
of the command line from them, `Request.of` reads the keywords of `digitrec.tune`, and
`option_words` returns the command that asks for a request.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from digitrec.errors import InputError
from digitrec.space.hyperparameters import HYPERPARAMETERS, Hyperparameter, Precision
from digitrec.space.points import (
    DEFAULT_SAMPLER,
    DEFAULT_SEARCH_SEED,
    DEFAULT_SEEDS,
    SAMPLERS,
    Space,
    check_count,
)
from digitrec.space.race import AUDIT, HALVE, LATE_EPOCHS, Race, default_rungs, learn_late
from digitrec.space.ranges import Range
from digitrec.space.tpe import GENERATION, check_installed
from digitrec.store.folder import Folder

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # which Ray sets for the entry point of a job
IN_A_RAY_JOB = JOB_CONFIG in os.environ
_LATE = " or ".join(each.label for each in HYPERPARAMETERS.values() if each.learns_late)
DEFAULT_EPOCHS = 3
PACKAGED = ("sample", "openml")  # sources of data that are not files
SEARCH = "search space (values separated by commas, and ranges such as 1e-3..2)"


class Option(NamedTuple):
    """An option of `digitrec tune` that is not a hyperparameter."""

    group: str  # heading in the help
    metavar: str
    help: str
    parse: Callable[[str], Any] = str  # a value from its text; raises ValueError
    kind: str = "text"  # the kind of text expected
    choices: tuple[str, ...] = ()
    former: str | None = None  # an older name of the option, which still works
    is_list: bool = False  # whether it takes several values, separated by commas


def option_name(name: str) -> str:
    """Return the option of a field: `--val-fraction` of `val_fraction`."""
    return "--" + name.replace("_", "-")


INT: dict[str, Any] = {"parse": int, "kind": "a whole number"}
FLOAT: dict[str, Any] = {"parse": float, "kind": "a number"}


def _parse_stack_size(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _parse_rungs(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


# The options of the search space beside the hyperparameters, each with its default.
SEARCH_OPTIONS: dict[str, tuple[Option, Any]] = {
    "seeds": (
        Option(
            SEARCH,
            "S,...",
            "seeds of the initial weights and of the order of the images",
            parse=int,
            kind="a whole number",
            is_list=True,
        ),
        DEFAULT_SEEDS,
    ),
    "points": (
        Option(
            SEARCH,
            "N",
            "draw N configurations, evenly spread over the space, instead of training every "
            "combination; each item of a list, a value or a range, gets an equal share of them; "
            "values are drawn from a range on its hyperparameter's scale, or as log:A..B or "
            "linear:A..B say",
            **INT,
        ),
        None,
    ),
    "sampler": (
        Option(
            SEARCH,
            "",
            "how points are drawn: evenly spread, or by tpe, which draws "
            f"{GENERATION} so and suggests each {GENERATION} more from the results of those before "
            "(in a race, from its first rung); tpe needs pip install 'digitrec[search]'",
            choices=SAMPLERS,
        ),
        DEFAULT_SAMPLER,
    ),
    "search_seed": (
        Option(SEARCH, "S", "seed of the points that are drawn", **INT),
        DEFAULT_SEARCH_SEED,
    ),
}


def _option(default: Any, group: str, metavar: str, help: str, **more: Any) -> Any:
    """Return a field of `Request` with its option as metadata."""
    return field(default=default, metadata={"option": Option(group, metavar, help, **more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for a study; its fields are the options of `digitrec tune`.

    Raises:
        InputError: a value is out of its range.
    """

    data: str = _option(
        "sample",
        "data",
        "DATA",
        "a .csv, .csv.gz or .parquet file, here or on s3:// or gs://, with the columns label, "
        "pixel0, pixel1, ... (Kaggle's Digit Recognizer layout), or image and label (Hugging "
        "Face's); MNIST's own train-images-idx3-ubyte; an .npz file; a folder of .png files per "
        "digit in one folder; 'sample', 5,000 MNIST digits that need no download; or 'openml', all "
        "70,000, downloaded once",
    )
    test_data: str | None = _option(
        None,
        "data",
        "DATA",
        "labelled digits that no choice depends on; the winner is scored on them once",
    )
    val_fraction: float = _option(0.2, "data", "F", "share of the rows to validate on", **FLOAT)
    space: Space = field(default_factory=Space)
    epochs: int = _option(
        None,  # no request keeps it
        "training",
        "E",
        f"passes over the training rows (default: the last of --rungs, or {DEFAULT_EPOCHS})",
        **INT,
    )
    precision: Precision | Literal["auto"] = _option(  # noqa: RUF009
        "float32",
        "training",
        "P",
        "float32; or bf16, which multiplies in bfloat16 and keeps the weights in float32: faster "
        "on processors and GPUs that have it in hardware; or auto: bf16 on these, else float32",
        choices=(*get_args(Precision), "auto"),
    )
    race: bool = _option(
        False,
        "race",
        "",
        "train all points for few epochs and only the best of them on, from rung to rung",
    )
    halve: int = _option(HALVE, "race", "N", "keep one in N at a rung", **INT)
    rungs: tuple[int, ...] | None = _option(
        None,
        "race",
        "E,...",
        "epochs after which the race drops trials; the last is the number of epochs (default: "
        f"--epochs divided by --halve down to 1, or to {LATE_EPOCHS} if {_LATE} is searched)",
        parse=_parse_rungs,
        kind="whole numbers separated by commas",
    )
    audit: int = _option(
        AUDIT,
        "race",
        "N",
        "train N of the trials dropped first to the end, to see what dropping them cost",
        **INT,
    )
    confirm: int = _option(
        0,
        "winner",
        "N",
        "train the N leaders again with fresh seeds, and let their mean decide",
        **INT,
    )
    confirm_seeds: int = _option(3, "winner", "S", "number of fresh seeds", **INT)
    cooldown: int = _option(
        0,
        "winner",
        "E",
        "train the finalists (the leaders with fresh seeds, or else the winner) for E more epochs "
        "while their step size falls linearly to 0, and choose the winner among them",
        **INT,
    )
    refit: bool = _option(
        False,
        "winner",
        "",
        "train the winner again on all rows, validation rows included, before it is saved",
    )
    average: int = _option(
        1,
        "winner",
        "N",
        "save the N best finalists (the leaders with fresh seeds, or else all trials), and predict "
        "with the mean of their probabilities; with --cooldown at least N trials cool down",
        **INT,
    )
    out: str | None = _option(
        None,
        "results",
        "DIR",
        "the study directory, a path or a URI such as s3://bucket/study (default: results/ and "
        "the name of the data)",
    )
    stack_size: int | None = _option(
        None,
        "machine",
        "auto|N",
        "the most trials to train together as one stack (default: auto)",
        parse=_parse_stack_size,
        kind="a whole number",
    )
    cpus_per_stack: float = _option(
        1, "machine", "C", "cores for each stack", **FLOAT, former="--cpus-per-trial"
    )
    gpus_per_stack: float = _option(
        0,
        "machine",
        "G",
        "GPUs for each stack; a fraction such as 0.5 lets stacks share one",
        **FLOAT,
        former="--gpus-per-trial",
    )
    max_failures: int = _option(
        3, "machine", "N", "how many times to retry a stack whose worker or node is lost", **INT
    )
    address: str | None = _option(
        None,
        "machine",
        "ADDRESS",
        "a Ray cluster to run on (default: inside a Ray job, its cluster; otherwise this machine)",
    )
    dashboard: bool = _option(
        False,
        "machine",
        "",
        "start Ray with its dashboard, on 127.0.0.1 alone, and print its address; of a cluster, "
        "print the address of its own",
    )

    @classmethod
    def of(cls, **options: Any) -> "Request":
        """Return the request that these options make; missing ones have their defaults.

        Args:
            options: by their names with underscores; values as Python has them, or as text that
                the command line takes. A hyperparameter takes a value, a range or several.

        Raises:
            InputError: an option is unknown, or a value is not accepted.
        """
        of_request = options_of_request()
        known = [*of_request, *HYPERPARAMETERS, *SEARCH_OPTIONS]
        if unknown := [name for name in options if name not in known]:
            raise InputError(f"{unknown[0]!r} is not an option; there are {', '.join(known)}")
        values = {
            name: _read_option(name, declared, default_of(name), options[name])
            for name, declared in of_request.items()
            if name in options
        }
        searched = {
            name: _read_searched(each, options[name])
            for name, each in HYPERPARAMETERS.items()
            if name in options
        }
        drawing = {
            name: _read_option(name, declared, default, options.get(name, default))
            for name, (declared, default) in SEARCH_OPTIONS.items()
        }
        return cls(**values, space=Space(searched, **drawing))

    def __post_init__(self) -> None:
        for name in ("data", "test_data", "out", "address"):
            if getattr(self, name) is not None:
                check_name(option_name(name), getattr(self, name))
        if self.space.sampler == "tpe":
            check_installed()
        self._check_race()
        if self.epochs is None:
            object.__setattr__(self, "epochs", self.rungs[-1] if self.rungs else DEFAULT_EPOCHS)
        _check(self.epochs >= 1, f"epochs {self.epochs} is not a whole number above 0")
        _check(
            0 < self.val_fraction < 1, f"val-fraction {self.val_fraction} is not between 0 and 1"
        )
        _check(
            self.stack_size is None or self.stack_size >= 1,
            f"stack-size {self.stack_size} is neither 'auto' nor a whole number above 0",
        )
        _check_share("cpus-per-stack", self.cpus_per_stack, self.cpus_per_stack > 0)
        _check_share("gpus-per-stack", self.gpus_per_stack, self.gpus_per_stack >= 0)
        _check(self.confirm >= 0, f"confirm {self.confirm} is less than 0")
        _check(
            self.confirm_seeds >= 1,
            f"confirm-seeds {self.confirm_seeds} is not a whole number above 0",
        )
        _check(self.cooldown >= 0, f"cooldown {self.cooldown} is less than 0")
        _check(self.average >= 1, f"average {self.average} is not a whole number above 0")
        most = most_averaged(self.space, self.confirm, self.confirm_seeds)
        what = "that --confirm trains with fresh seeds" if self.confirm else "of the search"
        trials = "trial" if most == 1 else "trials"
        _check(
            self.average <= most,
            f"average {self.average} is more than the {most:,} {trials} {what}",
        )
        confirming = most if self.confirm else 0
        seeds = len(self.space.seeds)
        cooling = confirming or seeds * math.ceil(self.average / seeds)
        check_count(len(self.space) + confirming + (cooling if self.cooldown else 0))
        _check(self.max_failures >= 0, f"max-failures {self.max_failures} is less than 0")
        _check(
            not IN_A_RAY_JOB or Path(self.out or "").is_absolute() or "://" in (self.out or ""),
            "inside a Ray job, --out must be an absolute path or a URI such as s3://bucket/study, "
            "on storage that outlives the job",
        )
        _ = self.raced  # checks its values
        check_name("the working directory", os.getcwd())
        check_name("TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # where Ray keeps its sockets
        check_name("the study directory", str(self.directory))

    def _check_race(self) -> None:
        """Check the options of a race; the last rung is the number of epochs."""
        if not self.race:
            for name in ("halve", "rungs", "audit"):
                asked = getattr(self, name) != default_of(name)
                _check(not asked, f"{option_name(name)} needs --race")
            return
        _check(self.halve >= 2, f"halve {self.halve} is not a whole number above 1")
        seeds = ",".join(map(str, self.space.seeds))
        _check(
            len(self.space.seeds) == 1,
            f"a race has one seed, not {seeds}; --confirm trains its leaders with fresh seeds",
        )
        if self.rungs is None:
            return
        _check(bool(self.rungs), "no rungs are given; at least one is needed")
        _check(
            self.epochs in (None, self.rungs[-1]),
            f"epochs {self.epochs} is not the last of the rungs {','.join(map(str, self.rungs))}",
        )

    @property
    def raced(self) -> Race | None:
        """The race that is asked for; None: all trials are trained to the end."""
        if not self.race:
            return None
        late = learn_late(self.space.values)
        rungs = self.rungs or default_rungs(self.epochs, self.halve, late=late)
        return Race(rungs, self.halve, self.audit, self.space.search_seed)

    @property
    def directory(self) -> Folder:
        """The study directory; absolute, since workers run in other directories."""
        data = self.data.partition("?")[0] if "://" in self.data else os.path.abspath(self.data)
        name = Path(data).name.split(".")[0]
        return Folder.at(self.out or Path("results") / name)


def _read_option(name: str, declared: Option, default: Any, value: Any) -> Any:
    """Return the value of an option from a Python value or from text.

    Raises:
        InputError: it is not of the kind that the option takes.
    """
    if value is None and default is None:
        return None
    if isinstance(default, bool):
        _check(isinstance(value, bool), f"{name} {value!r} is neither True nor False")
        return value
    if declared.is_list:
        return tuple(_parse(name, declared, item) for item in _items(value))
    return _parse(name, declared, value)


def _parse(name: str, declared: Option, value: Any) -> Any:
    """Return what the command line reads from the text of a value."""
    if isinstance(value, list | tuple):
        text = ",".join(map(str, value))
    else:
        text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    try:
        parsed = declared.parse(text)
    except ValueError as error:
        raise InputError(f"{name}: {value!r} is not {declared.kind}") from error
    if declared.choices and parsed not in declared.choices:
        raise InputError(f"{name}: {value!r} is not one of {', '.join(declared.choices)}")
    return parsed


def _read_searched(each: Hyperparameter, given: Any) -> list[Any]:
    """Return the values and ranges of a hyperparameter; `Space` checks those that are no text."""
    items = []
    for item in _items(given):
        try:
            items.append(each.read(item) if isinstance(item, str) else item)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{each.name}: {item.strip()!r} is not {each.kind}") from error
    return items


def _items(given: Any) -> list[Any]:
    """Return the items of a list, of text with commas, or of one value."""
    if isinstance(given, str):
        return [item for item in given.split(",") if item.strip()]
    if isinstance(given, Range) or not isinstance(given, Iterable):
        return [given]
    return list(given)


def most_averaged(space: Space, confirm: int, confirm_seeds: int) -> int:
    """Return the number of finalists to choose from: the fresh trials of the leaders, or all."""
    leaders = min(confirm, len(space) // len(space.seeds))
    return leaders * confirm_seeds if leaders else len(space)


def options_of_request() -> dict[str, Option]:
    """Return the options of the fields, by name; those of the search space are not included."""
    return {each.name: each.metadata["option"] for each in fields(Request) if each.metadata}


def default_of(name: str) -> Any:
    """Return the default of a field, without making a request."""
    return next(each.default for each in fields(Request) if each.name == name)


def option_words(values: Mapping[str, Any]) -> list[str]:
    """Return the options of `digitrec tune` that ask for these values.

    Options at their defaults are left out.

    Args:
        values: fields of `Request` by name; missing ones have their defaults.
    """
    words = []
    for each in fields(Request):
        if each.name == "space":
            words += _space_words(values.get("space", Space()))
            continue
        value = values.get(each.name, each.default)
        if value is True:
            words.append(option_name(each.name))
        elif value != each.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [option_name(each.name), text]
    return words


def _space_words(space: Space) -> list[str]:
    words = []
    for name, each in HYPERPARAMETERS.items():
        if space.values[name] != each.values:
            words += [each.option, ",".join(map(each.write, space.values[name]))]
    if space.seeds != DEFAULT_SEEDS:
        words += ["--seeds", ",".join(map(str, space.seeds))]
    if space.points is not None:
        words += ["--points", str(space.points)]
    if space.sampler != DEFAULT_SAMPLER:
        words += ["--sampler", space.sampler]
    if space.search_seed != DEFAULT_SEARCH_SEED:
        words += ["--search-seed", str(space.search_seed)]
    return words


def check_name(what: str, name: str) -> None:
    """Check the name of a file, a directory or a cluster.

    Raises:
        InputError: it is empty, or not UTF-8, which Ray, Parquet and JSON require.
    """
    _check(bool(name.strip()), f"{what} is empty; give a value")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}: {name!r} is not UTF-8; rename it") from error


def _check_share(name: str, share: float, in_range: bool) -> None:
    _check(
        in_range and math.isfinite(share) and (share <= 1 or float(share).is_integer()),
        f"{name} {share:g} is neither a fraction up to 1 nor a whole number",
    )


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise InputError(otherwise)
