"""A stack of MLPs: shapes, initial weights, forward pass; and the trained model that is kept.

Letters: K trials of a stack, B images of a batch, D = 784 pixels, C = 10 classes,
I inputs and O outputs of a layer.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from digitrec.data import Scaler
from digitrec.errors import InputError
from digitrec.products import Products, choose_products


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

    def layer_inputs(self, images: Tensor, products: Products) -> list[Tensor]:
        """Return the input of every layer: the images (B, D), then activations (K, O, B)."""
        inputs = [images]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs.append(products.linear(weight, bias, inputs[-1]).relu_())
        return inputs

    def logits(self, last_input: Tensor, products: Products) -> Tensor:
        """Return the logits (K, C, B) of the last layer's input."""
        return products.linear(self.weights[-1], self.biases[-1], last_input)

    def member(self, k: int) -> dict[str, Tensor]:
        """Return trial k's parameters, named as in `torch.nn.Sequential(Linear, ReLU, ...)`."""
        named = {}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"{2 * layer}.weight"] = weight[k]
            named[f"{2 * layer}.bias"] = bias[k]
        return named


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


@dataclass(frozen=True, slots=True)
class Classifier:
    """A trained MLP with the scaling that it was trained on."""

    mlp: StackedMLP  # K = 1
    scaler: Scaler

    def log_probabilities(self, images: NDArray[np.uint8]) -> Tensor:
        """Return log-probabilities, float32 (N, C), of unscaled images, uint8 (N, D).

        Raises:
            InputError: the images have another number of pixels than the model.
        """
        pixels = len(self.scaler.data_min)
        if images.shape[1] != pixels:
            raise InputError(f"images of {images.shape[1]} pixels; the model takes {pixels}")
        x = torch.from_numpy(self.scaler.scale(images))
        products = choose_products(self.mlp.device, self.mlp.dtype, x.dtype)
        with torch.inference_mode():
            last_input = self.mlp.layer_inputs(x, products)[-1]
            return self.mlp.logits(last_input, products)[0].log_softmax(0).t()


def load_classifier(directory: Path) -> Classifier:
    """Return the model in a study's `best/` directory, on the CPU.

    Args:
        directory: where `model.safetensors` is.

    Raises:
        InputError: there is no such model.
    """
    path = directory / "model.safetensors"
    if not path.exists():
        raise InputError(f"{path}: no such model; `digitrec tune` writes it")
    tensors = load_file(path)
    scaler = Scaler(
        data_min=tensors.pop("scaler.data_min").numpy(),
        data_max=tensors.pop("scaler.data_max").numpy(),
    )
    layers = range(0, len(tensors), 2)  # every second entry of the Sequential is a ReLU
    return Classifier(
        StackedMLP(
            weights=[tensors[f"{layer}.weight"].unsqueeze(0) for layer in layers],
            biases=[tensors[f"{layer}.bias"].unsqueeze(0) for layer in layers],
        ),
        scaler,
    )
