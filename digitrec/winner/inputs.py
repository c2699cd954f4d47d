"""What is at hand at the end of a study and is not in its directory."""

from dataclasses import dataclass

from digitrec.data.digits import Digits, Scaler, SharedData
from digitrec.store.folder import Folder
from digitrec.store.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The winner, trained again on all rows."""

    directory: Folder  # a study of one trial
    spec: StudySpec
    trial: str
    scaler: Scaler  # fitted on all rows


@dataclass(frozen=True, slots=True)
class WinnerInputs:
    """What the winner's model is made with and scored on."""

    shared: SharedData
    refit: Refit | None = None
    test: Digits | None = None
