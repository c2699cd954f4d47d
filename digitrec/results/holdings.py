"""What is at hand at the end of a study and is not in its directory."""

from dataclasses import dataclass

from digitrec.data import Digits, Scaler, SharedData
from digitrec.results.question import Question
from digitrec.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The winner, trained again on all rows."""

    study: Storage  # a study of one trial
    question: Question
    trial: str
    scaler: Scaler  # fitted on all rows


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the winner's model is made with and scored on."""

    shared: SharedData
    refit: Refit | None = None
    test: Digits | None = None
