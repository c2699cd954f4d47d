"""The training that all peers share: plain torch at its best on one core.

The images are resident, a batch is an index, there is no `DataLoader`, one thread trains, and the
loss is read once per epoch. Data, split, initial weights and model are those of digitrec, but for
the order of the images.

Letters: N images, B images of a batch, D = 784 pixels, C = 10 classes.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from digitrec.data.digits import read_digits, split_rows
from digitrec.engine.augment import draw_transformations, transform
from digitrec.engine.train import Cooldown
from tests.benchmarks.peers.points import Point

AT_ONCE = 1024  # images of a step of an evaluation, and of augmentation


@dataclass(frozen=True, slots=True)
class Tensors:
    """Scaled images and labels, in memory."""

    train_images: Tensor  # float32 (N, D), 0 to 1
    train_labels: Tensor  # int64 (N,)
    val_images: Tensor
    val_labels: Tensor


def load(file: Path) -> Tensors:
    """Return the digits of a file on the two sides of digitrec's split."""
    digits = read_digits(str(file))
    images = torch.from_numpy(digits.images.copy()).float() / 255
    labels = torch.from_numpy(digits.labels.copy()).long()
    train, val = (torch.from_numpy(side) for side in split_rows(digits.labels, 0.2, 42))
    return Tensors(images[train], labels[train], images[val], labels[val])


@functools.cache
def resident(file: Path) -> Tensors:
    """Return the digits of a file, read once per process, which trains with one thread."""
    torch.set_num_threads(1)
    return load(file)


def mlp(point: Point) -> nn.Sequential:
    """Return the model: linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    inputs = 784
    for units in point.widths:
        layers += [nn.Linear(inputs, units), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(point.dropout)] if point.dropout else []
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def train_one(point: Point, tensors: Tensors, *, epochs: int, seed: int = 0) -> Iterator[nn.Module]:
    """Train a point and yield its model after each epoch, in evaluation mode.

    If the point has a cooldown, the last of these epochs are it.
    """
    torch.manual_seed(seed)
    model = mlp(point)
    sgd = torch.optim.SGD(
        model.parameters(),
        lr=point.lr,
        momentum=point.momentum,
        weight_decay=point.weight_decay,
        fused=True,  # never slower than foreach or a loop over the parameters
    )
    per_epoch = math.ceil(len(tensors.train_labels) / point.batch_size)
    cooldown = Cooldown((epochs - point.cooldown) * per_epoch, point.cooldown * per_epoch)
    for epoch in range(1, epochs + 1):
        model.train()
        first = (epoch - 1) * per_epoch
        for update, (images, labels) in enumerate(batches(point, tensors, seed, epoch), first):
            sgd.param_groups[0]["lr"] = point.lr * cooldown.rate(update)
            sgd.zero_grad(set_to_none=True)
            cross_entropy(model(images), labels).backward()
            sgd.step()
        model.eval()
        yield model


def batches(
    point: Point, tensors: Tensors, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images (B, D) and labels (B,) of an epoch."""
    order = torch.randperm(len(tensors.train_labels))
    if point.augmentation == "none":
        for rows in order.split(point.batch_size):
            yield tensors.train_images.index_select(0, rows), tensors.train_labels[rows]
        return
    moves = draw_transformations(point.augmentation, len(order), side=28, seed=seed, epoch=epoch)
    for block in order.split(AT_ONCE):
        moved = transform(tensors.train_images[block], moves[block])
        for images, rows in zip(
            moved.split(point.batch_size), block.split(point.batch_size), strict=True
        ):
            yield images, tensors.train_labels[rows]


def accuracy_of(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers; 0 if the model's outputs are no numbers."""
    correct = 0
    with torch.inference_mode():
        for x, y in zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True):
            logits = model(x)
            if not math.isfinite(float(logits.sum())):
                return 0.0
            correct += int((logits.argmax(1) == y).sum())
    return correct / len(labels)


def val_accuracies(
    point: Point, tensors: Tensors, *, epochs: int, seed: int = 0
) -> Iterator[float]:
    """Train a point and yield its validation accuracy after each epoch."""
    for model in train_one(point, tensors, epochs=epochs, seed=seed):
        yield accuracy_of(model, tensors.val_images, tensors.val_labels)
