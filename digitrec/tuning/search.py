"""The search: training stacks with Ray Tune."""

import functools
import importlib
import logging
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from digitrec.signals import Interrupted
from digitrec.space.stacks import Task
from digitrec.store.folder import Folder
from digitrec.tuning import ray_internals
from digitrec.tuning.bulletin import Bulletin
from digitrec.tuning.metrics import Metrics
from digitrec.tuning.progress import ProgressCallback, ProgressDisplay, make_progress
from digitrec.tuning.runner import Assignment, Round
from digitrec.tuning.trainable import (
    keep_failure,
    stack_of,
    task_config,
    task_of,
    train_stack,
)

MOST_PENDING = 16  # stacks that wait for a worker to start; with fewer, workers start one by one


def search(assignment: Assignment) -> None:
    """Train stacks with Ray Tune; each writes its own files as it finishes, or its failure.

    Raises:
        OSError: the study directory can no longer be used.
    """
    for name in ray_internals.WORDY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray Tune's own handler would stay active after the search and swallow a Ctrl-C.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MOST_PENDING)
    first = next(assignment.rounds, None)
    if first is None:
        return

    def check() -> None:
        assignment.interruption.check()
        assignment.lock.check()
        if display.progress.first_report:
            import_ahead()

    with (
        ray_internals.nothing_passed_on(),
        ray_internals.losses_counted_once(),
        tune_storage(assignment.directory) as storage_path,
        ProgressDisplay(
            make_progress(assignment.spec, first),
            assignment.console,
            Metrics(assignment.directory.name),
            check=check,
            keep_failure=functools.partial(keep_failure, assignment.directory),
            bulletin=Bulletin(assignment.directory),
        ) as display,
        suppress(Interrupted),
    ):
        searcher = RoundSearcher(first, assignment, display)
        make_tuner(assignment, searcher, storage_path, ProgressCallback(display)).fit()


class RoundSearcher(Searcher):
    """Hands out the stacks of one round after the other, and none while a round is open.

    All rounds are one search, so that the workers keep torch and the data.
    """

    def __init__(self, first: Round, assignment: Assignment, display: ProgressDisplay) -> None:
        super().__init__()
        self._tasks = deque(first.tasks)
        self._running: dict[str, Task] = {}  # id of a trial of Ray Tune -> what it trains
        self._assignment = assignment
        self._display = display

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune pickles its searcher to restore a search, which digitrec never does."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next stack; None: not yet; FINISHED: there are no more."""
        if not self._tasks and not self._running:
            following = next(self._assignment.rounds, None)
            if following is None:
                return Searcher.FINISHED
            self._tasks.extend(following.tasks)
            self._display.begin(following, make_progress(self._assignment.spec, following))
        if not self._tasks:
            return None
        self._running[trial_id] = self._tasks.popleft()
        return {"stack": task_config(self._running[trial_id])}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note that a stack is trained: its files exist when it reports its last epoch.

        The next round is thus known before the worker would end for lack of work.
        """
        task = self._running.get(trial_id)
        if task and result.get("epoch") == task.epochs + task.stack.cooldown:
            del self._running[trial_id]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note that a stack is trained, or has failed for good."""
        self._running.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study directory is what a search continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def make_tuner(
    assignment: Assignment, searcher: Searcher, storage_path: str, callback: ProgressCallback
) -> tune.Tuner:
    """Return the tuner that trains each stack as one trial of Ray Tune."""
    return tune.Tuner(
        trainable_of(assignment),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: until_epoch(trial, stack_of(trial.config).name),
            trial_dirname_creator=lambda trial: until_epoch(trial, stack_of(trial.config).key),
        ),
        run_config=tune.RunConfig(
            name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}",
            storage_path=storage_path,
            failure_config=tune.FailureConfig(max_failures=assignment.request.max_failures),
            callbacks=[callback],
            progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks clears the cell
            verbose=0,
        ),
    )


def until_epoch(trial: Any, name: str) -> str:
    """Return the name of a trial of Ray Tune: in a race, a stack has one for each rung."""
    task = task_of(trial.config)
    return f"{name}-epoch{task.epochs + task.stack.cooldown}"


def trainable_of(assignment: Assignment) -> Any:
    """Return the trainable with its arguments; Ray's object store transfers the data once."""
    spec, request = assignment.spec, assignment.request
    function = tune.with_parameters(
        train_stack,
        shared=assignment.shared,
        precision=spec.precision,
        directory=assignment.directory,
        spec=spec.key,
    )
    resources = {"cpu": request.cpus_per_stack, "gpu": request.gpus_per_stack}
    return tune.with_resources(ray_internals.named_trainable(function, "Stack"), resources)


@functools.cache
def import_ahead() -> None:
    """Import the modules for the end of a study, 1.5 seconds, in a background thread."""
    module = "digitrec.results.outcome"
    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()


@contextmanager
def tune_storage(directory: Folder) -> Iterator[str]:
    """Yield the directory for Ray Tune's own files: within a local study directory.

    They are logs, which a study does not depend on. On an object store they would cause a third of
    the requests, and since Ray Tune does not retry, a store that is unavailable for some seconds
    would end the search. So for an object store they go to a temporary directory.
    """
    if directory.path is not None:
        yield str(directory.path / "ray")
        return
    with tempfile.TemporaryDirectory(prefix="digitrec-") as temporary:
        yield temporary
