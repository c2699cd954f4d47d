"""The measurements of a trial in an epoch."""

import math
from typing import NamedTuple


class EpochRecord(NamedTuple):
    """One trial's measurements in one epoch; the metrics are NaN once the trial has diverged."""

    epoch: int  # from 1
    updates: int  # optimizer steps since the start; they stop counting when the trial diverges
    train_loss: float  # mean over the epoch's images, nats per image, as trained on
    train_accuracy: float  # fraction of the epoch's images, as trained on
    val_loss: float  # after the epoch, nats per image
    val_accuracy: float  # after the epoch, fraction of the validation images
    seconds: float  # this trial's equal share of its stack's wall-clock time

    @property
    def diverged(self) -> bool:
        """Whether the loss is no longer finite."""
        return not (math.isfinite(self.train_loss) and math.isfinite(self.val_loss))
