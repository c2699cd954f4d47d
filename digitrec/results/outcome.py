"""The result of a study: tables, winner, verdict and report, derived from its directory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from digitrec.results.analysis.evidence import gather_evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.report.markdown import make_markdown
from digitrec.results.report.page import make_page
from digitrec.results.report.sections import Section, draw_mistakes, draw_sections, write_plots
from digitrec.results.report.summary import (
    averaged_trials,
    rank_trials,
    saved_winner,
    summarise,
    winning_trial,
)
from digitrec.store import tables
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord, read_record
from digitrec.store.timings import Timings
from digitrec.winner.best import write_best
from digitrec.winner.inputs import WinnerInputs

PAGE, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study directory holds, and what follows from it."""

    record: StudyRecord
    ranked: pd.DataFrame  # the completed trials, best first
    findings: list[Finding]  # the verdict
    interrupted: bool = False  # whether a Ctrl-C came while it was trained

    @property
    def directory(self) -> Folder:
        """The study directory."""
        return self.record.directory

    @property
    def tables(self) -> tables.Tables:
        """The tables of trials, epochs and runs."""
        return self.record.tables

    @property
    def complete(self) -> bool:
        """Whether every trial is trained and there is a winner."""
        known = not self.record.spec.search_space.unsuggested
        return known and self.tables.complete and self.winner is not None

    @property
    def failures(self) -> dict[str, str]:
        """Trial -> error."""
        return self.record.failures

    @property
    def configurations(self) -> pd.DataFrame:
        """The configurations that are compared, best mean first; none where each has one seed."""
        evidence = gather_evidence(self.record)
        several = (evidence.ranking["seeds"] > 1).any() or self.record.spec.confirmed
        return evidence.comparable if several else evidence.comparable.iloc[:0]

    @property
    def best(self) -> dict[str, Any] | None:
        """The winner's `model.json`; None: the winner's model is not saved yet."""
        return saved_winner(self.record)

    @property
    def winner(self) -> str | None:
        """The best trial; None: no trial completed."""
        return winning_trial(self.record)


def conclude(
    directory: Folder, inputs: WinnerInputs | None = None, timings: Timings | None = None
) -> StudyResult:
    """Write the tables, figures and report of what a study directory holds now.

    Args:
        directory: the study directory.
        inputs: with them, the winner's model is written as well.
        timings: records how long the tables, figures and report take.

    Raises:
        InputError: there is no study in the directory.
    """
    parts = timings or Timings()
    with parts.part("write tables and model"):
        record = read_record(directory)
        ranked = rank_trials(record)
        tables.write_tables(directory, record.tables)
        if inputs is not None:
            record = write_best(record, averaged_trials(record), inputs)
    if timings is not None:
        record = replace(record, timings=dict(timings.parts))
    with parts.part("draw the figures"):
        sections = draw_sections(record)
        write_plots(sections, directory / "plots")
    with parts.part("write the report"):
        findings = reach_verdict(record)
        write_report(record, findings, sections)
    return StudyResult(record=record, ranked=ranked, findings=findings)


def look(directory: Folder) -> StudyResult:
    """Return what a study directory holds now; write nothing.

    Raises:
        InputError: there is no study in the directory.
    """
    record = read_record(directory)
    return StudyResult(record=record, ranked=rank_trials(record), findings=reach_verdict(record))


def write_report(
    record: StudyRecord, findings: Sequence[Finding], sections: Sequence[Section]
) -> None:
    """Write `report.html`, one page with all figures, and `report.md`, the short report."""
    summary = summarise(record, findings)
    page = make_page(summary, sections, draw_mistakes(record))
    record.directory.write(PAGE, page.encode())
    record.directory.write(MARKDOWN, make_markdown(summary).encode())
