"""A study: plan the stacks, train them with Ray Tune, keep the study directory."""

import importlib
import importlib.metadata
import logging
import math
import os
import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from digitrec.data import Digits, Split, fingerprint, fit_scaler, read_digits, split_rows
from digitrec.errors import InputError
from digitrec.progress import Progress, ProgressCallback
from digitrec.request import Request
from digitrec.results import tables
from digitrec.results.outcome import Outcome, conclude
from digitrec.results.stacks import read_stacks
from digitrec.results.timings import Timings
from digitrec.space import (
    CPU_COST,
    MAX_STACK_SIZE,
    Configuration,
    Space,
    Stack,
    layer_sizes,
    plan_stacks,
)
from digitrec.trainable import SharedData, stack_config, stack_of, train_stack

SPLIT_SEED = 42  # of the plain training loop, whose validation rows these are


def run_study(request: Request, console: Console) -> Outcome:
    """Train what the study directory does not hold yet, then write its tables, model and figures.

    Raises:
        InputError: the data, the directory or the resources do not fit the request; nothing was
            trained.
    """
    timings, workers = Timings(), 0
    with timings.part("read the data"), console.status(f"Reading {request.data}"):
        digits = read_digits(request.data)
        split = split_rows(digits.labels, request.val_fraction, SPLIT_SEED)
        _check_batch_sizes(request.space, split)
        question = ask(request, digits, split)
        scaler = fit_scaler(digits.images[split.train])
    directory = request.directory
    open_study(directory, question)
    missing = missing_configurations(request.space, directory)
    if missing:
        shared = SharedData(
            key=f"{question.data['fingerprint']}-{request.val_fraction}",
            images=digits.images,
            labels=digits.labels,
            split=split,
            scaler=scaler,
        )
        with connected(request.address, console, timings) as nodes:
            workers = count_workers(nodes, request.cpus_per_trial, request.gpus_per_trial)
            stacks = plan(request, workers, len(split.train), missing)
            line = describe_plan(question, stacks, workers)
            console.print(line, highlight=False, soft_wrap=True)
            tables.write_question(directory, question)
            with timings.part("train"):
                train(request, question, shared, stacks, console)
            outcome = conclude(directory, scaler, timings)
    else:
        outcome = conclude(directory, scaler, timings)
    now = outcome.tables.trials["trial"].isin([member.trial for member in missing])
    timings.write(
        directory,
        workers=workers,
        trial_seconds=float(outcome.tables.trials[now]["seconds"].sum()),
    )
    return outcome


def describe_plan(question: tables.Question, stacks: Sequence[Stack], workers: int) -> str:
    """Return one line: what is trained on what."""
    data, configurations = question.data, sum(len(stack.members) for stack in stacks)
    return (
        f"{data['train_rows']:,} digits to train on, {data['val_rows']:,} to validate on; "
        f"{configurations} configurations in {len(stacks)} stacks, "
        f"{min(workers, len(stacks))} at a time, {question.epochs} epochs each"
    )


def ask(request: Request, digits: Digits, split: Split) -> tables.Question:
    """Return the question that a request asks of its data."""
    rows, pixels = digits.images.shape
    return tables.Question(
        data={
            "source": digits.source,
            "fingerprint": fingerprint(digits),
            "rows": rows,
            "train_rows": len(split.train),
            "val_rows": len(split.val),
            "pixels": pixels,
        },
        space={
            "lr": list(request.space.lrs),
            "batch_size": list(request.space.batch_sizes),
            "seed": list(request.space.seeds),
        },
        epochs=request.epochs,
        val_fraction=request.val_fraction,
        split_seed=SPLIT_SEED,
        layer_sizes=list(layer_sizes(pixels)),
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("digitrec", "ray", "torch")},
    )


def open_study(directory: Path, question: tables.Question) -> None:
    """Check that a directory can hold the study of a question.

    Raises:
        InputError: it holds another study.
    """
    there = tables.read_question(directory)
    differences = there.differences(question) if there else []
    if differences:
        raise InputError(
            f"{directory} holds another study: {'; '.join(differences)}. "
            "Give --out another directory, or ask the same question"
        )
    if there:
        tables.write_question(directory, question)


def missing_configurations(space: Space, directory: Path) -> set[Configuration]:
    """Return the configurations of a space that no finished stack of a study holds."""
    finished = read_stacks(directory / "stacks")
    there = {member for result in finished for member in result.stack.members}
    return set(space.configurations()) - there


def plan(
    request: Request, workers: int, train_rows: int, missing: set[Configuration]
) -> list[Stack]:
    """Return the stacks to train, longest first.

    The whole grid is planned, then what is there already is left out: a study that was cut
    short so goes on with the same stacks, and ends with the same numbers to the last bit.
    """
    size = request.stack_size or (MAX_STACK_SIZE if request.gpus_per_trial else None)
    whole = plan_stacks(
        request.space.configurations(),
        workers=workers,
        images=train_rows * request.epochs,
        stack_size=size,
    )
    remaining = [[member for member in stack.members if member in missing] for stack in whole]
    return [Stack(tuple(members)) for members in remaining if members]


def train(
    request: Request,
    question: tables.Question,
    shared: SharedData,
    stacks: Sequence[Stack],
    console: Console,
) -> None:
    """Train stacks with Ray Tune; each writes its own file as it finishes, or its failure."""
    directory = request.directory
    tables.clear_failures(directory / "stacks")
    total = len(request.space.configurations())
    images = request.epochs * len(shared.split.train)
    progress = Progress(
        configurations=total,
        configurations_done=total - sum(len(stack.members) for stack in stacks),
        epochs=request.epochs,
        work={stack.key: CPU_COST.of_stack(stack, images) for stack in stacks},
    )
    trainable = tune.with_parameters(
        train_stack,
        shared=shared,
        layer_sizes=tuple(question.layer_sizes),
        epochs_wanted=request.epochs,
        directory=directory / "stacks",
    )
    resources = {"cpu": request.cpus_per_trial, "gpu": request.gpus_per_trial}
    with ProgressCallback(progress, console) as callback, sigterm_as_sigint():
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"stack": tune.grid_search([stack_config(stack) for stack in stacks])},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_directory,
            ),
            run_config=tune.RunConfig(
                name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}",
                storage_path=str(directory / "ray"),
                callbacks=[callback],
                verbose=0,
            ),
        ).fit()
    for result in (results[i] for i in range(len(results))):
        if result.error is not None and result.config is not None:
            stack = stack_of(result.config)
            trials = [member.trial for member in stack.members]
            tables.write_failure(directory / "stacks", stack.key, trials, str(result.error))


@contextmanager
def connected(
    address: str | None, console: Console, timings: Timings
) -> Iterator[list[dict[str, float]]]:
    """Connect to Ray, or start it on this machine's cores; yields the resources of each node.

    An address, or being inside a Ray job, names a cluster; otherwise a fresh Ray is started, and
    ended afterwards. A Ray that this process is connected to already is used as it is.

    Raises:
        InputError: there is no cluster at the address.
    """
    ours = not ray.is_initialized()
    if ours:
        # Ray starts its processes one after the other, for seconds in which the cores are idle.
        drawing = threading.Thread(target=importlib.import_module, args=["digitrec.results.plots"])
        drawing.start()
        with timings.part("start Ray"), console.status("Starting Ray"):
            _start_ray(address)
        drawing.join()
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        if ours:
            with timings.part("end Ray"):
                ray.shutdown()


def count_workers(nodes: Sequence[dict[str, float]], cpus: float, gpus: float) -> int:
    """Return how many trials of so many CPUs and GPUs the nodes can train at a time.

    Raises:
        InputError: not even one.
    """

    def of_node(node: dict[str, float]) -> int:
        by_cpu = node.get("CPU", 0) / cpus
        return math.floor(min(by_cpu, node.get("GPU", 0) / gpus) if gpus else by_cpu)

    workers = sum(of_node(node) for node in nodes)
    if workers == 0:
        have = "; ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes
        )
        raise InputError(
            f"a trial asks for {cpus:g} CPUs and {gpus:g} GPUs, which no node has: {have}. "
            "Lower --cpus-per-trial or --gpus-per-trial"
        )
    return workers


@contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM end a study as Ctrl-C does: Ray Tune stops its trials and returns."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_ray(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints even at verbose=0
    logging.getLogger("ray").setLevel(logging.ERROR)
    target = address or ("auto" if "RAY_ADDRESS" in os.environ else "local")
    options: dict[str, Any] = {"include_dashboard": False} if target == "local" else {}
    try:
        ray.init(target, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at {target}: {error}") from error


def _trial_name(trial: Any) -> str:
    return stack_of(trial.config).name


def _trial_directory(trial: Any) -> str:
    return stack_of(trial.config).key


def _check_batch_sizes(space: Space, split: Split) -> None:
    rows = len(split.train)
    for size in space.batch_sizes:
        if size > rows:
            raise InputError(f"batch size {size} is more than the {rows} training rows")
