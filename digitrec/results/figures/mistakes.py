"""The winner's most confident mistakes, as pictures.

Letters: N' validation images, M mistakes, D pixels, C = 10 classes.
"""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
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
    chosen = validation.probabilities[validation.mistakes]  # (M, C)
    columns = (
        validation.mistake_rows.tolist(),
        labels[validation.mistakes].tolist(),
        chosen.argmax(1).tolist(),
        chosen.max(1).tolist(),
        map(draw_digit, validation.mistake_images),
    )
    return [
        Mistake(row=row, label=label, prediction=digit, probability=probability, picture=picture)
        for row, label, digit, probability, picture in zip(*columns, strict=True)
    ]


def draw_digit(pixels: NDArray[np.uint8]) -> Picture | None:
    """Return an image of a digit, light on dark; None if its pixels, (D,), do not make a square."""
    side = math.isqrt(len(pixels))
    if side * side != len(pixels):
        return None
    content = BytesIO()
    imsave(content, pixels.reshape(side, side), vmin=0, vmax=255, cmap="gray", format="png")
    return Picture(kind="image/png", content=content.getvalue(), width=side, height=side)
