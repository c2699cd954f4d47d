"""One Ray Tune trial: trains a stack and reports every epoch of all its members.

torch is imported in the functions that run in a worker: it takes seconds, and the driver, which
imports this module as well, has no use for it.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from ray import tune

from digitrec.data import SharedData
from digitrec.results.stacks import Parameters, StackResult, write_stack
from digitrec.space import Configuration, EpochRecord, Precision, Stack

if TYPE_CHECKING:
    import torch

    from digitrec.model import StackedMLP
    from digitrec.train import TrainingData


def train_stack(
    config: dict[str, Any],
    *,
    shared: SharedData,
    layer_sizes: tuple[int, ...],
    epochs_wanted: int,
    precision: Precision,
    directory: Path,
) -> None:
    """Train one stack; the function that Ray Tune runs in a worker.

    The stack's file is written before the last epoch is reported, so a trial that Ray Tune calls
    terminated is on disk.

    Args:
        config: `stack` is what `stack_config` returned.
        shared: the data.
        layer_sizes: widths of the MLP, from input to output.
        epochs_wanted: how many to train.
        precision: of the factors of the matrix products.
        directory: where the finished stack's file goes; absolute.
    """
    import torch

    from digitrec.model import init_mlp
    from digitrec.products import bfloat16_is_fast
    from digitrec.train import epochs

    stack = stack_of(config)
    device = claim_resources()
    data = _resident(shared, device, precision)
    slow = precision == "bf16" and not bfloat16_is_fast(device)
    model = init_mlp(layer_sizes, seed=stack.seed, members=len(stack.members), device=device)
    predictions = torch.empty(len(model), len(data.val_labels), dtype=torch.uint8, device=device)
    history: list[list[EpochRecord]] = []
    for records in epochs(
        model,
        stack.lrs,
        data,
        batch_size=stack.batch_size,
        seed=stack.seed,
        epochs=epochs_wanted,
        predictions=predictions,
    ):
        history.append(records)
        if len(history) == epochs_wanted:
            result = StackResult(stack=stack, epochs=history, predictions=predictions.cpu().numpy())
            write_stack(directory, result, weights_of(stack, model))
        tune.report(epoch_metrics(stack, records) | {"slow_precision": slow})


def weights_of(stack: Stack, model: "StackedMLP") -> dict[str, Parameters]:
    """Return every trial's parameters as numpy arrays."""
    return {
        member.trial: {name: values.cpu().numpy() for name, values in model.member(k).items()}
        for k, member in enumerate(stack.members)
    }


def stack_config(stack: Stack) -> dict[str, Any]:
    """Return a stack as a Ray Tune configuration: plain values, readable in Ray's own logs."""
    return {"batch_size": stack.batch_size, "seed": stack.seed, "lrs": list(stack.lrs)}


def stack_of(config: dict[str, Any]) -> Stack:
    """Return the stack of a trial's configuration; the inverse of `stack_config`."""
    plan = config["stack"]
    size, seed = plan["batch_size"], plan["seed"]
    return Stack(tuple(Configuration(lr=lr, batch_size=size, seed=seed) for lr in plan["lrs"]))


def epoch_metrics(stack: Stack, records: list[EpochRecord]) -> dict[str, float]:
    """Return one epoch as flat metrics: `val_accuracy/lr0.1` and so on, and the stack's best.

    TensorBoard draws one chart per name, so the same learning rate at other batch sizes (other
    trials of Ray Tune) shares a chart.
    """
    accuracies = [record.val_accuracy for record in records if not record.diverged]
    metrics: dict[str, float] = {
        "epoch": records[0].epoch,
        "best_val_accuracy": max(accuracies, default=math.nan),
        "diverged": sum(record.diverged for record in records),
    }
    for lr, record in zip(stack.lrs, records, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            metrics[f"{name}/lr{lr!r}"] = getattr(record, name)
    return metrics


def claim_resources() -> "torch.device":
    """Set torch's threads from the trial's CPUs and return the device from the trial's GPUs.

    Raises:
        RuntimeError: Ray gave the trial a GPU that this torch cannot use.
    """
    import torch

    resources = tune.get_context().get_trial_resources().required_resources
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
    if not resources.get("GPU", 0):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"Ray gave this trial a GPU, but torch {torch.__version__} cannot use one here; "
            "install a build of torch for this machine's GPUs, or run with --gpus-per-trial 0"
        )
    return torch.device("cuda")


_prepared: dict[tuple[str, str, str], "TrainingData"] = {}  # at most one entry: the study at work


def _resident(shared: SharedData, device: "torch.device", precision: Precision) -> "TrainingData":
    """Return the scaled data on the device, prepared once per worker."""
    key = (shared.key, str(device), precision)
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = prepare(shared, device, precision)
    return _prepared[key]


def prepare(shared: SharedData, device: "torch.device", precision: Precision) -> "TrainingData":
    """Return the scaled training and validation images, of the precision, on the device."""
    import torch

    from digitrec.train import TrainingData

    def images(rows: NDArray[np.int64]) -> torch.Tensor:
        scaled = torch.from_numpy(shared.scaler.scale(shared.images[rows]))
        return scaled.to(device, torch.bfloat16 if precision == "bf16" else torch.float32)

    def labels(rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(shared.labels[rows].astype(np.int64)).to(device)

    train, val = shared.split
    return TrainingData(
        train_images=images(train),
        train_labels=labels(train),
        val_images=images(val),
        val_labels=labels(val),
    )
