import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import cloudpickle
from ray.exceptions import ActorUnavailableError
from rich.console import Console

from digitrec.space.points import Space
from digitrec.space.stacks import Stack, Task
from digitrec.tuning.metrics import DESCRIPTIONS, Metrics
from digitrec.tuning.progress import (
    Progress,
    ProgressCallback,
    ProgressDisplay,
    render,
)
from digitrec.tuning.runner import Round
from digitrec.tuning.trainable import task_config

LONG = Stack(Space.of(lr=(0.1, 0.5), batch_size=(32,)).trials())
SHORT = Stack(Space.of(lr=(0.1, 0.5), batch_size=(64,)).trials())


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(clock: Callable[[], float]) -> Progress:
    return Progress(
        configurations=6,
        configurations_done=2,
        epochs_wanted=8,
        epochs=2,
        images_per_epoch=1000,
        work={LONG.key: 6.0, SHORT.key: 4.0},
        clock=clock,
    )


def metrics(epoch: int, first: float, second: float) -> dict[str, Any]:
    return {"epoch": epoch, "val_accuracy/lr0.1": first, "val_accuracy/lr0.5": second}


def test_progress_counts_configurations_epochs_and_the_best() -> None:
    study = progress(Clock())
    study.start(LONG)
    study.report(LONG, metrics(1, 0.8, float("nan")))
    assert (study.configurations_done, study.epochs_done) == (2, 2)
    study.report(LONG, metrics(2, 0.7, float("nan")))
    study.end(LONG)
    assert (study.configurations_done, study.epochs_done) == (4, 4)
    assert study.best() == (0.7, "lr0.1-bs32-seed0")
    assert study.fraction() == 0.6
    assert not study.running


def test_an_epoch_that_is_trained_again_counts_once() -> None:
    study = progress(Clock())
    study.report(LONG, metrics(1, 0.8, 0.9))
    study.fail(LONG)
    assert not study.running
    study.report(LONG, metrics(1, 0.8, 0.9))
    assert study.running == {LONG.key: (LONG, 1)}
    study.report(LONG, metrics(2, 0.8, 0.9))
    study.report(LONG, metrics(2, 0.8, 0.9))
    assert (study.configurations_done, study.epochs_done) == (4, 4)
    assert study.fraction() == 0.6


def test_a_stack_that_goes_on_from_its_second_epoch_has_done_the_first() -> None:
    study = progress(Clock())
    study.report(LONG, metrics(2, 0.8, 0.9))
    assert (study.configurations_done, study.epochs_done, study.epochs_trained) == (4, 4, 2)


def test_measurements_count_the_images_of_every_configuration() -> None:
    clock = Clock()
    study = progress(clock)
    assert math.isnan(study.measure()["best_val_accuracy"])
    clock.now = 10.0
    study.report(LONG, metrics(1, 0.8, float("nan")))
    assert math.isnan(study.measure()["images_per_second"])
    clock.now = 14.0
    study.report(LONG, metrics(2, 0.7, float("nan")))
    study.fail(SHORT)
    assert study.measure() == {
        "configurations": 6,
        "configurations_done": 4,
        "epochs_done": 4,
        "best_val_accuracy": 0.7,
        "images_per_second": 500.0,  # two epochs of 1,000 images in four seconds
        "failures": 1,
    }


def test_every_measurement_has_a_description() -> None:
    assert set(DESCRIPTIONS) == set(progress(Clock()).measure())


def test_the_pace_falls_while_nothing_is_reported() -> None:
    clock = Clock()
    study = progress(clock)
    study.report(LONG, metrics(1, 0.8, 0.9))
    clock.now = 4.0
    study.report(LONG, metrics(2, 0.8, 0.9))
    clock.now = 8.0
    assert study.epochs_per_second() == 0.25


def test_time_left_leaves_the_start_of_the_workers_out() -> None:
    clock = Clock()
    study = progress(clock)
    clock.now = 100.0
    study.report(LONG, metrics(1, 0.8, 0.9))
    assert study.seconds_left() is None
    clock.now = 106.0
    study.report(LONG, metrics(2, 0.8, 0.9))
    assert study.seconds_left() == 8.0  # 4 of 10 are left, and 3 took 6 seconds


def test_epochs_before_a_checkpoint_say_nothing_about_the_time_left() -> None:
    clock = Clock()
    study = progress(clock)
    study.epochs, study.work = 4, {LONG.key: 8.0, SHORT.key: 4.0}
    study.report(LONG, metrics(3, 0.8, 0.9))
    clock.now = 2.0
    study.report(SHORT, metrics(3, 0.8, 0.9))
    assert study.fraction() == 0.75
    assert study.seconds_left() == 6.0  # 3 of 12 are left, and the 1 of SHORT's epoch took 2 s


def test_a_line_says_how_far_the_study_is() -> None:
    clock = Clock()
    study = progress(clock)
    study.report(LONG, metrics(1, 0.8, 0.9123))
    clock.now = 6.0
    study.report(LONG, metrics(2, 0.8, 0.9))
    assert study.describe() == (
        "4/6 configurations | 4/8 epochs | 6 s, 8 s left | best 90.00% (lr0.5-bs32-seed0)"
    )


def follow(console: Console, clock: Clock) -> None:
    with ProgressDisplay(progress(clock), console) as display:
        for stack in (LONG, SHORT):
            display.start(stack)
            for epoch in (1, 2):
                clock.now += 4.0
                display.report(stack, metrics(epoch, 0.8, 0.9))
            display.complete(stack)


def test_a_log_gets_plain_lines_at_intervals() -> None:
    output = io.StringIO()
    follow(Console(file=output), Clock())
    lines = output.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "2/6 configurations",
        "6/6 configurations",
    ]
    assert "\x1b" not in output.getvalue()


def test_the_best_of_the_rungs_before_stays_until_one_is_better() -> None:
    file = io.StringIO()
    with ProgressDisplay(progress(Clock()), Console(file=file, width=200)) as display:
        display.report(LONG, metrics(2, 0.8, 0.9))
        display.begin(Round((), 2, decision="2 of 6 go on"), progress(Clock()))
        display.report(SHORT, metrics(1, 0.2, 0.3))
        assert display.progress.describe().endswith("best 90.00% (lr0.5-bs32-seed0)")
        display.report(SHORT, metrics(2, 0.2, 0.95))
        assert display.progress.describe().endswith("best 95.00% (lr0.5-bs64-seed0)")


def test_a_late_report_of_the_round_before_changes_nothing() -> None:
    """Its worker was lost after its last report, and another one reads its file."""
    with ProgressDisplay(progress(Clock()), Console(file=io.StringIO())) as display:
        display.fail(SHORT, RuntimeError("lost"))
        following = progress(Clock())
        del following.work[LONG.key]
        display.begin(Round((), 2), following)
        before = display.progress.describe()
        display.report(LONG, metrics(2, 0.8, 0.9))
        assert display.progress.describe() == before
        assert display.progress.measure()["failures"] == 1


def test_a_terminal_gets_a_live_display_and_keeps_the_last_line() -> None:
    output = io.StringIO()
    follow(Console(file=output, force_terminal=True, width=100), Clock())
    assert "\x1b" in output.getvalue()
    assert (
        output.getvalue()
        .splitlines()[-1]
        .endswith("6/6 configurations | 8/8 epochs | 16 s | best 90.00% (lr0.5-bs32-seed0)")
    )


def test_the_live_display_shows_what_is_running() -> None:
    output = io.StringIO()
    study = progress(Clock())
    study.start(LONG)
    Console(file=output, width=100).print(render(study))
    assert "batch size 32" in output.getvalue()
    assert "epoch 0/2" in output.getvalue()
    assert "lr 0.1, 0.5" in output.getvalue()


def test_a_stack_takes_one_line_of_a_narrow_terminal() -> None:
    output = io.StringIO()
    study = progress(Clock())
    space = Space.of(
        lr=(0.1, 0.5),
        batch_size=(64,),
        momentum=(0.0, 0.9),
        dropout=(0.1, 0.2, 0.3, 0.4),
        hidden_sizes=((512, 256),),
    )
    study.start(Stack(space.trials()))
    Console(file=output, width=80).print(render(study))
    *_, last = output.getvalue().rstrip().splitlines()
    assert last.startswith("  batch size 64; hidden sizes 512-256  epoch 0/2  lr 0.1")
    assert last.endswith("…")


def failed_trial(directory: Path, error: Exception) -> SimpleNamespace:
    """A trial as Ray Tune hands it to a callback."""
    file = directory / "error.pkl"
    file.write_bytes(cloudpickle.dumps(error))
    config = {"stack": task_config(Task(LONG, 3))}
    return SimpleNamespace(config=config, pickled_error_file=str(file))


def test_an_error_is_said_with_its_reason_when_it_happens(tmp_path: Path) -> None:
    output = io.StringIO()
    with ProgressDisplay(progress(Clock()), Console(file=output)) as display:
        callback = ProgressCallback(display)
        trial = failed_trial(tmp_path, RuntimeError("train.py, line 1\nValueError: [no] luck"))
        callback.on_trial_start(0, [], trial)
        callback.on_trial_error(0, [], trial)
    said = output.getvalue().splitlines()[0]
    assert said == "failed bs32-seed0-lr0.1,0.5: ValueError: [no] luck"


def test_an_error_after_which_a_stack_is_trained_again_is_said_and_counted(tmp_path: Path) -> None:
    output = io.StringIO()
    study = progress(Clock())
    with ProgressDisplay(study, Console(file=output)) as display:
        callback = ProgressCallback(display)
        trial = failed_trial(tmp_path, ActorUnavailableError("Socket closed", b"\0" * 16))
        callback.on_trial_start(0, [], trial)
        callback.on_trial_recover(0, [], trial)
    said = output.getvalue().splitlines()[0]
    assert said == "again bs32-seed0-lr0.1,0.5: its worker no longer answers"
    assert study.failures == 1


class Published(Metrics):
    """Metrics that keep what is published."""

    def __init__(self) -> None:
        self.values: list[Mapping[str, float]] = []

    def publish(self, measurements: Mapping[str, float]) -> None:
        self.values.append(measurements)


def test_metrics_are_published_at_intervals_and_at_the_end() -> None:
    clock, published = Clock(), Published()
    with ProgressDisplay(progress(clock), Console(file=io.StringIO()), published) as display:
        for clock.now in (0.0, 1.0, 4.9, 5.1, 6.0, 10.2):
            display.step()
        assert len(published.values) == 3
        display.progress.fail(LONG)
    assert [values["failures"] for values in published.values] == [0, 0, 0, 1]
