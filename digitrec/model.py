"""A stack of MLPs: shapes, initial weights, forward pass.

Letters: K trials of a stack, B images of a batch, D = 784 pixels, C = 10 classes,
I inputs and O outputs of a layer.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from digitrec.products import Activations, Products

HIDDEN_SIZES = (256, 128)
CLASSES = 10


@dataclass(frozen=True, slots=True)
class StackedMLP:
    """K MLPs of one shape, ReLU between layers; layer l of all of them is one tensor."""

    weights: list[Tensor]  # per layer (K, O, I)
    biases: list[Tensor]  # per layer (K, O)

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.weights[0].dtype

    def hidden_activations(self, x: Tensor, products: Products) -> list[Activations]:
        """Return the input of every layer: `x` of shape (B, D), then each hidden layer's output."""
        activations: list[Activations] = [x]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            activations.append(products.hidden(activations[-1], weight, bias))
        return activations

    def logits(self, x: Tensor, products: Products) -> Tensor:
        """Return the logits (K, B, C) of scaled images `x` (B, D)."""
        last = self.hidden_activations(x, products)[-1]
        return products.linear(last, self.weights[-1], self.biases[-1])

    def member(self, k: int) -> dict[str, Tensor]:
        """Return trial k's parameters, named as in `torch.nn.Sequential(Linear, ReLU, ...)`."""
        named = {}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"{2 * layer}.weight"] = weight[k]
            named[f"{2 * layer}.bias"] = bias[k]
        return named


def layer_sizes(pixels: int, hidden_sizes: Sequence[int] = HIDDEN_SIZES) -> tuple[int, ...]:
    """Return the widths from input to output, (784, 256, 128, 10) by default."""
    return (pixels, *hidden_sizes, CLASSES)


def parameter_count(sizes: Sequence[int]) -> int:
    """Return the number of weights and biases of one MLP of these widths."""
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


def init_mlp(
    sizes: Sequence[int],
    *,
    seed: int,
    members: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StackedMLP:
    """Return `members` MLPs that all start from the weights that `seed` gives.

    They are the weights that `torch.manual_seed(seed)` followed by `torch.nn.Linear` for each
    layer in turn would give: uniform in +-1/sqrt(I), weight before bias.

    Args:
        sizes: widths from input to output.
        seed: of the weights.
        members: K.
        device: where to.
        dtype: the weights are drawn as float32, then converted.

    Source: `torch.nn.Linear.reset_parameters`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, inputs: int) -> Tensor:
        bound = 1 / math.sqrt(inputs)
        values = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        return values.to(device, dtype).repeat(members, *(1 for _ in shape))

    weights, biases = [], []
    for inputs, outputs in itertools.pairwise(sizes):
        weights.append(draw(outputs, inputs, inputs=inputs))
        biases.append(draw(outputs, inputs=inputs))
    return StackedMLP(weights, biases)
