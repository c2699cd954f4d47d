import csv
import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from digitrec.tuning.metrics import DESCRIPTIONS, Metrics
from tests.head import Head, start_head

GRAFANA = Path(__file__).parents[2] / "cluster" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "digitrec.json").read_text())
SAMPLE = re.compile(r'ray_digitrec_(\w+)\{.*\bstudy="([^"]*)".*\} (\S+)')
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

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


@pytest.mark.cluster
def test_a_running_study_is_scraped_and_its_last_values_are_those_of_its_tables(
    tmp_path: Path,
) -> None:
    study = tmp_path / "zahlen-ä"
    options = ["--lr=0.1,0.5", "--batch-size=64,128,256", f"--epochs={EPOCHS}", f"--out={study}"]
    with start_head(cpus=2, dashboard=True) as head:
        command = [
            sys.executable,
            "-m",
            "tests.undrawn",
            "tune",
            *options,
            f"--address={head.address}",
        ]
        with subprocess.Popen(command, env=head.environment | OFTEN) as run:
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


def test_a_study_is_named_in_ascii_since_ray_takes_nothing_else(two_cpus: None) -> None:
    metrics = Metrics("zahlen-ä")
    assert metrics.tags == {"study": r"zahlen-\xe4"}
    metrics.publish(dict.fromkeys(DESCRIPTIONS, 1.0) | {"best_val_accuracy": math.nan})


def test_grafana_shows_every_metric_and_no_other() -> None:
    shown = set(re.findall(r"ray_digitrec_(\w+)", " ".join(EXPRESSIONS)))
    assert shown == set(DESCRIPTIONS)


def test_the_grafana_readme_describes_every_metric() -> None:
    described = re.findall(r"^\| `ray_digitrec_(\w+)`", (GRAFANA / "README.md").read_text(), re.M)
    assert described == list(DESCRIPTIONS)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_a_maximum_by_study_or_a_ratio_of_two(expression: str) -> None:
    """Several drivers of a study, one after the other, are one curve."""
    one = r'max by \(study\) \(ray_digitrec_\w+\{study=~"\$study"\}\)'
    assert re.fullmatch(rf"{one}( / {one})?", expression)


def test_grafana_panels_fill_the_grid_without_overlap() -> None:
    cells: list[tuple[int, int]] = []
    for panel in DASHBOARD["panels"]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        assert x + w <= 24
        cells += [(column, row) for column in range(x, x + w) for row in range(y, y + h)]
    assert len(cells) == len(set(cells))
    assert len(cells) == 24 * (1 + max(row for _, row in cells))
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_grafana_asks_the_datasource_and_the_study_that_a_person_chose() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "study"}
    asked = [panel["datasource"] for panel in DASHBOARD["panels"]] + [
        target["datasource"] for panel in DASHBOARD["panels"] for target in panel["targets"]
    ]
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in asked)
    (name,) = re.findall(
        r"label_values\(ray_digitrec_(\w+), study\)", variables["study"]["query"]["query"]
    )
    assert name in DESCRIPTIONS
