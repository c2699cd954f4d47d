"""The scales of axes and colours: epochs, losses, accuracies and hyperparameters."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import FuncNorm, LogNorm, Normalize, SymLogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from digitrec.results.figures.configurations import MANY_VALUES, label_value, order_values
from digitrec.results.figures.style import TEXT_SIZE, TICK_SIZE
from digitrec.space.hyperparameters import HYPERPARAMETERS

Floats = NDArray[np.float64]

ACCURACY_TICKS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
# An accuracy of 1 has no log error; this much is added to every error, which keeps it on the scale.
ERROR_FLOOR = 0.002
# Chance is 2.3 nats for 10 digits. Losses far above it would squeeze all others into a corner.
LOSS_CEILING = 20.0
COMPLEMENT_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
# Above this ratio of the largest to the smallest value, a log scale shows more than a linear one.
LOG_RATIO = 3.0
MOST_VALUES_AS_TICKS = 8
# At a horizontal axis of 2 inches, the least gap of two labels as a share of the axis, that of
# longer ones, the largest ratio of a log scale whose ticks lie closer than decades, and the
# characters side by side.
LEAST_GAP, LEAST_GAP_OF_POWERS, DECADES_RATIO, MOST_CHARACTERS = 0.09, 0.3, 30.0, 25


@dataclass(frozen=True, slots=True)
class ValueScale:
    """The scale of a hyperparameter over its values in a study."""

    name: str
    """Of the hyperparameter."""
    values: tuple[Any, ...]
    """The distinct ones, in ascending order."""

    @classmethod
    def of(cls, name: str, values: Iterable[Any]) -> "ValueScale":
        """Return the scale over these values of a hyperparameter."""
        return cls(name, tuple(order_values(values)))

    @property
    def label(self) -> str:
        """The name of the hyperparameter in a figure."""
        return HYPERPARAMETERS[self.name].label

    @property
    def kind(self) -> Literal["log", "symlog", "linear", "complement", "category"]:
        """The declared scale; symlog where a log scale has to hold zero as well.

        The scale `complement` is linear for a few values, which lists have.
        """
        declared = HYPERPARAMETERS[self.name].scale
        if declared == "complement" and len(self.values) <= MANY_VALUES:
            return "linear"
        return "symlog" if declared == "log" and self.values and self.values[0] <= 0 else declared

    @property
    def least_positive(self) -> float:
        """The smallest value above zero, up to which a symlog scale is linear."""
        return min((float(value) for value in self.values if value > 0), default=1.0)

    def texts(self) -> list[str]:
        """Return the values as labels."""
        return [label_value(self.name, value) for value in self.values]

    def ranks(self, values: Iterable[Any]) -> NDArray[np.int64]:
        """Return the places of values among all of them, from 0."""
        ranks = {value: rank for rank, value in enumerate(self.values)}
        return np.array([ranks[value] for value in values], dtype=np.int64)

    def positions(self, values: Iterable[Any]) -> Floats:
        """Return where values stand on an axis: a number as it is, a category by its rank."""
        if self.kind == "category":
            return self.ranks(values).astype(float)
        return np.array([float(value) for value in values])

    def norm(self) -> Normalize:
        """Return the map from positions to 0 for the first value and 1 for the last."""
        low, high = self.positions([self.values[0], self.values[-1]])
        if self.kind == "log":
            return LogNorm(low, high)
        if self.kind == "symlog":
            return SymLogNorm(self.least_positive, vmin=low, vmax=high)
        if self.kind == "complement":
            return FuncNorm((complement_decades, complement_at), low, high)
        return Normalize(low, high)

    def set_axis(self, axes: Axes) -> None:
        """Scale and label the horizontal axis of a figure for the values."""
        low, high = self.positions([self.values[0], self.values[-1]])
        axes.set_xlabel(self._axis_label, fontsize=TEXT_SIZE)
        if self._is_log:
            self._scale(axes.set_xscale)
        axes.set_xlim(*self._limits(axes.xaxis))
        self.set_ticks(axes.xaxis)
        if self.is_rotated:
            axes.tick_params(axis="x", rotation=90)
        if self.kind == "log" and high > DECADES_RATIO * low and len(self.values) > 8:
            axes.xaxis.set_major_locator(LogLocator())

    def set_vertical(self, axes: Axes) -> None:
        """Scale and label the vertical axis of a figure for the values, as `set_axis` does."""
        axes.set_ylabel(self._axis_label, fontsize=TEXT_SIZE)
        if self._is_log:
            self._scale(axes.set_yscale)
        axes.set_ylim(*self._limits(axes.yaxis))
        self.set_ticks(axes.yaxis)

    @property
    def _is_log(self) -> bool:
        """Whether an axis is not linear; short log scales are."""
        low, high = self.positions([self.values[0], self.values[-1]])
        return self.kind in ("symlog", "complement") or (
            self.kind == "log" and bool(high > LOG_RATIO * low)
        )

    @property
    def _axis_label(self) -> str:
        return f"{self.label}{' (log scale)' if self._is_log else ''}"

    def _scale(self, set_scale: Callable[..., None]) -> None:
        """Scale an axis that is not linear."""
        if self.kind == "symlog":
            set_scale("symlog", linthresh=self.least_positive)
        elif self.kind == "complement":
            set_scale("function", functions=(complement_decades, complement_at))
        elif self.kind == "log":
            set_scale("log")

    def _limits(self, axis: Axis) -> Floats:
        """Return the ends of a scaled axis, a margin beyond the first and the last value."""
        low, high = self.positions([self.values[0], self.values[-1]])
        ends = axis.get_transform().transform([low, high])
        margin = 0.1 * (ends[1] - ends[0]) or 0.5 * abs(low) or 0.5
        if self.kind == "category":
            margin = 0.5
        limits = axis.get_transform().inverted().transform
        return np.asarray(limits([ends[0] - margin, ends[1] + margin]))

    def set_upright(self, axes: Axes) -> None:
        """Scale the vertical axis of a figure from the first value to the last, as `norm` does."""
        self._scale(axes.set_yscale)
        axes.set_ylim(*self.positions([self.values[0], self.values[-1]]))
        self.set_ticks(axes.yaxis)

    @property
    def is_rotated(self) -> bool:
        """Whether the values are too long to be written side by side below an axis."""
        texts = self.tick_texts() if self.kind == "category" else []
        return len(texts) * (max(map(len, texts), default=0) + 1) > MOST_CHARACTERS

    def tick_texts(self) -> list[str]:
        """Return the labels of a category at an axis; of many, every second, third and so on."""
        return self.texts()[:: -(-len(self.values) // MOST_VALUES_AS_TICKS)]

    def set_ticks(self, axis: Axis) -> None:
        """Put ticks at the values of a scaled axis, at round numbers if the values are many."""
        places = self.positions(self.values)
        axis.set_minor_locator(NullLocator())
        if self.kind == "category":
            step = -(-len(places) // MOST_VALUES_AS_TICKS)
            axis.set_ticks(places[::step], self.tick_texts())
            return
        axis.set_major_formatter(plain_format())
        if len(places) <= MOST_VALUES_AS_TICKS:
            on_axis = axis.get_transform().transform(places)
            axis.set_major_locator(FixedLocator(keep_apart(places, on_axis)))
        elif self.kind == "log":
            axis.set_major_locator(log_ticks(places[0], places[-1]))
        elif self.kind in ("symlog", "complement"):
            ticks = self._round_values(places[0], places[-1])
            on_axis = axis.get_transform().transform(ticks)
            axis.set_major_locator(FixedLocator(keep_apart(ticks, on_axis, self._gap)))

    @property
    def _gap(self) -> float:
        return LEAST_GAP_OF_POWERS if self.kind == "symlog" else 2 * LEAST_GAP

    def _round_values(self, low: float, high: float) -> list[float]:
        """Return round values for ticks of a scale that has no locator of its own."""
        if self.kind == "complement":
            return [value for value in COMPLEMENT_TICKS if low <= value <= high] or [low, high]
        first, last = math.floor(math.log10(self.least_positive)), math.floor(math.log10(high))
        return [0.0, *(10.0**power for power in range(first, last + 1))]


def keep_apart(
    values: Sequence[float] | Floats,
    places: Sequence[float] | Floats,
    gap: float = LEAST_GAP,
) -> list[float]:
    """Return those of ascending values whose labels have room at these places of an axis.

    Args:
        values: the values, in ascending order.
        places: where they stand on the axis.
        gap: the least gap of two labels, as a share of the axis.
    """
    least = gap * (places[-1] - places[0])
    kept: list[int] = []
    for index, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= least:
            kept.append(index)
    return [float(values[index]) for index in kept]


def set_epochs(axes: Axes, frame: pd.DataFrame) -> None:
    """Scale the horizontal axis for epochs; frame: with a column epoch."""
    first, last = (1.0, 1.0) if frame["epoch"].isna().all() else frame["epoch"].agg(["min", "max"])
    margin = max(0.04 * (last - first), 0.5 if first == last else 0.1)
    axes.set_xlim(max(first - margin, 0.2), last + margin)  # no tick for an epoch 0
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def set_updates(axes: Axes, frame: pd.DataFrame) -> None:
    """Scale the horizontal axis for updates; frame: with a column updates."""
    axes.set_xlabel("updates (optimizer steps, log scale)", fontsize=TEXT_SIZE)
    axes.set_xscale("log")
    nothing = frame["updates"].isna().all()
    least, most = (1.0, 10.0) if nothing else frame["updates"].agg(["min", "max"])
    margin = max((most / least) ** 0.04, 1.2)
    axes.set_xlim(least / margin, most * margin)
    axes.xaxis.set_major_locator(log_ticks(least, most))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if nothing:
        axes.xaxis.set_ticks([])


def set_losses(axes: Axes, frame: pd.DataFrame) -> None:
    """Scale the vertical axis for losses; frame: with columns low and high."""
    axes.set_ylabel("loss (nats per image)", fontsize=TEXT_SIZE)
    finite = frame.loc[frame["low"] > 0, ["low", "high"]]
    if finite.empty:
        axes.yaxis.set_ticks([])
        return
    low, high = finite["low"].min(), finite["high"].max()
    if low < LOSS_CEILING < high:
        high = LOSS_CEILING
        axes.set_ylabel(f"loss (nats per image; above {high:g} not shown)", fontsize=TEXT_SIZE)
    if high < LOG_RATIO * low:
        margin = max(0.06 * (high - low), 0.02 * high)
        axes.set_ylim(low - margin, high + margin)
        return
    axes.set_yscale("log", nonpositive="clip")
    margin = (high / low) ** 0.06
    axes.set_ylim(low / margin, high * margin)
    axes.yaxis.set_major_locator(log_ticks(low, high))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(plain_format())


def set_accuracies(axes: Axes, low: float, high: float, label: str) -> None:
    """Scale the vertical axis for accuracies, evenly in the log error where they differ much.

    Args:
        axes: of the panel.
        low: the lowest accuracy to show; NaN: there is none.
        high: the highest.
        label: of the axis.
    """
    axes.yaxis.set_major_formatter(percent_format())
    axes.set_ylabel(label, fontsize=TEXT_SIZE)
    if math.isnan(low):
        axes.yaxis.set_ticks([])
        return
    if 1 + ERROR_FLOOR - low < LOG_RATIO * (1 + ERROR_FLOOR - high):
        margin = max(0.06 * (high - low), 0.005)
        axes.set_ylim(low - margin, min(high + margin, 1 + ERROR_FLOOR / 5))
        return
    axes.set_ylabel(f"{label} (log scale of the error)", fontsize=TEXT_SIZE)
    axes.set_yscale("function", functions=(error_decades, accuracy_at))
    bottom, top = error_decades([low, high])
    margin = 0.06 * (top - bottom)
    limits = accuracy_at([bottom - margin, min(top + margin, error_decades(1.0005))])
    axes.set_ylim(*limits)
    axes.yaxis.set_ticks(accuracy_ticks(*limits))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(percent_format())


def accuracy_norm(accuracies: ArrayLike) -> FuncNorm:
    """Return the map from accuracies to colours, a little wider than those that are finite.

    It is even in the log error: 96 and 97% differ in colour, also beside accuracies of 10%.
    """
    found = np.asarray(accuracies, dtype=float)
    found = found[np.isfinite(found)]
    low, high = (found.min(), found.max()) if len(found) else (0.0, 1.0)
    return FuncNorm((error_decades, accuracy_at), max(low - 0.002, 0.0), min(high + 0.002, 1.0))


def label_accuracies(bar: Axes, norm: Normalize) -> None:
    """Label a colour bar of accuracies; norm: as from `accuracy_norm`."""
    low, high = np.asarray(norm.inverse(np.array([0.0, 1.0])), dtype=float).tolist()
    ticks = accuracy_ticks(low, high)
    few = np.linspace(low + 0.002, high - 0.002, 3).round(3)
    bar.yaxis.set_ticks(ticks if len(ticks) > 2 else few)
    bar.yaxis.set_minor_locator(NullLocator())
    bar.yaxis.set_major_formatter(percent_format())
    bar.tick_params(labelsize=TICK_SIZE)


def log_ticks(low: float, high: float) -> LogLocator:
    """Return round values on a log scale, the denser the shorter the scale."""
    if high < 10 * low:
        return LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
    return LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,))


def complement_decades(value: ArrayLike) -> Floats:
    """Return minus the decimal logarithm of 1 - value, in which momentum is drawn evenly."""
    return np.asarray(-np.log10(np.maximum(1 - np.asarray(value, dtype=float), 1e-12)))


def complement_at(decades: ArrayLike) -> Floats:
    """Return the value that `complement_decades` maps to these decades."""
    return np.asarray(1 - 10.0 ** -np.asarray(decades, dtype=float))


def error_decades(accuracy: ArrayLike) -> Floats:
    """Return minus the decimal logarithm of the error, in which the axis of accuracy is even."""
    error = 1 + ERROR_FLOOR - np.asarray(accuracy, dtype=float)
    return np.asarray(-np.log10(np.maximum(error, ERROR_FLOOR / 100)))


def accuracy_at(decades: ArrayLike) -> Floats:
    """Return the accuracy that `error_decades` maps to these decades."""
    return np.asarray(1 + ERROR_FLOOR - 10.0 ** -np.asarray(decades, dtype=float))


def accuracy_ticks(low: float, high: float) -> list[float]:
    """Return round accuracies whose labels have room; of two close ones, the higher stays."""
    least = 0.055 * float(error_decades(high) - error_decades(low))
    ticks: list[float] = []
    for tick in reversed([tick for tick in ACCURACY_TICKS if low <= tick <= high]):
        if not ticks or error_decades(ticks[-1]) - error_decades(tick) >= least:
            ticks.append(tick)
    return ticks[::-1]


def percent_format() -> FuncFormatter:
    """Return the format of accuracies at an axis: in per cent, with at most four digits."""
    return FuncFormatter(lambda value, _: f"{100 * value:.4g}%")


def plain_format() -> FuncFormatter:
    """Return the format of numbers at an axis, without superfluous digits."""
    return FuncFormatter(lambda value, _: f"{value:g}")
