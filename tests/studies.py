"""Studies for tests: real ones of the sample, and artificial ones whose results a test chooses."""

import io
import math
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from digitrec.data.digits import Digits, read_digits
from digitrec.request import Request
from digitrec.results.analysis.ranking import rank
from digitrec.results.outcome import StudyResult
from digitrec.space.hyperparameters import HYPERPARAMETERS, Configuration, Trial, in_column
from digitrec.space.points import Space
from digitrec.space.race import Goal, Race, Standing
from digitrec.space.ranges import Range
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord
from digitrec.store.spec import StudySpec
from digitrec.store.stacks import Run, StackResult, results_of
from digitrec.store.tables import make_tables
from digitrec.store.validation import WinnerValidation
from digitrec.study import run_study
from digitrec.tuning import in_process
from digitrec.tuning.in_process import InProcess
from digitrec.tuning.runner import Assignment, MakeRunner, Round

LRS, BATCH_SIZES = (0.01, 0.1, 1.0), (32, 128)
TRAIN_ROWS, VAL_ROWS, PIXELS = 400, 100, 16
LABELS = (np.arange(VAL_ROWS) % 10).astype(np.uint8)
STARTED = 1_700_000_000.0
DATA = {
    "source": "digits.csv",
    "fingerprint": "0123456789abcdef",
    "rows": TRAIN_ROWS + VAL_ROWS,
    "train_rows": TRAIN_ROWS,
    "val_rows": VAL_ROWS,
    "pixels": PIXELS,
}
DEFAULTS = {  # of a row of a table
    name: in_column(name, each.values[0])
    for name, each in HYPERPARAMETERS.items()
    if each.has_default
}
SMALL = Space.of(lr=(0.1, 0.5), batch_size=(256, 512))


def run(
    out: Path,
    space: Space = SMALL,
    epochs: int | None = 2,
    *,
    runner: MakeRunner = InProcess,
    console: Console | None = None,
    pictures: bool = False,
    **options: object,
) -> StudyResult:
    """Run a real study of the sample, in this process unless a test asks for Ray.

    Args:
        out: the study directory.
        space: what to search.
        epochs: of each trial; None: the request's default.
        runner: makes what trains the stacks.
        console: gets what is said.
        pictures: whether figures and report are drawn, which takes longer than all else.
        options: further fields of the request.
    """
    request = Request(space=space, epochs=epochs, out=str(out), **options)  # type: ignore[arg-type]
    return run_request(request, runner=runner, console=console, pictures=pictures)


def run_request(
    request: Request,
    *,
    runner: MakeRunner = InProcess,
    console: Console | None = None,
    pictures: bool = False,
) -> StudyResult:
    """Run the study that is asked for; see `run`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("digitrec.study.read_digits", read_once)
        if not pictures:
            for name in ("draw_sections", "write_plots", "write_report"):
                patched.setattr(f"digitrec.results.outcome.{name}", lambda *_: None)
        return run_study(request, console or Console(file=io.StringIO()), runner)


_read_sample = cache(partial(read_digits, "sample"))


def read_once(source: str) -> Digits:
    """Read digits; the sample only once in this process, as it never changes."""
    return _read_sample() if source == "sample" else read_digits(source)


def split_sample(place: Path) -> tuple[str, str]:
    """Write the sample as two files, a tenth of it in the second, to keep for the test."""
    digits = read_digits("sample")
    names = [f"pixel{number}" for number in range(digits.images.shape[1])]
    frame = pd.DataFrame(digits.images, columns=names).assign(label=digits.labels)
    tenth = np.arange(len(frame)) % 10 == 0
    frame[~tenth].to_parquet(place / "train.parquet", index=False)
    frame[tenth].to_parquet(place / "test.parquet", index=False)
    return str(place / "train.parquet"), str(place / "test.parquet")


def interrupting(number: int, begun: list[Round]) -> type[InProcess]:
    """A runner whose round `number`, from 1, begins with a Ctrl-C; it adds each to `begun`."""

    def counted(rounds: Iterator[Round]) -> Iterator[Round]:
        for each in rounds:
            begun.append(each)
            if len(begun) == number:
                signal.raise_signal(signal.SIGINT)
            yield each

    class Interrupting(InProcess):
        def train(self, assignment: Assignment) -> None:
            super().train(replace(assignment, rounds=counted(assignment.rounds)))

    return Interrupting


def folder(result: StudyResult) -> Path:
    """The directory of a study as a path."""
    assert result.directory.path is not None
    return result.directory.path


def untimed(directory: Path, name: str) -> pd.DataFrame:
    """Return a table of a study without the times, which no two studies have in common."""
    return pd.read_csv(directory / name).drop(columns="seconds")


def make_record(
    directory: Path,
    *,
    lrs: tuple[float, ...] = LRS,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    epochs: int = 3,
    diverged: Collection[float] = (),
    untrained: Collection[float] = (),
    failed: Collection[float] = (),
    source: str = "digits.csv",
    with_validation: bool = True,
    confirmed: Collection[float] = (),
    best: dict[str, Any] | None = None,
    alike: Mapping[str, Any] | None = None,
) -> StudyRecord:
    """The higher the rate and the smaller the batch, the better.

    Args:
        directory: gets what is written.
        lrs: of the grid.
        batch_sizes: of the grid.
        epochs: of each trial.
        diverged: rates whose trials diverge, in the second epoch if there is one.
        untrained: rates that are not trained yet.
        failed: rates whose trials failed.
        source: of the data.
        with_validation: whether labels and the winner's probabilities are kept.
        confirmed: rates that are trained again with the fresh seed 7 and the first batch size.
        best: more of the winner's `model.json`.
        alike: further hyperparameters with the value that all trials share.
    """
    further = dict(alike or {})
    space = {"lr": list(lrs), "batch_size": list(batch_sizes)}
    again = ({"lr": lr, "batch_size": batch_sizes[0], "seed": 7} for lr in confirmed)
    spec = make_spec(
        data=DATA | {"source": source},
        space=space | {name: [value] for name, value in further.items()} | {"seed": [0]},
        epochs=epochs,
        confirmed=[further | values for values in again],
        versions={"digitrec": "0.1.0"},
    )
    trials = spec.trials()
    trained = [t for t in trials if t.configuration.lr not in {*untrained, *failed}]
    histories = [_history(t.configuration, epochs, t.configuration.lr in diverged) for t in trained]
    results = [
        make_result([trial], [[record] for record in history], place)
        for place, (trial, history) in enumerate(zip(trained, histories, strict=True))
    ]
    failures = {
        trial.name: "Traceback ...\nRuntimeError: no room"
        for trial in trials
        if trial.configuration.lr in failed
    }
    tables = make_tables(spec.goals(), results, failures)
    winners = rank(tables.trials, spec.confirmed_trials)["trial"].head(1)
    return StudyRecord(
        directory=Folder.at(directory),
        spec=spec,
        results=results,
        tables=tables,
        failures=failures,
        predictions={r.stack.members[0].name: r.predictions[0] for r in results},
        labels=LABELS if with_validation else None,
        best=None if best is None else {"trial": winners.iloc[0]} | best,
        validation=_validation(winners.iloc[0]) if with_validation and len(winners) else None,
        timings={"start Ray": 2.0, "train": 3.0} if results else {},
        damaged=[],
    )


def to_the_end(trials: Iterable[Trial], epochs: int) -> dict[Trial, Goal]:
    """All of these trials, trained for so many epochs."""
    return dict.fromkeys(trials, Goal(epochs, "completed"))


WIDE = Space.of(
    lr=(Range(1e-3, 2),),
    batch_size=BATCH_SIZES,
    momentum=(Range(0, 0.98),),
    weight_decay=(0.0, Range(1e-6, 1e-2)),
    dropout=(Range(0, 0.5),),
    points=60,
)


def make_drawn_record(
    directory: Path,
    accuracy: Callable[[Configuration], float],
    space: Space = WIDE,
    epochs: int = 3,
) -> StudyRecord:
    """A study of points drawn from a space.

    Args:
        directory: gets what is written.
        accuracy: of a configuration after the last epoch; NaN: it diverges in the last epoch.
        space: with one seed.
        epochs: of each trial.
    """
    spec = make_spec(space=space.to_json(), epochs=epochs, versions={"digitrec": "0.1.0"})
    trials = spec.trials()
    results = []
    for place, trial in enumerate(trials):
        end, steps = accuracy(trial.configuration), -(-TRAIN_ROWS // trial.configuration.batch_size)
        records = []
        for epoch in range(1, epochs + 1):
            now = end if epoch == epochs else 0.1 + 0.8 * (0.7 if math.isnan(end) else end)
            records.append([EpochRecord(epoch, epoch * steps, 1 - now, now, 1 - now, now, 0.5)])
        results.append(make_result([trial], records, place))
    tables = make_tables(spec.goals(), results, {})
    return StudyRecord(
        directory=Folder.at(directory),
        spec=spec,
        results=results,
        tables=tables,
        failures={},
        predictions={r.stack.members[0].name: r.predictions[0] for r in results},
        labels=LABELS,
        best=None,
        validation=None,
        timings={"train": 3.0},
        damaged=[],
    )


RACED = Space.of(
    lr=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3), batch_size=BATCH_SIZES, momentum=(0.0, 0.5)
)


def make_raced_record(
    directory: Path,
    accuracy: Callable[[Configuration, int], float],
    race: Race = Race((1, 3, 9)),  # noqa: B008 - it never changes
    cuts: int | None = None,
    space: Space = RACED,
) -> StudyRecord:
    """A race of the points of a space, with a stack per trial and rung.

    Args:
        directory: gets what is written.
        accuracy: of a configuration after an epoch; NaN: it has diverged.
        race: before its first cut.
        cuts: how many are decided; None: all.
        space: with one seed.
    """
    results: list[StackResult] = []
    for rung in race.rungs[: None if cuts is None else cuts + 1]:
        standings = []
        for trial in race.alive(space.trials()):
            result = _raced(trial, rung, accuracy, len(results))
            end, right = result.epochs[-1][0], result.predictions[0] == LABELS
            standings.append(Standing(trial, end.val_accuracy, end.val_loss, right))
            results.append(result)
        if not race.decided and len(race.cuts) != cuts:
            race = race.decide(standings)
    return raced_record(directory, space, race, results)


def raced_record(
    directory: Path, space: Space, race: Race, results: list[StackResult]
) -> StudyRecord:
    """A race with these decisions and results."""
    spec = make_spec(space=space.to_json(), epochs=race.rungs[-1], race=race.to_json())
    found = results_of(spec.epochs_of(), results)
    return StudyRecord(
        directory=Folder.at(directory),
        spec=spec,
        results=results,
        tables=make_tables(spec.goals(), results, {}),
        failures={},
        predictions={trial.name: result.predictions[k] for trial, result, k in found},
        labels=LABELS,
        best=None,
        validation=None,
        timings={"train": 3.0},
        damaged=[],
    )


def _raced(
    trial: Trial, epochs: int, accuracy: Callable[[Configuration, int], float], place: int
) -> StackResult:
    """A trial that recognises the first of the validation images."""
    steps, records = -(-TRAIN_ROWS // trial.configuration.batch_size), []
    for epoch in range(1, epochs + 1):
        now = accuracy(trial.configuration, epoch)
        records.append([EpochRecord(epoch, epoch * steps, 1 - now, now, 1 - now, now, 0.5)])
    right = np.arange(VAL_ROWS) < VAL_ROWS * np.nan_to_num(now)
    result = make_result([trial], records, place)
    return replace(result, predictions=np.where(right, LABELS, (LABELS + 1) % 10)[None])


def make_spec(**changes: Any) -> StudySpec:
    """The spec of a small study; `changes` are fields of `StudySpec`."""
    fields: dict[str, Any] = {
        "data": DATA,
        "space": {"lr": list(LRS), "batch_size": list(BATCH_SIZES), "seed": [0]},
        "epochs": 3,
        "val_fraction": 0.2,
        "split_seed": 42,
        "precision": "float32",
    }
    return StudySpec(**(fields | changes))


def make_result(
    trials: Sequence[Trial], epochs: Sequence[Sequence[EpochRecord]], place: int = 0
) -> StackResult:
    """A finished stack, four in five of whose validation images are recognised.

    Args:
        trials: its members.
        epochs: for each epoch, a record per member.
        place: one worker trains after the other has begun; each stack takes two seconds.
    """
    predictions = np.where(np.arange(VAL_ROWS) < 80, LABELS, (LABELS + 1) % 10).astype(np.uint8)
    started = STARTED + 2 * (place // 2)
    return StackResult(
        stack=Stack(tuple(trials)),
        epochs=[list(records) for records in epochs],
        predictions=np.tile(predictions, (len(trials), 1)),
        run=Run(node="127.0.0.1", pid=10 + place % 2, started=started, ended=started + 2),
    )


def _history(configuration: Configuration, epochs: int, diverges: bool) -> Iterator[EpochRecord]:
    steps = -(-TRAIN_ROWS // configuration.batch_size)
    best = 0.9 + 0.03 * math.log10(configuration.lr) - 0.0001 * configuration.batch_size
    for epoch in range(1, epochs + 1):
        accuracy = best - 0.1 / epoch
        if diverges and epoch >= min(2, epochs):
            nan = math.nan
            yield EpochRecord(epoch, steps, nan, nan, nan, nan, 0.5)
        else:
            loss = 1 - accuracy
            yield EpochRecord(epoch, epoch * steps, loss, accuracy - 0.02, loss, accuracy, 0.5)


def _validation(winner: str) -> WinnerValidation:
    """Nine in ten say 0.91 and are right; the others say 0.82 and are wrong."""
    wrong = np.arange(VAL_ROWS) >= 90
    probabilities = np.full((VAL_ROWS, 10), 0.01, np.float32)
    probabilities[wrong] = 0.02
    predictions = np.where(wrong, (LABELS + 1) % 10, LABELS)
    probabilities[np.arange(VAL_ROWS), predictions] = np.where(wrong, 0.82, 0.91)
    mistakes = np.flatnonzero(wrong).astype(np.int64)
    return WinnerValidation(
        trial=winner,
        probabilities=probabilities,
        mistakes=mistakes,
        mistake_images=np.arange(len(mistakes) * PIXELS, dtype=np.uint8).reshape(-1, PIXELS),
        mistake_rows=mistakes + 1000,
    )


def leave_out_pictures(patched: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else of a small study."""
    for name in ("draw_sections", "draw_mistakes"):
        patched.setattr(f"digitrec.results.outcome.{name}", lambda *_: [])
        patched.setattr(f"digitrec.results.study.{name}", lambda *_: [])
    patched.setattr("digitrec.results.outcome.write_plots", lambda *_: None)


def fail_often(patched: pytest.MonkeyPatch) -> Iterator[None]:
    """Before each of many runs, let the power fail at its first, second or third stack, in turn."""
    train, trained, most = in_process._train, 0, 0

    def train_some(*arguments: Any) -> None:
        nonlocal trained
        if trained == most:
            raise RuntimeError("the power is out")
        trained += 1
        train(*arguments)

    patched.setattr(in_process, "_train", train_some)
    for number in range(100):
        trained, most = 0, number % 3
        yield
