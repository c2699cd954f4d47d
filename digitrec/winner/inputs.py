"""The inputs of the winner's model that are not in the study directory."""

from dataclasses import dataclass

from digitrec.data.digits import Digits, Scaler, SharedData
from digitrec.store.folder import Folder
from digitrec.store.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The winner, trained again on all rows."""

    directory: Folder  # of a study with one trial
    spec: StudySpec
    trial: str
    scaler: Scaler  # fitted on all rows


@dataclass(frozen=True, slots=True)
class WinnerInputs:
    """The data and the refit that the winner's model is made from, and its test digits."""

    shared: SharedData
    refit: Refit | None = None
    test: Digits | None = None
