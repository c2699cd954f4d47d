"""A study as a Python program and a notebook have it."""

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from digitrec.errors import InputError
from digitrec.results.analysis.finding import Finding
from digitrec.results.figures.chart import Chart
from digitrec.results.outcome import StudyResult
from digitrec.results.report.markdown import make_markdown
from digitrec.results.report.page import make_excerpt, make_page
from digitrec.results.report.sections import draw_figures, draw_mistakes, draw_sections
from digitrec.results.report.summary import saved_winner, summarise
from digitrec.results.text import NO_WINNER
from digitrec.space.hyperparameters import Configuration
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord
from digitrec.winner.classifier import Classifier, load_classifier
from digitrec.winner.output import check_target, written_whole


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The best trial of a study, and its model."""

    trial: str
    """Its name."""
    configuration: Configuration
    """Its hyperparameters, by their names."""
    val_accuracy: float
    """The share of the validation images that it recognises after its last epoch."""
    directory: Folder = field(repr=False)
    """Where its model is saved."""
    is_saved: bool
    """Whether the saved model is this trial's."""

    @cached_property
    def classifier(self) -> Classifier:
        """The saved model, which may average the winner with others; see `Classifier.predict`.

        Raises:
            InputError: it is not saved yet, or damaged.
        """
        if not self.is_saved:
            raise InputError(
                f"{self.directory}: the winner's model is not saved yet; `digitrec.tune` saves it "
                "when it ends"
            )
        return load_classifier(self.directory)


class Study:
    """What a study directory held when it was opened; finished or not."""

    def __init__(self, result: StudyResult) -> None:
        self._result = result
        self.figures = Figures(result.record)
        """Name -> figure, such as comparison, heatmap, sweep or confusion; see `Figures`."""

    @property
    def directory(self) -> str:
        """The absolute path of the study directory, or its address in an object store."""
        return str(self._result.directory)

    @property
    def complete(self) -> bool:
        """Whether every trial is trained and there is a winner."""
        return self._result.complete

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial, as pandas reads `trials.csv`; a new copy each time."""
        return _as_read(self._result.tables.trials)

    @property
    def epochs(self) -> pd.DataFrame:
        """A row per trial and epoch, as pandas reads `epochs.csv`; a new copy each time."""
        return _as_read(self._result.tables.epochs)

    @property
    def verdict(self) -> list[Finding]:
        """What the study shows, and what to run next; the most important first."""
        return list(self._result.findings)

    @cached_property
    def winner(self) -> Winner:
        """The best trial.

        Raises:
            InputError: no trial has completed.
        """
        result, record = self._result, self._result.record
        if result.winner is None:
            raise InputError(f"{self.directory}: {NO_WINNER}")
        trials = {trial.name: trial for trial in record.spec.trials()}
        accuracies = result.tables.trials.set_index("trial")["val_accuracy"]
        return Winner(
            trial=result.winner,
            configuration=trials[result.winner].configuration,
            val_accuracy=float(accuracies[result.winner]),
            directory=result.directory / "best",
            is_saved=saved_winner(record) is not None,
        )

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file: Markdown if its name ends in .md, one page if in .html.

        Raises:
            InputError: the name has another ending, no such file can be written, or it lies in the
                study directory.
        """
        name, record = os.fspath(path), self._result.record
        target, directory = check_target(name), record.directory.path
        if directory is not None and target.is_relative_to(directory.resolve()):
            raise InputError(
                f"{name}: this lies in the study directory, whose files are the study's own; give "
                "a name elsewhere"
            )
        if not name.endswith((".md", ".html")):
            raise InputError(f"{name}: a report is .html or .md; give a name that ends so")
        summary = summarise(record, self._result.findings)
        if name.endswith(".md"):
            text = make_markdown(summary)
        else:
            text = make_page(summary, draw_sections(record), draw_mistakes(record))
        with written_whole(target) as file:
            file.write(text.encode())

    def __repr__(self) -> str:
        return f"digitrec.open_study({self.directory!r})"

    def __str__(self) -> str:
        """Return the state of the study and its verdict, with the calls to make next."""
        summary = summarise(self._result.record, self._result.findings)
        lines = [f"Study of {summary.name}: {summary.state}"]
        for finding in summary.findings:
            lines += [f"- {finding.sentence}", *([f"    {finding.call}"] if finding.call else [])]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: verdict, best trials and comparison; all text escaped."""
        summary = summarise(self._result.record, self._result.findings)
        return make_excerpt(summary, self.figures.chart("comparison"), self.directory)


def _as_read(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as from its file, in which values such as true and false are text."""
    return pd.read_csv(io.StringIO(table.to_csv(index=False)))


class Figures(Mapping[str, Figure]):
    """The figures of the report by name, each drawn when it is first asked for."""

    def __init__(self, record: StudyRecord) -> None:
        self._record = record
        self._charts: dict[str, Chart] = {}
        self._all_drawn = False

    def __getitem__(self, name: str) -> Figure:
        """Return a figure.

        Raises:
            KeyError: the study has none of this name; the message lists those that it has.
        """
        chart = self.chart(name)
        if chart is None:
            raise KeyError(f"there is no figure {name!r}; there are {', '.join(self)}")
        return chart.figure

    def __repr__(self) -> str:
        return f"<Figures {', '.join(self)}>"

    def __iter__(self) -> Iterator[str]:
        self._draw("")
        return iter(self._charts)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def chart(self, name: str) -> Chart | None:
        """Return a figure with its caption and its description in words; None: there is none."""
        if name not in self._charts:
            self._draw(name)
        return self._charts.get(name)

    def _draw(self, name: str) -> None:
        """Draw the figures up to one with this name, or all."""
        if self._all_drawn:
            return
        for made in draw_figures(self._record, name):
            if isinstance(made, Chart):
                self._charts.setdefault(made.name, made)
                if made.name == name:
                    return
        self._all_drawn = True
