"""A study: plan the stacks, train them with Ray Tune, keep the study directory."""

import importlib.metadata
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from digitrec.data import (
    Digits,
    Scaler,
    SharedData,
    Split,
    fingerprint,
    fit_scaler,
    read_digits,
    split_rows,
)
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.results.question import Question, read_question, write_question
from digitrec.results.stacks import clear_failures, read_stacks
from digitrec.results.timings import Timings
from digitrec.session import Node, Session, count_workers
from digitrec.space import MAX_STACK_SIZE, Configuration, Space, Stack, layer_sizes, plan_stacks

if TYPE_CHECKING:
    from digitrec.results.outcome import Outcome

SPLIT_SEED = 42  # of the plain training loop, whose validation rows these are


def run_study(request: Request, console: Console) -> "Outcome":
    """Train what the study directory does not hold yet, then write its tables, model and figures.

    Raises:
        InputError: the data, the directory or the resources do not fit the request; nothing was
            trained.
    """
    timings = Timings()
    with timings.part("read the data"), console.status(f"Reading {escape(request.data)}"):
        digits = read_digits(request.data)
        split = _split(digits, request.val_fraction)
        _check_batch_sizes(request.space, split)
        question = ask(request, digits, split)
        scaler = fit_scaler(digits.images[split.train])
    open_study(request.directory, question)
    missing = missing_configurations(request.space, request.directory)
    with ExitStack() as closing:
        if missing:
            session = closing.enter_context(Session(request.address, console, timings))
            stacks = plan(request, session.nodes(), len(split.train), missing)
            console.print(describe_plan(question, stacks), highlight=False, soft_wrap=True)
            clear_failures(request.directory / "stacks")
            write_question(request.directory, question)
            shared = share(digits, split, scaler, question)
            from digitrec.search import search  # imported while Ray started

            with timings.part("train"):
                search(request, question.layer_sizes, shared, stacks, console)
            session.end()
        else:
            write_question(request.directory, question)
        from digitrec.results.outcome import conclude

        outcome = conclude(request.directory, scaler, timings)
    timings.write(request.directory)
    return outcome


def share(digits: Digits, split: Split, scaler: Scaler, question: Question) -> SharedData:
    """Return what all trials of a study share."""
    return SharedData(
        key=f"{question.data['fingerprint']}-{question.val_fraction}",
        images=digits.images,
        labels=digits.labels,
        split=split,
        scaler=scaler,
    )


def describe_plan(question: Question, stacks: Sequence[Stack]) -> str:
    """Return one line: what is trained on what."""
    data, configurations = question.data, sum(len(stack.members) for stack in stacks)
    return (
        f"{data['train_rows']:,} digits to train on, {data['val_rows']:,} to validate on; "
        f"{configurations} configurations in {len(stacks)} stacks, {question.epochs} epochs each"
    )


def ask(request: Request, digits: Digits, split: Split) -> Question:
    """Return the question that a request asks of its data."""
    rows, pixels = digits.images.shape
    return Question(
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
        precision=request.precision,
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("digitrec", "ray", "torch")},
    )


def open_study(directory: Path, question: Question) -> None:
    """Check that a directory can hold the study of a question, and make it.

    Raises:
        InputError: it holds another study, or cannot be written to.
    """
    there = read_question(directory)
    differences = there.differences(question) if there else []
    if differences:
        raise InputError(
            f"{directory} holds another study: {'; '.join(differences)}. "
            "Give --out another directory, or ask the same question"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"{directory} cannot be written to: {error.strerror}") from error


def missing_configurations(space: Space, directory: Path) -> set[Configuration]:
    """Return the configurations of a space that no finished stack of a study holds."""
    finished = read_stacks(directory / "stacks")
    there = {member for result in finished for member in result.stack.members}
    return set(space.configurations()) - there


def plan(
    request: Request, nodes: Sequence[Node], train_rows: int, missing: set[Configuration]
) -> list[Stack]:
    """Return the stacks to train on the nodes, longest first.

    The whole grid is planned, then what is there already is left out: a study that was cut
    short so goes on with the same stacks, and ends with the same numbers to the last bit.

    Raises:
        InputError: the nodes cannot train even one trial at a time.
    """
    workers = count_workers(nodes, request.cpus_per_trial, request.gpus_per_trial)
    size = request.stack_size or (MAX_STACK_SIZE if request.gpus_per_trial else None)
    whole = plan_stacks(
        request.space.configurations(),
        workers=workers,
        images=train_rows * request.epochs,
        stack_size=size,
    )
    remaining = [[member for member in stack.members if member in missing] for stack in whole]
    return [Stack(tuple(members)) for members in remaining if members]


def _split(digits: Digits, val_fraction: float) -> Split:
    try:
        return split_rows(digits.labels, val_fraction, SPLIT_SEED)
    except InputError as error:
        raise InputError(f"{digits.source}: {error}") from error


def _check_batch_sizes(space: Space, split: Split) -> None:
    rows = len(split.train)
    for size in space.batch_sizes:
        if size > rows:
            raise InputError(
                f"batch size {size} is more than the {rows} training rows; give --batch-size"
            )
