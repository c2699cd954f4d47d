"""A study as TensorBoard's logs: a run per trial, with its curves and its hyperparameters.

Ray Tune's own logs have a run per stack, whose hyperparameters are those of several trials.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digitrec.errors import InputError
from digitrec.results.exports.trials import EndedTrial, ended_trials, searched, written
from digitrec.store.record import StudyRecord
from digitrec.store.tables import METRICS


def export_tensorboard(record: StudyRecord, logs: str) -> int:
    """Write the curves and hyperparameters of each trial; return the number of runs.

    Diverged trials have the epochs before; trials without an epoch are left out.

    Raises:
        InputError: the directory is not empty, or no trial has an epoch.
    """
    place = Path(os.path.expanduser(logs))
    if "://" in logs or (place.exists() and not (place.is_dir() and not any(place.iterdir()))):
        raise InputError(f"--tensorboard {logs}: give a new or empty directory on this machine")
    trained = [each for each in ended_trials(record) if each.epochs]
    if not trained:
        raise InputError(f"{record.directory}: no trial has an epoch to export")
    names = list(searched(record))
    values = [_hyperparameters(each, names) for each in trained]
    texts = {
        name: sorted({each[name] for each in values})
        for name, value in values[0].items()
        if isinstance(value, str)
    }
    for each, own in zip(trained, values, strict=True):
        _write_run(place / each.trial.name, each, own, texts)
    return len(trained)


def _hyperparameters(ended: EndedTrial, names: Sequence[str]) -> dict[str, Any]:
    values = {name: written(ended.trial, name) for name in names}
    return values | {"seed": ended.trial.seed, "status": ended.status}


def _write_run(
    place: Path, ended: EndedTrial, values: Mapping[str, Any], texts: Mapping[str, Sequence[str]]
) -> None:
    """Write a run; its epochs share the time that its stack took.

    Args:
        place: the directory of the run.
        ended: the trial.
        values: its hyperparameters, seed and status.
        texts: those that are text, each with the values that any trial has.
    """
    from tensorboardX import FileWriter
    from tensorboardX.summary import hparams, scalar

    assert ended.run is not None, "a trial with an epoch was trained"
    started, seconds = ended.run.started, ended.run.ended - ended.run.started
    experiment, start, end = hparams(values, dict.fromkeys(METRICS, 0.0))
    _add_choices(experiment, texts)
    writer = FileWriter(str(place))
    for summary in (experiment, start, end):
        writer.add_summary(summary, walltime=started)
    for number, each in enumerate(ended.epochs, start=1):
        time = started + seconds * number / len(ended.epochs)
        for name in METRICS:
            writer.add_summary(scalar(name, getattr(each, name)), each.epoch, walltime=time)
    writer.close()


def _add_choices(experiment: Any, texts: Mapping[str, Sequence[str]]) -> None:
    """Name the values of the hyperparameters that are text; TensorBoard hides them otherwise."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    plugin = experiment.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        if info.name in texts:
            info.domain_discrete.extend(texts[info.name])
    plugin.content = data.SerializeToString()
