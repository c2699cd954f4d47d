"""What a study came to: its tables, winner and figures, derived from its directory."""

from dataclasses import dataclass

import pandas as pd

from digitrec.data import SharedData
from digitrec.results import plots, tables
from digitrec.results.best import find_best, write_best
from digitrec.results.record import Record, read_record
from digitrec.results.timings import Timings
from digitrec.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a study directory holds."""

    record: Record
    ranked: pd.DataFrame  # the completed trials, best first
    model: Storage | None  # where the winner's model is; None: `digitrec tune` has yet to write it

    @property
    def directory(self) -> Storage:
        """The study directory."""
        return self.record.directory

    @property
    def tables(self) -> tables.Tables:
        """A row per trial, a row per trial and epoch."""
        return self.record.tables

    @property
    def failures(self) -> dict[str, str]:
        """Trial -> error."""
        return self.record.failures

    @property
    def winner(self) -> str | None:
        """The best trial; None: no trial completed."""
        return None if self.ranked.empty else str(self.ranked["trial"].iloc[0])


def conclude(
    directory: Storage, shared: SharedData | None = None, timings: Timings | None = None
) -> Outcome:
    """Write the tables and figures of what a study directory holds now.

    Args:
        directory: the study directory.
        shared: the study's data; with it, the winner's model is written as well.
        timings: gets the time that the tables and the figures take.

    Raises:
        InputError: there is no study in the directory.
    """
    timings = timings or Timings()
    with timings.part("write tables and model"):
        record = read_record(directory)
        ranked = tables.rank(record.tables.trials)
        winner = None if ranked.empty else str(ranked["trial"].iloc[0])
        tables.write_tables(directory, record.tables)
        if shared is not None:
            write_best(record, winner, shared)
    with timings.part("draw the figures"):
        plots.draw_all(record.tables.trials, record.tables.epochs, winner, directory / "plots")
    return Outcome(record=record, ranked=ranked, model=find_best(directory, winner))
