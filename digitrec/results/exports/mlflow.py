"""A study as MLflow's runs: one for the study, and nested in it one for each trial.

    status              MLflow's status, as MLflow translates those of Optuna
    completed           FINISHED
    dropped             KILLED
    diverged, failed    FAILED; the metrics end before the trial diverged

The experiment has the name of the study directory. A trial's parameters are all hyperparameters
that have an effect in it. The run of the study names the winner and has the artifacts. Trials that
are not trained yet are left out.
"""

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from digitrec.errors import DamagedError, InputError
from digitrec.results.exports.trials import EndedTrial, ended_trials, written
from digitrec.results.report.summary import winning_trial
from digitrec.space.hyperparameters import HYPERPARAMETERS, Trial
from digitrec.store.record import StudyRecord
from digitrec.store.tables import METRICS

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATES = {"completed": "FINISHED", "dropped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
ARTIFACTS = ("report.html", "report.md", "trials.csv", "epochs.csv")
KIND = "custom_model_development"  # or MLflow shows the pages for language models
MOST_OF_TEXT = 5000  # characters of a tag
MOST_AT_ONCE = 900  # metrics of a batch; MLflow takes 1,000 values, parameters among them
SENTENCE_END = r"\. | with exception "  # of what MLflow says; what follows is for its developers


def export_mlflow(record: StudyRecord, uri: str) -> tuple[str, int]:
    """Write a study into an MLflow tracking store; return its experiment and the number of trials.

    Args:
        record: the study, which need not be finished.
        uri: a database such as sqlite:///mlflow.db, which is made if missing, or a server.

    Raises:
        InputError: mlflow is not installed, the store cannot be used, a file of
            the study is damaged, or no trial has ended.
    """
    # Unless the user says otherwise: no usage data to MLflow's makers, and 4 s until a server that
    # does not answer is given up, instead of 4 minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        import sqlalchemy  # noqa: F401  (MLflow imports it for a database only)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise InputError(
            f"--mlflow needs {error.name}, which is not installed: pip install 'digitrec[mlflow]'"
        ) from error
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
    logging.getLogger("alembic").setLevel(logging.WARNING)
    trials = ended_trials(record)
    name = record.directory.name
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        number = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(name, tags={"mlflow.experimentKind": KIND})
        )
        _write_runs(client, number, record, trials)
    except (MlflowException, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--mlflow {uri}: {re.split(SENTENCE_END, reason)[0]}. Give a database such as "
            "sqlite:///mlflow.db, or the address of a server"
        ) from error
    return name, len(trials)


def _write_runs(
    client: "MlflowClient", experiment: str, record: StudyRecord, trials: list[EndedTrial]
) -> None:
    """Write the run of a study and those of its trials."""
    artifacts = _read_artifacts(record)  # before anything is written
    runs = [each.run for each in trials if each.run is not None]
    now = time.time()
    started = min((run.started for run in runs), default=now)
    ended = max((run.ended for run in runs), default=now)
    study = _start(client, experiment, record.directory.name, started, {})
    _describe_study(client, study, record, trials)
    for each in trials:
        _write_trial(client, experiment, study, each, record.failures.get(each.trial.name, ""))
    _write_artifacts(client, study, artifacts)
    client.set_terminated(study, end_time=_milliseconds(ended))


def _start(
    client: "MlflowClient", experiment: str, name: str, started: float, tags: dict[str, str]
) -> str:
    """Start a run; return its identifier."""
    run = client.create_run(
        experiment,
        start_time=_milliseconds(started),
        run_name=name,
        tags=tags | {"mlflow.source.name": "digitrec"},
    )
    return str(run.info.run_id)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _describe_study(
    client: "MlflowClient", run: str, record: StudyRecord, trials: list[EndedTrial]
) -> None:
    """Log what holds for the whole study, and its winner."""
    from mlflow.entities import Metric, Param

    spec = record.spec
    about: dict[str, Any] = {
        "data": spec.data["source"],
        "train_rows": spec.data["train_rows"],
        "val_rows": spec.data["val_rows"],
        "epochs": spec.epochs,
    }
    metrics = []
    for best in (each for each in trials if each.trial.name == winning_trial(record)):
        about["best_trial"] = best.trial.name
        stamp = _milliseconds(best.run.ended if best.run else time.time())
        metrics = [Metric("best_val_accuracy", best.epochs[-1].val_accuracy, stamp, 0)]
    client.log_batch(run, metrics, [Param(name, str(value)) for name, value in about.items()])


def _parameters(trial: Trial) -> dict[str, Any]:
    """Return the hyperparameters that have an effect in a trial, and its seed."""
    effective = [
        each.name
        for each in HYPERPARAMETERS.values()
        if each.needs is None or each.has_effect(trial.configuration)
    ]
    return {name: written(trial, name) for name in effective} | {"seed": trial.seed}


def _write_trial(
    client: "MlflowClient", experiment: str, study: str, ended: EndedTrial, error: str
) -> None:
    """Write the run of a trial; its epochs share the time that its stack took."""
    from mlflow.entities import Metric, Param

    now = time.time()  # for a failed trial, whose times are not kept
    started, end = (ended.run.started, ended.run.ended) if ended.run else (now, now)
    tags = {"mlflow.parentRunId": study, "status": ended.status, "stack": ended.stack}
    if ended.trial.cooldown:
        tags["cooldown"] = str(ended.trial.cooldown)
    if error.strip():
        tags["error"] = error.strip().splitlines()[-1][:MOST_OF_TEXT]
    run = _start(client, experiment, ended.trial.name, started, tags)
    stamps = [
        _milliseconds(started + (end - started) * number / len(ended.epochs))
        for number in range(1, len(ended.epochs) + 1)
    ]
    metrics = [
        Metric(name, getattr(each, name), stamp, each.epoch)
        for each, stamp in zip(ended.epochs, stamps, strict=True)
        for name in METRICS
    ]
    parameters = [Param(name, str(value)) for name, value in _parameters(ended.trial).items()]
    client.log_batch(run, metrics[:MOST_AT_ONCE], parameters)
    for first in range(MOST_AT_ONCE, len(metrics), MOST_AT_ONCE):
        client.log_batch(run, metrics[first : first + MOST_AT_ONCE])
    client.set_terminated(run, STATES[ended.status], end_time=_milliseconds(end))


def _read_artifacts(record: StudyRecord) -> dict[str, bytes]:
    """Return the report, the tables and the winner's model, as far as they are written.

    Raises:
        InputError: one is damaged.
    """
    best = record.directory / "best"
    names = [name for name in record.directory.names() if name in ARTIFACTS]
    artifacts = {}
    for folder, place, name in [
        *((record.directory, "", name) for name in names),
        *((best, "best/", name) for name in best.names()),
    ]:
        try:
            artifacts[place + name] = folder.read(name)
        except DamagedError as error:
            raise InputError(f"{folder / name}: {error}") from error
    return artifacts


def _write_artifacts(client: "MlflowClient", run: str, artifacts: Mapping[str, bytes]) -> None:
    with TemporaryDirectory() as temporary:
        Path(temporary, "best").mkdir()
        for name, content in artifacts.items():
            Path(temporary, name).write_bytes(content)
        client.log_artifacts(run, temporary)
