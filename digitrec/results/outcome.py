"""What a study came to: its tables, winner and figures, derived from its directory."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from digitrec.results.analysis import ranking
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures import plots
from digitrec.results.report.write import write_report
from digitrec.store import tables
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord, read_record
from digitrec.store.timings import Timings
from digitrec.winner.best import write_best
from digitrec.winner.inputs import WinnerInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study directory holds."""

    record: StudyRecord
    ranked: pd.DataFrame  # the completed trials, best first
    findings: list[Finding]  # the verdict

    @property
    def directory(self) -> Folder:
        """The study directory."""
        return self.record.directory

    @property
    def tables(self) -> tables.Tables:
        """A row per trial, a row per trial and epoch."""
        return self.record.tables

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is done, and there is a winner."""
        return self.tables.complete and self.winner is not None

    @property
    def failures(self) -> dict[str, str]:
        """Trial -> error."""
        return self.record.failures

    @property
    def cells(self) -> pd.DataFrame:
        """The configurations without their seeds, best mean first; none where each has one seed.

        See `ranking.rank_confirmed`.
        """
        cells = ranking.rank_confirmed(self.tables.trials, self.record.question.confirmed_trials)
        several = bool((cells["seeds"] > 1).any() or self.record.question.confirmed)
        return cells[cells["compared"] & several]

    @property
    def best(self) -> dict[str, Any] | None:
        """The winner's `model.json`; None: `digitrec tune` has yet to write the model."""
        best = self.record.best
        return best if best is not None and best["trial"] == self.winner else None

    @property
    def winner(self) -> str | None:
        """The best trial; None: no trial completed."""
        return None if self.ranked.empty else str(self.ranked["trial"].iloc[0])


def conclude(
    directory: Folder, holdings: WinnerInputs | None = None, timings: Timings | None = None
) -> StudyResult:
    """Write the tables, figures and report of what a study directory holds now.

    Args:
        directory: the study directory.
        holdings: with it, the winner's model is written as well.
        timings: gets the time that the tables and the figures take.

    Raises:
        InputError: there is no study in the directory.
    """
    timings = timings or Timings()
    with timings.part("write tables and model"):
        record = read_record(directory)
        ranked = ranking.rank(record.tables.trials, record.question.confirmed_trials)
        winner = None if ranked.empty else str(ranked["trial"].iloc[0])
        tables.write_tables(directory, record.tables)
        if holdings is not None:
            record = write_best(record, winner, holdings)
    with timings.part("draw the figures"):
        plots.draw_all(record.tables.trials, record.tables.epochs, winner, directory / "plots")
    with timings.part("write the report"):
        findings = reach_verdict(record)
        write_report(replace(record, timings=timings.parts or record.timings), findings)
    return StudyResult(record=record, ranked=ranked, findings=findings)
