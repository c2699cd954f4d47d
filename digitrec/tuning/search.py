"""The search: training stacks with Ray Tune."""

import functools
import importlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from ray import tune

from digitrec.signals import Interrupted
from digitrec.store.folder import Folder
from digitrec.tuning import ray_internals
from digitrec.tuning.metrics import Metrics
from digitrec.tuning.progress import Progress, ProgressCallback, ProgressDisplay, make_progress
from digitrec.tuning.runner import Assignment
from digitrec.tuning.trainable import keep_failure, stack_of, task_config, train_stack


def search(assignment: Assignment) -> None:
    """Train stacks with Ray Tune; each writes its own files as it finishes, or its failure.

    Raises:
        OSError: the study directory can no longer be used.
    """
    directory = assignment.directory
    progress = make_progress(assignment.spec, [task.stack for task in assignment.tasks])
    ray_internals.keep_environment()
    for name in ray_internals.WORDY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray Tune's own handler would stay active after the search and swallow a Ctrl-C.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    with (
        ray_internals.losses_counted_once(),
        tune_storage(directory) as storage_path,
        ProgressDisplay(
            progress,
            assignment.console,
            Metrics(directory.name),
            check=functools.partial(check, assignment, progress),
            keep_failure=functools.partial(keep_failure, directory),
        ) as display,
        suppress(Interrupted),
    ):
        make_tuner(assignment, storage_path, ProgressCallback(display)).fit()


def check(assignment: Assignment, progress: Progress) -> None:
    """Let a Ctrl-C and a lost lock take effect; called about every second."""
    assignment.interruption.check()
    assignment.lock.check()
    if progress.first_report:
        import_ahead()


def make_tuner(assignment: Assignment, storage_path: str, callback: ProgressCallback) -> tune.Tuner:
    """Return the tuner that trains each stack as one trial of Ray Tune."""
    tasks = [task_config(task) for task in assignment.tasks]
    return tune.Tuner(
        trainable_of(assignment),
        param_space={"stack": tune.grid_search(tasks)},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_name_creator=lambda trial: stack_of(trial.config).name,
            trial_dirname_creator=lambda trial: stack_of(trial.config).key,
        ),
        run_config=tune.RunConfig(
            name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}",
            storage_path=storage_path,
            failure_config=tune.FailureConfig(max_failures=assignment.request.max_failures),
            callbacks=[callback],
            verbose=0,
        ),
    )


def trainable_of(assignment: Assignment) -> Any:
    """Return the trainable with its arguments; Ray's object store transfers the data once."""
    spec, request = assignment.spec, assignment.request
    function = tune.with_parameters(
        train_stack,
        shared=assignment.shared,
        epochs_wanted=spec.epochs,
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
