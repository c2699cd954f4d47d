"""The shape of the MLP."""

import itertools
from collections.abc import Sequence

HIDDEN_SIZES = (256, 128)
CLASSES = 10
NOMINAL_PIXELS = 784  # where the number does not matter much


def layer_sizes(pixels: int, hidden: Sequence[int] = HIDDEN_SIZES) -> tuple[int, ...]:
    """Return the widths from input to output, (784, 256, 128, 10) by default."""
    return (pixels, *hidden, CLASSES)


def count_parameters(pixels: int, hidden: Sequence[int] = HIDDEN_SIZES) -> int:
    """Return the number of weights and biases of an MLP with these hidden layers."""
    sizes = layer_sizes(pixels, hidden)
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
