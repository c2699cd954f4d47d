"""A study from its request to its result."""

import importlib.metadata
import math
import platform
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.markup import escape

from digitrec.data.blocks import spell_size
from digitrec.data.digits import (
    Digits,
    SharedData,
    Split,
    fingerprint,
    fit_scaler,
    read_digits,
    split_rows,
)
from digitrec.data.memory import to_parquet
from digitrec.errors import DamagedError, InputError
from digitrec.request import PACKAGED, Request
from digitrec.signals import sigint_noted
from digitrec.space.hyperparameters import NO_AUGMENTATION, with_role
from digitrec.space.points import Space
from digitrec.store.directory import (
    check_directory,
    find_damage,
    list_damage,
    remove_temporaries,
)
from digitrec.store.folder import Folder
from digitrec.store.lock import check_free, locked
from digitrec.store.spec import NAME, StudySpec, read_spec
from digitrec.store.stacks import Damage, set_aside
from digitrec.store.timings import Timings
from digitrec.store.validation import write_labels
from digitrec.tuning.live import busy
from digitrec.tuning.precision import decide_precision
from digitrec.tuning.rounds import StudyRunner
from digitrec.tuning.runner import MakeRunner
from digitrec.tuning.session import Session
from digitrec.tuning.workers import Workers
from digitrec.winner.inputs import WinnerInputs

if TYPE_CHECKING:
    from digitrec.results.outcome import StudyResult

T = TypeVar("T")
MOST_LEAKED = 0.01  # share of the test images; a few digits of two collections can coincide
FEW_VAL_ROWS = 100  # with fewer, accuracy moves in steps of more than a percentage point
SOON = 0.1  # seconds; a missing file or a wrong header is found by then, before Ray starts
SPLIT_SEED = 42  # that of the plain training loop, so that both use the same validation rows


def run_study(
    request: Request,
    console: Console,
    make_runner: MakeRunner = Session,
    given: Mapping[str, Digits] | None = None,
) -> "StudyResult":
    """Train the missing trials of a study, then write its tables, model and figures.

    Args:
        request: what to train, and where.
        console: shows the progress.
        make_runner: makes the runner that trains the stacks: on Ray, except in tests.
        given: file in the study directory -> digits that are in memory, which are written to
            it; the request names these files as its data.

    Raises:
        InputError: the data, the directory or the resources do not fit the request, or another run
            uses the directory; nothing was trained.
    """
    timings = Timings()
    directory = request.directory
    check_free(directory)
    if directory.path:  # a bucket is checked once `prepare` has shown that it answers
        check_directory(directory)
    request = decide_precision(request, console)
    with Workers(request, console, timings, make_runner) as workers:
        reading = _in_background(partial(_read_data, request, given or {}, timings))
        if directory.path and NAME not in directory.names(NAME):  # a study that begins now
            wait([reading], timeout=SOON)
            if not reading.done():
                workers.start(len(request.space))
        with busy(console, f"Reading {escape(request.data)}"):
            spec, shared, test = reading.result()
        _warn_of_few(shared.split, console)
        _prepare(directory)
        check_directory(directory)
        with (
            locked(directory) as lock,
            sigint_noted() as interruption,  # so that the finished trials get their tables
        ):
            rounds = StudyRunner(request, shared, console, timings, lock, interruption, workers)
            claim(directory, spec, console)
            for name, digits in (given or {}).items():
                directory.write(name, to_parquet(digits))
            write_labels(directory, spec, shared.labels[shared.split.val], shared.split.val)
            rounds.train(spec)
            refitted = rounds.refit() if request.refit else None
            workers.end()
            from digitrec.results.outcome import conclude

            outcome = conclude(directory, WinnerInputs(shared, refitted, test), timings)
            timings.write(directory)
            workers.close()
    return replace(outcome, interrupted=interruption.came)


def _read_data(
    request: Request, given: Mapping[str, Digits], timings: Timings
) -> tuple[StudySpec, SharedData, Digits | None]:
    """Return the spec of a study, its data, and its test data if it has any."""
    with timings.part("read the data"):
        in_memory = {str(request.directory / name): digits for name, digits in given.items()}
        digits = in_memory.get(request.data) or read_digits(request.data)
        split = _split(digits, request.val_fraction)
        _check_batch_sizes(request.space, split)
        _check_square(request.space, digits)
        test = _read_test(request.test_data, digits, in_memory)
        spec = ask(request, digits, split)
        return spec, share(digits, split, spec), test


def _in_background(work: Callable[[], T]) -> "Future[T]":
    """Return the future result of work that a thread does; the end of this process ends it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 -- raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def share(digits: Digits, split: Split, spec: StudySpec) -> SharedData:
    """Return the data that all trials of a study share; the scaler is fitted on training rows."""
    return SharedData(
        key=spec.key,
        images=digits.images,
        labels=digits.labels,
        split=split,
        scaler=fit_scaler(digits.images[split.train]),
    )


def ask(request: Request, digits: Digits, split: Split) -> StudySpec:
    """Return the spec of the study that a request and its data ask for."""
    rows, pixels = digits.images.shape
    sampling = ["optuna"] if request.space.sampler == "tpe" else []
    packages = ["digitrec", "ray", "torch", *sampling]
    return StudySpec(
        data={
            "source": digits.source,
            "location": absolute(request.data),
            "fingerprint": fingerprint(digits),
            "rows": rows,
            "train_rows": len(split.train),
            "val_rows": len(split.val),
            "pixels": pixels,
        },
        space=request.space.to_json(),
        epochs=request.epochs,
        val_fraction=request.val_fraction,
        split_seed=SPLIT_SEED,
        precision=request.precision,
        refit=request.refit,
        cooldown=request.cooldown,
        race=None if request.raced is None else request.raced.to_json(),
        average=request.average,
        test_data=None if request.test_data is None else absolute(request.test_data),
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    )


def absolute(source: str) -> str:
    """Return a source of digits in a form that is valid in any working directory."""
    if source in PACKAGED or "://" in source:
        return source
    return str(Path(source).expanduser().absolute())


def claim(directory: Folder, spec: StudySpec, console: Console) -> None:
    """Check that a directory can hold a study; set its damaged files aside.

    Raises:
        InputError: it holds another study.
    """
    damaged, is_race = [], spec.race is not None
    if NAME in directory.names(NAME):
        try:
            earlier = read_spec(directory)
        except DamagedError as error:
            damaged.append(Damage("", NAME, str(error)))
        else:
            is_race = is_race or earlier.race is not None
            if differences := earlier.differences(spec):
                raise InputError(
                    f"{directory} holds another study: {'; '.join(differences)}. "
                    "Give --out another directory, or ask for the same study"
                )
    remove_temporaries(directory)
    damaged += find_damage(directory, spec.key, spec.epochs if is_race else 0)
    for line in list_damage([damage for damage in damaged if set_aside(directory, damage)]):
        console.print(f"[yellow]set aside[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


def _prepare(directory: Folder) -> None:
    try:
        directory.prepare()
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename} is not a directory; give --out another") from error


def _read_test(source: str | None, digits: Digits, given: Mapping[str, Digits]) -> Digits | None:
    """Return the labelled digits to score the winner on.

    Raises:
        InputError: their images differ in size from the digits of the study, or are among them.
    """
    if source is None:
        return None
    test = given.get(source) or read_digits(source)
    if test.images.shape[1] != digits.images.shape[1]:
        raise InputError(
            f"{source}: images of {spell_size(test.images.shape[1])}; "
            f"those of {digits.source} have {spell_size(digits.images.shape[1])}"
        )
    known = {hash(row.tobytes()) for row in digits.images}
    leaked = sum(hash(row.tobytes()) in known for row in test.images)
    if leaked > MOST_LEAKED * len(test.images):
        raise InputError(
            f"{source}: {leaked:,} of its {len(test.images):,} images are also in "
            f"{digits.source}; test data must not contain images of the study's data"
        )
    return test


def _split(digits: Digits, val_fraction: float) -> Split:
    try:
        return split_rows(digits.labels, val_fraction, SPLIT_SEED)
    except InputError as error:
        raise InputError(f"{digits.source}: {error}") from error


def _warn_of_few(split: Split, console: Console) -> None:
    """Print how coarse the accuracy is if there are few validation images."""
    rows = len(split.val)
    if rows < FEW_VAL_ROWS:
        console.print(
            f"[yellow]warning[/yellow]  validation images: {rows:,} of "
            f"{rows + len(split.train):,}, so accuracy moves in steps of {100 / rows:.3g} "
            "percentage points; raise --val-fraction or add data",
            highlight=False,
            soft_wrap=True,
        )


def _check_batch_sizes(space: Space, split: Split) -> None:
    batch, rows = with_role("batch"), len(split.train)
    for size in space.values[batch.name]:
        if size > rows:
            raise InputError(
                f"{batch.label} {size} is more than the {rows} training rows; give {batch.option}"
            )


def _check_square(space: Space, digits: Digits) -> None:
    images, pixels = with_role("images"), digits.images.shape[1]
    for value in space.values[images.name]:
        if value != NO_AUGMENTATION and math.isqrt(pixels) ** 2 != pixels:
            raise InputError(
                f"{images.label} {value} needs square images; those of {digits.source} have "
                f"{pixels} pixels. Give {images.option} {NO_AUGMENTATION}"
            )
