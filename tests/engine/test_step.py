"""The step of a stack, held in float64 to torch.optim.SGD, Dropout and CrossEntropyLoss."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from digitrec.engine.model import StackedMLP, init_mlp
from digitrec.engine.step import draw_uniform, state_kinds, trains_all_pixels
from digitrec.engine.train import Training, TrainingData, shuffled, train
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.stacks import Stack

SIZES = (12, 8, 6, 10)
BATCH_SIZE, EPOCHS = 16, 3
OWN: list[dict[str, Any]] = [  # of the members of the stack beside the one that is looked at
    {"lr": 0.1},
    {"lr": 0.5, "momentum": 0.5, "nesterov": True, "dropout": 0.1},
    {"lr": 0.01, "weight_decay": 0.1, "label_smoothing": 0.3},
]
LOOKED_AT: list[dict[str, Any]] = [
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    {"dropout": 0.4},
    {"label_smoothing": 0.1},
    {"momentum": 0.8, "weight_decay": 0.02, "dropout": 0.2, "label_smoothing": 0.2},
]
ADAPTIVE: list[dict[str, Any]] = [
    {"optimizer": "adamw", "lr": 0.01},
    {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.1, "dropout": 0.2},
]


def stack(*members: dict[str, Any]) -> Stack:
    trials = (
        Trial(Configuration(batch_size=BATCH_SIZE, **{"lr": 0.2} | own), 0) for own in members
    )
    return Stack(tuple(trials))


def trained(stack: Stack, data: TrainingData, epochs: int = EPOCHS) -> Training:
    model = init_mlp(SIZES, seed=0, members=len(stack.members), dtype=data.train_images.dtype)
    training = Training.of(stack, model)
    for _ in train(training, stack, data, epochs=epochs):
        pass
    return training


def dropped(hidden: list[Tensor], rate: float, units: int, uniform: Tensor) -> Tensor:
    """Apply dropout as torch.nn.Dropout does, with this mask."""
    own = uniform[units : units + hidden[-1].shape[1]].t()
    return hidden[-1] * (own >= rate) / (1 - rate)


def forward(model: torch.nn.Sequential, images: Tensor, rate: float, uniform: Tensor) -> Tensor:
    x, units = images, 0
    for layer in model:
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            x, units = dropped([x], rate, units, uniform), units + x.shape[1]
    return x


def by_autograd(data: TrainingData, own: dict[str, Any]) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).double()
    names = ("momentum", "nesterov", "weight_decay")
    asked = {"lr": own.get("lr", 0.2)} | {name: own[name] for name in names if name in own}
    if own.get("optimizer") == "adamw":
        asked = {"weight_decay": 0.0} | asked
    kind = torch.optim.AdamW if own.get("optimizer") == "adamw" else torch.optim.SGD
    optimizer = kind(model.parameters(), **asked)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=own.get("label_smoothing", 0.0))
    for epoch in range(1, EPOCHS + 1):
        order = shuffled(len(data.train_labels), seed=0, epoch=epoch).split(BATCH_SIZE)
        for batch, rows in enumerate(order):
            uniform = draw_uniform(14, len(rows), seed=0, epoch=epoch, batch=batch).double()
            logits = forward(model, data.train_images[rows], own.get("dropout", 0.0), uniform)
            optimizer.zero_grad()
            loss(logits, data.train_labels[rows]).backward()
            optimizer.step()
    return model


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("own", LOOKED_AT + ADAPTIVE, ids=lambda own: "-".join(own))
def test_a_step_is_that_of_torch(own: dict[str, Any], small_data: TrainingData) -> None:
    training = trained(stack(own), small_data)
    assert_close(training.model.member(0), by_autograd(small_data, own).state_dict())


@pytest.mark.parametrize("own", LOOKED_AT, ids=lambda own: "-".join(own))
def test_a_member_trains_among_others_as_it_does_alone(
    own: dict[str, Any], small_data: TrainingData
) -> None:
    together = trained(stack(*OWN, own), small_data)
    assert_close(together.model.member(len(OWN)), trained(stack(own), small_data).model.member(0))


def test_dropout_keeps_the_mean_and_draws_from_0_to_1(small_data: TrainingData) -> None:
    uniform = draw_uniform(200, 500, seed=3, epoch=2, batch=1)
    assert uniform.dtype == torch.float32
    assert (uniform >= 0).all()
    assert (uniform < 1).all()
    for rate in (0.1, 0.5):
        mean = float(((uniform >= rate) / (1 - rate)).mean())
        assert mean == pytest.approx(1, abs=0.02)


def test_the_numbers_of_dropout_depend_on_seed_epoch_and_batch_alone() -> None:
    def draw(seed: int, epoch: int, batch: int) -> Tensor:
        return draw_uniform(5, 7, seed=seed, epoch=epoch, batch=batch)

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    for other in (draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(2**32 - 1, 2, 3)):
        assert not torch.equal(draw(1, 2, 3), other)


def test_the_loss_that_is_reported_is_not_smoothed(small_data: TrainingData) -> None:
    calm, smoothed = {"lr": 1e-300}, {"lr": 1e-300, "label_smoothing": 0.5}
    (records,) = trained(stack(calm, smoothed), small_data, epochs=1).history
    assert records[0][:-1] == records[1][:-1]


def test_only_what_a_stack_uses_makes_part_of_its_state() -> None:
    assert state_kinds(stack({}, {"dropout": 0.1})) == ()
    assert state_kinds(stack({}, {"momentum": 0.1})) == ("velocity",)
    assert state_kinds(stack({"optimizer": "adamw"})) == ("average", "average_square")
    assert trains_all_pixels(stack({}, {"weight_decay": 0.1}))
    assert not trains_all_pixels(stack({"momentum": 0.1}))


def test_a_member_that_diverges_leaves_the_momentum_of_others_alone(
    small_data: TrainingData,
) -> None:
    data = dataclasses.replace(
        small_data,
        train_images=small_data.train_images.float(),
        val_images=small_data.val_images.float(),
    )
    own = {"momentum": 0.9, "dropout": 0.2}
    calm = trained(stack({"lr": 0.1}, own), data)
    wild = trained(stack({"lr": 1e30}, own), data)
    assert wild.history[-1][0].diverged
    assert_equal(calm.model, wild.model)


def assert_equal(one: StackedMLP, other: StackedMLP) -> None:
    for name, values in one.member(1).items():
        assert torch.equal(values, other.member(1)[name])
