"""The engine never waits for a value of its device and never mixes devices, as on a GPU it should.

torch's device `meta` stands for a GPU: its tensors have shapes and types, but no values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from digitrec.data.digits import SharedData, fit_scaler, split_rows
from digitrec.engine.model import init_mlp
from digitrec.engine.products import Bfloat16Products, TorchProducts, choose_products
from digitrec.engine.resident import prepare
from digitrec.engine.train import Totals, Training, TrainingData, evaluate, train_on
from digitrec.space.hyperparameters import Configuration, Precision, Trial
from digitrec.space.shape import layer_sizes
from digitrec.space.stacks import Stack

META = torch.device("meta")
BATCH_SIZE = 16
USED: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"dropout": 0.2, "label_smoothing": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.01, "dropout": 0.2},
    {"augmentation": "shift2"},
    {"augmentation": "affine"},
]


def stack_of_two(used: dict[str, Any]) -> Stack:
    rates = (0.1, 0.2)
    return Stack(tuple(Trial(Configuration(lr=r, batch_size=BATCH_SIZE, **used), 0) for r in rates))


def data_of(stack: Stack, precision: Precision) -> TrainingData:
    """70 training and 30 validation images of 6 x 6 pixels; 70 leaves a short last batch."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (100, 36), dtype=np.uint8)
    labels = (np.arange(100) % 10).astype(np.uint8)
    split = split_rows(labels, 0.3, 42)
    scaler = fit_scaler(images[split.train])
    shared = SharedData(key="made", images=images, labels=labels, split=split, scaler=scaler)
    return prepare(shared, META, precision, stack)


class BlockingCopies(TorchDispatchMode):
    """Collects the copies from the CPU to another device that wait for that device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        from_cpu = any(isinstance(each, Tensor) and each.device.type == "cpu" for each in args)
        if from_cpu and given.get("device") == META and not given.get("non_blocking"):
            self.found.append(str(func))
        return func(*args, **given)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("used", USED, ids=str)
def test_an_epoch_reads_no_value_from_its_device(
    used: dict[str, Any], precision: Precision
) -> None:
    stack = stack_of_two(used)
    data = data_of(stack, precision)
    model = init_mlp(layer_sizes(36), seed=0, members=2, device=META)
    products = choose_products(META, model.dtype, data.train_images.dtype)
    assert type(products) is (Bfloat16Products if precision == "bf16" else TorchProducts)
    training = Training.of(stack, model)
    step = training.step(stack, data.pixels, products)
    train_on(step, data, torch.arange(70, device=META), training.totals, epoch=1)
    training.take(step, data.pixels)
    predictions = torch.zeros(2, 30, dtype=torch.uint8, device=META)
    totals = evaluate(model, data.val_images, data.val_labels, products, predictions)
    with pytest.raises(NotImplementedError, match="meta"):  # only the epoch's means are read
        totals.means()


def test_the_random_numbers_of_dropout_reach_the_device_without_waiting_for_it() -> None:
    stack = stack_of_two({"dropout": 0.2})
    data = data_of(stack, "float32")
    model = init_mlp(layer_sizes(36), seed=0, members=2, device=META)
    step = Training.of(stack, model).step(stack, data.pixels, TorchProducts())
    order, totals = torch.arange(70, device=META), Totals(model)
    with BlockingCopies() as copies:
        torch.zeros(1).to(META)
        train_on(step, data, order, totals, epoch=1)
    assert len(copies.found) == 1  # the one above
