"""What a figure of the report is made from, and what it consists of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from digitrec.results.analysis.ranking import evenly_trained
from digitrec.results.figures.configurations import searched
from digitrec.results.figures.curves import summarise_curves
from digitrec.results.figures.style import Picture, render
from digitrec.results.text import NO_WINNER
from digitrec.store.record import StudyRecord
from digitrec.store.validation import WinnerValidation

FEWEST_FOR_OVERVIEW = 3  # hyperparameters; the heat map shows all of two


@dataclass(frozen=True)
class FigureInputs:
    """A study and its winner."""

    record: StudyRecord
    winner: str | None

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The table of trials, without those that cool down: finalists only cannot be compared."""
        return self.record.searched.trials

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """The table of epochs; of the trials that cool down, the cooldown alone.

        So it continues the curves of their configurations. The trials that a race dropped are left
        out: the figure of the race shows them.
        """
        spec, epochs = self.record.spec, self.record.tables.epochs
        cooled = epochs["trial"].isin(list(spec.cooled_trials))
        dropped = epochs["trial"].isin(self.trials.loc[self.trials["status"] == "dropped", "trial"])
        return epochs[~dropped & (~cooled | (epochs["epoch"] > spec.epochs))]

    @cached_property
    def evenly_trained(self) -> pd.DataFrame:
        """The table of trials as all of them were at some time; see `evenly_trained`."""
        return evenly_trained(self.record)

    @property
    def when(self) -> str:
        """When the accuracies of `evenly_trained` were measured: after ..."""
        race = self.record.spec.raced
        return f"epoch {race.rungs[0]}, the first rung of the race" if race else "the last epoch"

    @property
    def basis(self) -> str:
        """A sentence for the captions of figures of `evenly_trained`; empty but in a race."""
        if self.record.spec.raced is None:
            return ""
        return f"Accuracies are those after {self.when}: few trials were trained longer."

    @property
    def marked(self) -> str | None:
        """The winner's trial in `trials`: the one that it continues if it cooled down."""
        return self.record.spec.cooled_trials.get(self.winner or "", self.winner)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The curves of all metrics, as from `summarise_curves`."""
        return summarise_curves(self.trials, self.epochs, self.marked)

    @property
    def answers(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """The labels and the digits that the winner predicts, (N',); None where not kept."""
        labels, predictions = self.record.labels, self.record.predictions.get(self.winner or "")
        return None if labels is None or predictions is None else (labels, predictions)

    @property
    def validation(self) -> WinnerValidation | None:
        """What the winner predicts; None where it is not kept or belongs to an earlier winner."""
        validation = self.record.validation
        return validation if validation and validation.trial == self.winner else None

    @property
    def why_no_comparison(self) -> str:
        """Why no values of a hyperparameter can be compared."""
        if not searched(self.trials):
            return "the study has one configuration"
        return "no trial has completed"

    @property
    def why_no_overview(self) -> str | None:
        """Why a figure of many hyperparameters would show nothing new; None: it does."""
        if len(searched(self.trials)) < FEWEST_FOR_OVERVIEW:
            return f"it takes {FEWEST_FOR_OVERVIEW} searched hyperparameters"
        return None

    @property
    def why_no_predictions(self) -> str:
        """Why the winner's predictions are unknown."""
        if self.winner is None:
            return NO_WINNER
        return (
            "the study directory holds no predictions of the winner; `digitrec tune` writes them "
            "when it ends"
        )


@dataclass(frozen=True)
class Chart:
    """A figure of the report."""

    name: str
    """A short name, for its address within the page."""
    title: str
    caption: str
    """How to read it."""
    says: str
    """What it shows, in words and numbers."""
    figure: Figure
    marks: int
    """About how many points and lines it has."""
    wide: bool = False
    """Whether it takes the whole width of the page."""

    @cached_property
    def picture(self) -> Picture:
        """The figure as the page shows it."""
        return render(self.figure, self.marks)


@dataclass(frozen=True, slots=True)
class Omission:
    """A figure that is not drawn."""

    title: str
    reason: str
