"""Notebooks: progress while a study trains, a study as HTML, and the example from start to end."""

import io
import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from rich.console import Console
from rich.live import Live
from rich.text import Text

import digitrec
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.outcome import StudyResult
from digitrec.results.report.summary import rank_trials
from digitrec.results.study import Study
from digitrec.tuning.live import NotebookDisplay, busy, live_display, render_in_html
from tests.head import ONE_CORE
from tests.studies import make_record

EXAMPLE = Path(__file__).parents[1] / "tune_jobs" / "kaggle_digits.ipynb"
HOSTILE = "<img src=x onerror=alert(1)>\"'&.csv"


def make_study(directory: Path, source: str = "digits.csv") -> Study:
    record = make_record(directory, source=source)
    return Study(
        StudyResult(record=record, ranked=rank_trials(record), findings=reach_verdict(record))
    )


@pytest.mark.ray
def test_the_example_notebook_goes_from_digits_to_a_submission(tmp_path: Path) -> None:
    """In a kernel, whose event loop runs while the study does."""
    notebook = nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=os.environ | ONE_CORE)
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission) == ["ImageId", "Label"]
    assert (submission["Label"] == digitrec.read_digits("sample").labels).mean() > 0.85
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shown = [[set(each.get("data", ())) for each in cell] for cell in outputs]
    assert all("text/html" in kinds for kinds in shown[1])  # progress lines, then the study
    assert "The winner is" in outputs[1][-1]["data"]["text/html"]
    assert "image/png" in shown[3][-1]
    assert not any(each.output_type == "stream" for each in outputs[1])  # nor a warning
    assert any("4,000 digits to train on" in str(each) for each in outputs[1])  # Ray cleared none


def test_the_example_notebook_has_no_outputs() -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)


class Elements(HTMLParser):
    """The elements of a text, and the names of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, set[str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name for name, _ in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_study_shows_its_verdict_its_best_trials_and_its_comparison(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    shown = study._repr_html_()
    words = " ".join(Elements(shown).text.split())
    assert all(finding.sentence in words for finding in study.verdict)
    assert str(tmp_path) in words
    assert shown.count("<tr>") == 6  # the headings and the best five
    assert re.search(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="[^"]{20,}"', shown)


def test_no_text_of_the_data_becomes_an_element(tmp_path: Path) -> None:
    study = make_study(tmp_path / "<script>x", HOSTILE)
    elements = Elements(study._repr_html_())
    ours = {"div", "p", "b", "ul", "li", "pre", "img"}
    ours |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in elements.found} <= ours
    assert not any("onerror" in attributes for _, attributes in elements.found)
    assert HOSTILE in elements.text


def test_a_study_of_nothing_yet_is_shown(tmp_path: Path) -> None:
    record = make_record(tmp_path, untrained=(0.01, 0.1, 1.0))
    result = StudyResult(record=record, ranked=rank_trials(record), findings=[])
    shown = Elements(Study(result)._repr_html_()).text
    assert "There is nothing to conclude yet." in shown
    assert "6 not trained yet" in shown


@dataclass
class Output:
    """Stands for an output of a notebook that can be replaced."""

    contents: list[str] = field(default_factory=list)

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Output":
        assert display_id
        self.update(data, raw=raw)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.contents.append(data["text/html"])


def test_progress_in_a_notebook_is_one_output_that_ends_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Output()
    monkeypatch.setattr("IPython.display.display", output.display)
    monkeypatch.setattr("digitrec.tuning.live.REFRESH_SECONDS", 0)
    lines = iter(["first", "second"])
    display = live_display(Console(force_jupyter=True), lambda: Text(next(lines)))
    assert isinstance(display, NotebookDisplay)
    display.start()
    display.refresh()
    display.stop()
    first, second, last = output.contents
    assert "first" in first
    assert "second" in second
    assert last == ""


def test_progress_is_live_on_a_terminal_and_a_log_elsewhere() -> None:
    text = Text("so far")
    assert isinstance(live_display(Console(force_terminal=True), lambda: text), Live)
    assert live_display(Console(force_terminal=False), lambda: text) is None


def test_a_notebook_says_what_a_wait_is_for_and_then_forgets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Output()
    monkeypatch.setattr("IPython.display.display", output.display)
    with busy(Console(force_jupyter=True), "Starting Ray"):
        assert "Starting Ray" in output.contents[-1]  # rich would warn of missing ipywidgets
    assert output.contents[-1] == ""


def test_a_log_says_what_a_wait_is_for_and_a_terminal_keeps_no_line_of_it() -> None:
    for is_terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=is_terminal)
        with busy(console, "Starting Ray", logged=True), busy(console, "Reading sample"):
            pass
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert ("Starting Ray" in lines) is not is_terminal
        assert "Reading sample" not in lines


def test_what_rich_prints_becomes_html_with_its_characters_escaped() -> None:
    assert "&lt;i&gt;" in render_in_html(Text("<i>", style="red"))["text/html"]
    assert render_in_html(Text("<i>"))["text/plain"] == "<i>\n"
