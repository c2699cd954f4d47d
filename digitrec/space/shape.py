"""The shape of the MLP."""

from collections.abc import Sequence

HIDDEN_SIZES = (256, 128)
CLASSES = 10


def layer_sizes(pixels: int, hidden_sizes: Sequence[int] = HIDDEN_SIZES) -> tuple[int, ...]:
    """Return the widths from input to output, (784, 256, 128, 10) by default."""
    return (pixels, *hidden_sizes, CLASSES)
