"""The matrix products of a stack of MLPs: one interface, two libraries.

Letters: K trials of a stack, B images of a batch, I inputs and O outputs of a layer.

Activations are kept feature-major, (K, features, B). All trials share the images that the first
layer takes, so its forward and backward passes are each one product over the weights of all
trials, without moving them in memory.

`TorchProducts` uses PyTorch's default library, on x86 processors Intel's MKL. `OneDNNProducts`
uses oneDNN, which PyTorch includes too but uses for float32 only on request. Which is faster
depends on the processor. On a core of AMD's Zen 5, MKL reaches only 95 of 205 GFLOP/s. On a core
of Zen 4, both reach about 100, but MKL subtracts a product from the weights in one pass, and the
epochs of the default grid take 0.88 of oneDNN's time. Other processors have not been measured.
"""

import platform
import re
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

# In layers with fewer weights, oneDNN's overhead per call outweighs its faster product.
SMALL_LAYER = 4096
CPUINFO = Path("/proc/cpuinfo")
ZEN_5 = 26  # AMD's number for this processor family


class Products(Protocol):
    """The products that training a layer needs: weight (K, O, I), bias (K, O), gradient (K, O, B).

    The input `x` of a layer is (K, I, B), or (B, I) for the images, which all trials share.
    """

    def linear(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """Return `weight @ x + bias`, (K, O, B)."""

    def input_gradient(self, weight: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        """Return `weight.T @ grad`, (K, I, B), where `x` passed the ReLU before it, else 0."""

    def descend(self, weight: Tensor, grad: Tensor, x: Tensor) -> None:
        """Subtract `grad @ x.T` from the weight, in place."""


class TorchProducts:
    """PyTorch's own products, all K trials at once."""

    def linear(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """See `Products`."""
        if x.dim() == 3:
            return torch.baddbmm(bias.unsqueeze(2), weight, x)
        wide = torch.addmm(bias.flatten().unsqueeze(1), weight.flatten(0, 1), x.t())
        return wide.view(*bias.shape, len(x))

    def input_gradient(self, weight: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        """See `Products`."""
        below = torch.bmm(weight.transpose(1, 2), grad)
        return _where_positive(below, x, out=below)

    def descend(self, weight: Tensor, grad: Tensor, x: Tensor) -> None:
        """See `Products`."""
        if x.dim() == 3:
            weight.baddbmm_(grad, x.transpose(1, 2), alpha=-1)
        else:
            weight.flatten(0, 1).addmm_(grad.flatten(0, 1), x, alpha=-1)


class Bfloat16Products(TorchProducts):
    """Mixed precision: bfloat16 factors, float32 weights that accumulate the updates.

    bfloat16 weights would lose updates: a change below about 1/256 of a weight is rounded away.
    """

    def linear(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """See `Products`; the result is bfloat16."""
        return super().linear(weight.bfloat16(), bias.bfloat16(), x)

    def input_gradient(self, weight: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        """See `Products`; the result is bfloat16."""
        return super().input_gradient(weight.bfloat16(), grad.bfloat16(), x)

    def descend(self, weight: Tensor, grad: Tensor, x: Tensor) -> None:
        """See `Products`."""
        if x.dim() == 3:
            weight.sub_(torch.bmm(grad.bfloat16(), x.transpose(1, 2)))
        else:
            weight.flatten(0, 1).sub_(torch.mm(grad.bfloat16().flatten(0, 1), x))


class OneDNNProducts(TorchProducts):
    """oneDNN's products: the first layer at once, later ones per trial; small ones by PyTorch."""

    def linear(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """See `Products`."""
        if x.dim() == 2:
            wide = _multiply(weight.flatten(0, 1), x)
            return wide.view(*bias.shape, len(x)).add_(bias.unsqueeze(2))
        if _is_small(weight):
            return super().linear(weight, bias, x)
        result = x.new_empty(*bias.shape, x.shape[2])
        for w, b, own_x, out in zip(weight, bias, x, result, strict=True):
            torch.add(_multiply(w, own_x.t()), b.unsqueeze(1), out=out)
        return result

    def input_gradient(self, weight: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        """See `Products`."""
        if _is_small(weight):
            return super().input_gradient(weight, grad, x)
        result = torch.empty_like(x)
        for w, g, own_x, out in zip(weight, grad, x, result, strict=True):
            _where_positive(_multiply(w.t(), g.t()), own_x, out=out)
        return result

    def descend(self, weight: Tensor, grad: Tensor, x: Tensor) -> None:
        """See `Products`."""
        if x.dim() == 2:
            weight.flatten(0, 1).sub_(_multiply(grad.flatten(0, 1), x.t()))
        elif _is_small(weight):
            super().descend(weight, grad, x)
        else:
            for w, g, own_x in zip(weight, grad, x, strict=True):
                w.sub_(_multiply(g, own_x))


def choose_products(device: torch.device, weights: torch.dtype, images: torch.dtype) -> Products:
    """Return the products for weights and images of these types.

    Where there is a choice, it is the faster library; the choice depends on the machine only.
    """
    if images == torch.bfloat16:
        return Bfloat16Products()
    if device.type == "cpu" and weights == torch.float32 and onednn_is_faster():
        return OneDNNProducts()
    return TorchProducts()


def onednn_is_faster() -> bool:
    """Return whether PyTorch has oneDNN's linear layer and the processor is AMD's Zen 5 or newer.

    The processor is identified on Linux only; on other systems the answer is no.
    """
    if not torch.backends.mkldnn.is_available() or platform.machine() != "x86_64":
        return False
    cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
    family = re.search(r"^cpu family\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
    is_zen5 = "AuthenticAMD" in cpuinfo and family is not None and int(family[1]) >= ZEN_5
    return is_zen5 and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def narrow_batches_pay(device: torch.device) -> bool:
    """Return whether it saves time to leave out the last pixels of a batch that has no ink there.

    oneDNN would copy the weights of the remaining pixels, and a GPU would wait until the CPU knows
    how many there are.
    """
    return device.type == "cpu" and not onednn_is_faster()


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return `a @ b.T` by oneDNN's linear layer; it copies an `a` that is not contiguous."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return product


def _is_small(weight: Tensor) -> bool:
    return weight[0].numel() < SMALL_LAYER


def _where_positive(values: Tensor, x: Tensor, *, out: Tensor) -> Tensor:
    """Write `values` where `x` is above 0, else 0; a NaN in `values` stays only where `x` is."""
    torch.ops.aten.threshold_backward.grad_input(values, x, 0, grad_input=out)
    return out
