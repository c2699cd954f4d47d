"""The epoch loop of a stack: a generator of per-epoch metrics, in pure torch.

Letters: K trials of a stack, N images, B images of a batch, D = 784 pixels, P pixels that training
uses (see `Scaler.trained_pixels`), C = 10 classes.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from digitrec.engine.augment import draw_transformations, transform
from digitrec.engine.model import StackedMLP, init_mlp
from digitrec.engine.products import Products, choose_products
from digitrec.engine.step import Place, Step, make_step, state_kinds
from digitrec.space.hyperparameters import NO_AUGMENTATION
from digitrec.space.records import EpochRecord
from digitrec.space.shape import CLASSES, layer_sizes
from digitrec.space.stacks import Stack

IMAGES_AT_ONCE = 1024  # per step of an evaluation; bounds its memory
SUMS_BETWEEN_PAUSES = 16  # a stack can pause only when all its totals are summed up


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Scaled images and their labels, resident on the device that trains.

    Augmentation needs all pixels of the training images, which must be square.
    """

    train_images: Tensor  # (N, P); all other pixels of the training images are 0
    widths: Tensor | None = None  # int64 (N,); each image is 0 behind; not with augmentation
    train_labels: Tensor  # int64 (N,)
    pixels: Tensor  # int64 (P,), numbers of these pixels among the D pixels
    val_images: Tensor  # (N', D)
    val_labels: Tensor  # int64 (N',)
    augmentation: str = NO_AUGMENTATION  # of the training images


class Means(NamedTuple):
    """One trial's means over images."""

    loss: float  # nats per image
    accuracy: float  # fraction


DIVERGED = Means(math.nan, math.nan)


class Cooldown(NamedTuple):
    """The last updates of a training, in which the learning rate falls linearly to 0."""

    begins: int  # updates before it
    updates: int  # of it; 0: there is none

    def rate(self, updates: int) -> float:
        """Return the share of the learning rate that the next update uses, after so many.

        The first update of the cooldown uses all of it, the last one 1 / `self.updates`.
        """
        left = self.begins + self.updates - updates
        return min(1.0, left / self.updates) if self.updates else 1.0


NO_COOLDOWN = Cooldown(0, 0)


class Totals:
    """Loss and correct predictions of K trials, summed over images.

    The sums stay on the device until an epoch is over. Logits are collected and summed together,
    which saves several calls per small batch.
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


@dataclass(slots=True, kw_only=True)
class Training:
    """A stack in training: the complete state, from which training continues bit for bit."""

    model: StackedMLP
    state: dict[str, StackedMLP]  # what the optimizer keeps of each parameter; see `state_kinds`
    history: list[list[EpochRecord]] = field(default_factory=list)  # of the finished epochs
    totals: Totals  # of the epoch in progress; their image count is its position
    seconds: float = 0.0  # spent on the epoch in progress

    @classmethod
    def begin(cls, stack: Stack, pixels: int, device: torch.device) -> "Training":
        """Return a training that has not begun, with the initial weights of the stack's seed."""
        sizes = layer_sizes(pixels, stack.configuration.hidden_sizes)
        members = len(stack.members)
        return cls.of(stack, init_mlp(sizes, seed=stack.seed, members=members, device=device))

    @classmethod
    def of(cls, stack: Stack, model: StackedMLP) -> "Training":
        """Return a training that has not begun."""
        state = {kind: model.zeros() for kind in state_kinds(stack)}
        return cls(model=model, state=state, totals=Totals(model))

    def step(self, stack: Stack, pixels: Tensor, products: Products) -> Step:
        """Return the step of the MLPs with these inputs, int64 (P,), alone."""
        state = {kind: part.of_pixels(pixels) for kind, part in self.state.items()}
        return make_step(stack, self.model.of_pixels(pixels), state, products)

    def take(self, step: Step, pixels: Tensor) -> None:
        """Take over what the step of these inputs has changed."""
        self.model.take_pixels(pixels, step.model)
        for kind, part in self.state.items():
            part.take_pixels(pixels, step.state[kind])


def epochs(
    model: StackedMLP,
    stack: Stack,
    data: TrainingData,
    *,
    epochs: int,
    predictions: Tensor | None = None,
    products: Products | None = None,
) -> Iterator[list[EpochRecord]]:
    """Train a stack in place and yield, after each epoch, one record per trial; see `train`."""
    for training in train(
        Training.of(stack, model),
        stack,
        data,
        epochs=epochs,
        predictions=predictions,
        products=products,
    ):
        yield training.history[-1]


def train(
    training: Training,
    stack: Stack,
    data: TrainingData,
    *,
    epochs: int,
    pause_after: float = math.inf,
    predictions: Tensor | None = None,
    products: Products | None = None,
) -> Iterator[Training]:
    """Train a stack in place and yield it after each epoch, and where a pause is due.

    A trial whose training or validation loss is no longer finite has diverged: from that epoch on
    its metrics are NaN and its count of updates stops. The other trials of its stack are not
    affected.

    Args:
        training: K MLPs and their progress, changed in place.
        stack: K trials. A shorter last batch is used too; only the seed and the epoch's number
            determine the order of the images.
        data: the training and validation images, on the model's device.
        epochs: how many in all, those of the stack's cooldown included.
        pause_after: seconds of training within an epoch after which to yield; continuing from
            there, now or from a copy, gives the same numbers.
        predictions: uint8 (K, N'), overwritten with the predicted labels of each validation.
        products: None chooses the fastest for the device.
    """
    model = training.model
    products = products or choose_products(model.device, model.dtype, data.train_images.dtype)
    images = len(data.train_labels)
    batches = math.ceil(images / stack.configuration.batch_size)
    cooldown = Cooldown((epochs - stack.cooldown) * batches, stack.cooldown * batches)
    while len(training.history) < epochs:
        epoch = len(training.history) + 1
        before = training.history[-1] if training.history else [None] * len(model)
        if all(record and record.diverged for record in before):
            measured = [(DIVERGED, DIVERGED)] * len(model)
        else:
            order = shuffled(images, seed=stack.seed, epoch=epoch).to(model.device)
            step = training.step(stack, data.pixels, products)
            for _ in _train_epoch(training, step, data, order, cooldown, pause_after):
                training.take(step, data.pixels)
                yield training
            training.take(step, data.pixels)
            start = time.perf_counter()
            trained = training.totals.means()
            validated = evaluate(model, data.val_images, data.val_labels, products, predictions)
            measured = list(zip(trained, validated.means(), strict=True))
            training.seconds += time.perf_counter() - start
        updates = epoch * batches
        seconds = training.seconds / len(model)
        training.history.append(
            [
                _record(epoch, updates, *means, seconds, previous)
                for means, previous in zip(measured, before, strict=True)
            ]
        )
        training.totals, training.seconds = Totals(model), 0.0
        yield training


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


def _train_epoch(
    training: Training,
    step: Step,
    data: TrainingData,
    order: Tensor,
    cooldown: Cooldown,
    pause_after: float,
) -> Iterator[None]:
    """Train the rest of an epoch; yield where a pause is due."""
    size = step.batch_size
    between = SUMS_BETWEEN_PAUSES * math.ceil(IMAGES_AT_ONCE / size) * size
    last_pause = training.seconds
    for place in range(training.totals.images, len(order), between):
        if training.seconds - last_pause >= pause_after:
            last_pause = training.seconds
            yield
        start = time.perf_counter()
        rows = order[place : place + between]
        epoch, batch = len(training.history) + 1, place // size
        train_on(
            step, data, rows, training.totals, epoch=epoch, first_batch=batch, cooldown=cooldown
        )
        training.seconds += time.perf_counter() - start


def train_on(
    step: Step,
    data: TrainingData,
    order: Tensor,
    totals: Totals,
    *,
    epoch: int,
    first_batch: int = 0,
    cooldown: Cooldown = NO_COOLDOWN,
) -> None:
    """Update the model with batch after batch of training images.

    Args:
        step: of K MLPs of P pixels, changed in place.
        data: the images and labels that the order indexes.
        order: row numbers, int64 (N,); the last batch may be shorter.
        totals: get the loss and the correct predictions of each batch before its update.
        epoch: from 1.
        first_batch: number of the first batch within the epoch, from 0.
        cooldown: of the training.
    """
    before = (epoch - 1) * math.ceil(len(data.train_labels) / step.batch_size)
    with torch.inference_mode():
        labels = data.train_labels.index_select(0, order)
        one_hot = torch.nn.functional.one_hot(labels, CLASSES).t().to(step.model.dtype)  # (C, N)
        images = batches_of(data, order, step.batch_size, seed=step.seed, epoch=epoch)
        own_labels = torch.split(labels, step.batch_size)
        targets = torch.split(one_hot, step.batch_size, dim=1)
        for batch, (x, own, target) in enumerate(
            zip(images, own_labels, targets, strict=True), first_batch
        ):
            updates = before + batch
            place = Place(epoch, batch, updates, cooldown.rate(updates))
            logits = step.update(x, target, place)
            totals.add(logits, own)


def batches_of(
    data: TrainingData, order: Tensor, size: int, *, seed: int, epoch: int
) -> Iterator[Tensor]:
    """Yield the training images (B, P) of an epoch's batches, augmented if the data ask for it.

    Last pixels that are 0 on a whole batch are left out where the widths of the images are known.

    Args:
        data: the training images.
        order: row numbers, int64 (N,).
        size: of a batch.
        seed: of the trials.
        epoch: from 1.
    """
    images = data.train_images
    if data.augmentation == NO_AUGMENTATION:
        for rows in torch.split(order, size):
            width = None if data.widths is None else int(data.widths[rows].max())
            yield images[:, :width].index_select(0, rows)
        return
    side = math.isqrt(images.shape[1])
    drawn = draw_transformations(
        data.augmentation, len(images), side=side, seed=seed, epoch=epoch
    ).to(images.device)
    for rows in torch.split(order, size * math.ceil(IMAGES_AT_ONCE / size)):
        moved = transform(images[rows].float(), drawn[rows]).to(images.dtype)
        yield from torch.split(moved, size)


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
    if images.shape[1] != model.weights[0].shape[2]:  # else `linear` takes the rest to be 0
        raise ValueError(f"images of {images.shape[1]} pixels do not fit the model")
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
