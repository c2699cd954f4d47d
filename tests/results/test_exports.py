import math
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from optuna.visualization import matplotlib as optuna_figures
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from digitrec.cli import main as cli
from digitrec.errors import InputError
from digitrec.results.exports.mlflow import export_mlflow
from digitrec.results.exports.optuna import export_optuna
from digitrec.results.exports.tensorboard import export_tensorboard
from digitrec.space.hyperparameters import Configuration
from digitrec.store.record import StudyRecord
from digitrec.store.tables import METRICS
from tests.conftest import serving
from tests.studies import RACED, WIDE, make_drawn_record, make_raced_record, make_record

if TYPE_CHECKING:
    from mlflow import MlflowClient

FEW = replace(WIDE, points=10)
of_mlflow = pytest.mark.filterwarnings("ignore:The ``noload``:sqlalchemy.exc.SADeprecationWarning")


def better_with_rate(configuration: Configuration, epoch: int = 3) -> float:
    return 0.5 + 0.1 * min(configuration.lr, 1) + 0.01 * epoch


def in_optuna(record: StudyRecord, place: Path) -> optuna.Study:
    """The study that Optuna reads after an export."""
    storage = f"sqlite:///{place / 'study.db'}"
    name = export_optuna(record, storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a storage, which takes seconds to make."""
    return tmp_path_factory.mktemp("optuna")


@pytest.mark.slow
def test_optuna_has_every_ended_trial_with_its_state_and_its_epochs(storage: Path) -> None:
    record = make_record(storage / "grid", diverged=[1.0], untrained=[0.01])
    study = in_optuna(record, storage)
    assert study.study_name == "grid"
    found = {trial.user_attrs["trial"]: trial for trial in study.trials}
    assert set(found) == {f"lr{lr}-bs{size}-seed0" for lr in (0.1, 1.0) for size in (32, 128)}
    whole, diverged = found["lr0.1-bs32-seed0"], found["lr1.0-bs32-seed0"]
    assert (whole.state, diverged.state) == (TrialState.COMPLETE, TrialState.FAIL)
    epochs = record.tables.epochs
    own = epochs[epochs["trial"] == "lr0.1-bs32-seed0"]
    expected = dict(zip(own["epoch"], own["val_accuracy"], strict=True))
    assert whole.intermediate_values == pytest.approx(expected)
    assert whole.value == pytest.approx(expected[3])
    assert list(diverged.intermediate_values) == [1]
    assert diverged.value is None
    assert whole.user_attrs["seed"] == 0
    assert whole.user_attrs["stack"] == "bs32-seed0-lr0.1"
    run = record.results[0].run
    assert whole.datetime_start is not None
    assert whole.datetime_start.timestamp() == run.started
    assert study.best_trial.user_attrs["trial"] == "lr0.1-bs32-seed0"
    assert study.user_attrs["space"] == record.spec.space
    with pytest.raises(InputError, match="has a study of the name grid already"):
        in_optuna(record, storage)


def test_in_optuna_a_list_of_numbers_has_the_scale_of_its_hyperparameter(storage: Path) -> None:
    study = in_optuna(make_record(storage / "lists", failed=[0.01]), storage)
    (failed, *_) = study.get_trials(states=[TrialState.FAIL])
    assert failed.user_attrs["error"] == "RuntimeError: no room"
    (trial, *_) = study.get_trials(states=[TrialState.COMPLETE])
    assert trial.distributions == {
        "lr": FloatDistribution(0.01, 1.0, log=True),
        "batch_size": IntDistribution(32, 128, log=True),
    }


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_in_optuna_a_dropped_trial_is_pruned_at_its_rung(storage: Path) -> None:
    record = make_raced_record(storage / "race", better_with_rate)
    study = in_optuna(record, storage)
    statuses = dict(zip(record.tables.trials["trial"], record.tables.trials["status"], strict=True))
    for trial in study.trials:
        dropped = statuses[trial.user_attrs["trial"]] == "dropped"
        assert trial.state is (TrialState.PRUNED if dropped else TrialState.COMPLETE)
        assert trial.value == trial.intermediate_values[trial.last_step or 0]
        assert (trial.last_step == 9) is not dropped
    assert len(study.trials) == len(RACED.trials())
    curves = optuna_figures.plot_intermediate_values(study)
    assert len(curves.get_lines()) == len(study.trials)
    assert [
        axes.get_xscale() for axes in np.ravel(np.asarray(optuna_figures.plot_slice(study)))
    ] == [*("log", "log", "linear")]


def test_in_optuna_zero_or_a_range_is_a_choice_and_then_a_number(storage: Path) -> None:
    study = in_optuna(make_drawn_record(storage / "wide", better_with_rate, FEW), storage)
    origins = CategoricalDistribution(["0.0", "1e-06..0.01"])
    for trial in study.trials:
        assert trial.distributions["weight_decay_from"] == origins
        is_zero = trial.params["weight_decay_from"] == "0.0"
        assert ("weight_decay" in trial.params) is not is_zero
        assert trial.distributions["lr"] == FloatDistribution(1e-3, 2, log=True)
        assert trial.distributions["momentum"] == FloatDistribution(0, 0.98)
        if not is_zero:
            assert trial.distributions["weight_decay"] == FloatDistribution(1e-6, 0.01, log=True)
    assert len(study.trials) == FEW.points


@pytest.mark.parametrize("url", ["study.db", "sqlite:///no/such/folder/study.db", "nosql:///x"])
def test_a_storage_that_optuna_cannot_use_is_refused_in_a_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^--optuna {url}: .*sqlite:///study.db$"):
        export_optuna(make_record(tmp_path), url)


@pytest.mark.parametrize(
    ("export", "table"), [(export_optuna, "experiments"), (export_mlflow, "studies")]
)
def test_a_database_of_another_program_is_refused_and_left_alone(
    export: Callable[[StudyRecord, str], object], table: str, tmp_path: Path
) -> None:
    make_database(tmp_path / "other.db", f"CREATE TABLE {table} (id)")
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(InputError, match=r"other.db: its tables are another program's: [^\n]*$"):
        export(make_record(tmp_path / "study"), f"sqlite:///{tmp_path / 'other.db'}")
    assert (tmp_path / "other.db").read_bytes() == before


def make_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_a_study_without_an_ended_trial_is_not_exported(tmp_path: Path) -> None:
    record = make_record(tmp_path / "study", untrained=[0.01, 0.1, 1.0])
    for export in (export_optuna, export_tensorboard, export_mlflow):
        with pytest.raises(InputError, match="no trial has ended yet"):
            export(record, str(tmp_path / "there"))
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_export_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs optuna.*pip install 'digitrec\[search\]'"):
        export_optuna(make_record(tmp_path), "sqlite:///study.db")


def test_export_needs_a_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path)]) == 2
    assert "needs one of --onnx, --optuna, --tensorboard, --mlflow" in capsys.readouterr().err


def in_tensorboard(logs: Path) -> tuple[EventMultiplexer, dict[str, Any]]:
    """The runs that TensorBoard reads, and the groups that its HParams page shows."""
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(logs))
    runs.Reload()
    provider = SimpleNamespace(data_provider=MultiplexerDataProvider(runs, str(logs)))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        include_metrics=True,
    )
    context = backend_context.Context(provider)
    shown = list_session_groups.Handler(RequestContext(), context, "", request).run()
    return runs, {group.name: group for group in shown.session_groups}


def test_tensorboard_has_a_run_per_trial_with_curves_and_hyperparameters(tmp_path: Path) -> None:
    def accuracy(configuration: Configuration) -> float:
        return math.nan if configuration.lr > 0.5 else better_with_rate(configuration)

    record = make_drawn_record(tmp_path / "study", accuracy, FEW)
    assert export_tensorboard(record, str(tmp_path / "logs")) == FEW.points
    runs, groups = in_tensorboard(tmp_path / "logs")
    trials = record.tables.trials
    assert set(trials["status"]) == {"completed", "diverged"}
    assert set(runs.Runs()) == set(groups) == set(trials["trial"])
    for row in trials.to_dict("records"):
        own = record.tables.epochs[record.tables.epochs["trial"] == row["trial"]].dropna()
        events = runs.Tensors(row["trial"], "val_accuracy")
        assert [event.step for event in events] == own["epoch"].tolist()
        values = [event.tensor_proto.float_val[0] for event in events]
        assert values == pytest.approx(own["val_accuracy"].tolist())
        shown = groups[row["trial"]].hparams
        assert shown["lr"].number_value == row["lr"]
        assert shown["batch_size"].number_value == row["batch_size"]
        assert shown["status"].string_value == row["status"]
        last = {each.name.tag: each.value for each in groups[row["trial"]].metric_values}
        assert last["val_loss"] == pytest.approx(own["val_loss"].iloc[-1])


def test_logs_are_written_to_an_empty_directory_only(tmp_path: Path) -> None:
    record = make_record(tmp_path / "study")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine").touch()
    for place in (str(tmp_path / "logs"), "s3://bucket/logs"):
        with pytest.raises(InputError, match="give a new or empty directory"):
            export_tensorboard(record, place)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store, which takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def in_mlflow(record: StudyRecord, tracking: str) -> tuple["MlflowClient", Any, dict[str, Any]]:
    """MLflow's client, and the runs of the study and of its trials that it reads."""
    environment = dict(os.environ)
    name, trials = export_mlflow(record, tracking)
    assert dict(os.environ) == environment
    client, study, runs = runs_of(name, tracking)
    assert len(runs) == trials
    return client, study, runs


def runs_of(name: str, tracking: str) -> tuple["MlflowClient", Any, dict[str, Any]]:
    from mlflow import MlflowClient  # imported at the top, it would take a second of every test run

    client = MlflowClient(tracking)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (study,) = (run for run in runs if run.info.run_name == name)
    nested = {run.info.run_name: run for run in runs if run is not study}
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} <= {study.info.run_id}
    return client, study, nested


@of_mlflow
@pytest.mark.slow
def test_mlflow_has_a_run_per_trial_nested_in_that_of_the_study(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps the artifacts of a database
    record = make_record(tmp_path / "grid", diverged=[1.0], failed=[0.01], best={})
    record.directory.write("report.md", b"a report")
    (record.directory / "best").prepare()
    (record.directory / "best").write("model.json", b"a model")
    client, study, runs = in_mlflow(record, tracking)
    trials = record.tables.trials
    assert set(runs) == set(trials["trial"])
    for row in trials.to_dict("records"):
        run = runs[row["trial"]]
        completed = row["status"] == "completed"
        assert run.info.status == ("FINISHED" if completed else "FAILED")
        assert run.data.tags["status"] == row["status"]
        assert float(run.data.params["lr"]) == row["lr"]
        assert run.data.params["batch_size"] == str(row["batch_size"])
        assert run.data.params["hidden_sizes"] == "256-128"
        own = record.tables.epochs[record.tables.epochs["trial"] == row["trial"]].dropna()
        history = client.get_metric_history(run.info.run_id, "val_accuracy") if len(own) else []
        assert [each.step for each in history] == own["epoch"].tolist()
        assert [each.value for each in history] == pytest.approx(own["val_accuracy"].tolist())
    assert runs["lr0.01-bs32-seed0"].data.tags["error"] == "RuntimeError: no room"
    stack = record.results[0]
    trained = runs[stack.stack.members[0].name]
    assert trained.info.start_time == round(stack.run.started * 1000)
    assert trained.info.end_time == round(stack.run.ended * 1000)
    best = trials.nlargest(1, "val_accuracy").iloc[0]
    assert study.data.params["best_trial"] == best["trial"]
    assert study.data.metrics["best_val_accuracy"] == pytest.approx(best["val_accuracy"])
    artifacts = {each.path for each in client.list_artifacts(study.info.run_id)}
    assert {"report.md", "best"} <= artifacts
    (model,) = client.list_artifacts(study.info.run_id, "best")
    assert model.path == "best/model.json"
    (record.directory / "best").write("model.safetensors", b"cut short")
    with pytest.raises(InputError, match=r"^.*best/model.safetensors: it is cut short"):
        export_mlflow(record, tracking)


@of_mlflow
@pytest.mark.slow
def test_in_mlflow_a_dropped_trial_is_killed_and_has_its_epochs(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = make_raced_record(tmp_path / "race", better_with_rate)
    monkeypatch.setattr("digitrec.results.exports.mlflow.MOST_AT_ONCE", 5)
    client, _, runs = in_mlflow(record, tracking)
    status = record.tables.trials.set_index("trial")["status"]
    assert set(status) == {"completed", "dropped"}
    epochs = record.tables.epochs.set_index("trial")
    for name, run in runs.items():
        assert run.info.status == ("KILLED" if status[name] == "dropped" else "FINISHED")
        for metric in METRICS:
            history = client.get_metric_history(run.info.run_id, metric)
            assert [each.step for each in history] == epochs.loc[[name], "epoch"].tolist()


@of_mlflow
@pytest.mark.slow
def test_mlflow_gets_no_model_but_the_winners(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = make_record(tmp_path / "unfinished", untrained=[1.0], best={"trial": "another"})
    (record.directory / "best").prepare()
    (record.directory / "best").write("model.json", b"a model")
    client, study, _ = in_mlflow(record, tracking)
    assert study.data.params["best_trial"] == "lr0.1-bs32-seed0"
    assert client.list_artifacts(study.info.run_id) == []


@of_mlflow
@pytest.mark.slow
def test_a_stopped_export_leaves_no_run_running(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def log_batch(self: "MlflowClient", run: str, *values: Any) -> None:
        if self.get_run(run).info.run_name == "lr0.1-bs32-seed0":
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    record = make_record(tmp_path / "stopped", lrs=(0.01, 0.1, 1.0), batch_sizes=(32,))
    with pytest.raises(KeyboardInterrupt):
        export_mlflow(record, tracking)
    _, study, runs = runs_of("stopped", tracking)
    statuses = {name: run.info.status for name, run in runs.items()}
    assert statuses == {"lr0.01-bs32-seed0": "FINISHED", "lr0.1-bs32-seed0": "FAILED"}
    assert study.info.status == "FAILED"


@of_mlflow
@pytest.mark.slow
def test_files_that_mlflow_cannot_store_are_told_of_in_a_line(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def log_artifacts(*_: object) -> None:
        raise RuntimeError("no such bucket\nand more")  # as libraries of object stores do

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MlflowClient, "log_artifacts", log_artifacts)
    with pytest.raises(InputError, match=r"the model cannot be stored: no such bucket$"):
        export_mlflow(make_record(tmp_path / "full", lrs=(0.1,)), tracking)
    _, study, _ = runs_of("full", tracking)
    assert study.info.status == "FAILED"


@of_mlflow
@pytest.mark.slow
def test_an_experiment_that_was_deleted_is_to_be_restored(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = make_record(tmp_path / "deleted", lrs=(0.1,))
    client, study, _ = in_mlflow(record, tracking)
    client.delete_experiment(study.info.experiment_id)
    restore = f"mlflow experiments restore --experiment-id {study.info.experiment_id}"
    with pytest.raises(InputError, match=f"deleted was deleted there[^\n]*{restore}"):
        export_mlflow(record, tracking)


@of_mlflow
@pytest.mark.slow
def test_a_server_gets_the_runs_and_the_files_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = make_record(tmp_path / "served", lrs=(0.1,), best={})
    (record.directory / "best").prepare()
    (record.directory / "best").write("model.json", b"a model")
    database, files = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "files")
    stores = ["--backend-store-uri", database, "--artifacts-destination", files]
    command = ["mlflow", "server", "--port", "0", "--workers", "1", *stores]
    with serving(command, tmp_path / "log") as (endpoint, _):
        client, study, runs = in_mlflow(record, f"http://{endpoint}")
        assert {run.info.status for run in (study, *runs.values())} == {"FINISHED"}
        assert set(runs) == set(record.tables.trials["trial"])
        (model,) = client.list_artifacts(study.info.run_id, "best")
    assert model.path == "best/model.json"
    assert capfd.readouterr() == ("", "")


def test_a_database_of_another_version_of_mlflow_is_refused_and_left_alone(tmp_path: Path) -> None:
    make_database(
        tmp_path / "old.db",
        "CREATE TABLE experiments (id)",
        "CREATE TABLE alembic_version (version_num)",
        "INSERT INTO alembic_version VALUES ('451aebb31d03')",
    )
    before = (tmp_path / "old.db").read_bytes()
    with pytest.raises(InputError, match=r"another version of MLflow.*mlflow db upgrade"):
        export_mlflow(make_record(tmp_path / "study"), f"sqlite:///{tmp_path / 'old.db'}")
    assert (tmp_path / "old.db").read_bytes() == before


@pytest.mark.parametrize(
    "uri", ["mlruns", "nosql:///x", "sqlite:///folder", "sqlite:///text", "http://127.0.0.1:1"]
)
def test_a_store_that_mlflow_cannot_use_is_refused_in_a_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no database" * 100)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=f"^--mlflow {uri}: [^\n]*address of a server$"):
        export_mlflow(make_record(tmp_path / "study"), uri)


def test_without_mlflow_the_export_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"needs mlflow.*pip install 'digitrec\[mlflow\]'"):
        export_mlflow(make_record(tmp_path), "sqlite:///mlflow.db")
