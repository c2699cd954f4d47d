"""The epoch loop of a stack: a generator of per-epoch metrics, in pure torch.

Letters: K trials of a stack, N images, B images of a batch, D = 784 pixels, C = 10 classes.

Plain SGD on the mean cross-entropy of a batch, with the gradient written out: autograd would keep
a graph, allocate a gradient for every weight and read each weight once more to apply it. Here the
gradient of the logits, softmax minus one-hot, is scaled by each trial's own learning rate over B at
once; everything below is linear in it, so the products that form the weights' gradients can be
subtracted from the weights as they come.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from digitrec.model import StackedMLP
from digitrec.products import Products, choose_products
from digitrec.space import CLASSES, EpochRecord

IMAGES_AT_ONCE = 1024  # of an evaluation; bounds its memory


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Scaled images and their labels, resident on the device that trains."""

    train_images: Tensor  # (N, D)
    train_labels: Tensor  # int64 (N,)
    val_images: Tensor  # (N', D)
    val_labels: Tensor  # int64 (N',)


class Means(NamedTuple):
    """One trial's means over images."""

    loss: float  # nats per image
    accuracy: float  # fraction


DIVERGED = Means(math.nan, math.nan)


class Totals:
    """Loss and correct predictions of K trials, summed over images.

    The sums stay on the device until an epoch is over, and logits are kept until there are enough
    of them to be worth a pass, which spares small batches several calls each.
    """

    def __init__(self, model: StackedMLP) -> None:
        self.loss = torch.zeros(len(model), dtype=torch.float64, device=model.device)  # nats
        self.correct = torch.zeros(len(model), dtype=torch.int64, device=model.device)
        self.images = 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._kept_images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: `logits` (K, C, B), `labels` (B,); neither may change afterwards."""
        self._kept.append((logits, labels))
        self._kept_images += len(labels)
        if self._kept_images >= IMAGES_AT_ONCE:
            self._sum_up()

    def means(self) -> list[Means]:
        """Return each trial's means over the images added."""
        self._sum_up()
        sums = zip(self.loss.tolist(), self.correct.tolist(), strict=True)
        return [Means(loss / self.images, correct / self.images) for loss, correct in sums]

    def _sum_up(self) -> None:
        if not self._kept:
            return
        logits = torch.cat([batch for batch, _ in self._kept], dim=2)
        labels = torch.cat([batch for _, batch in self._kept])
        of_label = labels.expand(len(logits), 1, -1)
        self.loss -= logits.log_softmax(1).gather(1, of_label).sum((1, 2), dtype=torch.float64)
        self.correct += (logits.argmax(1) == labels).sum(1)
        self.images += len(labels)
        self._kept, self._kept_images = [], 0


def epochs(
    model: StackedMLP,
    lrs: tuple[float, ...],
    data: TrainingData,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    predictions: Tensor | None = None,
    products: Products | None = None,
) -> Iterator[list[EpochRecord]]:
    """Train a stack in place and yield, after each epoch, one record per trial.

    A trial whose training or validation loss is no longer finite has diverged: from that epoch on
    its metrics are NaN and its updates stand still. The other trials of its stack never notice.

    Args:
        model: K MLPs, changed in place.
        lrs: K learning rates.
        data: what to train on and what to validate on, on the model's device.
        batch_size: images per update; a shorter last batch is used as well.
        seed: gives, with the epoch's number alone, the order of the images.
        epochs: how many.
        predictions: uint8 (K, N'), overwritten with the predicted labels of each validation.
        products: None chooses the fastest for the device.
    """
    products = products or choose_products(model.device, model.dtype, data.train_images.dtype)
    rates = torch.tensor(lrs, dtype=model.dtype, device=model.device).view(-1, 1, 1)
    images = len(data.train_labels)
    records: list[EpochRecord] = []
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        if records and all(record.diverged for record in records):
            measured = [(DIVERGED, DIVERGED)] * len(model)
        else:
            order = shuffled(images, seed=seed, epoch=epoch).to(model.device)
            trained = train_epoch(model, rates, data, order, batch_size, products)
            validated = evaluate(model, data.val_images, data.val_labels, products, predictions)
            measured = list(zip(trained.means(), validated.means(), strict=True))
        updates = epoch * math.ceil(images / batch_size)
        seconds = (time.perf_counter() - start) / len(model)
        before: list[EpochRecord | None] = [*records] or [None] * len(model)
        records = [
            _record(epoch, updates, *means, seconds, previous)
            for means, previous in zip(measured, before, strict=True)
        ]
        yield records


def _record(
    epoch: int,
    updates: int,
    train: Means,
    val: Means,
    seconds: float,
    previous: EpochRecord | None,
) -> EpochRecord:
    if previous is not None and previous.diverged:
        updates, train, val = previous.updates, DIVERGED, DIVERGED
    elif not (math.isfinite(train.loss) and math.isfinite(val.loss)):
        train, val = DIVERGED, DIVERGED
    return EpochRecord(epoch, updates, *train, *val, seconds)


def shuffled(images: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the images, int64 (N,), in one epoch of all trials of a seed."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(images))


def train_epoch(
    model: StackedMLP,
    rates: Tensor,
    data: TrainingData,
    order: Tensor,
    batch_size: int,
    products: Products,
) -> Totals:
    """Update the model with batch after batch of the training images.

    Args:
        model: K MLPs, changed in place.
        rates: learning rates, (K, 1, 1).
        data: what the order indexes.
        order: row numbers, int64 (N,).
        batch_size: B; the last batch may be shorter.
        products: how to multiply.

    Returns:
        Loss and correct predictions over the epoch, each batch as seen before its own update.
    """
    totals = Totals(model)
    with torch.inference_mode():
        labels = data.train_labels.index_select(0, order)
        one_hot = torch.nn.functional.one_hot(labels, CLASSES).t().to(model.dtype)  # (C, N)
        batches = (torch.split(part, batch_size) for part in (order, labels))
        targets = torch.split(one_hot, batch_size, dim=1)
        for rows, batch_labels, target in zip(*batches, targets, strict=True):
            images = data.train_images.index_select(0, rows)
            totals.add(update(model, rates, images, target, products), batch_labels)
    return totals


def update(
    model: StackedMLP, rates: Tensor, images: Tensor, target: Tensor, products: Products
) -> Tensor:
    """Make one SGD step of all K trials on a batch, in place.

    Args:
        model: K MLPs.
        rates: learning rates, (K, 1, 1).
        images: (B, D).
        target: the labels as one-hot, (C, B).
        products: how to multiply.

    Returns:
        The logits before the step, (K, C, B).
    """
    inputs = model.layer_inputs(images, products)
    logits = model.logits(inputs[-1], products).to(model.dtype)
    grad = logits.softmax(1).sub_(target).mul_(rates / len(images))  # of the logits, times lr
    for layer in reversed(range(len(inputs))):
        weight, x = model.weights[layer], inputs[layer]
        below = products.input_gradient(weight, grad, x) if layer > 0 else grad
        products.descend(weight, grad, x)
        model.biases[layer].sub_(grad.sum(2))
        grad = below
    return logits


def evaluate(
    model: StackedMLP,
    images: Tensor,
    labels: Tensor,
    products: Products,
    predictions: Tensor | None = None,
) -> Totals:
    """Return loss and correct predictions over `images` (N, D), `labels` (N,).

    Args:
        model: K MLPs.
        images: scaled.
        labels: int64.
        products: how to multiply.
        predictions: uint8 (K, N), overwritten with the predicted labels.
    """
    totals = Totals(model)
    with torch.inference_mode():
        for start in range(0, len(labels), IMAGES_AT_ONCE):
            rows = slice(start, start + IMAGES_AT_ONCE)
            last_input = model.layer_inputs(images[rows], products)[-1]
            logits = model.logits(last_input, products).to(model.dtype)
            totals.add(logits, labels[rows])
            if predictions is not None:
                predictions[:, rows] = logits.argmax(1)
    return totals
