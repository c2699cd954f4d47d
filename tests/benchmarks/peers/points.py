"""The space that all searches share, and its points."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LRS = (1e-3, 2.0)  # log
KEPT = (0.02, 1.0)  # 1 - momentum, log: momentum 0 to 0.98
WEIGHT_DECAYS = (1e-6, 1e-2)  # log
DROPOUTS = (0.0, 0.5)  # linear
BATCH_SIZES = (32, 64, 128, 256, 512)
HIDDEN = ("256-128", "512-256")
AUGMENTATIONS = ("none", "affine")  # searched on request only
MOST_EPOCHS = 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A configuration of the space."""

    lr: float
    momentum: float
    weight_decay: float
    dropout: float
    batch_size: int
    hidden_sizes: str  # 256-128
    augmentation: str = "none"
    cooldown: int = 0  # the last of the epochs, in which the rate falls linearly to 0

    @classmethod
    def of(cls, drawn: Mapping[str, Any]) -> "Point":
        """Return the point of values as the peers draw them: `kept` is 1 - momentum."""
        values = dict(drawn)
        if "kept" in values:
            values["momentum"] = min(max(1 - float(values.pop("kept")), 0.0), 0.98)
        floats = ("lr", "momentum", "weight_decay", "dropout")
        return cls(
            **{name: float(values[name]) for name in floats},
            batch_size=int(values["batch_size"]),
            hidden_sizes=str(values["hidden_sizes"]),
            augmentation=str(values.get("augmentation", "none")),
            cooldown=int(values.get("cooldown", 0)),
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """The units of each hidden layer."""
        return tuple(int(part) for part in self.hidden_sizes.split("-"))

    def to_json(self) -> dict[str, Any]:
        """Return the point as plain values; those of a point without cooldown do not name it."""
        return {name: value for name, value in asdict(self).items() if value or name != "cooldown"}

    def __str__(self) -> str:
        words = f"lr {self.lr:.3g}, momentum {self.momentum:.3g}, decay {self.weight_decay:.1e}"
        words += f", dropout {self.dropout:.2f}, batch {self.batch_size}, {self.hidden_sizes}"
        words += "" if self.augmentation == "none" else f", {self.augmentation}"
        return words + (f", cooldown of {self.cooldown}" if self.cooldown else "")


def tune_options(*, augmentation: bool) -> list[str]:
    """Return the space as options of `digitrec tune`."""
    options = [
        *("--lr", between(LRS)),
        *("--momentum", f"0..{1 - KEPT[0]:g}"),
        *("--weight-decay", between(WEIGHT_DECAYS)),
        *("--dropout", between(DROPOUTS)),
        *("--batch-size", ",".join(map(str, BATCH_SIZES))),
        *("--hidden-sizes", ",".join(HIDDEN)),
    ]
    return options + (["--augmentation", ",".join(AUGMENTATIONS)] if augmentation else [])


def between(ends: tuple[float, float]) -> str:
    """Return a range as digitrec reads it."""
    low, high = ends
    return f"{low:g}..{high:g}"


def powers_of_two() -> tuple[int, int]:
    """Return the exponents of the smallest and the largest batch size."""
    return int(math.log2(BATCH_SIZES[0])), int(math.log2(BATCH_SIZES[-1]))
