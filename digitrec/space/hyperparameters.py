"""The hyperparameters, each declared once; options, names, columns and axes follow from it.

A new one is a new field of `Configuration`. Nothing else names one, except the engine. Other
modules that depend on what one means, such as rules of the verdict, ask for it by its role.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from digitrec.errors import InputError
from digitrec.space.ranges import BETWEEN, Range, RangeScale
from digitrec.space.shape import HIDDEN_SIZES, NOMINAL_PIXELS, count_parameters

Precision = Literal["float32", "bf16"]
Scale = RangeScale | Literal["category"]
Role = Literal["step size", "batch", "images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameter:
    """The declaration of a hyperparameter: its names, its values and its role."""

    name: str  # of the field, the column and the key in files: batch_size
    label: str  # of axes and legends: batch size
    short: str  # in the names of trials: bs
    help: str  # of the option
    parse: Callable[[str], Any]  # a value from its text; raises ValueError
    kind: str  # the kind of text expected: "a number"
    accepts: str  # the accepted values, in words
    is_right: Callable[[Any], bool]  # whether a value is accepted
    values: tuple[Any, ...]  # the default values to search
    scale: Scale  # of axes, colours and ranges
    divides: bool  # whether trials that are trained together must share its value
    role: Role | None  # by which what depends on its meaning finds it
    beyond: Callable[[Sequence[Any], bool], list[Any]] | None
    """The next values above (True) or below the searched ones; None: there are no further ones."""
    needs: str | None
    """What a configuration must have for the value to have an effect; None: nothing. Only for
    hyperparameters with a default, which stands for no effect."""
    has_effect: Callable[["Configuration"], bool]
    """Whether a configuration has what the value needs."""
    cost: Callable[[Any], float]  # the time of an update with a value, relative to the default
    learns_late: bool  # whether other values than the default look worse in the first epochs

    @property
    def heading(self) -> str:
        """The name in sentences and table headings: `batch size 32`, `lr 0.1`."""
        return self.name.replace("_", " ")

    @property
    def option(self) -> str:
        """The option of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def has_default(self) -> bool:
        """Whether it has a default, which configurations and names of trials may leave out."""
        return len(self.values) == 1

    @property
    def takes_ranges(self) -> bool:
        """Whether ranges may be searched: of numbers that the trials of a stack may differ in."""
        return isinstance(self.values[0], float) and not self.divides

    def read(self, text: str) -> Any:
        """Return a value, or a range of values, from its text.

        Raises:
            ValueError: it is neither.
            InputError: it is a range whose ends are not in order, or it can be none.
        """
        if BETWEEN not in text:
            return self.parse(text)
        self.check_range(text.strip())
        return Range.parse(text, self.parse)

    def check_range(self, said: object) -> None:
        """Check that ranges of it may be searched.

        Raises:
            InputError: they may not.
        """
        if not self.takes_ranges:
            raise InputError(f"{self.label} takes no range such as {said}; give a list of values")

    def write(self, value: Any) -> str:
        """Return a value or a range as text that `read` reads."""
        if isinstance(value, Range):
            return str(value) if value.scale in (None, self.scale) else f"{value.scale}:{value}"
        if isinstance(value, tuple):
            return "-".join(map(str, value))
        if isinstance(value, bool):
            return "true" if value else "false"
        return value if isinstance(value, str) else repr(value)


def _hyperparameter(
    label: str,
    *,
    short: str,
    help: str,
    parse: Callable[[str], Any],
    kind: str,
    accepts: str,
    is_right: Callable[[Any], bool],
    values: tuple[Any, ...],
    scale: Scale,
    divides: bool = False,
    role: Role | None = None,
    beyond: Callable[[Sequence[Any], bool], list[Any]] | None = None,
    needs: str | None = None,
    has_effect: Callable[["Configuration"], bool] = lambda configuration: True,
    cost: Callable[[Any], float] = lambda value: 1.0,
    learns_late: bool = False,
) -> Any:
    """Return a field of `Configuration` with its declaration as metadata."""
    declaration = {
        "label": label, "short": short, "help": help, "parse": parse, "kind": kind,
        "accepts": accepts, "is_right": is_right, "values": values, "scale": scale,
        "divides": divides, "role": role, "beyond": beyond,
        "needs": needs, "has_effect": has_effect, "cost": cost, "learns_late": learns_late,
    }  # fmt: skip
    if len(values) == 1:
        return field(default=values[0], metadata=declaration)
    return field(metadata=declaration)


OPTIMIZERS = ("sgd", "adamw")
ADAMW_COST = 1.4  # measured: 2.45 at batch size 32, 1.13 at 512 (`tests/benchmarks/engine.py`)
MOST_LAYERS, MOST_UNITS = 8, 8192  # hidden ones
NO_AUGMENTATION = "none"
AUGMENTATIONS = (NO_AUGMENTATION, "shift2", "affine")

SEEDS = "a whole number from 0 to 2**32 - 1"


def is_seed(seed: int) -> bool:
    """Return whether a seed is one of `SEEDS`."""
    return 0 <= seed < 2**32


def rates_between(low: float, high: float) -> list[float]:
    """Return the numbers between, both ends excluded, that are 1, 2 or 5 times a power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    series = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return [rate for rate in series if 1.001 * low < rate < 0.999 * high]


def _next_rates(values: Sequence[float], up: bool) -> list[float]:
    low, high = min(values), max(values)
    return rates_between(high, 21 * high)[:2] if up else rates_between(low / 21, low)[-2:]


def _next_sizes(values: Sequence[int], up: bool) -> list[int]:
    if up:
        return [2 * max(values), 4 * max(values)]
    return [size for size in (min(values) // 4, min(values) // 2) if size >= 1]


def _next_momenta(values: Sequence[float], up: bool) -> list[float]:
    if up:
        return [round((1 + max(values)) / 2, 6)]
    return [0.0] if min(values) > 0 else []


def _next_decays(values: Sequence[float], up: bool) -> list[float]:
    positive = [value for value in values if value > 0]
    return _next_rates(positive, up) if positive and (up or min(values) > 0) else []


def _next_shares(values: Sequence[float], up: bool) -> list[float]:
    if up:
        return [share for share in (round(max(values) + 0.1, 6),) if share < 0.9]
    return [0.0] if min(values) > 0 else []


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return word == "true"


def _share(label: str, scale: RangeScale = "linear", **others: Any) -> Any:
    """Return the field of a share, which may be 0 and not 1."""
    return _hyperparameter(
        label,
        parse=float,
        kind="a number",
        accepts="a number from 0 to below 1",
        is_right=lambda value: 0 <= value < 1,
        values=(0.0,),
        scale=scale,
        **others,
    )


def _word(label: str, words: Sequence[str], *, help: str, **others: Any) -> Any:
    """Return the field of a word that the trials of a stack share; the first is the default."""
    said = f"one of {', '.join(words)}"
    return _hyperparameter(
        label,
        short="",
        help=help,
        parse=lambda text: words[words.index(text.strip())],
        kind=said,
        accepts=said,
        is_right=lambda value: value in words,
        values=(words[0],),
        scale="category",
        divides=True,
        **others,
    )


def _parse_sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("-"))


def _are_sizes(sizes: Any) -> bool:
    return 1 <= len(sizes) <= MOST_LAYERS and all(
        type(size) is int and 1 <= size <= MOST_UNITS for size in sizes
    )


def _cost_of_sizes(sizes: Sequence[int]) -> float:
    return count_parameters(NOMINAL_PIXELS, sizes) / count_parameters(NOMINAL_PIXELS)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Configuration:
    """One value for every hyperparameter."""

    lr: float = _hyperparameter(
        "learning rate",
        short="lr",
        help="learning rates",
        parse=float,
        kind="a number",
        accepts="a finite number above 0",
        is_right=lambda value: math.isfinite(value) and value > 0,
        values=(0.001, 0.01, 0.1, 0.5, 1.0),
        scale="log",
        role="step size",
        beyond=_next_rates,
    )
    batch_size: int = _hyperparameter(
        "batch size",
        short="bs",
        help="images per update",
        parse=int,
        kind="a whole number",
        accepts="a whole number above 0",
        is_right=lambda value: value >= 1,
        values=(32, 64, 128, 256, 512),
        scale="log",
        divides=True,
        role="batch",
        beyond=_next_sizes,
    )
    momentum: float = _share(
        "momentum",
        "complement",
        short="momentum",
        help="share of the previous step that SGD adds to the next; adamw has none",
        beyond=_next_momenta,
        needs="optimizer sgd",
        has_effect=lambda configuration: configuration.optimizer == "sgd",
    )
    nesterov: bool = _hyperparameter(
        "Nesterov momentum",
        short="nesterov",
        help="true or false: whether momentum looks one step ahead; without momentum, it is false",
        parse=_parse_bool,
        kind="true or false",
        accepts="true or false",
        is_right=lambda value: isinstance(value, bool),
        values=(False,),
        scale="category",
        needs="optimizer sgd and a momentum above 0",
        has_effect=lambda configuration: configuration.momentum > 0,
    )
    weight_decay: float = _hyperparameter(
        "weight decay",
        short="wd",
        help="share of each weight and bias that is added to its gradient; adamw subtracts that "
        "share, times the learning rate, from the parameter itself",
        parse=float,
        kind="a number",
        accepts="a finite number from 0 up",
        is_right=lambda value: math.isfinite(value) and value >= 0,
        values=(0.0,),
        scale="log",
        beyond=_next_decays,
    )
    dropout: float = _share(
        "dropout",
        short="dropout",
        help="probability that training leaves a hidden unit out of an image",
        beyond=_next_shares,
        learns_late=True,
    )
    label_smoothing: float = _share(
        "label smoothing",
        short="smoothing",
        help="share of the target that is spread evenly over the ten digits",
        beyond=_next_shares,
    )
    optimizer: str = _word(
        "optimizer",
        OPTIMIZERS,
        help="sgd, or adamw: Adam with decoupled weight decay, betas 0.9 and 0.999, eps 1e-8",
        cost=lambda optimizer: ADAMW_COST if optimizer == "adamw" else 1.0,
    )
    hidden_sizes: tuple[int, ...] = _hyperparameter(
        "hidden sizes",
        short="hidden",
        help="units of each hidden layer, such as 512-256",
        parse=_parse_sizes,
        kind="whole numbers joined by hyphens",
        accepts=f"1 to {MOST_LAYERS} whole numbers from 1 to {MOST_UNITS:,} joined by hyphens",
        is_right=_are_sizes,
        values=(HIDDEN_SIZES,),
        scale="category",
        divides=True,
        cost=_cost_of_sizes,
    )
    augmentation: str = _word(
        "augmentation",
        AUGMENTATIONS,
        help="none; shift2: move each training image by up to 2 pixels; affine: also rotate it by "
        "up to 12 degrees and scale it by up to 10 %%",
        role="images",
        learns_late=True,
    )

    @property
    def name(self) -> str:
        """The values that have no default or differ from it: `lr0.1-bs32`."""
        return "-".join(self._parts(HYPERPARAMETERS.values()))

    @property
    def own_name(self) -> str:
        """The part of the name that tells the members of a stack apart: `lr0.1`."""
        own = (each for each in HYPERPARAMETERS.values() if not each.divides)
        return "-".join(self._parts(own))

    @property
    def shared(self) -> tuple[Any, ...]:
        """The values that all members of a stack share."""
        return tuple(getattr(self, each.name) for each in HYPERPARAMETERS.values() if each.divides)

    def with_effect(self) -> "Configuration":
        """Return the configuration that trains alike, with no value that has no effect in it."""
        configuration = self
        for each in HYPERPARAMETERS.values():
            if each.needs is not None and not each.has_effect(configuration):
                configuration = replace(configuration, **{each.name: each.values[0]})
        return configuration

    @property
    def cost(self) -> float:
        """The time of an update relative to the default shape and optimizer."""
        return math.prod(each.cost(getattr(self, each.name)) for each in HYPERPARAMETERS.values())

    def of_role(self, role: Role) -> Any:
        """Return the value of the hyperparameter that plays a role."""
        return getattr(self, with_role(role).name)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Configuration":
        """Return the configuration with these values; a missing name gets its default.

        Raises:
            ValueError: a name is unknown, or a value is not accepted.
            TypeError: a name without a default is missing, or a value is of another type.
        """
        for name, value in values.items():
            if name not in HYPERPARAMETERS:
                raise ValueError(f"{name} is no hyperparameter that this digitrec knows")
            if not HYPERPARAMETERS[name].is_right(value):
                raise ValueError(f"{name} {value!r} is not {HYPERPARAMETERS[name].accepts}")
        tuples = {n: tuple(v) for n, v in values.items() if isinstance(v, list)}  # as in JSON
        return cls(**{**values, **tuples})

    def _parts(self, hyperparameters: Iterable[Hyperparameter]) -> Iterator[str]:
        for each in hyperparameters:
            value = getattr(self, each.name)
            if not each.has_default or value != each.values[0]:
                yield f"{each.short}{each.write(value)}"


@dataclass(frozen=True, slots=True, order=True)
class Trial:
    """One configuration trained with one seed."""

    configuration: Configuration
    seed: int  # of the initial weights and of the order of the images
    cooldown: int = 0  # epochs after all others, in which the learning rate falls to 0

    @property
    def name(self) -> str:
        """The name of the trial, such as `lr0.1-bs32-seed0`; it does not depend on the space."""
        cooldown = f"-cooldown{self.cooldown}" if self.cooldown else ""
        return f"{self.configuration.name}-seed{self.seed}{cooldown}"

    @property
    def before_cooldown(self) -> "Trial":
        """The same trial without its cooldown, which continues from there."""
        return replace(self, cooldown=0)

    def values(self) -> dict[str, Any]:
        """Return the hyperparameters by name, and the seed: the columns and the keys of files.

        A cooldown follows if there is one.
        """
        cooldown = {"cooldown": self.cooldown} if self.cooldown else {}
        return asdict(self.configuration) | {"seed": self.seed} | cooldown

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Trial":
        """Return the trial that `values` describes, as `Trial.values` returns them.

        Raises:
            KeyError: there is no seed.
            ValueError: the seed or the cooldown is out of its range.
        """
        own = {name: value for name, value in values.items() if name not in ("seed", "cooldown")}
        seed, cooldown = values["seed"], values.get("cooldown", 0)
        if not is_seed(seed):
            raise ValueError(f"seed {seed!r} is not {SEEDS}")
        if type(cooldown) is not int or cooldown < 0:
            raise ValueError(f"cooldown {cooldown!r} is not a whole number from 0 on")
        return cls(Configuration.of(own), seed, cooldown)


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    each.name: Hyperparameter(name=each.name, **each.metadata)
    for each in fields(Configuration)
    if each.metadata
}
"""Name -> declaration, in the order of the columns."""


def with_role(role: Role) -> Hyperparameter:
    """Return the hyperparameter that plays a role."""
    return next(each for each in HYPERPARAMETERS.values() if each.role == role)


def in_column(name: str, value: Any) -> Any:
    """Return a trial's value of a hyperparameter as tables hold it: a number or text."""
    return HYPERPARAMETERS[name].write(value) if isinstance(value, tuple | bool) else value
