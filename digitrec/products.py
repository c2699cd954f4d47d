"""The matrix products of a stack of MLPs: one interface, two ways to the processor.

Letters: K trials of a stack, B images of a batch, I inputs and O outputs of a layer.

`BatchedProducts` hands all K trials to PyTorch at once: right for GPUs, and for Intel processors,
whose library (MKL) PyTorch's own products run on. On other x86 processors MKL leaves half of the
machine unused: 95 of 205 GFLOP/s in float32 on an AMD Zen 5 core. `OneDNNProducts` reaches the rest
through oneDNN, which PyTorch carries as well, one trial at a time.
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

Activations = Tensor | list[Tensor]  # (K, B, O), or K times (B, O): whatever its maker works with


class Products(Protocol):
    """What training needs of a layer; weights are (K, O, I), biases (K, O)."""

    def linear(self, x: Activations, weight: Tensor, bias: Tensor) -> Tensor:
        """Return `x @ weight.T + bias` as (K, B, O); an `x` of (B, I) is shared by all K trials."""

    def hidden(self, x: Activations, weight: Tensor, bias: Tensor) -> Activations:
        """Return `relu(linear(x, weight, bias))` in the form that the other methods take."""

    def input_gradient(self, grad: Activations, weight: Tensor, x: Activations) -> Activations:
        """Return `grad @ weight` where the layer's input `x` passed its ReLU, else 0."""

    def descend(self, weight: Tensor, bias: Tensor, grad: Activations, x: Activations) -> None:
        """Subtract the layer's gradients, `grad.T @ x` and `grad.sum()`, in place."""


class BatchedProducts:
    """All K trials at once; the first layer, whose input they share, as one wide product."""

    def linear(self, x: Activations, weight: Tensor, bias: Tensor) -> Tensor:
        """See `Products`; the result of a shared input is a view of (B, K, O)."""
        x = _as_tensor(x)
        if x.dim() == 3:
            return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        wide = torch.addmm(bias.flatten(), x, weight.flatten(0, 1).t())  # (B, K*O)
        return wide.view(len(x), *bias.shape).transpose(0, 1)

    def hidden(self, x: Activations, weight: Tensor, bias: Tensor) -> Tensor:
        """See `Products`."""
        return self.linear(x, weight, bias).relu_()

    def input_gradient(self, grad: Activations, weight: Tensor, x: Activations) -> Tensor:
        """See `Products`; keeps the memory layout of `x`, so that `descend` can see it wide."""
        x = _as_tensor(x)
        below = torch.bmm(_as_tensor(grad), weight, out=torch.empty_like(x))
        torch.ops.aten.threshold_backward.grad_input(below, x, 0, grad_input=below)
        return below

    def descend(self, weight: Tensor, bias: Tensor, grad: Activations, x: Activations) -> None:
        """See `Products`."""
        grad, x = _as_tensor(grad), _as_tensor(x)
        bias.sub_(grad.sum(1))
        if x.dim() == 3:
            weight.baddbmm_(grad.transpose(1, 2), x, alpha=-1)
        else:
            wide = grad.transpose(0, 1).flatten(1)  # (B, K*O), no copy after `input_gradient`
            weight.flatten(0, 1).addmm_(wide.t(), x, alpha=-1)


class OneDNNProducts:
    """One trial at a time through oneDNN's linear layer, which fuses bias and ReLU."""

    def linear(self, x: Activations, weight: Tensor, bias: Tensor) -> Tensor:
        """See `Products`."""
        return torch.stack(_onednn_linear(x, weight, bias, "none"))

    def hidden(self, x: Activations, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """See `Products`."""
        return _onednn_linear(x, weight, bias, "relu")

    def input_gradient(self, grad: Activations, weight: Tensor, x: Activations) -> list[Tensor]:
        """See `Products`."""
        return [
            torch.ops.aten.threshold_backward(_onednn_product(g, w), passed, 0)
            for g, w, passed in zip(grad, weight, x, strict=True)
        ]

    def descend(self, weight: Tensor, bias: Tensor, grad: Activations, x: Activations) -> None:
        """See `Products`."""
        inputs = _of_each(x, len(weight))
        for w, b, g, own_x in zip(weight, bias, grad, inputs, strict=True):
            w.sub_(_onednn_product(g.t(), own_x))
            b.sub_(g.sum(0))


def choose_products(device: torch.device, dtype: torch.dtype) -> Products:
    """Return the faster products for a device; the choice depends on the machine alone."""
    if device.type == "cpu" and dtype == torch.float32 and onednn_is_faster():
        return OneDNNProducts()
    return BatchedProducts()


def onednn_is_faster() -> bool:
    """Return whether PyTorch has oneDNN's linear layer and the processor is x86 but not Intel's."""
    if not torch.backends.mkldnn.is_available() or platform.machine() not in {"x86_64", "AMD64"}:
        return False
    cpuinfo = Path("/proc/cpuinfo")
    vendor = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    return "GenuineIntel" not in vendor and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn_linear(x: Activations, weight: Tensor, bias: Tensor, activation: str) -> list[Tensor]:
    linear = torch.ops.mkldnn._linear_pointwise
    inputs = _of_each(x, len(weight))
    return [
        linear(own_x, w, b, activation, [], "")
        for own_x, w, b in zip(inputs, weight, bias, strict=True)
    ]


def _onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """Return `a @ b`."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def _of_each(x: Activations, members: int) -> Sequence[Tensor]:
    """Return each trial's input, (B, I); a shared one stands for all."""
    if isinstance(x, Tensor):
        return [x] * members if x.dim() == 2 else x.unbind(0)
    return x


def _as_tensor(x: Activations) -> Tensor:
    assert isinstance(x, Tensor)
    return x
