"""A runner without Ray: it trains one stack after the other in this process."""

import traceback
from contextlib import suppress
from functools import partial
from typing import cast

from digitrec.signals import Interrupted
from digitrec.space.hyperparameters import Precision
from digitrec.space.stacks import Task
from digitrec.store.folder import Folder, describe_error
from digitrec.tuning.bulletin import Bulletin
from digitrec.tuning.progress import ProgressDisplay, make_progress
from digitrec.tuning.runner import Assignment, Node
from digitrec.tuning.trainable import Place, keep_failure, reports

NODE: Node = {"CPU": 2.0}  # stacks are planned for two workers, as on the smallest machine
ADDRESS = "127.0.0.1"


class InProcess:
    """Trains stacks like a worker of Ray Tune, with the same progress, failures and files."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take the arguments of `Session` and ignore them."""

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: nothing was started."""

    def nodes(self) -> list[Node]:
        """Return the single node that the stacks are planned for."""
        return [NODE]

    def check_shared(self, directory: Folder) -> None:
        """Do nothing: this process sees its own files."""

    def end(self) -> None:
        """Do nothing: nothing was started."""

    def train(self, assignment: Assignment) -> None:
        """Train stacks in their order; see `Runner`."""

        def check() -> None:
            assignment.interruption.check()
            assignment.lock.check()

        first = next(assignment.rounds, None)
        if first is None:
            return
        with (
            suppress(Interrupted),
            ProgressDisplay(
                make_progress(assignment.spec, first),
                assignment.console,
                check=check,
                keep_failure=partial(keep_failure, assignment.directory),
                bulletin=Bulletin(assignment.directory),
            ) as display,
        ):
            for task in first.tasks:
                _train(assignment, task, display)
            for each in assignment.rounds:
                display.begin(each, make_progress(assignment.spec, each))
                for task in each.tasks:
                    _train(assignment, task, display)


def _train(assignment: Assignment, task: Task, display: ProgressDisplay) -> None:
    """Train a stack, with as many retries as Ray Tune would make.

    Raises:
        OSError: the study directory can no longer be used.
    """
    for attempts_left in reversed(range(assignment.request.max_failures + 1)):
        display.start(task.stack)
        display.step()
        failure = _attempt(assignment, task, display)
        if failure is None:
            display.complete(task.stack)
            return
        (display.retry if attempts_left else display.fail)(task.stack, failure)
        display.step()


def _attempt(assignment: Assignment, task: Task, display: ProgressDisplay) -> Exception | None:
    """Train a stack once and return its error, as Ray would; None if it did not fail."""
    spec, request = assignment.spec, assignment.request
    metrics = reports(
        task,
        assignment.shared,
        cast(Precision, spec.precision),
        assignment.directory,
        spec.key,
        Place(request.cpus_per_stack, request.gpus_per_stack, node=ADDRESS, node_id=""),
    )
    while True:
        try:
            epoch = next(metrics, None)
        except OSError as error:
            raise OSError(describe_error(error)) from error
        except Exception as error:  # noqa: BLE001 - a stack may fail with any, as in a worker
            return RuntimeError("".join(traceback.format_exception(error)))
        if epoch is None:
            return None
        display.report(task.stack, epoch)
        display.step()
