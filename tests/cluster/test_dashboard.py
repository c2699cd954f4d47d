"""A head with a dashboard that asks for a token: what it serves of a study, and whom it admits."""

import csv
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.test_doctor import run_doctor
from tests.head import Head, start_head
from tests.tuning.test_metrics import DASHBOARD

SAMPLE = re.compile(r'ray_digitrec_(\w+)\{.*\bstudy="([^"]*)".*\} (\S+)')
TOKEN = "0123456789abcdef" * 2
EPOCHS = 20
OFTEN = {"RAY_metrics_report_interval_ms": "1000"}  # of the driver; the agent keeps its 10 seconds


def scrape(head: Head) -> dict[str, dict[str, float]]:
    """Study -> metric -> value, as Prometheus would see them."""
    with urllib.request.urlopen(head.metrics, timeout=10) as response:
        text = response.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, study, value in SAMPLE.findall(text):
        found.setdefault(study, {})[name] = float(value)
    return found


def follow(head: Head, study: str, process: "subprocess.Popen[bytes]") -> list[dict[str, float]]:
    """What is scraped of a study until its process ends; it fades some seconds after the end."""
    seen = []
    while process.poll() is None:
        seen += [values for name, values in scrape(head).items() if name == study]
        time.sleep(0.5)
    return seen


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with start_head(cpus=1, dashboard=True, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as head:
        yield head


def test_a_running_study_is_scraped_and_its_last_values_are_those_of_its_tables(
    head: Head, tmp_path: Path
) -> None:
    study = tmp_path / "zahlen-ä"
    options = ["--lr=0.1,0.5", "--batch-size=64,128,256", f"--epochs={EPOCHS}", f"--out={study}"]
    command = [*("-m", "tests.undrawn", "tune"), *options, f"--address={head.address}"]
    with subprocess.Popen([sys.executable, *command], env=head.environment | OFTEN) as run:
        seen = follow(head, r"zahlen-\\xe4", run)
    theirs = head.directory / "session_latest/metrics/grafana/dashboards"
    assert DASHBOARD.keys() <= rays_keys(theirs / "default_grafana_dashboard.json")
    assert run.returncode == 0
    assert seen[0]["configurations_done"] < 6
    values = seen[-1]
    trials = list(csv.DictReader((study / "trials.csv").read_text().splitlines()))
    assert values.pop("images_per_second") > 0
    assert values == {
        "configurations": 6,
        "configurations_done": 6,
        "epochs_done": 6 * EPOCHS,
        "best_val_accuracy": pytest.approx(max(float(row["val_accuracy"]) for row in trials)),
        "failures": 0,
    }


def rays_keys(dashboard: Path) -> set[str]:
    return {*json.loads(dashboard.read_text()), "description"}


def test_a_cluster_with_a_token_is_examined_with_the_token_and_named_without(
    head: Head, tmp_path: Path
) -> None:
    options = ("--out", str(tmp_path), "--address")
    code, text = run_doctor(*options, head.address, **head.environment)
    assert (code, "problem" in text) == (0, False), text
    assert f"ok       dashboard: {head.dashboard} admits only users with the token" in text
    without = {k: v for k, v in head.environment.items() if k != "RAY_AUTH_TOKEN"}
    code, text = run_doctor(*options, head.address, **without)
    assert code == 1
    assert "problem  authentication: RAY_AUTH_MODE=token, and there is no token" in text
    code, text = run_doctor(*options, head.dashboard, **without)
    assert (code, "admits only users with the token" in text) == (0, True), text
