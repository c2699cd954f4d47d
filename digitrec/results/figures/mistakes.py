"""The winner's most confident mistakes, as pictures.

Letters: N' validation images, M mistakes, D pixels, C = 10 classes.
"""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.image import imsave
from numpy.typing import NDArray

from digitrec.results.figures.chart import FigureInputs
from digitrec.results.figures.style import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One of the winner's mistakes."""

    row: int
    """In the data, from 0."""
    label: int
    prediction: int
    probability: float
    """Of the prediction."""
    picture: Picture | None
    """None: the pixels do not make a square."""


def make_mistakes(inputs: FigureInputs) -> list[Mistake]:
    """Return the winner's most confident mistakes, most confident first; none if not kept."""
    labels, validation = inputs.record.labels, inputs.validation
    if labels is None or validation is None:
        return []
    frame = summarise_mistakes(
        labels, validation.probabilities, validation.mistakes, validation.mistake_rows
    )
    return [
        Mistake(
            row=row["row"],
            label=row["label"],
            prediction=row["prediction"],
            probability=row["probability"],
            picture=draw_digit(pixels),
        )
        for row, pixels in zip(frame.to_dict("records"), validation.mistake_images, strict=True)
    ]


def summarise_mistakes(
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    mistakes: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> pd.DataFrame:
    """Return a row per mistake, in the order given.

    Args:
        labels: (N',).
        probabilities: (N', C).
        mistakes: (M,), places among the N' images.
        rows: (M,), row numbers in the data, from 0.

    Returns:
        Columns row, label, prediction, probability (of the prediction).
    """
    chosen = probabilities[mistakes]
    return pd.DataFrame(
        {
            "row": rows,
            "label": labels[mistakes],
            "prediction": chosen.argmax(1),
            "probability": chosen.max(1).astype(float) if len(chosen) else [],
        }
    )


def draw_digit(pixels: NDArray[np.uint8]) -> Picture | None:
    """Return an image of a digit, light on dark; None if its pixels, (D,), do not make a square."""
    side = math.isqrt(len(pixels))
    if side * side != len(pixels):
        return None
    content = BytesIO()
    imsave(content, pixels.reshape(side, side), vmin=0, vmax=255, cmap="gray", format="png")
    return Picture(kind="image/png", content=content.getvalue(), width=side, height=side)
