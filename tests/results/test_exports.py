import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
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
from tests.studies import RACED, WIDE, make_drawn_record, make_raced_record, make_record

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


def in_mlflow(record: StudyRecord, tracking: str) -> tuple[MlflowClient, Any, dict[str, Any]]:
    """MLflow's client, and the runs of the study and of its trials that it reads."""
    name, trials = export_mlflow(record, tracking)
    client = MlflowClient(tracking)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    (study,) = client.search_runs(
        [experiment.experiment_id], f"attributes.run_name = '{record.directory.name}'"
    )
    nested = client.search_runs(
        [experiment.experiment_id], f"tags.mlflow.parentRunId = '{study.info.run_id}'"
    )
    assert len(nested) == trials
    return client, study, {run.info.run_name: run for run in nested}


@of_mlflow
@pytest.mark.slow
def test_mlflow_has_a_run_per_trial_nested_in_that_of_the_study(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps the artifacts of a database
    record = make_record(tmp_path / "grid", diverged=[1.0], failed=[0.01])
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
    _, _, runs = in_mlflow(record, tracking)
    status = record.tables.trials.set_index("trial")["status"]
    assert set(status) == {"completed", "dropped"}
    for name, run in runs.items():
        assert run.info.status == ("KILLED" if status[name] == "dropped" else "FINISHED")


@pytest.mark.parametrize("uri", ["mlruns", "nosql:///x", "http://127.0.0.1:1"])
def test_a_store_that_mlflow_cannot_use_is_refused_in_a_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=f"^--mlflow {uri}: [^\n]*address of a server$"):
        export_mlflow(make_record(tmp_path / "study"), uri)


def test_without_mlflow_the_export_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"needs mlflow.*pip install 'digitrec\[mlflow\]'"):
        export_mlflow(make_record(tmp_path), "sqlite:///mlflow.db")
