"""A study: plan the stacks, train them with Ray Tune, keep the study directory."""

import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from digitrec.data import (
    Digits,
    SharedData,
    Split,
    fingerprint,
    fit_scaler,
    read_digits,
    split_rows,
)
from digitrec.errors import InputError
from digitrec.lock import check_free, locked
from digitrec.request import Request
from digitrec.results.arrays import SUFFIX, DamagedError
from digitrec.results.question import NAME, Question, read_question, write_question
from digitrec.results.stacks import (
    FOLDERS,
    Damage,
    StackResult,
    clear_failures,
    read_arrays,
    read_stacks,
    results_after,
    set_aside,
)
from digitrec.results.timings import Timings
from digitrec.session import Node, Session, count_workers
from digitrec.space import (
    MAX_STACK_SIZE,
    Configuration,
    Space,
    Stack,
    Task,
    layer_sizes,
    plan_stacks,
)
from digitrec.storage import LocalStorage, Storage

if TYPE_CHECKING:
    from digitrec.results.outcome import Outcome

SPLIT_SEED = 42  # of the plain training loop, whose validation rows these are


def run_study(request: Request, console: Console) -> "Outcome":
    """Train what the study directory does not hold yet, then write its tables, model and figures.

    Raises:
        InputError: the data, the directory or the resources do not fit the request, or another run
            works in the directory; nothing was trained.
    """
    timings = Timings()
    study = request.directory
    check_free(study)
    with timings.part("read the data"), console.status(f"Reading {escape(request.data)}"):
        digits = read_digits(request.data)
        split = _split(digits, request.val_fraction)
        _check_batch_sizes(request.space, split)
        question = ask(request, digits, split)
        shared = share(digits, split, question)
    _prepare(study)
    with locked(study), Trainer(request, shared, console, timings) as trainer:
        open_study(study, question, console)
        trainer.train(question)
        trainer.end()
        from digitrec.results.outcome import conclude

        outcome = conclude(study, shared, timings)
        timings.write(study)
    return outcome


class Trainer:
    """Trains what a study misses, on a Ray that is started when there is something to train."""

    def __init__(
        self, request: Request, shared: SharedData, console: Console, timings: Timings
    ) -> None:
        self.request = request
        self.shared = shared
        self.console = console
        self.timings = timings
        self._session: Session | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def train(self, question: Question) -> None:
        """Train the configurations of a question that the study directory has no result of.

        Raises:
            InputError: no node can train a stack, or not all nodes share the study directory.
        """
        study = self.request.directory
        results, _ = read_stacks(study, question.key)
        missing = missing_configurations(question, results)
        if not missing:
            write_question(study, question)
            return
        session = self._start()
        tasks = plan(self.request, session.nodes(), question, missing, results)
        self.console.print(describe_plan(question, tasks), highlight=False, soft_wrap=True)
        clear_failures(study)
        write_question(study, question)
        from digitrec.search import search  # imported while Ray started

        with self.timings.part("train"):
            search(self.request, question, self.shared, tasks, self.console)

    def end(self) -> None:
        """Begin to end what was started; leaving the block waits for it."""
        if self._session:
            self._session.end()

    def _start(self) -> Session:
        if self._session is None:
            session = Session(self.request.address, self.console, self.timings)
            self._session = self._closing.enter_context(session)
            session.check_shared(self.request.directory)
        return self._session


def share(digits: Digits, split: Split, question: Question) -> SharedData:
    """Return what all trials of a study share; the scaler is fitted on the training rows."""
    return SharedData(
        key=question.key,
        images=digits.images,
        labels=digits.labels,
        split=split,
        scaler=fit_scaler(digits.images[split.train]),
    )


def describe_plan(question: Question, tasks: Sequence[Task]) -> str:
    """Return one line: what is trained on what."""
    data = question.data
    configurations = sum(len(task.stack.members) for task in tasks)
    going_on = sum(len(task.stack.members) for task in tasks if task.continues)
    grown = f"; {going_on} of them go on from fewer epochs" if going_on else ""
    return (
        f"{data['train_rows']:,} digits to train on, {data['val_rows']:,} to validate on; "
        f"{configurations} configurations in {len(tasks)} stacks, {question.epochs} epochs each"
        + grown
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


def open_study(study: Storage, question: Question, console: Console) -> None:
    """Check that a directory can hold the study of a question; set aside what is damaged.

    Raises:
        InputError: it holds another study.
    """
    if isinstance(study, LocalStorage):
        study.remove_temporaries()
    damaged = []
    if NAME in study.names():
        try:
            differences = read_question(study).differences(question)
        except DamagedError as error:
            damaged.append(Damage("", NAME, str(error)))
        else:
            if differences:
                raise InputError(
                    f"{study} holds another study: {'; '.join(differences)}. "
                    "Give --out another directory, or ask the same question"
                )
    for damage in damaged + find_damage(study, question):
        set_aside(study, damage)
        console.print(f"[yellow]set aside[/yellow] {damage}", highlight=False, soft_wrap=True)


def find_damage(study: Storage, question: Question) -> list[Damage]:
    """Return the files of stacks that are not what they should be.

    Whether weights are whole is checked on a local file system only: elsewhere that would mean to
    fetch them all.
    """
    results, damaged = read_stacks(study, question.key)
    weights = set((study / FOLDERS["weights"]).names(SUFFIX))
    for name in (result.key + SUFFIX for result in results):
        if name not in weights:
            damaged.append(Damage(FOLDERS["stack"], name, "the file of its weights is missing"))
        elif study.path and (reason := _damage_of(study, "weights", question, name)):
            damaged.append(Damage(FOLDERS["weights"], name, reason))
            damaged.append(Damage(FOLDERS["stack"], name, "its weights are damaged"))
    for name in (study / FOLDERS["checkpoint"]).names(SUFFIX):
        if reason := _damage_of(study, "checkpoint", question, name):
            damaged.append(Damage(FOLDERS["checkpoint"], name, reason))
    return damaged


def missing_configurations(
    question: Question, results: Iterable[StackResult]
) -> set[Configuration]:
    """Return the configurations of a question that no finished stack holds."""
    there = {member for member, _, _ in results_after(question.epochs, results)}
    return set(question.configurations()) - there


def plan(
    request: Request,
    nodes: Sequence[Node],
    question: Question,
    missing: set[Configuration],
    results: Sequence[StackResult],
) -> list[Task]:
    """Return the stacks to train on the nodes, longest first.

    The whole grid is planned, then what is there already is left out: a study that was cut
    short so goes on with the same stacks, and ends with the same numbers to the last bit. A
    configuration that was trained for fewer epochs goes on from there.

    Args:
        request: what the study asks for.
        nodes: resources of each.
        question: the study's.
        missing: what to train.
        results: the finished stacks of the study, of any number of epochs.

    Raises:
        InputError: the nodes cannot train even one trial at a time.
    """
    workers = count_workers(nodes, request.cpus_per_trial, request.gpus_per_trial)
    size = request.stack_size or (MAX_STACK_SIZE if request.gpus_per_trial else None)
    whole = plan_stacks(
        question.configurations(),
        workers=workers,
        images=question.data["train_rows"] * question.epochs,
        stack_size=size,
    )
    earlier = {
        member: result.key
        for epochs in range(1, question.epochs)
        for member, result, _ in results_after(epochs, results)
    }
    tasks = []
    for stack in whole:
        parts: dict[str | None, list[Configuration]] = {}
        for member in stack.members:
            if member in missing:
                parts.setdefault(earlier.get(member), []).append(member)
        tasks += [Task(Stack(tuple(members)), key) for key, members in parts.items()]
    return tasks


def _prepare(study: Storage) -> None:
    try:
        study.prepare()
    except OSError as error:
        raise InputError(f"{study} cannot be written to: {error.strerror or error}") from error


def _damage_of(study: Storage, kind: str, question: Question, name: str) -> str | None:
    try:
        read_arrays(study, kind, question.key, name)
    except DamagedError as error:
        return str(error)
    return None


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
