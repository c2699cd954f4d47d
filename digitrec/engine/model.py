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

from digitrec.engine.products import Products


@dataclass(frozen=True, slots=True)
class StackedMLP:
    """K MLPs of one shape, ReLU between layers; layer l of all of them is one tensor."""

    weights: list[Tensor]  # per layer (K, O, I)
    biases: list[Tensor]  # per layer (K, O)

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.weights[0].dtype

    def linear(self, layer: int, x: Tensor, products: Products) -> Tensor:
        """Return the outputs (K, O, B) of a layer, without ReLU.

        Its input x may lack the last inputs, if they are 0 on every image.
        """
        return products.linear(of_inputs(self.weights[layer], x), self.biases[layer], x)

    def activations(self, layer: int, x: Tensor, products: Products) -> Tensor:
        """Return the activations (K, O, B) of a hidden layer whose input is x."""
        return self.linear(layer, x, products).relu_()

    def layer_inputs(self, images: Tensor, products: Products) -> list[Tensor]:
        """Return the input of every layer: the images (B, D), then activations (K, O, B)."""
        inputs = [images]
        for layer in range(len(self.weights) - 1):
            inputs.append(self.activations(layer, inputs[-1], products))
        return inputs

    def logits(self, last_input: Tensor, products: Products) -> Tensor:
        """Return the logits (K, C, B) of the last layer's input."""
        return self.linear(len(self.weights) - 1, last_input, products)

    def of_pixels(self, pixels: Tensor) -> "StackedMLP":
        """Return the MLPs reduced to these input pixels, int64 (P,).

        The weights of the first layer are a copy, which `take_pixels` writes back; all other
        parameters are shared.
        """
        first, *others = self.weights
        return StackedMLP([first.index_select(2, pixels), *others], self.biases)

    def take_pixels(self, pixels: Tensor, narrow: "StackedMLP") -> None:
        """Copy back the first layer's weights of `narrow`, which `of_pixels(pixels)` returned."""
        self.weights[0].index_copy_(2, pixels, narrow.weights[0])

    def zeros(self) -> "StackedMLP":
        """Return as many MLPs of this shape whose parameters are 0."""
        return StackedMLP(
            [torch.zeros_like(weight) for weight in self.weights],
            [torch.zeros_like(bias) for bias in self.biases],
        )

    def member(self, k: int) -> dict[str, Tensor]:
        """Return trial k's parameters, named as in `torch.nn.Sequential(Linear, ReLU, ...)`."""
        named = {}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"{2 * layer}.weight"] = weight[k]
            named[f"{2 * layer}.bias"] = bias[k]
        return named


def of_inputs(weight: Tensor, x: Tensor) -> Tensor:
    """Return the part (K, O, I) of a layer's weight for the inputs that x has; it is a view."""
    return weight[:, :, : x.shape[1]]


def init_mlp(
    sizes: Sequence[int],
    *,
    seed: int,
    members: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StackedMLP:
    """Return `members` MLPs that all start from the same weights, drawn with `seed`.

    `torch.manual_seed(seed)` followed by `torch.nn.Linear` for each layer in turn would draw the
    same weights: uniform in +-1/sqrt(I), weight before bias.

    Args:
        sizes: widths from input to output.
        seed: of the weights.
        members: K.
        device: of the weights.
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
