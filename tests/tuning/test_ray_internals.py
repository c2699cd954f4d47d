"""The names of Ray that are not made for others: where they are used, and a study without them."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from ray.job_config import JobConfig
from ray.tune.experiment import Trial

from digitrec.doctor.examine import examine_upload
from digitrec.tuning import address, ray_internals
from tests.head import ONE_CORE

ROOT = Path(__file__).parents[2] / "digitrec"
PRIVATE = ("ray._", "ray.tune.execution", "ray.tune.trainable")
STUDY = """
import sys
from tests.undrawn import leave_out_pictures

leave_out_pictures()

from digitrec.tuning import ray_internals

ray_internals.module = lambda name: None

from digitrec.cli.main import main

sys.exit(main(["tune", "--lr=0.1", "--batch-size=512", "--epochs=1", "--out", sys.argv[1]]))
"""


def private_names(module: Path) -> list[str]:
    """What a module imports or names of Ray's that is not made for others."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)  # of import_module, or the name of a logger
    return [name for name in found if name.startswith(PRIVATE)]


def test_one_module_alone_names_what_ray_keeps_to_itself() -> None:
    modules = {path for path in ROOT.rglob("*.py") if private_names(path)}
    assert modules == {ROOT / "tuning" / "ray_internals.py"}


def test_that_module_imports_nothing_of_ray_before_it_is_needed() -> None:
    code = "import sys, digitrec.tuning.ray_internals; assert 'ray' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.ray
def test_a_study_goes_through_on_a_ray_that_has_none_of_these_names(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUDY, str(tmp_path / "study")]
    done = subprocess.run(
        command, env=os.environ | ONE_CORE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert pd.read_csv(tmp_path / "study" / "trials.csv")["status"].to_list() == ["completed"]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that has none of these names."""
    monkeypatch.setattr(ray_internals, "module", lambda _: None)


@pytest.mark.usefixtures("absent")
def test_without_rays_names_an_address_is_left_to_ray() -> None:
    address.check_address("auto")


@pytest.mark.usefixtures("absent")
def test_without_rays_names_an_upload_is_not_judged(tmp_path: Path) -> None:
    found = examine_upload(tmp_path, "sample")
    assert (found.level, "does not say" in found.message) == ("ok", True)
    assert ray_internals.most_uploaded_bytes() == ray_internals.MOST_UPLOADED_BYTES


def test_of_a_trial_that_has_ended_ray_tune_keeps_no_statistics() -> None:
    trial = Trial("trainable", stub=True)
    trial.update_last_result({f"val_loss/lr{k}": 0.1 for k in range(16)})
    statistics = [trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps]
    assert all(len(each) >= 16 for each in statistics)
    ray_internals.forget_statistics(trial)
    assert statistics == [{}, {}]


def test_a_trial_without_such_statistics_is_left_alone() -> None:
    ray_internals.forget_statistics(object())


def test_the_limit_of_an_upload_is_that_of_this_ray() -> None:
    assert ray_internals.most_uploaded_bytes() == ray_internals.MOST_UPLOADED_BYTES


def test_an_idle_agent_tells_that_it_has_no_ports_and_ends_with_its_raylet(tmp_path: Path) -> None:
    command = command_of("dashboard_agent", None)
    options = [f"--session-dir={tmp_path}", "--node-id=7", "--minimal"]
    with subprocess.Popen([*command, *options], stdin=subprocess.PIPE) as agent:
        last = f"{ray_internals.AGENTS['dashboard_agent'].split(',')[-1]}_7"
        while agent.poll() is None and not (tmp_path / last).exists():
            time.sleep(0.01)
        ports = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert agent.poll() is None
    assert len(ports) == 3
    assert set(ports.values()) == {"-1"}
    assert agent.returncode == 0


def command_of(process: str, job: JobConfig | None, *, dashboard: bool = False) -> list[str]:
    """Return how a bare Ray would start one of its processes."""
    services = ray_internals.module("ray._private.services")
    assert services
    with ray_internals.bare_start([], job, dashboard=dashboard):
        build = services._build_python_executable_command_memory_profileable
        return [*build(process, "session")]


@pytest.mark.parametrize(
    ("environment", "idle"), [({}, True), ({"env_vars": {"A": "1"}}, False), (None, False)]
)
def test_the_agent_for_runtime_environments_is_idle_for_a_job_without_one(
    environment: dict[str, object] | None, idle: bool
) -> None:
    job = None if environment is None else JobConfig(runtime_env=environment)
    command = command_of("runtime_env_agent", job)
    assert (str(ray_internals.IDLE_AGENT) in command) == idle


@pytest.mark.parametrize(("version", "idle"), [("2.60.3", True), ("2.61.0", False)])
def test_only_agents_that_are_known_are_idle(
    version: str, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.__version__", version)
    assert (str(ray_internals.IDLE_AGENT) in command_of("dashboard_agent", None)) == idle
    assert str(ray_internals.IDLE_AGENT) not in command_of("dashboard_agent", None, dashboard=True)
    assert str(ray_internals.IDLE_AGENT) not in command_of("log_monitor", JobConfig())


def test_what_ray_tune_passes_to_workers_is_as_before_after_a_search() -> None:
    cache = ray_internals.module("ray.tune.execution.class_cache")
    assert cache
    values, names = cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE
    before = dict(values), set(names)
    assert all(before)
    with ray_internals.nothing_passed_on():
        assert not values
        assert not names
    assert (values, names) == before
