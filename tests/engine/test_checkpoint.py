"""A stack that is paused, kept and continued gives the same numbers, bit for bit."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from digitrec.engine import train as train_module
from digitrec.engine.checkpoint import (
    read_checkpoint,
    read_finished,
    remove_checkpoint,
    state_of,
    write_checkpoint,
)
from digitrec.engine.model import StackedMLP, init_mlp
from digitrec.engine.train import Training, TrainingData, train
from digitrec.errors import DamagedError
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack, Task
from digitrec.store.arrays import SUFFIX
from digitrec.store.folder import Folder
from digitrec.store.stacks import Run, StackResult, read_stack, result_key, write_stack
from digitrec.tuning.trainable import resume

SIZES = (12, 8, 6, 10)
EPOCHS = 3
QUESTION, KEY = "question", "key"


def stack(*lrs: float, batch_size: int = 4, seed: int = 0, **own: Any) -> Stack:
    configurations = [Configuration(lr=lr, batch_size=batch_size, **own) for lr in lrs]
    return Stack(tuple(Trial(each, seed) for each in configurations))


CALM = stack(0.1, 0.5)
WILD = stack(0.1, 1e20)  # the second diverges in its first epoch
ALL_WILD = stack(1e20, 1e25)
MOVING = stack(0.1, 0.5, momentum=0.9, nesterov=True, dropout=0.2, weight_decay=0.01)
ADAPTIVE = stack(0.01, 0.001, optimizer="adamw", dropout=0.2, weight_decay=0.01)


class End(NamedTuple):
    """What training ends with."""

    records: list[list[tuple[float, ...]]]  # without seconds
    weights: list[Tensor]
    predictions: Tensor


@pytest.fixture
def data(small_data: TrainingData) -> TrainingData:
    """Two of the pixels are 0 on all training images."""
    pixels = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 10, 11])
    images = (small_data.train_images.float()[:, pixels], small_data.val_images.float())
    labels = (small_data.train_labels, small_data.val_labels)
    return TrainingData(
        train_images=images[0],
        train_labels=labels[0],
        pixels=pixels,
        val_images=images[1],
        val_labels=labels[1],
    )


@pytest.fixture(autouse=True)
def many_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the 70 images of the small data have a pause after every 16."""
    monkeypatch.setattr(train_module, "IMAGES_AT_ONCE", 8)
    monkeypatch.setattr(train_module, "SUMS_BETWEEN_PAUSES", 2)


def fresh(stack: Stack) -> Training:
    return Training.of(stack, init_mlp(SIZES, seed=stack.seed, members=len(stack.members)))


def go_on(
    training: Training, stack: Stack, data: TrainingData, predictions: Tensor, epochs: int = EPOCHS
) -> Iterator[Training]:
    return train(
        training,
        stack,
        data,
        epochs=epochs,
        pause_after=1e-9,  # at every chance but the first, so that each run gets on
        predictions=predictions,
    )


def no_predictions(stack: Stack, data: TrainingData) -> Tensor:
    return torch.zeros(len(stack.members), len(data.val_labels), dtype=torch.uint8)


def end_of(training: Training, predictions: Tensor) -> End:
    model = training.model
    moving = [values for part in training.state.values() for values in part.weights + part.biases]
    return End(
        records=[[record[:-1] for record in records] for records in training.history],
        weights=[*model.weights, *model.biases, *moving],
        predictions=predictions,
    )


def uninterrupted(stack: Stack, data: TrainingData, epochs: int = EPOCHS) -> End:
    training, predictions = fresh(stack), no_predictions(stack, data)
    for _ in go_on(training, stack, data, predictions, epochs):
        pass
    return end_of(training, predictions)


def assert_same(end: End, expected: End) -> None:
    assert repr(end.records) == repr(expected.records)  # NaN is like NaN, 0.0 is not like -0.0
    for name in ("weights", "predictions"):
        for mine, other in zip(getattr(end, name), getattr(expected, name), strict=True):
            assert mine.numpy().tobytes() == other.numpy().tobytes()


def pauses(stack: Stack, data: TrainingData) -> int:
    """How often a whole training can be paused, ends of epochs included."""
    training = fresh(stack)
    return sum(1 for _ in go_on(training, stack, data, no_predictions(stack, data))) - 1


@pytest.mark.slow
@pytest.mark.parametrize("stack", [CALM, WILD, ALL_WILD, MOVING, ADAPTIVE])
def test_going_on_from_any_pause_ends_with_the_same_bits(
    stack: Stack, data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    expected = uninterrupted(stack, data)
    count = pauses(stack, data)
    assert count >= EPOCHS - 1 + (0 if stack == ALL_WILD else 4)
    for cut in range(count):
        steps = go_on(fresh(stack), stack, data, no_predictions(stack, data))
        for _ in range(cut + 1):
            training = next(steps)
        write_checkpoint(study, QUESTION, KEY, training)
        kept = read_checkpoint(study, QUESTION, KEY, fresh(stack))
        assert kept.totals.images == training.totals.images
        predictions = no_predictions(stack, data)
        for _ in go_on(kept, stack, data, predictions):
            pass
        assert_same(end_of(kept, predictions), expected)


def test_stopping_at_every_pause_ends_with_the_same_bits(
    data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    training, predictions = fresh(CALM), no_predictions(CALM, data)
    stops = 0
    while len(training.history) < EPOCHS:
        next(go_on(training, CALM, data, predictions))
        stops += 1
        write_checkpoint(study, QUESTION, KEY, training)
        training = read_checkpoint(study, QUESTION, KEY, fresh(CALM))
    assert stops > EPOCHS
    assert_same(end_of(training, predictions), uninterrupted(CALM, data))


def test_pauses_within_an_epoch_come_no_more_often_than_asked(data: TrainingData) -> None:
    training = fresh(CALM)
    steps = train(training, CALM, data, epochs=EPOCHS, pause_after=math.inf)
    assert [len(paused.history) for paused in steps] == [1, 2, 3]


@pytest.mark.parametrize("stack", [WILD, MOVING, ADAPTIVE])
def test_a_finished_stack_goes_on_for_more_epochs_as_if_asked_at_once(
    stack: Stack, data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    keep_finished(study, stack, data, epochs=2)
    training = read_finished(
        study, QUESTION, [result_key(stack, 2)] * len(stack.members), stack, fresh(stack)
    )
    predictions = no_predictions(stack, data)
    for _ in go_on(training, stack, data, predictions, epochs=4):
        pass
    assert_same(end_of(training, predictions), uninterrupted(stack, data, epochs=4))


def test_a_member_without_momentum_goes_on_beside_one_that_has_it(
    data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    plain, moving = (stack(0.1, momentum=momentum).members for momentum in (0.0, 0.9))
    keep_finished(study, Stack(plain + moving), data, epochs=2)
    key = result_key(Stack(plain + moving), 2)
    alone = read_finished(study, QUESTION, [key], Stack(plain), fresh(Stack(plain)))
    assert alone.state == {}
    both = read_finished(
        study, QUESTION, [key] * 2, Stack(moving + plain), fresh(Stack(moving + plain))
    )
    assert torch.equal(both.model.weights[0][1], alone.model.weights[0][0])
    velocity = both.state["velocity"].weights[0]
    assert velocity[0].any()
    assert not velocity[1].any()


def keep_finished(study: Folder, stack: Stack, data: TrainingData, epochs: int) -> None:
    training, predictions = fresh(stack), no_predictions(stack, data)
    for _ in go_on(training, stack, data, predictions, epochs):
        pass
    result = StackResult(
        stack=stack,
        epochs=training.history,
        predictions=predictions.numpy(),
        run=Run(node="127.0.0.1", pid=1, started=0.0, ended=1.0),
    )
    write_stack(study, QUESTION, result, state_of(stack, training))


def test_some_members_of_a_finished_stack_go_on_without_the_others(
    data: TrainingData, tmp_path: Path
) -> None:
    study, one = Folder.at(tmp_path), stack(0.5)
    keep_finished(study, CALM, data, epochs=2)
    training = read_finished(study, QUESTION, [result_key(CALM, 2)], one, fresh(one))
    alone = read_finished(study, QUESTION, [result_key(CALM, 2)] * 2, CALM, fresh(CALM))
    assert torch.equal(training.model.weights[0][0], alone.model.weights[0][1])
    assert [records[0].updates for records in training.history] == [18, 36]


@pytest.fixture
def kept(data: TrainingData, tmp_path: Path) -> Folder:
    study = Folder.at(tmp_path)
    steps = go_on(fresh(CALM), CALM, data, no_predictions(CALM, data))
    for _ in range(3):
        training = next(steps)
    write_checkpoint(study, QUESTION, result_key(CALM, EPOCHS), training)
    return study


def damage(change: Callable[[bytes], bytes], study: Folder) -> None:
    folder, (name,) = study / "checkpoints", (study / "checkpoints").names()
    folder.write(name, change(folder.read(name)))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: b"not ours",
        lambda content: content.replace(b'"format": 2', b'"format": 9'),
        flipped,
    ],
    ids=["empty", "cut short", "too long", "not ours", "newer", "one bit"],
)
def test_a_damaged_checkpoint_is_never_used(change: Callable[[bytes], bytes], kept: Folder) -> None:
    key = result_key(CALM, EPOCHS)
    damage(change, kept)
    with pytest.raises(DamagedError):
        read_checkpoint(kept, QUESTION, key, fresh(CALM))
    begun = resume(kept, QUESTION, Task(CALM, 2), key, fresh(CALM))
    assert (begun.history, begun.totals.images, begun.seconds) == ([], 0, 0.0)
    assert_initial(begun.model, CALM)


def assert_initial(model: StackedMLP, stack: Stack) -> None:
    for mine, initial in zip(model.weights, fresh(stack).model.weights, strict=True):
        assert torch.equal(mine, initial)


def test_a_checkpoint_of_another_study_is_never_used(kept: Folder) -> None:
    with pytest.raises(DamagedError, match="other data, split or model"):
        read_checkpoint(kept, "another", result_key(CALM, EPOCHS), fresh(CALM))


@pytest.mark.parametrize("other", [stack(0.1), stack(0.1, 0.5, 1.0), stack(0.1, 1.0)])
def test_a_checkpoint_of_another_stack_is_never_used(other: Stack, kept: Folder) -> None:
    folder, key = kept / "checkpoints", result_key(other, EPOCHS)
    (name,) = folder.names()
    folder.move(name, folder, key + SUFFIX)
    with pytest.raises(DamagedError, match=f"does not fit its stack: it belongs to {CALM.name}"):
        read_checkpoint(kept, QUESTION, key, fresh(other))
    begun = resume(kept, QUESTION, Task(other, 2), key, fresh(other))
    assert begun.history == []
    assert_initial(begun.model, other)


def test_a_checkpoint_of_another_model_leaves_the_weights_alone(kept: Folder) -> None:
    model = init_mlp((12, 8, 7, 10), seed=0, members=2)
    before = [weight.clone() for weight in model.weights]
    with pytest.raises(DamagedError, match="other names or shapes"):
        read_checkpoint(kept, QUESTION, result_key(CALM, EPOCHS), Training.of(CALM, model))
    assert all(torch.equal(*pair) for pair in zip(before, model.weights, strict=True))


def test_a_stack_whose_earlier_weights_are_damaged_begins_anew(
    data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    keep_finished(study, CALM, data, epochs=2)
    earlier = result_key(CALM, 2)
    weights = study / "weights"
    weights.write(earlier + SUFFIX, flipped(weights.read(earlier + SUFFIX)))
    task = Task(CALM, 3, (earlier,) * len(CALM.members))
    begun = resume(study, QUESTION, task, result_key(CALM, 3), fresh(CALM))
    assert begun.history == []
    assert_initial(begun.model, CALM)


def test_a_finished_stack_under_another_name_is_never_used(
    data: TrainingData, tmp_path: Path
) -> None:
    study = Folder.at(tmp_path)
    keep_finished(study, CALM, data, epochs=2)
    stacks = study / "stacks"
    stacks.move(result_key(CALM, 2) + SUFFIX, stacks, result_key(WILD, 2) + SUFFIX)
    with pytest.raises(DamagedError, match=f"it belongs to {CALM.name}"):
        read_stack(study, QUESTION, result_key(WILD, 2) + SUFFIX)


def test_a_whole_checkpoint_is_gone_on_with(kept: Folder) -> None:
    key = result_key(CALM, EPOCHS)
    begun = resume(kept, QUESTION, Task(CALM, 2), key, fresh(CALM))
    assert begun.totals.images == 48
    remove_checkpoint(kept, key)
    remove_checkpoint(kept, key)
    assert (kept / "checkpoints").names() == []


def test_records_survive_as_they_are(data: TrainingData, tmp_path: Path) -> None:
    study = Folder.at(tmp_path)
    training = fresh(WILD)
    steps = go_on(training, WILD, data, no_predictions(WILD, data))
    while not training.history:
        next(steps)
    write_checkpoint(study, QUESTION, KEY, training)
    again = read_checkpoint(study, QUESTION, KEY, fresh(WILD)).history
    assert np.array_equal(np.array(again), np.array(training.history), equal_nan=True)
    assert all(isinstance(record, EpochRecord) for record in again[0])
    assert [record.diverged for record in again[0]] == [False, True]
