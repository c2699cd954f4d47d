"""The learning rate falls linearly to 0 as torch's LambdaLR makes it fall, from any beginning."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from digitrec.engine import train as train_module
from digitrec.engine.checkpoint import (
    read_checkpoint,
    read_finished,
    state_of,
    write_checkpoint,
)
from digitrec.engine.model import init_mlp
from digitrec.engine.train import Cooldown, Training, TrainingData, shuffled, train
from digitrec.errors import DamagedError
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.stacks import Stack
from digitrec.store.folder import Folder
from digitrec.store.stacks import Run, StackResult, result_key, write_stack

SIZES = (12, 8, 6, 10)
BATCH_SIZE, EPOCHS, COOLDOWN = 16, 2, 2
STUDY, KEY = "study", "key"
PLAIN: dict[str, Any] = {"lr": 0.2}
MOVING: dict[str, Any] = {"lr": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
ADAPTIVE: dict[str, Any] = {"lr": 0.01, "optimizer": "adamw", "weight_decay": 0.1}


def stack(*members: dict[str, Any], cooldown: int = COOLDOWN) -> Stack:
    configurations = [Configuration(batch_size=BATCH_SIZE, **own) for own in members]
    return Stack(tuple(Trial(each, 0, cooldown) for each in configurations))


def fresh(stack: Stack, data: TrainingData) -> Training:
    dtype = data.train_images.dtype
    return Training.of(stack, init_mlp(SIZES, seed=0, members=len(stack.members), dtype=dtype))


def go_on(training: Training, stack: Stack, data: TrainingData) -> Iterator[Training]:
    epochs = EPOCHS + stack.cooldown
    return train(training, stack, data, epochs=epochs, pause_after=1e-9)


def finish(training: Training, stack: Stack, data: TrainingData) -> Training:
    for _ in go_on(training, stack, data):
        pass
    return training


def by_torch(data: TrainingData, own: dict[str, Any]) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).double()
    adaptive = own.get("optimizer") == "adamw"
    settings = {name: value for name, value in own.items() if name != "optimizer"}
    kind = torch.optim.AdamW if adaptive else torch.optim.SGD
    optimizer = kind(model.parameters(), **settings)
    orders = [
        shuffled(len(data.train_labels), seed=0, epoch=epoch).split(BATCH_SIZE)
        for epoch in range(1, EPOCHS + COOLDOWN + 1)
    ]
    before, cooling = EPOCHS * len(orders[0]), COOLDOWN * len(orders[0])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min(1.0, 1 - (update - before) / cooling)
    )
    for rows in itertools.chain.from_iterable(orders):
        loss = torch.nn.functional.cross_entropy(
            model(data.train_images[rows]), data.train_labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize("own", [PLAIN, MOVING, ADAPTIVE], ids=["plain", "moving", "adaptive"])
def test_a_cooldown_is_that_of_torch(own: dict[str, Any], small_data: TrainingData) -> None:
    training = finish(fresh(stack(own), small_data), stack(own), small_data)
    for name, values in by_torch(small_data, own).state_dict().items():
        torch.testing.assert_close(training.model.member(0)[name], values, rtol=1e-9, atol=1e-10)


def test_the_rate_is_whole_until_the_cooldown_and_falls_by_equal_steps() -> None:
    cooldown = Cooldown(begins=3, updates=4)
    assert [cooldown.rate(updates) for updates in range(7)] == [1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert Cooldown(begins=3, updates=0).rate(5) == 1


def test_the_epochs_before_a_cooldown_are_those_without_it(small_data: TrainingData) -> None:
    plain = stack(MOVING, cooldown=0)
    before = finish(fresh(plain, small_data), plain, small_data)
    after = finish(fresh(stack(MOVING), small_data), stack(MOVING), small_data)
    assert len(after.history) == EPOCHS + COOLDOWN
    for records, others in zip(before.history, after.history[:EPOCHS], strict=True):
        assert records[0][:-1] == others[0][:-1]


@pytest.fixture
def data(small_data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> TrainingData:
    """Float32 images, in an order that has a pause after every 32 of its 70 images."""
    monkeypatch.setattr(train_module, "IMAGES_AT_ONCE", 16)
    monkeypatch.setattr(train_module, "SUMS_BETWEEN_PAUSES", 2)
    images = (small_data.train_images.float(), small_data.val_images.float())
    return dataclasses.replace(small_data, train_images=images[0], val_images=images[1])


def assert_same_bits(training: Training, expected: Training) -> None:
    parts = [(training.model, expected.model)]
    parts += [(training.state[kind], expected.state[kind]) for kind in expected.state]
    for mine, theirs in parts:
        for values, others in zip(
            mine.weights + mine.biases, theirs.weights + theirs.biases, strict=True
        ):
            assert values.numpy().tobytes() == others.numpy().tobytes()
    mine_records, records = ([epoch[0][:-1] for epoch in t.history] for t in (training, expected))
    assert mine_records == records


STACKS = [stack(PLAIN, {"lr": 0.5}), stack(MOVING, PLAIN), stack(ADAPTIVE)]
NAMES = ["plain", "moving", "adaptive"]


@pytest.mark.parametrize("stack", STACKS, ids=NAMES)
def test_a_pause_anywhere_in_a_cooldown_changes_no_bit(
    stack: Stack, data: TrainingData, tmp_path: Path
) -> None:
    study, expected = Folder.at(tmp_path), finish(fresh(stack, data), stack, data)
    pauses = sum(1 for _ in go_on(fresh(stack, data), stack, data)) - 1
    within = 0
    for cut in range(pauses):
        training = next(itertools.islice(go_on(fresh(stack, data), stack, data), cut, None))
        within += len(training.history) >= EPOCHS and training.totals.images > 0
        write_checkpoint(study, STUDY, KEY, training)
        kept = read_checkpoint(study, STUDY, KEY, fresh(stack, data))
        assert_same_bits(finish(kept, stack, data), expected)
    assert within >= COOLDOWN


@pytest.mark.parametrize("stack", STACKS, ids=NAMES)
def test_a_cooldown_from_finished_weights_is_that_of_one_training(
    stack: Stack, data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    before = Stack(tuple(member.before_cooldown for member in stack.members))
    keep_finished(study, before, data)
    key = result_key(before, EPOCHS)
    training = read_finished(study, STUDY, [key] * len(stack.members), stack, fresh(stack, data))
    assert len(training.history) == EPOCHS
    expected = finish(fresh(stack, data), stack, data)
    assert_same_bits(finish(training, stack, data), expected)


def test_a_cooldown_never_continues_from_another(data: TrainingData, tmp_path: Path) -> None:
    study, cooled = Folder.at(tmp_path), stack(PLAIN)
    keep_finished(study, cooled, data)
    key = result_key(cooled, EPOCHS + COOLDOWN)
    with pytest.raises(DamagedError):
        read_finished(study, STUDY, [key] * len(cooled.members), cooled, fresh(cooled, data))


def keep_finished(study: Folder, stack: Stack, data: TrainingData) -> None:
    training = finish(fresh(stack, data), stack, data)
    labels = torch.zeros(len(stack.members), len(data.val_labels), dtype=torch.uint8)
    run = Run(node="127.0.0.1", pid=1, started=0.0, ended=1.0)
    result = StackResult(stack=stack, epochs=training.history, predictions=labels.numpy(), run=run)
    write_stack(study, STUDY, result, state_of(stack, training))
