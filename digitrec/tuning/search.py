"""Stacks through Ray Tune: the grid search itself."""

import functools
import importlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.trainable import wrap_function
from rich.console import Console

from digitrec.data.digits import SharedData
from digitrec.request import Request
from digitrec.signals import Interrupted, sigint_noted
from digitrec.space.stacks import CPU_COST, Stack, Task
from digitrec.store.folder import Folder
from digitrec.store.lock import Lock
from digitrec.store.spec import StudySpec
from digitrec.store.stacks import write_failure
from digitrec.tuning.metrics import Metrics
from digitrec.tuning.progress import Progress, ProgressCallback
from digitrec.tuning.trainable import failure_text, stack_of, task_config, train_stack

# They print the traceback of every lost worker; the study tells of it in a line.
WORDY = ("ray.tune.execution.tune_controller", "ray.tune.tune")


def search(
    request: Request,
    study: Folder,
    question: StudySpec,
    shared: SharedData,
    tasks: Sequence[Task],
    console: Console,
    lock: Lock,
) -> bool:
    """Train stacks with Ray Tune; each writes its own files as it finishes, or its failure.

    Args:
        request: what the study asks for.
        study: gets the files.
        question: the study's.
        shared: the data; it crosses Ray's object store once.
        tasks: what to train, in this order as workers become free.
        console: shows the progress.
        lock: the hold on the study directory.

    Returns:
        Whether it went to its end: a Ctrl-C stops it.

    Raises:
        OSError: the study directory can no longer be used.
    """
    trainable = trainable_of(request, study, question, shared)
    stacks = [task.stack for task in tasks]
    progress = make_progress(question, stacks)
    keep_environment()
    for name in WORDY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with sigint_noted() as interruption, tune_storage(study) as storage_path:

        def check() -> None:
            interruption.check()
            lock.check()
            if progress.first_report:
                import_ahead()

        def keep_failure(stack: Stack, error: Exception) -> None:
            trials = [member.name for member in stack.members]
            write_failure(study, stack.key, trials, failure_text(error))

        metrics = Metrics(study.name)
        with ProgressCallback(progress, console, metrics, check, keep_failure) as callback:
            run_config = tune.RunConfig(
                name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}",
                storage_path=storage_path,
                failure_config=tune.FailureConfig(max_failures=request.max_failures),
                callbacks=[callback],
                verbose=0,
            )
            tuner = tune.Tuner(
                trainable,
                param_space={"stack": tune.grid_search([task_config(task) for task in tasks])},
                tune_config=tune.TuneConfig(
                    reuse_actors=True,
                    trial_name_creator=lambda trial: stack_of(trial.config).name,
                    trial_dirname_creator=lambda trial: stack_of(trial.config).key,
                ),
                run_config=run_config,
            )
            # Ray Tune's own handler would stay in force after the search, and swallow a Ctrl-C.
            os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
            try:
                tuner.fit()
            except Interrupted:
                return False
    return not interruption.came


def trainable_of(
    request: Request, study: Folder, question: StudySpec, shared: SharedData
) -> type[tune.Trainable]:
    """Return what Ray Tune runs in a worker; see `search` for the arguments."""
    function = tune.with_parameters(
        train_stack,
        shared=shared,
        layer_sizes=tuple(question.layer_sizes),
        epochs_wanted=question.epochs,
        precision=question.precision,
        study=study,
        question=question.key,
    )
    resources = {"cpu": request.cpus_per_stack, "gpu": request.gpus_per_stack}
    trainable: type[tune.Trainable] = tune.with_resources(wrap_function(function), resources)
    trainable.__name__ = trainable.__qualname__ = "Stack"  # the actors' class in Ray's dashboard
    return trainable


@functools.cache
def import_ahead() -> None:
    """Begin to import what a study's end takes, 1.5 seconds, where nothing waits for it."""
    module = "digitrec.results.outcome"
    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()


def keep_environment() -> None:
    """Keep Ray Tune from giving its workers an environment of their own.

    Of the driver's AWS keys: Ray would write them in clear into the logs of every node, which its
    dashboard shows. Nodes have roles or keys of their own. Of PL_DISABLE_FORK, which only
    PyTorch Lightning knows: with it, trials would not run in the workers that Ray starts with
    itself, but in others that take a second or two to start.
    """
    getattr(class_cache, "DEFAULT_ENV_VARS", {}).pop("PL_DISABLE_FORK", None)
    for name in [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]:
        ENV_VARS_TO_PROPAGATE.remove(name)


@contextmanager
def tune_storage(study: Folder) -> Iterator[str]:
    """Yield where Ray Tune is to keep its own files: in the study, where that is a directory.

    They are logs, which nothing of a study relies on. On an object store they would be a third of
    the requests, and, since Ray Tune does not try again, a store that is away for some seconds
    would end the search; there they are kept while the search lasts.
    """
    if study.path is not None:
        yield str(study.path / "ray")
        return
    with tempfile.TemporaryDirectory(prefix="digitrec-") as directory:
        yield directory


def make_progress(question: StudySpec, stacks: Sequence[Stack]) -> Progress:
    """Return the progress of a study in which these stacks are still to be trained."""
    configurations = len(question.trials())
    to_train = sum(len(stack.members) for stack in stacks)
    images = question.epochs * question.data["train_rows"]
    return Progress(
        configurations=configurations,
        configurations_done=configurations - to_train,
        epochs_wanted=question.epochs * to_train,
        epochs=question.epochs,
        images_per_epoch=question.data["train_rows"],
        work={stack.key: CPU_COST.of_stack(stack, images) for stack in stacks},
    )
