"""The winner's most confident mistakes, as pictures.

Letters: N' validation images, M mistakes, D pixels, C = 10 classes.
"""

import math
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.image import imsave
from numpy.typing import NDArray

from digitrec.results.figures.canvas import Picture


def summarise_mistakes(
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    mistakes: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> pd.DataFrame:
    """Returns a row per mistake, in the order given.

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
    """Returns an image of a digit, light on dark; None if its pixels do not make a square.

    Args:
        pixels: (D,).
    """
    side = math.isqrt(len(pixels))
    if side * side != len(pixels):
        return None
    content = BytesIO()
    imsave(content, pixels.reshape(side, side), vmin=0, vmax=255, cmap="gray", format="png")
    return Picture(kind="image/png", content=content.getvalue(), width=side, height=side)


def describe_mistake(row: int, label: int, prediction: int, probability: float) -> str:
    """Says what a picture of a mistake shows."""
    return f"Row {row}: a {label}, read as {prediction} with probability {probability:.3f}"
