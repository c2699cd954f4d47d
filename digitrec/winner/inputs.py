"""The inputs of the winner's model that are not in the study directory."""

from dataclasses import dataclass

from digitrec.data.digits import Digits, SharedData
from digitrec.store.folder import Folder
from digitrec.store.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The trials of the winner's model, trained again on all rows."""

    directory: Folder  # of a study with these trials alone
    spec: StudySpec
    trials: list[str]
    shared: SharedData  # its scaler is fitted on all rows


@dataclass(frozen=True, slots=True)
class WinnerInputs:
    """The data and the refit that the winner's model is made from, and its test digits."""

    shared: SharedData
    refit: Refit | None = None
    test: Digits | None = None
