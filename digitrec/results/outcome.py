"""What a study came to: its tables, winner and figures, derived from its directory."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from digitrec.data import Scaler
from digitrec.results import plots, tables
from digitrec.results.best import find_best, write_best
from digitrec.results.stacks import read_failures
from digitrec.results.timings import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a study directory holds."""

    directory: Path
    tables: tables.Tables
    ranked: pd.DataFrame  # the completed trials, best first
    failures: dict[str, str]  # trial -> error

    @property
    def model(self) -> Path | None:
        """The winner's model; None: it is not written, as `digitrec tune` does at its end."""
        return find_best(self.directory, self.winner)

    @property
    def winner(self) -> str | None:
        """The best trial; None: no trial completed."""
        return None if self.ranked.empty else str(self.ranked["trial"].iloc[0])


def conclude(
    directory: Path, scaler: Scaler | None = None, timings: Timings | None = None
) -> Outcome:
    """Write the tables and figures of what a study directory holds now.

    Args:
        directory: the study directory.
        scaler: of the training rows; with it, the winner's model is written as well.
        timings: gets the time that the tables and the figures take.

    Raises:
        InputError: there is no study in the directory.
    """
    timings = timings or Timings()
    with timings.part("write tables and model"):
        study = tables.read_tables(directory)
        outcome = Outcome(
            directory=directory,
            tables=study,
            ranked=tables.rank(study.trials),
            failures=read_failures(directory / "stacks"),
        )
        tables.write_tables(directory, study)
        if scaler is not None:
            write_best(directory, outcome.winner, study.trials, scaler)
    with timings.part("draw the figures"):
        plots.draw_all(study.trials, study.epochs, outcome.winner, directory / "plots")
    return outcome
