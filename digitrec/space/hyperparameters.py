"""The hyperparameters: what a configuration consists of."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Configuration:
    """One point of the search space."""

    lr: float  # learning rate of plain SGD
    batch_size: int  # images per update
    seed: int  # of the initial weights and of the order of the images

    @property
    def trial(self) -> str:
        """The name of the trial that trains this configuration; it does not depend on the grid."""
        return f"lr{self.lr!r}-bs{self.batch_size}-seed{self.seed}"
