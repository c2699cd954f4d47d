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
from digitrec.products import Activations, Products, choose_products
from digitrec.space import EpochRecord

EVALUATION_ROWS = 1024  # images of a forward pass; more do not make it faster


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


class Totals(NamedTuple):
    """Sums over images, one per trial; they stay on the device until an epoch is over."""

    loss: Tensor  # float64 (K,), nats
    correct: Tensor  # int64 (K,)

    @classmethod
    def zero(cls, model: StackedMLP) -> "Totals":
        """Return totals over no images."""
        zeros = torch.zeros(len(model), device=model.device)
        return cls(zeros.double(), zeros.long())

    def add(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: `log_probabilities` (K, B, C), `labels` (B,)."""
        of_label = log_probabilities.gather(2, labels.expand(len(self.loss), -1).unsqueeze(2))
        self.loss.sub_(of_label.sum((1, 2), dtype=torch.float64))
        self.correct.add_((log_probabilities.argmax(2) == labels).sum(1))

    def means(self, images: int) -> list[Means]:
        """Return each trial's means over so many images."""
        sums = zip(self.loss.tolist(), self.correct.tolist(), strict=True)
        return [Means(loss / images, correct / images) for loss, correct in sums]


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
    products = products or choose_products(model.device, model.dtype)
    rates = torch.tensor(lrs, dtype=model.dtype, device=model.device).view(-1, 1, 1)
    images = len(data.train_labels)
    records: list[EpochRecord] = []
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        if records and all(record.diverged for record in records):
            measured = [(DIVERGED, DIVERGED)] * len(model)
        else:
            order = shuffled(images, seed=seed, epoch=epoch).to(model.device)
            trained = train_epoch(model, rates, data, torch.split(order, batch_size), products)
            validated = evaluate(model, data.val_images, data.val_labels, products, predictions)
            measured = list(
                zip(trained.means(images), validated.means(len(data.val_labels)), strict=True)
            )
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
    batches: tuple[Tensor, ...],
    products: Products,
) -> Totals:
    """Update the model with every batch in turn.

    Args:
        model: K MLPs, changed in place.
        rates: learning rates, (K, 1, 1).
        data: what the batches index.
        batches: row numbers, int64 (B,) each.
        products: how to multiply.

    Returns:
        Loss and correct predictions over the epoch, each batch as seen before its own update.
    """
    totals = Totals.zero(model)
    with torch.inference_mode():
        for rows in batches:
            labels = data.train_labels.index_select(0, rows)
            update(model, rates, data.train_images.index_select(0, rows), labels, totals, products)
    return totals


def update(
    model: StackedMLP,
    rates: Tensor,
    images: Tensor,
    labels: Tensor,
    totals: Totals,
    products: Products,
) -> None:
    """Make one SGD step of all K trials on the batch `images` (B, D), `labels` (B,), in place."""
    activations = model.hidden_activations(images, products)
    logits = products.linear(activations[-1], model.weights[-1], model.biases[-1])  # (K, B, C)
    log_probabilities = logits.log_softmax(2)
    totals.add(log_probabilities, labels)
    grad: Activations = _scaled_logits_gradient(log_probabilities, labels, rates)
    for layer in reversed(range(len(model.weights))):
        weight, bias, x = model.weights[layer], model.biases[layer], activations[layer]
        below = products.input_gradient(grad, weight, x) if layer > 0 else grad
        products.descend(weight, bias, grad, x)
        grad = below


def _scaled_logits_gradient(log_probabilities: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
    """Return lr / B * (softmax - one-hot), (K, B, C), in the memory of `log_probabilities`."""
    grad = log_probabilities.exp_()
    one_hot = torch.nn.functional.one_hot(labels, grad.shape[2])
    return grad.sub_(one_hot).mul_(rates / len(labels))


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
    totals = Totals.zero(model)
    with torch.inference_mode():
        for start in range(0, len(labels), EVALUATION_ROWS):
            rows = slice(start, start + EVALUATION_ROWS)
            log_probabilities = model.logits(images[rows], products).log_softmax(2)
            totals.add(log_probabilities, labels[rows])
            if predictions is not None:
                predictions[:, rows] = log_probabilities.argmax(2)
    return totals
