import json
import re
from pathlib import Path
from typing import Any

import pytest

from digitrec.tuning.metrics import DESCRIPTIONS

GRAFANA = Path(__file__).parents[2] / "cluster" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "digitrec.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


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
