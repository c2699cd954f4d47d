"""The trainable of Ray Tune: it trains a stack and reports every epoch of all its members.

torch is imported in the functions that run in a worker: the import takes seconds, and the driver,
which also imports this module, does not need it.
"""

import math
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, RayActorError

from digitrec.data.digits import SharedData
from digitrec.errors import DamagedError
from digitrec.space.hyperparameters import Precision, Trial
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack, Task
from digitrec.store.arrays import SUFFIX
from digitrec.store.folder import Folder, describe_error
from digitrec.store.stacks import (
    Run,
    StackResult,
    read_stack,
    result_key,
    write_failure,
    write_stack,
)

if TYPE_CHECKING:
    import torch

    from digitrec.engine.train import Training


class Place(NamedTuple):
    """The node on which a stack is trained, and the resources it may use there."""

    cpus: float
    gpus: float
    node: str  # address of the node
    node_id: str  # Ray's; empty without Ray


STORAGE_ERROR = "storage_error"  # reported instead of an epoch: why nothing can be saved


def train_stack(
    config: dict[str, Any],
    *,
    shared: SharedData,
    precision: Precision,
    directory: Folder,
    spec: str,
) -> None:
    """Train one stack; the function that Ray Tune runs in a worker.

    The stack's files are written before the last epoch is reported, so they exist for every trial
    that Ray Tune calls terminated. A trial that Ray Tune retries, because its worker was lost,
    resumes from its last checkpoint. If the study directory can no longer be used, a retry would
    not help: the error is reported and ends the search.

    Args:
        config: its `stack` comes from `task_config`.
        shared: the data.
        precision: of the factors of the matrix products.
        directory: the study directory.
        spec: the key of the study's spec.
    """
    task = task_of(config)
    try:
        for metrics in reports(task, shared, precision, directory, spec, rays_place()):
            tune.report(metrics)
    except OSError as error:
        tune.report({STORAGE_ERROR: describe_error(error)})


def reports(
    task: Task,
    shared: SharedData,
    precision: Precision,
    directory: Folder,
    spec: str,
    place: Place,
) -> Iterator[dict[str, Any]]:
    """Train a stack and yield the metrics to report for each epoch; see `train_stack`.

    Raises:
        OSError: the study directory cannot be read or written.
    """
    stack, epochs_wanted = task.stack, task.epochs + task.stack.cooldown
    key = result_key(stack, epochs_wanted)
    try:
        last = read_stack(directory, spec, key + SUFFIX).epochs[-1]
    except DamagedError:  # usually: not finished yet
        pass
    else:
        yield epoch_metrics(stack, last)
        return
    import torch

    from digitrec.engine.checkpoint import INTERVAL, remove_checkpoint, state_of, write_checkpoint
    from digitrec.engine.products import bfloat16_is_fast
    from digitrec.engine.resident import resident
    from digitrec.engine.train import Training, train

    started = time.time()
    device = claim_resources(place)
    data = resident(shared, device, precision, stack)
    slow = precision == "bf16" and not bfloat16_is_fast(device)
    begun = Training.begin(stack, shared.images.shape[1], device)
    predictions = torch.zeros(
        len(stack.members), len(data.val_labels), dtype=torch.uint8, device=device
    )
    kept = time.monotonic()
    epochs_reported = 0
    for training in train(
        resume(directory, spec, task, key, begun),
        stack,
        data,
        epochs=epochs_wanted,
        pause_after=INTERVAL,
        predictions=predictions,
    ):
        history = training.history
        if len(history) == epochs_wanted:
            labels, run = predictions.cpu().numpy(), describe_run(place, started)
            result = StackResult(stack=stack, epochs=history, predictions=labels, run=run)
            write_stack(directory, spec, result, state_of(stack, training))
            remove_checkpoint(directory, key)
        elif time.monotonic() - kept >= INTERVAL:
            write_checkpoint(directory, spec, key, training)
            kept = time.monotonic()
        if training.totals.images == 0 and len(history) > epochs_reported:
            epochs_reported = len(history)
            log(describe_epoch(stack, history[-1], epochs_wanted, len(data.train_labels)))
            yield epoch_metrics(stack, history[-1]) | {"slow_precision": slow}


def resume(directory: Folder, spec: str, task: Task, key: str, training: "Training") -> "Training":
    """Return a task's training at its last checkpoint, or else at its beginning.

    Args:
        directory: the study directory.
        spec: the key of the study's spec.
        task: the stack to train.
        key: of its result.
        training: at its beginning; its tensors get the saved values.
    """
    from digitrec.engine.checkpoint import read_checkpoint, read_finished

    try:
        saved = read_checkpoint(directory, spec, key, training)
    except DamagedError:  # missing: the driver has set damaged files aside
        if not task.continues:
            return training
        try:
            return read_finished(directory, spec, task.continues, task.stack, training)
        except DamagedError as error:  # the driver checks weights on a local file system only
            log(f"{task.stack.name} starts again: {error}")
            return training
    log(f"{task.stack.name} continues after epoch {len(saved.history)}")
    return saved


def log(line: str) -> None:
    """Write a line to the worker's log: to stderr, which Ray's dashboard shows first."""
    print(line, file=sys.stderr, flush=True)


def describe_epoch(stack: Stack, records: Sequence[EpochRecord], epochs: int, images: int) -> str:
    """Return an epoch as one line for the worker's log.

    Args:
        stack: the trained stack.
        records: one per member.
        epochs: number of epochs to train in all.
        images: number of training images in an epoch.
    """
    seconds = sum(record.seconds for record in records)
    names = own_names(stack)
    members = zip(names, records, strict=True)
    best = max(
        ((record.val_accuracy, name) for name, record in members if not record.diverged),
        default=None,
    )
    diverged = sum(record.diverged for record in records)
    parts = [
        f"{stack.name} epoch {records[0].epoch}/{epochs}",
        f"best val accuracy {best[0]:.2%} ({best[1]})" if best else "all diverged",
        f"{seconds:.1f} s, {len(records) * images / max(seconds, 1e-9):,.0f} images/s",
    ]
    return " | ".join([*parts, *([f"{diverged} diverged"] if best and diverged else [])])


def describe_failure(error: Exception) -> str:
    """Return in one line why a trial of Ray Tune failed: an error, or the loss of its worker."""
    last = str(error).strip().splitlines()[-1]
    if isinstance(error, ActorUnavailableError):
        return "its worker no longer answers"
    if not isinstance(error, RayActorError):
        return last
    detail = last.partition(" Some common causes")[0].rpartition("Worker exit detail: ")[2]
    return textwrap.shorten(f"its worker was lost: {detail}", 200, placeholder=" ...")


def failure_text(error: Exception) -> str:
    """Return the whole error of a trial of Ray Tune; the last line says why the trial failed."""
    text, line = str(error).rstrip(), describe_failure(error)
    return text if text.endswith(line) else f"{text}\n{line}"


def keep_failure(directory: Folder, stack: Stack, error: Exception) -> None:
    """Write why a stack failed for good."""
    trials = [member.name for member in stack.members]
    write_failure(directory, stack.key, trials, failure_text(error))


def task_config(task: Task) -> dict[str, Any]:
    """Return a task as a Ray Tune configuration: plain values, readable in Ray's own logs."""
    members = [member.values() for member in task.stack.members]
    plan: dict[str, Any] = {"members": members, "epochs": task.epochs}
    return plan | {"continues": list(task.continues)} if task.continues else plan


def task_of(config: dict[str, Any]) -> Task:
    """Return the task of a trial's configuration; the inverse of `task_config`."""
    plan = config["stack"]
    return Task(stack_of(config), plan["epochs"], tuple(plan.get("continues", ())))


def stack_of(config: dict[str, Any]) -> Stack:
    """Return the stack of a trial's configuration."""
    return Stack(tuple(Trial.of(values) for values in config["stack"]["members"]))


def own_names(stack: Stack) -> list[str]:
    """Return the members' own names, which differ within a stack, such as `lr0.1`."""
    return [member.configuration.own_name for member in stack.members]


def epoch_metrics(stack: Stack, records: list[EpochRecord]) -> dict[str, float]:
    """Return one epoch as flat metrics: `val_accuracy/lr0.1` and so on, and the stack's best.

    TensorBoard draws one chart per name. So members of different stacks (different trials of Ray
    Tune) share a chart if they differ only in values that a stack shares, such as the batch size.
    """
    accuracies = [record.val_accuracy for record in records if not record.diverged]
    metrics: dict[str, float] = {
        "epoch": records[0].epoch,
        "best_val_accuracy": max(accuracies, default=math.nan),
        "diverged": sum(record.diverged for record in records),
    }
    for member, record in zip(own_names(stack), records, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            metrics[f"{name}/{member}"] = getattr(record, name)
    return metrics


def rays_place() -> Place:
    """Return the node and the resources of this trial of Ray Tune."""
    resources = tune.get_context().get_trial_resources().required_resources
    return Place(
        cpus=resources.get("CPU", 1),
        gpus=resources.get("GPU", 0),
        node=ray.util.get_node_ip_address(),
        node_id=ray.get_runtime_context().get_node_id(),
    )


def claim_resources(place: Place) -> "torch.device":
    """Set torch's number of threads from a stack's CPUs; return the device from its GPUs.

    Raises:
        RuntimeError: Ray assigned the stack a GPU that this torch cannot use.
    """
    import torch

    torch.set_num_threads(max(1, int(place.cpus)))
    if not place.gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"Ray gave this trial a GPU, but torch {torch.__version__} cannot use one here; "
            "install a build of torch for this machine's GPUs, or run with --gpus-per-stack 0"
        )
    return torch.device("cuda")


def describe_run(place: Place, started: float) -> Run:
    """Return where and when a stack was trained; `started` is in Unix seconds."""
    return Run(
        node=place.node,
        node_id=place.node_id,
        pid=os.getpid(),
        started=started,
        ended=time.time(),
    )
