"""How much faster is an epoch of a stack than the plain PyTorch loops that it replaces?

The stack has a recipe for train.csv: 512-256, Nesterov momentum, dropout, affine augmentation. A
plain loop trains one configuration alone, as one writes it with `torch.nn`: the scaled images are
in memory, each batch is augmented by `affine_grid` and `grid_sample`, `torch.optim.SGD` makes the
step, and an epoch ends with a validation. The bare matrix products of the stack show what the
machine allows. All run on one thread, and their processor time counts, so that other programs on
the machine disturb little. The digits are random.

    python -m tests.benchmarks.stack --members 8 --batch-size 64 --rounds 3

Letters: K trials of a stack, B images of a batch.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from digitrec.engine.augment import draw_transformations
from digitrec.engine.model import init_mlp
from digitrec.engine.train import TrainingData, epochs
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.shape import layer_sizes
from digitrec.space.stacks import Stack
from tests.benchmarks.engine import LIMIT, Shape, bare_forms, spread

PIXELS, CLASSES = 784, 10
HIDDEN = (512, 256)
RATE, MOMENTUM, DROPOUT = 0.01, 0.9, 0.1


def made_digits(train_rows: int, val_rows: int) -> TrainingData:
    """Return random images and labels."""
    generator = torch.Generator().manual_seed(0)
    rows = train_rows + val_rows
    images = torch.rand(rows, PIXELS, generator=generator)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    return TrainingData(
        train_images=images[:train_rows],
        train_labels=labels[:train_rows],
        pixels=torch.arange(PIXELS),
        val_images=images[train_rows:],
        val_labels=labels[train_rows:],
        augmentation="affine",
    )


def train_stack(data: TrainingData, members: int, batch_size: int) -> None:
    """Train a stack of K trials, which differ in their rates, for one epoch."""
    trials = [
        Trial(
            Configuration(
                lr=RATE * (1 + place / members),
                batch_size=batch_size,
                momentum=MOMENTUM,
                nesterov=True,
                dropout=DROPOUT,
                hidden_sizes=HIDDEN,
                augmentation="affine",
            ),
            seed=0,
        )
        for place in range(members)
    ]
    model = init_mlp(layer_sizes(PIXELS, HIDDEN), seed=0, members=members)
    list(epochs(model, Stack(tuple(trials)), data, epochs=1))


def train_plainly(data: TrainingData, batch_size: int) -> None:
    """Train one configuration for one epoch by the usual loop."""
    sizes = layer_sizes(PIXELS, HIDDEN)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(DROPOUT)]
    model = nn.Sequential(*layers[:-2])
    sgd = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True)
    model.train()
    for rows in torch.randperm(len(data.train_labels)).split(batch_size):
        images = data.train_images[rows].view(-1, 1, 28, 28)
        matrices = draw_transformations("affine", len(rows), side=28, seed=0, epoch=1)
        grid = affine_grid(matrices, list(images.shape), align_corners=False)
        moved = grid_sample(images, grid, align_corners=False).flatten(1)
        loss = cross_entropy(model(moved), data.train_labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    model.eval()
    with torch.no_grad():
        logits = model(data.val_images)
        (logits.argmax(1) == data.val_labels).float().mean().item()


def seconds_of(run: Callable[[], object]) -> float:
    """Return the processor time of a run, in seconds."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=8, help="trials of the stack")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--train-rows", type=int, default=33_600)
    parser.add_argument("--val-rows", type=int, default=8_400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = made_digits(options.train_rows, options.val_rows)
    members, batch_size = options.members, options.batch_size
    forms: dict[str, Callable[[], object]] = {
        "stack": lambda: train_stack(data, members, batch_size),
        "plain loop": lambda: train_plainly(data, batch_size),
        "bare products of the stack": bare_forms(
            Shape(batch_size, members),
            math.ceil(options.train_rows / batch_size),
            layer_sizes(PIXELS, HIDDEN),
        )[LIMIT],
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, run in forms.items():
            seconds[name].append(seconds_of(run))
    print(f"An epoch at batch size {batch_size}, {members} trials, seconds of a processor:")
    for name, values in seconds.items():
        print(f"  {name}: {spread(values, 1)}")
    ratios = [
        members * one / together
        for one, together in zip(seconds["plain loop"], seconds["stack"], strict=True)
    ]
    print(f"{members} plain loops take {spread(ratios)} times as long as the stack.")


if __name__ == "__main__":
    main()
