"""What a study keeps of its validation images: the labels, and what the winner makes of them.

Letters: N' validation images, D pixels, C = 10 classes, M mistakes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digitrec.store.arrays import Arrays, DamagedError, pack, unpack
from digitrec.store.folder import Folder
from digitrec.store.spec import StudySpec

NAME = "validation.safetensors"  # in the study directory, and in best/


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerValidation:
    """What the winner predicts for the validation images."""

    trial: str
    probabilities: NDArray[np.float32]  # (N', C)
    mistakes: NDArray[np.int64]  # (M,), places among the N' images, most confident first
    mistake_images: NDArray[np.uint8]  # (M, D)
    mistake_rows: NDArray[np.int64]  # (M,), row numbers in the data, from 0


def write_labels(
    study: Folder, question: StudySpec, labels: NDArray[np.uint8], rows: NDArray[np.int64]
) -> None:
    """Keep the labels of the validation images, so that a verdict needs no data.

    Args:
        study: the study directory.
        question: the study's.
        labels: (N',).
        rows: row numbers in the data, (N',).
    """
    about = {"question": question.key}
    study.write(NAME, pack("validation labels", about, {"labels": labels, "rows": rows}))


def read_labels(study: Folder, question: StudySpec) -> NDArray[np.uint8] | None:
    """Return the labels of the validation images; None where they are not kept."""
    found = _read(study, "validation labels", question)
    return None if found is None else found[1]["labels"]


def write_validation(study: Folder, question: StudySpec, validation: WinnerValidation) -> None:
    """Keep what the winner predicts for the validation images."""
    about = {"question": question.key, "trial": validation.trial}
    arrays: Arrays = {
        "probabilities": validation.probabilities,
        "mistakes": validation.mistakes,
        "mistake_images": validation.mistake_images,
        "mistake_rows": validation.mistake_rows,
    }
    (study / "best").write(NAME, pack("winner's validation", about, arrays))


def read_validation(study: Folder, question: StudySpec) -> WinnerValidation | None:
    """Return what the winner predicts for the validation images; None where it is not kept."""
    found = _read(study / "best", "winner's validation", question)
    return None if found is None else WinnerValidation(trial=found[0]["trial"], **found[1])


def _read(folder: Folder, kind: str, question: StudySpec) -> tuple[dict[str, Any], Arrays] | None:
    """Return a file that only adds to the tables; None where there is none of this study."""
    try:
        about, arrays = unpack(kind, folder.read(NAME))
    except (FileNotFoundError, DamagedError):
        return None
    return (about, arrays) if about.get("question") == question.key else None
