"""The progress of a running study: a live display in a terminal, plain lines in a log."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from digitrec.results.text import duration, percent
from digitrec.space.stacks import CPU_COST, Stack
from digitrec.store.folder import describe_error
from digitrec.store.spec import StudySpec
from digitrec.tuning.bulletin import Bulletin
from digitrec.tuning.live import NotebookDisplay, live_display
from digitrec.tuning.metrics import PUBLISH_INTERVAL, Metrics
from digitrec.tuning.ray_internals import forget_statistics
from digitrec.tuning.runner import Round
from digitrec.tuning.trainable import STORAGE_ERROR, describe_failure, stack_of

CHECK_INTERVAL = 1.0  # seconds
LOG_INTERVAL = 10.0  # least seconds between two plain lines
MOST_STACKS_SHOWN = 8
PACE_REPORTS = 32  # reports over which the pace of training is measured
SLOW_PRECISION = "this machine has no bfloat16 in hardware; --precision float32 is faster here"


@dataclass(slots=True)
class Progress:
    """The progress of a round of a study."""

    configurations: int  # of the round, including those of earlier runs
    configurations_done: int  # so far, including those of earlier runs
    epochs_wanted: int  # of all configurations of this run
    epochs: int  # per configuration
    images_per_epoch: int  # training images of a configuration
    work: dict[str, float]  # stack key -> its share of this run's training time
    heading: str = ""  # of a rung, fresh seeds or a cooldown
    clock: Callable[[], float] = time.monotonic
    epochs_done: int = 0  # of all configurations of this run
    accuracies: dict[str, float] = field(default_factory=dict)  # trial -> last validation accuracy
    running: dict[str, tuple[Stack, int]] = field(default_factory=dict)  # key -> epochs done
    reported: dict[str, int] = field(default_factory=dict)  # key -> last counted epoch
    failures: int = 0  # stacks of this run that ended with an error, including retried ones
    work_done: float = 0.0
    work_trained: float = 0.0  # work_done without the epochs before a checkpoint
    started: float = field(init=False)
    first_report: tuple[float, float] | None = None  # seconds elapsed, work trained at that time
    epochs_trained: int = 0  # epochs_done without the epochs before a checkpoint
    paces: deque[tuple[float, int]] = field(  # seconds elapsed, epochs trained, at each report
        default_factory=lambda: deque(maxlen=PACE_REPORTS)
    )

    def __post_init__(self) -> None:
        self.started = self.clock()

    def start(self, stack: Stack) -> None:
        """Note that a stack is being trained."""
        self.running.setdefault(stack.key, (stack, 0))

    def report(self, stack: Stack, metrics: dict[str, Any]) -> None:
        """Note an epoch of a stack; metrics: as from `trainable.epoch_metrics`.

        An epoch that is trained again because its worker was lost counts once. If a stack continues
        from a checkpoint, the epochs before it count as done.
        """
        epoch = int(metrics["epoch"])
        self.running[stack.key] = (stack, epoch)
        for member in stack.members:
            self.accuracies[member.name] = metrics[f"val_accuracy/{member.configuration.own_name}"]
        new = epoch - self.reported.get(stack.key, 0)
        if new > 0:
            self.reported[stack.key] = epoch
            self.epochs_done += new * len(stack.members)
            epoch_of_work = self.work[stack.key] / self.epochs
            self.work_done += new * epoch_of_work
            self.work_trained += epoch_of_work
            self.first_report = self.first_report or (self.elapsed(), self.work_trained)
            self.epochs_trained += len(stack.members)
            self.paces.append((self.elapsed(), self.epochs_trained))
            if epoch == self.epochs:
                self.configurations_done += len(stack.members)

    def fail(self, stack: Stack) -> None:
        """Note that a stack ended with an error, whether or not it is trained again."""
        self.failures += 1
        self.end(stack)

    def end(self, stack: Stack) -> None:
        """Note that a stack is no longer being trained, for whatever reason."""
        self.running.pop(stack.key, None)

    def best(self) -> tuple[float, str] | None:
        """Return the highest last validation accuracy and its trial; None if none is finite."""
        finite = [(a, trial) for trial, a in self.accuracies.items() if not math.isnan(a)]
        return max(finite, default=None, key=lambda pair: pair[0])

    def fraction(self) -> float:
        """Return the share of this run's training that is done, 0 to 1."""
        return self.work_done / (sum(self.work.values()) or 1)

    def elapsed(self) -> float:
        """Return the seconds since the start of the run's training."""
        return self.clock() - self.started

    def seconds_left(self) -> float | None:
        """Return an estimate of the remaining seconds; None before the second report.

        The pace is measured from the first report, so the start of the workers does not count.
        """
        if self.first_report is None or self.work_trained == self.first_report[1]:
            return None
        seconds, work = (
            self.elapsed() - self.first_report[0],
            self.work_trained - self.first_report[1],
        )
        return (sum(self.work.values()) - self.work_done) * seconds / work

    def epochs_per_second(self) -> float:
        """Return the pace over the last reports, summed over configurations; NaN: not known yet."""
        if len(self.paces) < 2:
            return math.nan
        elapsed, epochs_trained = self.paces[0]
        return (self.epochs_trained - epochs_trained) / (self.elapsed() - elapsed)

    def measure(self) -> dict[str, float]:
        """Return the numbers to publish, which `metrics.DESCRIPTIONS` explains; NaN: not known."""
        best = self.best()
        return {
            "configurations": self.configurations,
            "configurations_done": self.configurations_done,
            "epochs_done": self.epochs_done,
            "best_val_accuracy": best[0] if best else math.nan,
            "images_per_second": self.epochs_per_second() * self.images_per_epoch,
            "failures": self.failures,
        }

    def describe(self) -> str:
        """Return one line: configurations, epochs, time, best so far.

        The best comes last: Ray's dashboard greys out everything after a percent sign in a log.
        """
        left = self.seconds_left() if self.running else None
        time_left = "" if left is None else f", {duration(left)} left"
        parts = [self.heading] if self.heading else []
        parts += [
            f"{self.configurations_done}/{self.configurations} configurations",
            f"{self.epochs_done}/{self.epochs_wanted} epochs",
            f"{duration(self.elapsed())}{time_left}",
        ]
        if best := self.best():
            parts.append(f"best {percent(best[0])} ({best[1]})")
        return " | ".join(parts)


class ProgressDisplay:
    """Shows a study's progress, publishes its metrics and keeps its failures.

    Args:
        progress: the progress to update.
        console: shows the progress.
        metrics: publishes the progress.
        check: called about every second; an error that it raises ends the search.
        keep_failure: called with a stack that has failed for good and its error.
        bulletin: writes the progress for the live page.
    """

    def __init__(
        self,
        progress: Progress,
        console: Console,
        metrics: Metrics | None = None,
        check: Callable[[], None] | None = None,
        keep_failure: Callable[[Stack, Exception], None] | None = None,
        bulletin: Bulletin | None = None,
    ) -> None:
        self.progress = progress
        self.console = console
        self.metrics = metrics
        self.check = check
        self.keep_failure = keep_failure
        self.bulletin = bulletin
        self._storage_error: str | None = None  # of a worker
        self._last_check = -math.inf
        self._live: Live | NotebookDisplay | None = None
        self._last_line = -math.inf
        self._last_published = -math.inf
        self._told_slow = False

    def __enter__(self) -> "ProgressDisplay":
        self._live = live_display(self.console, lambda: render(self.progress))
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self.bulletin:
            self.bulletin.end()
        self._end()

    def begin(self, each: Round, progress: Progress) -> None:
        """Show the progress of the next round instead, and the decision that led to it.

        The best so far stays until a trial of that round does better, and failures still count.
        """
        self._end()
        if each.decision:
            self.console.print(each.decision, highlight=False, soft_wrap=True)
        progress.accuracies |= self.progress.accuracies
        progress.failures = self.progress.failures
        self.progress = progress
        self._last_check = self._last_line = self._last_published = -math.inf

    def _end(self) -> None:
        self.progress.running.clear()
        self._publish()
        self.console.print(self.progress.describe(), highlight=False, soft_wrap=True)

    def step(self) -> None:
        """Check and publish if due; call this several times a second.

        Raises:
            OSError: the study directory can no longer be used.
        """
        if self._storage_error is not None:
            raise OSError(self._storage_error)
        if isinstance(self._live, NotebookDisplay):
            self._live.refresh()
        if self.check and self.progress.elapsed() - self._last_check >= CHECK_INTERVAL:
            self._last_check = self.progress.elapsed()
            self.check()
        if self.progress.elapsed() - self._last_published >= PUBLISH_INTERVAL:
            self._publish()
        if self.bulletin and self.bulletin.due:
            progress = self.progress
            running = list(progress.running.values())
            self.bulletin.write(progress.describe(), progress.fraction(), progress.epochs, running)

    def start(self, stack: Stack) -> None:
        """Note that a stack is being trained."""
        self.progress.start(stack)

    def report(self, stack: Stack, metrics: dict[str, Any]) -> None:
        """Show an epoch of a stack, or note why its worker cannot save anything."""
        if STORAGE_ERROR in metrics:
            self._storage_error = str(metrics[STORAGE_ERROR])
            return
        if stack.key not in self.progress.work:
            return  # of the round before, from a worker that replaced a lost one
        self.progress.report(stack, metrics)
        if self.bulletin:
            self.bulletin.report(stack, metrics)
        if metrics.get("slow_precision") and not self._told_slow:
            self._told_slow = True
            self.console.print("[yellow]note[/yellow] " + SLOW_PRECISION, highlight=False)
        self._log()

    def complete(self, stack: Stack) -> None:
        """Note that a stack is trained."""
        self.progress.end(stack)

    def fail(self, stack: Stack, error: Exception) -> None:
        """Print why a stack has failed for good, and keep the error."""
        self.progress.fail(stack)
        self._tell("[red]failed[/red]", stack, error)
        if self.keep_failure:
            try:
                self.keep_failure(stack, error)
            except OSError as failure:
                self._storage_error = describe_error(failure)

    def retry(self, stack: Stack, error: Exception) -> None:
        """Print why a stack is trained again."""
        self.progress.fail(stack)
        self._tell("[yellow]again[/yellow]", stack, error)

    def _tell(self, what: str, stack: Stack, error: Exception) -> None:
        """Print that a stack has failed or is trained again, and why."""
        line = f"{stack.name}: {describe_failure(error)}"
        self.console.print(what, escape(line), highlight=False, soft_wrap=True)

    def _publish(self) -> None:
        self._last_published = self.progress.elapsed()
        if self.metrics:
            self.metrics.publish(self.progress.measure())

    def _log(self) -> None:
        """Print a line if one is due; the end of a round prints the last one."""
        now = self.progress.elapsed()
        ended = self.progress.epochs_done >= self.progress.epochs_wanted
        if self._live is None and not ended and now - self._last_line >= LOG_INTERVAL:
            self._last_line = now
            self.console.print(self.progress.describe(), highlight=False, soft_wrap=True)


class ProgressCallback(tune.Callback):
    """Shows the progress of Ray Tune's trials; its methods are Ray Tune's hooks."""

    def __init__(self, display: ProgressDisplay) -> None:
        self.display = display

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune pickles its callbacks to restore a search, which digitrec never does."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Check and publish if due, several times a second; an error ends the search."""
        self.display.step()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has a worker."""
        self.display.start(stack_of(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show the metrics that a trial reports."""
        self.display.report(stack_of(trial.config), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has ended without an error."""
        self.display.complete(stack_of(trial.config))
        forget_statistics(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show that a trial has failed for good."""
        self.display.fail(stack_of(trial.config), error_of(trial))
        forget_statistics(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show that a trial has failed and is retried."""
        self.display.retry(stack_of(trial.config), error_of(trial))


def error_of(trial: Any) -> Exception:
    """Return the error of a trial of Ray Tune.

    `Trial.get_pickled_error` reads it from Ray Tune's storage, which gets it only after the hooks.
    """
    if file := getattr(trial, "pickled_error_file", None):
        error: Exception = cloudpickle.loads(Path(file).read_bytes())
        return error
    text = trial.get_error() or "Ray Tune kept no error"
    return trial.get_pickled_error() or RuntimeError(str(text))


def make_progress(spec: StudySpec, each: Round) -> Progress:
    """Return the progress of a round of a study."""
    stacks = [task.stack for task in each.tasks]
    to_train = sum(len(stack.members) for stack in stacks)
    epochs = each.tasks[0].epochs + each.tasks[0].stack.cooldown
    images = epochs * spec.data["train_rows"]
    return Progress(
        configurations=each.trials,
        configurations_done=each.trials - to_train,
        epochs_wanted=epochs * to_train,
        epochs=epochs,
        images_per_epoch=spec.data["train_rows"],
        work={stack.key: CPU_COST.of_stack(stack, images) for stack in stacks},
        heading=each.heading,
    )


def render(progress: Progress) -> Table:
    """Return the live display: a bar, the line of `Progress.describe`, a line per running stack."""
    running = Table.grid(padding=(0, 2))
    running.add_column(no_wrap=True)
    running.add_column(no_wrap=True)
    for stack, epoch in list(progress.running.values())[:MOST_STACKS_SHOWN]:
        epochs = f"epoch {epoch}/{progress.epochs}"
        shared, own = stack.describe(divides=True), stack.describe(divides=False)
        running.add_row(f"  {shared}", epochs, Text(own, no_wrap=True, overflow="ellipsis"))
    hidden = len(progress.running) - MOST_STACKS_SHOWN
    if hidden > 0:
        running.add_row(f"  and {hidden} more")
    lines = Table.grid()
    lines.add_row(ProgressBar(total=1.0, completed=progress.fraction(), width=60))
    lines.add_row(Text(progress.describe()))
    lines.add_row(running)
    return lines
