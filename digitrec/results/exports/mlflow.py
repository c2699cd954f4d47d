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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from digitrec.errors import DamagedError, InputError
from digitrec.results.exports.trials import EndedTrial, ended_trials, first_line, written
from digitrec.results.report.summary import saved_winner, winning_trial
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
# A server that refuses connections is given up after 5 s, one that does not answer after 35 s,
# instead of 4 and 20 minutes. Once a server has answered, MLflow's own patience holds.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set those environment variables that the user has not set, for this block."""
    missing = values.keys() - os.environ.keys()
    os.environ.update({name: values[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


# No usage data to MLflow's makers; no line for each run.
@_environment({"MLFLOW_DISABLE_TELEMETRY": "1", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1"})
def export_mlflow(record: StudyRecord, uri: str) -> tuple[str, int]:
    """Write a study into an MLflow tracking store; return its experiment and the number of trials.

    Args:
        record: the study, which need not be finished.
        uri: a database such as sqlite:///mlflow.db, which is made if missing, or a server.

    Raises:
        InputError: mlflow is not installed, the store cannot be used, a file of
            the study is damaged, or no trial has ended.
    """
    try:
        from alembic.util import CommandError
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise InputError(
            f"--mlflow needs {error.name}, which is not installed: pip install 'digitrec[mlflow]'"
        ) from error
    for library in ("mlflow", "alembic", "urllib3"):  # they log errors that InputError tells of
        logging.getLogger(library).setLevel(logging.CRITICAL)
    trials = ended_trials(record)
    name = record.directory.name
    try:
        _check_database(uri)
        with _environment(IMPATIENT):
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name(name)
    except (MlflowException, SQLAlchemyError, CommandError, ImportError, ValueError) as error:
        raise InputError(
            f"--mlflow {uri}: {_reason(error).rstrip('.')}. Give a database such as "
            "sqlite:///mlflow.db, or the address of a server"
        ) from error
    if experiment and experiment.lifecycle_stage == "deleted":
        raise InputError(
            f"--mlflow {uri}: the experiment {name} was deleted there. To restore it: mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}, with "
            f"MLFLOW_TRACKING_URI={uri} in the environment"
        )
    try:
        number = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(name, tags={"mlflow.experimentKind": KIND})
        )
        _write_runs(client, number, record, trials)
    except MlflowException as error:
        raise InputError(f"--mlflow {uri}: {_reason(error)}") from error
    return name, len(trials)


def _reason(error: Exception) -> str:
    """Return the first line of what MLflow says, without what is for its developers."""
    return first_line(error).partition(" with exception ")[0]


def _check_database(uri: str) -> None:
    """Refuse a database that MLflow would add its tables to, or whose tables it would change.

    Raises:
        ValueError: it has tables, but not those of this version of MLflow.
        SQLAlchemyError: it cannot be used.
    """
    import mlflow
    from alembic.script import ScriptDirectory
    from mlflow.store.db.db_types import DATABASE_ENGINES

    from digitrec.results.exports.databases import read_revision

    if not uri.startswith(tuple(DATABASE_ENGINES)):
        return
    found = read_revision(uri, "experiments")
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    if found not in (None, ScriptDirectory(str(migrations)).get_current_head()):
        raise ValueError(
            f"its tables are those of another version of MLflow than {mlflow.__version__}, which "
            f"is installed here. If they are older, 'mlflow db upgrade {uri}' upgrades them, and "
            "older versions can no longer read them then"
        )


def _write_runs(
    client: "MlflowClient", experiment: str, record: StudyRecord, trials: list[EndedTrial]
) -> None:
    """Write the run of a study and those of its trials."""
    artifacts = _read_artifacts(record)  # before anything is written
    runs = [each.run for each in trials if each.run is not None]
    now = time.time()
    started = min((run.started for run in runs), default=now)
    ended = max((run.ended for run in runs), default=now)
    with _run(client, experiment, record.directory.name, (started, ended), {}) as study:
        _describe_study(client, study, record, trials)
        for each in trials:
            _write_trial(client, experiment, study, each, record.failures.get(each.trial.name, ""))
        _write_artifacts(client, study, artifacts)


@contextmanager
def _run(
    client: "MlflowClient",
    experiment: str,
    name: str,
    times: tuple[float, float],
    tags: dict[str, str],
    status: str = "FINISHED",
) -> Iterator[str]:
    """Start a run, and end it after the block; if the block is left early, the run has failed."""
    from mlflow.exceptions import MlflowException

    started, ended = map(_milliseconds, times)
    tags = tags | {"mlflow.source.name": "digitrec"}
    info = client.create_run(experiment, start_time=started, run_name=name, tags=tags).info
    try:
        yield info.run_id
        client.set_terminated(info.run_id, status, ended)
    except BaseException:  # a Ctrl-C too
        with suppress(MlflowException), _environment(IMPATIENT):
            client.set_terminated(info.run_id, "FAILED")
        raise


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
    times, state = (started, end), STATES[ended.status]
    with _run(client, experiment, ended.trial.name, times, tags, state) as run:
        client.log_batch(run, metrics[:MOST_AT_ONCE], parameters)
        for first in range(MOST_AT_ONCE, len(metrics), MOST_AT_ONCE):
            client.log_batch(run, metrics[first : first + MOST_AT_ONCE])


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
        *((best, "best/", name) for name in (best.names() if saved_winner(record) else ())),
    ]:
        try:
            artifacts[place + name] = folder.read(name)
        except DamagedError as error:
            raise InputError(f"{folder / name}: {error}") from error
    return artifacts


def _write_artifacts(client: "MlflowClient", run: str, artifacts: Mapping[str, bytes]) -> None:
    with TemporaryDirectory() as temporary:
        for name, content in artifacts.items():
            path = Path(temporary, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        try:
            client.log_artifacts(run, temporary)
        except Exception as error:  # the library of each kind of artifact store has its own
            raise InputError(
                f"--mlflow {client.tracking_uri}: the report, the tables and the model cannot be "
                f"stored: {_reason(error)}"
            ) from error
