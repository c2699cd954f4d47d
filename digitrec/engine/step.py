"""One optimizer step of a stack, with the gradient written out.

Letters: K trials of a stack, B images of a batch, P pixels, C = 10 classes, O outputs of a layer,
U hidden units of all layers together.

Autograd would keep a graph, allocate a gradient for every weight and read each weight once more to
apply it. Here the gradient of the logits, softmax minus target, is written out; everything below is
linear in it, so the products that form the weights' gradients are subtracted from the weights, or
from their velocities, as they come.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from digitrec.engine.model import StackedMLP, of_inputs
from digitrec.engine.products import Products
from digitrec.space.hyperparameters import NO_AUGMENTATION
from digitrec.space.shape import CLASSES
from digitrec.space.stacks import Stack

State = Mapping[str, StackedMLP]  # kind -> what an optimizer keeps of each parameter

# Velocity and average are minus those of torch.optim: gradients are subtracted from them.
VELOCITY, AVERAGE, SQUARE = "velocity", "average", "average_square"
SCRATCH = "scratch"  # of AdamW; not kept between steps
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW; the defaults of `torch.optim.AdamW`


class Place(NamedTuple):
    """The position of a batch in a training."""

    epoch: int  # from 1
    batch: int  # of the epoch, from 0
    updates: int  # before it, since the start
    rate: float = 1.0  # share of its learning rate that each trial uses


class Step(ABC):
    """One step of all trials of a stack on the mean cross-entropy of a batch.

    A part that no trial of the stack uses is None, and costs nothing.

    Args:
        stack: the trials.
        model: K MLPs, changed in place.
        state: what `state_kinds` names, changed in place.
        products: how to multiply.
    """

    def __init__(self, stack: Stack, model: StackedMLP, state: State, products: Products) -> None:
        self.batch_size, self.seed = stack.configuration.batch_size, stack.seed
        self.model, self.state, self.products = model, state, products
        self.lr = values_of_members(stack, "lr", model)  # lowered in place by a cooldown
        self.full_lr = self.lr.clone()
        self.weight_decay = used_values(stack, "weight_decay", model)
        self.dropout = used_values(stack, "dropout", model)
        self.smoothing = used_values(stack, "label_smoothing", model)
        self.scale: Tensor | float = 1.0  # of the gradient

    def update(self, images: Tensor, target: Tensor, place: Place) -> Tensor:
        """Make one step of all K trials on a batch, in place.

        Args:
            images: (B, P), or fewer pixels if all behind them are 0.
            target: the labels as one-hot, (C, B).
            place: gives the rate and, with the seed, what dropout drops.

        Returns:
            The logits before the step, (K, C, B).
        """
        if place.rate != 1:
            torch.mul(self.full_lr, place.rate, out=self.lr)
        inputs = self._layer_inputs(images, place)
        logits = self.model.logits(inputs[-1], self.products).to(self.model.dtype)
        if self.smoothing is not None:
            target = target * (1 - self.smoothing) + self.smoothing / CLASSES  # (K, C, B)
        grad = logits.softmax(1).sub_(target).mul_(self.scale / len(images))
        for layer in reversed(range(len(inputs))):
            x, below = inputs[layer], grad
            if layer > 0:  # 0 at dropped units, as x is
                below = self.products.input_gradient(self.model.weights[layer], grad, x)
                if self.dropout is not None:
                    below.div_(1 - self.dropout)
            self._descend(layer, grad, x)
            grad = below
        return logits

    @abstractmethod
    def _descend(self, layer: int, grad: Tensor, x: Tensor) -> None:
        """Update the parameters of a layer in place.

        Args:
            layer: from 0.
            grad: the gradient of its output, times `scale`, (K, O, B).
            x: its input.
        """

    def _layer_inputs(self, images: Tensor, place: Place) -> list[Tensor]:
        """Return the input of every layer: the images (B, P), then activations (K, O, B).

        A trial drops a unit where its random number, one for all trials, is below its rate.
        """
        if self.dropout is None:
            return self.model.layer_inputs(images, self.products)
        widths = [bias.shape[1] for bias in self.model.biases[:-1]]
        # A GPU's queue goes on meanwhile; CUDA has read the numbers when the call returns.
        uniform = draw_uniform(
            sum(widths), len(images), seed=self.seed, epoch=place.epoch, batch=place.batch
        ).to(images.device, non_blocking=True)
        inputs, units = [images], 0
        for layer in range(len(widths)):
            x = self.model.activations(layer, inputs[-1], self.products)
            dropped = uniform[units : units + x.shape[1]] < self.dropout  # (K, O, B)
            inputs.append(x.masked_fill_(dropped, 0).div_(1 - self.dropout))
            units += x.shape[1]
        return inputs


class SGD(Step):
    """Plain stochastic gradient descent, as `torch.optim.SGD` makes it."""

    def __init__(self, stack: Stack, model: StackedMLP, state: State, products: Products) -> None:
        super().__init__(stack, model, state, products)
        self.scale = self.lr

    def _descend(self, layer: int, grad: Tensor, x: Tensor) -> None:
        weight, bias = self.model.weights[layer], self.model.biases[layer]
        if self.weight_decay is not None:
            remaining = 1 - self.lr * self.weight_decay
            weight.mul_(remaining)
            bias.mul_(remaining.squeeze(2))
        self.products.descend(of_inputs(weight, x), grad, x)
        bias.sub_(grad.sum(2))


class StatefulStep(Step):
    """The step of an optimizer that keeps something of each parameter."""

    def _descend(self, layer: int, grad: Tensor, x: Tensor) -> None:
        def subtract_weight(target: Tensor) -> None:
            self.products.descend(of_inputs(target, x), grad, x)

        def subtract_bias(target: Tensor) -> None:
            target.sub_(grad.sum(2, keepdim=True))

        weights = {kind: part.weights[layer] for kind, part in self.state.items()}
        biases = {kind: part.biases[layer].unsqueeze(2) for kind, part in self.state.items()}
        self._apply(self.model.weights[layer], weights, subtract_weight)
        self._apply(self.model.biases[layer].unsqueeze(2), biases, subtract_bias)

    @abstractmethod
    def _apply(
        self, values: Tensor, state: dict[str, Tensor], subtract: Callable[[Tensor], None]
    ) -> None:
        """Update parameters in place.

        Args:
            values: of a layer, (K, O, I) or (K, O, 1).
            state: what the optimizer keeps of them, of the same shape, updated as well.
            subtract: subtracts the gradient from a tensor of that shape.
        """


class MomentumSGD(StatefulStep):
    """SGD with momentum, as `torch.optim.SGD` makes it; some of the trials may have none.

    With v the velocity (minus torch's momentum buffer), g the gradient of the decaying values, n 1
    for Nesterov and else 0: v' = momentum * v - g, and the values change by
    lr * ((1 + n * momentum) * v' - n * momentum * v).
    """

    def __init__(self, stack: Stack, model: StackedMLP, state: State, products: Products) -> None:
        super().__init__(stack, model, state, products)
        self.momentum = values_of_members(stack, "momentum", model)
        self.nesterov = used_values(stack, "nesterov", model)

    def _apply(
        self, values: Tensor, state: dict[str, Tensor], subtract: Callable[[Tensor], None]
    ) -> None:
        velocity, ahead = state[VELOCITY].mul_(self.momentum), self.lr
        if self.weight_decay is not None:
            velocity.addcmul_(values, self.weight_decay, value=-1)
        if self.nesterov is not None:  # momentum * v is velocity + weight decay * values here
            if self.weight_decay is not None:
                values.mul_(1 - self.lr * self.nesterov * self.weight_decay)
            values.addcmul_(velocity, self.lr * self.nesterov, value=-1)
            ahead = self.lr * (1 + self.nesterov * self.momentum)
        subtract(velocity)
        values.addcmul_(velocity, ahead)


class AdamW(StatefulStep):
    """Adam with decoupled weight decay, as `torch.optim.AdamW` makes it.

    Source: I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    def __init__(self, stack: Stack, model: StackedMLP, state: State, products: Products) -> None:
        super().__init__(stack, model, {**state, SCRATCH: model.zeros()}, products)

    def update(self, images: Tensor, target: Tensor, place: Place) -> Tensor:
        """See `Step`."""
        self._steps = place.updates + 1
        return super().update(images, target, place)

    def _apply(
        self, values: Tensor, state: dict[str, Tensor], subtract: Callable[[Tensor], None]
    ) -> None:
        if self.weight_decay is not None:
            values.mul_(1 - self.lr * self.weight_decay)
        negative = state[SCRATCH].zero_()
        subtract(negative)  # now minus the gradient
        average = state[AVERAGE].lerp_(negative, 1 - BETAS[0])
        square = state[SQUARE].mul_(BETAS[1]).addcmul_(negative, negative, value=1 - BETAS[1])
        first, second = (1 - beta**self._steps for beta in BETAS)
        divisor = torch.sqrt(square, out=negative).div_(math.sqrt(second)).add_(EPS)
        values.addcdiv_(average, divisor.div_(self.lr / first))


def make_step(stack: Stack, model: StackedMLP, state: State, products: Products) -> Step:
    """Return the step of a stack's optimizer."""
    kinds = state_kinds(stack)
    kind = AdamW if AVERAGE in kinds else MomentumSGD if kinds else SGD
    return kind(stack, model, state, products)


def values_of_members(stack: Stack, name: str, model: StackedMLP) -> Tensor:
    """Return each member's value of a hyperparameter, a number or a bool, (K, 1, 1)."""
    values = torch.tensor(stack.values(name), dtype=model.dtype)
    return values.to(model.device).view(-1, 1, 1)


def used_values(stack: Stack, name: str, model: StackedMLP) -> Tensor | None:
    """Return `values_of_members`, or None if no member uses the hyperparameter."""
    return values_of_members(stack, name, model) if any(stack.values(name)) else None


def state_kinds(stack: Stack) -> tuple[str, ...]:
    """Return what the optimizer of a stack keeps of each parameter."""
    if stack.configuration.optimizer == "adamw":
        return AVERAGE, SQUARE
    return (VELOCITY,) if any(stack.values("momentum")) else ()


def trains_all_pixels(stack: Stack) -> bool:
    """Return whether the weights of pixels that are constant over the training rows change."""
    augmented = stack.configuration.augmentation != NO_AUGMENTATION
    return augmented or any(stack.values("weight_decay"))


def draw_uniform(units: int, images: int, *, seed: int, epoch: int, batch: int) -> Tensor:
    """Return the random numbers of a batch's dropout, float32 (units, images), in [0, 1).

    They are a function of the arguments alone, so that a training that pauses keeps no generator.

    Source: Philox, a counter-based generator: Salmon, Moraes, Dror and Shaw, "Parallel random
    numbers: as easy as 1, 2, 3", SC 2011.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, batch])
    return torch.from_numpy(np.random.Generator(bits).random((units, images), np.float32))
