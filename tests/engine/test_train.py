import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from digitrec.data.digits import SharedData, fit_scaler, split_rows
from digitrec.engine import products as products_module
from digitrec.engine import resident
from digitrec.engine import train as train_module
from digitrec.engine.model import StackedMLP, init_mlp
from digitrec.engine.products import (
    Bfloat16Products,
    OneDNNProducts,
    Products,
    TorchProducts,
    choose_products,
    onednn_is_faster,
)
from digitrec.engine.resident import ink_first, prepare
from digitrec.engine.train import TrainingData, batches_of, epochs, evaluate, shuffled
from digitrec.space.hyperparameters import Configuration, Precision, Trial
from digitrec.space.records import EpochRecord
from digitrec.space.shape import layer_sizes
from digitrec.space.stacks import Stack

SIZES = (12, 8, 6, 10)
LRS = (0.01, 0.1, 0.5, 1.0, 2.0)
BATCH_SIZE = 16


def stack(lrs: tuple[float, ...], batch_size: int = BATCH_SIZE) -> Stack:
    return Stack(tuple(Trial(Configuration(lr=lr, batch_size=batch_size), seed=0) for lr in lrs))


def train(
    data: TrainingData,
    lrs: tuple[float, ...] = LRS,
    *,
    products: Products | None = None,
    epochs_wanted: int = 3,
    predictions: Tensor | None = None,
) -> tuple[StackedMLP, list[list[EpochRecord]]]:
    model = init_mlp(SIZES, seed=0, members=len(lrs), dtype=data.train_images.dtype)
    history = epochs(
        model,
        stack(lrs),
        data,
        epochs=epochs_wanted,
        predictions=predictions,
        products=products,
    )
    return model, list(history)


def plain_mlp(sizes: tuple[int, ...], seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def in_float32(data: TrainingData) -> TrainingData:
    return dataclasses.replace(
        data, train_images=data.train_images.float(), val_images=data.val_images.float()
    )


def without_seconds(records: list[EpochRecord]) -> list[tuple[float, ...]]:
    return [record[:-1] for record in records]


def test_the_default_mlp_has_235146_parameters() -> None:
    sizes = layer_sizes(784)
    model = init_mlp(sizes, seed=0)
    assert sizes == (784, 256, 128, 10)
    assert sum(p.numel() for p in model.weights + model.biases) == 235_146


def test_initial_weights_are_those_of_linear_layers_after_manual_seed() -> None:
    stack = init_mlp(SIZES, seed=7, members=3)
    expected = plain_mlp(SIZES, seed=7).state_dict()
    for k in range(3):
        member = stack.member(k)
        assert list(member) == list(expected)
        assert all(torch.equal(member[name], expected[name]) for name in expected)


def test_the_order_of_images_depends_on_seed_and_epoch_alone() -> None:
    order = shuffled(100, seed=1, epoch=2)
    assert torch.equal(order, shuffled(100, seed=1, epoch=2))
    assert not torch.equal(order, shuffled(100, seed=1, epoch=3))
    assert not torch.equal(order, shuffled(100, seed=2, epoch=2))
    assert torch.equal(order.sort().values, torch.arange(100))


def trained_by_autograd(
    data: TrainingData, lr: float
) -> tuple[torch.nn.Sequential, list[tuple[float, float]]]:
    """The plain loop in float64: torch.optim.SGD, and train loss and accuracy summed per image."""
    model = plain_mlp(SIZES, seed=0).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    history = []
    for epoch in (1, 2, 3):
        loss_sum, correct = 0.0, 0
        for rows in shuffled(len(data.train_labels), seed=0, epoch=epoch).split(BATCH_SIZE):
            logits, labels = model(data.train_images[rows]), data.train_labels[rows]
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(rows)
            correct += int((logits.argmax(1) == labels).sum())
        history.append((loss_sum / len(data.train_labels), correct / len(data.train_labels)))
    return model, history


@pytest.mark.parametrize("k", range(len(LRS)))
def test_a_stack_trains_each_member_as_sgd_with_autograd_would(
    small_data: TrainingData, k: int
) -> None:
    stack, history = train(small_data)
    plain, expected = trained_by_autograd(small_data, LRS[k])
    for name, values in stack.member(k).items():
        torch.testing.assert_close(values, plain.state_dict()[name], rtol=1e-9, atol=1e-12)
    for records, (loss, accuracy) in zip(history, expected, strict=True):
        assert records[k].train_loss == pytest.approx(loss, rel=1e-12)
        assert records[k].train_accuracy == accuracy
    logits = plain(small_data.val_images)
    loss = torch.nn.functional.cross_entropy(logits, small_data.val_labels).item()
    assert history[-1][k].val_loss == pytest.approx(loss, rel=1e-9)
    right = (logits.argmax(1) == small_data.val_labels).double().mean().item()
    assert history[-1][k].val_accuracy == pytest.approx(right)


def test_a_stack_of_five_equals_five_stacks_of_one(small_data: TrainingData) -> None:
    stack, together = train(small_data)
    for k, lr in enumerate(LRS):
        one, alone = train(small_data, (lr,))
        for whole, single in zip(stack.weights, one.weights, strict=True):
            torch.testing.assert_close(whole[k], single[0], rtol=1e-10, atol=1e-13)
        for epoch in range(3):
            assert together[epoch][k][:-1] == pytest.approx(alone[epoch][0][:-1], rel=1e-10)


def test_pixels_that_training_never_sees_change_nothing_but_their_own_part(
    small_data: TrainingData,
) -> None:
    never = torch.tensor([3, 9])  # on validation images alone
    images = small_data.train_images.clone()
    images[:, never] = 0
    whole = dataclasses.replace(small_data, train_images=images)
    pixels = torch.tensor([p for p in range(12) if p not in never.tolist()])
    narrow = dataclasses.replace(whole, train_images=images[:, pixels], pixels=pixels)
    one, all_records = train(whole)
    other, records = train(narrow)
    for w, v in zip(one.weights + one.biases, other.weights + other.biases, strict=True):
        torch.testing.assert_close(w, v, rtol=1e-10, atol=1e-13)
    before = init_mlp(SIZES, seed=0, members=len(LRS), dtype=torch.float64).weights[0]
    assert torch.equal(other.weights[0][:, :, never], before[:, :, never])
    assert not torch.equal(other.weights[0], before)
    for ours, theirs in zip(records, all_records, strict=True):
        for mine, wide in zip(ours, theirs, strict=True):
            assert mine[:-1] == pytest.approx(wide[:-1], rel=1e-10)


def rare_ink(images: int, pixels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return images whose later pixels rarely have ink; the last image has none at all."""
    random = np.random.default_rng(0)
    inked = random.random((images, pixels)) < np.geomspace(0.9, 0.003, pixels)
    inked[-1] = False
    return inked * random.integers(1, 256, (images, pixels), dtype=np.uint8)


@pytest.mark.parametrize("paper", [0, 3])
def test_pixels_with_ink_come_first_and_hold_all_ink_of_an_image(paper: int) -> None:
    images = rare_ink(100, 72)[:, ::-1]
    order, needed = ink_first(np.maximum(images, paper), np.full(72, paper, np.float32))
    images = np.where(images <= paper, 0, images)
    assert sorted(order) == list(range(72))
    shares = (images[:, order] > 0).mean(axis=0)
    assert (np.diff(shares) <= 0).all()
    assert set(needed) <= {16, 32, 48, 64, 72}
    assert needed[-1] == 16
    for image, width in zip(images[:, order], needed, strict=True):
        assert not image[width:].any()
        assert width in (16, 72) or image[width - 16 : width].any()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("decays", [0.0, 0.01])
def test_the_data_that_are_prepared_are_the_scaled_images_with_their_ink_first(
    decays: float, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "narrow_batches_pay", lambda device: True)
    images = np.maximum(rare_ink(100, 72)[:, ::-1], 3)
    labels = (np.arange(100) % 10).astype(np.uint8)
    split = split_rows(labels, 0.2, 42)
    scaler = fit_scaler(images[split.train])
    shared = SharedData(key="made", images=images, labels=labels, split=split, scaler=scaler)
    one = Stack((Trial(Configuration(lr=0.1, batch_size=4, weight_decay=decays), seed=0),))
    data = prepare(shared, torch.device("cpu"), precision, one)
    expected = torch.from_numpy(scaler.scale(images[split.train])).to(data.train_images.dtype)
    assert torch.equal(data.train_images, expected[:, data.pixels])
    assert not torch.equal(data.pixels, data.pixels.sort()[0])
    assert data.widths is not None
    assert data.widths.min() < data.train_images.shape[1]
    for image, width in zip(data.train_images, data.widths, strict=True):
        assert not image[int(width) :].any()


@pytest.mark.parametrize("make", [TorchProducts, lambda: onednn_or_skip()])
@pytest.mark.parametrize(
    "used",
    [
        {},
        {"weight_decay": 0.01, "dropout": 0.2},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.01, "lr": 0.01},
    ],
    ids=str,
)
def test_pixels_without_ink_on_a_batch_may_be_left_out_of_it(
    used: dict[str, Any], make: Callable[[], Products]
) -> None:
    images = rare_ink(30, 48)
    order, needed = ink_first(images, np.zeros(48, np.float32))
    images = images[:, order]
    whole = TrainingData(
        train_images=torch.from_numpy(images / 255).float(),
        train_labels=torch.arange(30) % 10,
        pixels=torch.arange(48),
        val_images=torch.from_numpy(images / 255).float(),
        val_labels=torch.arange(30) % 10,
    )
    narrow = dataclasses.replace(whole, widths=torch.from_numpy(needed))
    batches = batches_of(narrow, torch.arange(30), 2, seed=0, epoch=1)
    assert len({batch.shape[1] for batch in batches}) > 1
    rates = [{"lr": 0.1, **used}, {**used, "lr": 0.02}]
    two = Stack(tuple(Trial(Configuration(batch_size=2, **each), seed=0) for each in rates))
    trained = []
    for data in (whole, narrow):
        model = init_mlp(layer_sizes(48), seed=0, members=2)
        history = list(epochs(model, two, data, epochs=1, products=make()))
        trained.append((model, history[-1]))
    (one, expected), (other, found) = trained
    for w, v in zip(one.weights + one.biases, other.weights + other.biases, strict=True):
        torch.testing.assert_close(w, v, rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[:-1] == pytest.approx(theirs[:-1], rel=1e-4)


@pytest.mark.parametrize("pixels", [1, 2, 40])
def test_images_of_another_size_are_refused(pixels: int, small_data: TrainingData) -> None:
    model = init_mlp(layer_sizes(pixels + 12), seed=0, dtype=torch.float64)
    with pytest.raises(ValueError, match="12 pixels do not fit"):
        evaluate(model, small_data.val_images, small_data.val_labels, TorchProducts())


@pytest.mark.parametrize("pixels", [1, 2, 40])
def test_images_that_are_all_the_same_train(pixels: int) -> None:
    images = np.full((20, pixels), 7, dtype=np.uint8)
    labels = (np.arange(20) % 2).astype(np.uint8)
    split = split_rows(labels, 0.2, 42)
    scaler = fit_scaler(images[split.train])
    shared = SharedData(key="same", images=images, labels=labels, split=split, scaler=scaler)
    two = stack((0.1, 0.5), 4)
    data = prepare(shared, torch.device("cpu"), "float32", two)
    model = init_mlp(layer_sizes(pixels), seed=0, members=2)
    *_, last = epochs(model, two, data, epochs=2)
    assert all(math.isfinite(record.val_loss) for record in last)


def onednn_or_skip() -> Products:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch has no oneDNN")
    return OneDNNProducts()


@pytest.mark.parametrize("make", [TorchProducts, onednn_or_skip])
def test_products_of_either_kind_train_alike(
    small_data: TrainingData, make: Callable[[], Products]
) -> None:
    exact, _ = train(small_data)
    model, history = train(in_float32(small_data), products=make())
    for single, double in zip(model.weights, exact.weights, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)
    assert len(history) == 3


def test_trial_by_trial_products_train_alike(
    small_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = train(small_data)
    monkeypatch.setattr(products_module, "SMALL_LAYER", 0)
    model, _ = train(in_float32(small_data), products=onednn_or_skip())
    for single, double in zip(model.weights, exact.weights, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)


def test_a_diverged_member_leaves_its_neighbours_alone_trial_by_trial(
    small_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products_module, "SMALL_LAYER", 0)
    data, products = in_float32(small_data), onednn_or_skip()
    calm, _ = train(data, (0.1, 0.2, 0.5), products=products)
    wild, history = train(data, (0.1, 1e20, 0.5), products=products)
    assert history[-1][1].diverged
    for k in (0, 2):
        assert all(torch.equal(a[k], b[k]) for a, b in zip(calm.weights, wild.weights, strict=True))


def test_the_size_of_an_evaluation_block_does_not_matter(
    small_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = torch.empty(len(LRS), len(small_data.val_labels), dtype=torch.uint8)
    in_blocks = at_once.clone()
    _, whole = train(small_data, predictions=at_once)
    monkeypatch.setattr(train_module, "IMAGES_AT_ONCE", 7)
    _, parts = train(small_data, predictions=in_blocks)
    assert torch.equal(at_once, in_blocks)
    for before, after in zip(whole[-1], parts[-1], strict=True):
        assert after[:-1] == pytest.approx(before[:-1], rel=1e-12)


def test_a_short_last_batch_is_weighted_by_its_size(small_data: TrainingData) -> None:
    assert len(small_data.train_labels) % BATCH_SIZE == 6
    # At a rate of almost 0 the epoch's loss is that of the initial weights over all images.
    _, history = train(small_data, (1e-300,), epochs_wanted=1)
    logits = plain_mlp(SIZES, seed=0).double()(small_data.train_images)
    expected = torch.nn.functional.cross_entropy(logits, small_data.train_labels).item()
    assert history[0][0].train_loss == pytest.approx(expected, rel=1e-12)
    assert history[0][0].updates == 5


def test_same_seed_gives_the_same_numbers(small_data: TrainingData) -> None:
    first, second = (train(in_float32(small_data))[1] for _ in range(2))
    assert [without_seconds(r) for r in first] == [without_seconds(r) for r in second]


@pytest.mark.parametrize("make", [TorchProducts, onednn_or_skip])
def test_a_diverged_member_leaves_its_neighbours_bit_identical(
    small_data: TrainingData, make: Callable[[], Products]
) -> None:
    data, products = in_float32(small_data), make()
    calm, calm_history = train(data, (0.1, 0.2, 0.5), products=products)
    wild, wild_history = train(data, (0.1, 1e20, 0.5), products=products)
    for k in (0, 2):
        assert all(torch.equal(a[k], b[k]) for a, b in zip(calm.weights, wild.weights, strict=True))
        for before, after in zip(calm_history, wild_history, strict=True):
            assert before[k][:-1] == after[k][:-1]
    assert [records[1].diverged for records in wild_history] == [True, True, True]


def test_a_diverged_trial_keeps_nan_and_its_updates_stand_still(small_data: TrainingData) -> None:
    _, history = train(in_float32(small_data), (0.1, 1e20))
    for epoch, (calm, wild) in enumerate(history, start=1):
        assert (calm.epoch, calm.updates, calm.diverged) == (epoch, 5 * epoch, False)
        assert (wild.epoch, wild.updates, wild.diverged) == (epoch, 5, True)
        assert all(math.isnan(value) for value in wild[2:6])


def test_a_stack_of_diverged_trials_still_yields_every_epoch(small_data: TrainingData) -> None:
    _, history = train(in_float32(small_data), (1e20, 1e25))
    assert [records[0].epoch for records in history] == [1, 2, 3]
    assert all(record.diverged for records in history for record in records)


def test_predictions_are_those_that_the_validation_accuracy_counts(
    small_data: TrainingData,
) -> None:
    predictions = torch.empty(len(LRS), len(small_data.val_labels), dtype=torch.uint8)
    _, history = train(small_data, predictions=predictions)
    right = (predictions == small_data.val_labels).double().mean(1).tolist()
    assert right == pytest.approx([record.val_accuracy for record in history[-1]])


def test_products_follow_the_machine_not_the_moment() -> None:
    cpu = torch.device("cpu")
    single, double, half = torch.float32, torch.float64, torch.bfloat16
    kinds = {type(choose_products(cpu, single, single)) for _ in range(3)}
    assert len(kinds) == 1
    assert type(choose_products(cpu, double, double)) is TorchProducts
    assert type(choose_products(cpu, single, half)) is Bfloat16Products


AMD = "vendor_id\t: AuthenticAMD\ncpu family\t: {}\nmodel\t\t: 17\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        pytest.param(AMD.format(26), True, id="Zen 5"),
        pytest.param(AMD.format(25), False, id="Zen 4"),
        pytest.param("vendor_id\t: GenuineIntel\ncpu family\t: 26\n", False, id="Intel"),
        pytest.param("", False, id="empty"),
        pytest.param(None, False, id="not Linux"),
    ],
)
def test_onednn_is_for_the_processors_that_it_was_measured_on(
    cpuinfo: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onednn_or_skip()
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    monkeypatch.setattr(products_module, "CPUINFO", file)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert onednn_is_faster() is expected


def test_bfloat16_products_train_float32_weights_to_nearly_the_same(
    small_data: TrainingData,
) -> None:
    single = in_float32(small_data)
    half = dataclasses.replace(
        single, train_images=single.train_images.bfloat16(), val_images=single.val_images.bfloat16()
    )
    calm = (0.01, 0.1, 0.2)
    models = [init_mlp(SIZES, seed=0, members=3) for _ in range(2)]
    histories = [
        list(epochs(model, stack(calm), data, epochs=2))
        for model, data in zip(models, (single, half), strict=True)
    ]
    for exact, mixed in zip(*(model.weights for model in models), strict=True):
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, exact, rtol=0, atol=0.01)
    losses = [[record.val_loss for record in history[-1]] for history in histories]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_the_engine_needs_no_ray() -> None:
    code = (
        "import sys, digitrec.engine.train; "
        "assert not {'ray', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shuffles_are_uniform_enough() -> None:
    firsts = [int(shuffled(4, seed=seed, epoch=1)[0]) for seed in range(400)]
    assert np.bincount(firsts, minlength=4).min() > 60
