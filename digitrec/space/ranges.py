"""Ranges of a hyperparameter, each on a scale; standard library only."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, get_args

from digitrec.errors import InputError

RangeScale = Literal["log", "linear", "complement"]
"""complement: logarithmic in 1 - value."""

BETWEEN = ".."
DIGITS = 3  # significant ones of a value that is drawn


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from `low` to `high`, evenly spread on a scale.

    Raises:
        InputError: an end is not a number, they are not in order, or the scale lacks one of them.
    """

    low: float
    high: float
    scale: RangeScale | None = None  # None: the scale that the hyperparameter declares

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if not isinstance(getattr(self, name), numbers.Real):
                raise InputError(f"the range {self} has an end that is not a number")
            try:
                object.__setattr__(self, name, float(getattr(self, name)))
            except OverflowError as error:
                raise InputError("a range has an end that is too large") from error
        if self.scale not in (None, *get_args(RangeScale)):
            scales = ", ".join(get_args(RangeScale))
            raise InputError(f"the scale {self.scale!r} of a range is not one of {scales}")
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise InputError(f"the range {self} does not go from a number to a higher one")
        if self.scale == "log" and self.low <= 0:
            raise InputError(
                f"the range {self} is logarithmic and does not start above 0; give "
                f"linear:{self}, or 0 as a value and a range above it"
            )
        if self.scale == "complement" and self.high >= 1:
            raise InputError(f"the range {self} is logarithmic in 1 - value and must end below 1")

    def __str__(self) -> str:
        return f"{self.low!r}{BETWEEN}{self.high!r}"

    @classmethod
    def parse(cls, text: str, parse: Callable[[str], Any]) -> "Range":
        """Return the range that a text such as `1e-3..2` or `log:1e-3..2` describes.

        Args:
            text: the range, with or without its scale.
            parse: makes a value from the text of an end.

        Raises:
            ValueError: an end is not a value, or the scale is unknown.
            InputError: it is not a range; see the class.
        """
        scale, colon, ends = text.strip().rpartition(":")
        low, _, high = ends.partition(BETWEEN)
        if colon and scale not in get_args(RangeScale):
            raise ValueError(f"{scale!r} is not a scale")
        unscaled = cls(parse(low), parse(high))
        return unscaled.on(scale) if colon else unscaled  # type: ignore[arg-type]

    def on(self, scale: RangeScale) -> "Range":
        """Return the range on its own scale, or else on this one."""
        return replace(self, scale=self.scale or scale)

    def at(self, share: float) -> float:
        """Return the value at a share of the way from low to high, to 3 significant digits.

        On the scale `complement`, 1 - value has 3 significant digits: 0.9837.
        """
        low, high = self._place(self.low), self._place(self.high)
        place = low + share * (high - low)
        if self.scale == "linear":
            value = _rounded(place)
        elif self.scale == "log":
            value = _rounded(math.exp(place))
        else:
            value = float(1 - Decimal(repr(_rounded(math.exp(-place)))))
        return min(max(value, self.low), self.high)

    def share(self, value: float) -> float:
        """Return how far a value lies on the way from low to high, on the range's scale."""
        low, high = self._place(self.low), self._place(self.high)
        return (self._place(value) - low) / (high - low)

    def _place(self, value: float) -> float:
        """Return the place of a value on the scale."""
        if self.scale == "linear":
            return value
        return math.log(value) if self.scale == "log" else -math.log(1 - value)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
