"""What needs one real Ray around this process: all of it in one file, since a Ray takes seconds."""

import json
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from ray import tune
from ray.train._internal.session import get_session
from rich.console import Console

import digitrec
from digitrec.api import RAYS
from digitrec.doctor import examine as doctor
from digitrec.doctor.machine import inspect_machine
from digitrec.doctor.nodes import inspect_nodes
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.outcome import StudyResult
from digitrec.space.points import Space
from digitrec.space.ranges import Range
from digitrec.space.stacks import Task
from digitrec.store.folder import Folder
from digitrec.tuning import in_process, ray_internals, search
from digitrec.tuning.in_process import InProcess
from digitrec.tuning.metrics import DESCRIPTIONS, Metrics
from digitrec.tuning.runner import MakeRunner
from digitrec.tuning.session import Session, local_runtime_env
from digitrec.tuning.token import secure_token
from digitrec.tuning.trainable import reports, stack_of, train_stack
from tests.studies import folder, leave_out_pictures, run, untimed

# Two generations of stacks of one or two trials: each of two workers trains several.
DRAWN = Space.of(lr=(Range(0.01, 1),), batch_size=(128, 512), points=6, sampler="tpe")

RACED = Space.of(lr=(Range(0.01, 1),), batch_size=(128, 512), points=8)


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """One real Ray with two CPUs, of no more processes than `digitrec tune` starts."""
    secure_token(make=True)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers import no tests
    with ray_internals.bare_start([]):
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=local_runtime_env(),
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def short_generations() -> Iterator[None]:
    """Points are suggested four at a time."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("points", "tpe"):
            patched.setattr(f"digitrec.space.{module}.GENERATION", 4)
        yield


@pytest.fixture(scope="module")
def on_ray(
    two_cpus: None, short_generations: None, tmp_path_factory: pytest.TempPathFactory
) -> StudyResult:
    directory = tmp_path_factory.mktemp("on_ray") / "study"
    return run(directory, DRAWN, runner=Session, stack_size=2)


def files_of(result: StudyResult) -> dict[str, bytes]:
    """What must not depend on where a study was trained; names of files at least."""
    directory = folder(result)
    names = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*")}
    return {
        name: path.read_bytes() if name.startswith(("best/model.saf", "validation")) else b""
        for name, path in names.items()
        if not name.startswith("ray")
    }


def test_a_study_in_this_process_ends_with_the_points_and_files_of_one_on_ray(
    on_ray: StudyResult, tmp_path: Path
) -> None:
    result = run(tmp_path, DRAWN, stack_size=2)
    assert result.complete
    assert result.record.spec.space == on_ray.record.spec.space
    assert files_of(result) == files_of(on_ray)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(tmp_path, name), untimed(folder(on_ray), name), check_exact=True
        )


def test_rays_own_logs_carry_each_member_by_name(on_ray: StudyResult) -> None:
    trials = {path.parent.name: path for path in folder(on_ray).glob("ray/*/*/result.json")}
    assert all(name.startswith("bs") and "-seed0-lr" in name for name in trials)
    for path in trials.values():
        reports = [json.loads(line) for line in path.read_text().splitlines()]
        assert [report["epoch"] for report in reports] == [1, 2]
        for member in reports[0]["config"]["stack"]["members"]:
            assert 0 < reports[0][f"val_accuracy/lr{member['lr']!r}"] < 1
        assert list(path.parent.glob("events.out.tfevents.*"))


def test_workers_are_used_again(on_ray: StudyResult) -> None:
    logs = [path.read_text() for path in folder(on_ray).glob("ray/*/*/result.json")]
    assert len(logs) == len(on_ray.record.results) > 2
    assert len({json.loads(log.splitlines()[0])["pid"] for log in logs}) <= 2


def test_a_race_and_its_finalists_on_ray_end_as_in_this_process(
    two_cpus: None, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"race": True, "rungs": (1, 2), "audit": 1, "stack_size": 2}
    options |= {"confirm": 2, "confirm_seeds": 1, "cooldown": 1}
    here = run(tmp_path / "here", RACED, 2, **options)
    there = run(tmp_path / "there", RACED, 2, runner=Session, **options)
    for name in ("race", "confirmed", "cooled"):
        assert getattr(here.record.spec, name) == getattr(there.record.spec, name)
    assert files_of(here) == files_of(there)
    for name in ("trials.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(
            untimed(folder(here), name), untimed(folder(there), name), check_exact=True
        )
    logs = list(folder(there).glob("ray/*/*/result.json"))
    assert len({path.parent.parent for path in logs}) == 1  # one search of Ray Tune
    assert len({json.loads(path.read_text().splitlines()[0])["pid"] for path in logs}) <= 2
    ends = {path.parent.name.rpartition("-")[2] for path in logs}
    assert ends == {"epoch1", "epoch2", "epoch3"}  # the rungs, and the cooldown


def fail_at_512(config: dict[str, Any], **parts: Any) -> None:
    if stack_of(config).configuration.batch_size == 512:
        raise RuntimeError("no luck today")
    train_stack(config, **parts)


def test_a_failed_stack_keeps_its_rows_and_its_reason(
    two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(search, "train_stack", fail_at_512)
        result = run(tmp_path, max_failures=0, cpus_per_stack=2, runner=Session)
    check_failed_at_512(result)


def reports_but_at_512(task: Task, *parts: Any) -> Iterator[dict[str, Any]]:
    if task.stack.configuration.batch_size == 512:
        raise RuntimeError("no luck today")
    yield from reports(task, *parts)


def test_a_failed_stack_keeps_its_rows_and_its_reason_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(in_process, "reports", reports_but_at_512)
        result = run(tmp_path, max_failures=0)
    check_failed_at_512(result)


def check_failed_at_512(result: StudyResult) -> None:
    """Its rows and its reason are kept, and the same command completes it."""
    assert result.tables.trials["status"].to_list() == ["completed", "failed"] * 2
    assert result.failures["lr0.1-bs512-seed0"].strip().endswith("RuntimeError: no luck today")
    assert result.winner == "lr0.5-bs256-seed0"
    again = run(folder(result))
    assert again.tables.complete
    assert again.failures == {}


@pytest.mark.parametrize("runner", [InProcess, pytest.param(Session, marks=pytest.mark.ray)])
def test_more_resources_than_there_are_are_refused_with_the_numbers(
    runner: MakeRunner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if runner is Session:
        request.getfixturevalue("two_cpus")
    with pytest.raises(InputError, match=r"needs 64 CPUs and 0 GPUs.*: 2 CPUs, 0 GPUs"):
        run(tmp_path, cpus_per_stack=64, runner=runner)
    with pytest.raises(InputError, match=r"needs 1 CPUs and 1 GPUs"):
        run(tmp_path, gpus_per_stack=1, runner=runner)
    assert not (tmp_path / "study.json").exists()


def die_at_the_next_stack(config: dict[str, Any]) -> None:
    """Train nothing; the worker that is first here ends when it is handed another trial."""
    try:
        Path(config["first"]).touch(exist_ok=False)
    except FileExistsError:
        return
    vars(get_session())["finish"] = lambda timeout: os._exit(1)


@pytest.mark.usefixtures("two_cpus")
def test_a_worker_that_is_lost_between_two_stacks_costs_one_retry(tmp_path: Path) -> None:
    tuner = tune.Tuner(
        tune.with_resources(  # one worker at a time
            ray_internals.named_trainable(die_at_the_next_stack, "Stack"), {"cpu": 2}
        ),
        param_space={
            "first": str(tmp_path / "first"),
            "stack": tune.grid_search(list(range(4))),
        },
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )
    with ray_internals.losses_counted_once():
        results = tuner.fit()
    assert (tmp_path / "first").exists()
    assert (len(results), results.num_errors) == (4, 0)


def test_the_nodes_say_what_they_have_and_see_the_study(two_cpus: None, tmp_path: Path) -> None:
    (node,) = inspect_nodes(Folder.at(tmp_path))
    assert (node.cpus, node.gpus, node.sees_study) == (2, 0, True)
    assert node.object_store > 0
    assert node.machine is not None
    assert node.machine.versions == inspect_machine().versions
    assert list(tmp_path.iterdir()) == []
    assert inspect_nodes(None)[0].sees_study is None


def test_the_cluster_around_us_is_examined(
    two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "auth_token"
    token.write_text("of no matter here")
    token.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    request = Request(out=str(tmp_path / "study"), address="auto")
    found = {one.name: one for one in doctor.examine(request, Console(quiet=True))}
    assert "problem" not in {one.level for one in found.values()}, found
    assert found["shared storage"].level == "ok"
    assert list(tmp_path.iterdir()) == [token]


def test_a_study_is_named_in_ascii_since_ray_takes_nothing_else(two_cpus: None) -> None:
    metrics = Metrics("zahlen-ä")
    assert metrics.tags == {"study": r"zahlen-\xe4"}
    metrics.publish(dict.fromkeys(DESCRIPTIONS, 1.0) | {"best_val_accuracy": math.nan})


def rays_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(RAYS)}


def test_a_process_that_has_ray_keeps_it_and_its_environment(
    two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a call outside the main thread, as from a server, ends with the same study."""
    leave_out_pictures(monkeypatch)
    before = rays_variables()
    made: list[digitrec.Study] = []

    def call() -> None:
        made.append(digitrec.tune(out=tmp_path, lr=0.1, batch_size=512, epochs=1))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert made[0].complete
    assert ray.is_initialized()
    assert ray.get(ray.put(1)) == 1
    assert rays_variables() == before
