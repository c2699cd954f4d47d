"""A study's metrics for Prometheus, published through Ray.

The metrics agent of the driver's node exports each as `ray_digitrec_...`, tagged with the study's
name. All are gauges: Ray drops a gauge that is not set again within about 20 seconds, so the
metrics of a study end with its driver, while a counter would stay as long as the node. Therefore
publish at least every PUBLISH_INTERVAL seconds.

Publishing takes 0.03 ms and starts no thread; without a metrics agent it has no effect.
"""

from collections.abc import Mapping

from ray.util.metrics import Gauge

PUBLISH_INTERVAL = 5.0  # seconds; Ray exports every 10 and drops gauges not set in between
PREFIX = "digitrec_"
DESCRIPTIONS = {
    "configurations": "Trials of the current round: the search, a rung, fresh seeds or a cooldown",
    "configurations_done": "Trials of it that are trained, in earlier runs or in this one",
    "epochs_done": "Epochs of those that this run trains, kept ones included",
    "best_val_accuracy": "Highest last validation accuracy of this run, a fraction",
    "images_per_second": "Images trained on, once for each configuration, over the last epochs",
    "failures": "Stacks of this run that ended with an error, those trained again included",
}


class Metrics:
    """The metrics of one study.

    Args:
        study: its name, the only tag; other characters than ASCII, which Ray refuses, are escaped.
    """

    def __init__(self, study: str) -> None:
        self.tags = {"study": study.encode("ascii", "backslashreplace").decode()}
        self._gauges = {
            name: Gauge(PREFIX + name, description, tag_keys=("study",))
            for name, description in DESCRIPTIONS.items()
        }

    def publish(self, measurements: Mapping[str, float]) -> None:
        """Set the metrics by their names; Ray exports them within 10 seconds, without NaN."""
        for name, value in measurements.items():
            self._gauges[name].set(value, self.tags)
