"""The validation images of a study: their labels and the winner's predictions for them.

Letters: N' validation images, D pixels, C = 10 classes, M mistakes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digitrec.errors import DamagedError
from digitrec.store.arrays import Arrays, pack, unpack
from digitrec.store.folder import Folder
from digitrec.store.spec import StudySpec

NAME = "validation.safetensors"  # in the study directory, and in best/


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerValidation:
    """The winner's predictions for the validation images."""

    trial: str
    probabilities: NDArray[np.float32]  # (N', C)
    mistakes: NDArray[np.int64]  # (M,), places among the N' images, most confident first
    mistake_images: NDArray[np.uint8]  # (M, D)
    mistake_rows: NDArray[np.int64]  # (M,), row numbers in the data, from 0


def write_labels(
    directory: Folder, spec: StudySpec, labels: NDArray[np.uint8], rows: NDArray[np.int64]
) -> None:
    """Write the labels of the validation images, so that the verdict does not need the data.

    Both arrays are (N',); the rows are numbers of rows in the data.
    """
    about = {"question": spec.key}
    directory.write(NAME, pack("validation labels", about, {"labels": labels, "rows": rows}))


def read_labels(directory: Folder, spec: StudySpec) -> NDArray[np.uint8] | None:
    """Return the labels of the validation images; None if they are missing or damaged."""
    found = _read(directory, "validation labels", spec)
    return None if found is None else found[1]["labels"]


def write_validation(directory: Folder, spec: StudySpec, validation: WinnerValidation) -> None:
    """Write the winner's predictions for the validation images."""
    about = {"question": spec.key, "trial": validation.trial}
    arrays: Arrays = {
        "probabilities": validation.probabilities,
        "mistakes": validation.mistakes,
        "mistake_images": validation.mistake_images,
        "mistake_rows": validation.mistake_rows,
    }
    (directory / "best").write(NAME, pack("winner's validation", about, arrays))


def read_validation(directory: Folder, spec: StudySpec) -> WinnerValidation | None:
    """Return the winner's predictions for the validation images; None if missing or damaged."""
    found = _read(directory / "best", "winner's validation", spec)
    return None if found is None else WinnerValidation(trial=found[0]["trial"], **found[1])


def _read(folder: Folder, kind: str, spec: StudySpec) -> tuple[dict[str, Any], Arrays] | None:
    """Return the content of a file; None if it is missing, damaged or of another study."""
    try:
        about, arrays = unpack(kind, folder.read(NAME))
    except (FileNotFoundError, DamagedError):
        return None
    return (about, arrays) if about.get("question") == spec.key else None
