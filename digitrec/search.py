"""Stacks through Ray Tune: the grid search itself."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ray import tune
from ray.tune.trainable import wrap_function
from rich.console import Console

from digitrec.data import SharedData
from digitrec.metrics import Metrics
from digitrec.progress import Progress, ProgressCallback
from digitrec.request import Request
from digitrec.results.question import Question
from digitrec.results.stacks import write_failure
from digitrec.space import CPU_COST, Stack, Task
from digitrec.storage import Storage
from digitrec.trainable import stack_of, task_config, train_stack


def search(
    request: Request,
    study: Storage,
    question: Question,
    shared: SharedData,
    tasks: Sequence[Task],
    console: Console,
) -> None:
    """Train stacks with Ray Tune; each writes its own files as it finishes, or its failure.

    Args:
        request: what the study asks for.
        study: gets the files.
        question: the study's.
        shared: the data; it crosses Ray's object store once.
        tasks: what to train, in this order as workers become free.
        console: shows the progress.
    """
    function = tune.with_parameters(
        train_stack,
        shared=shared,
        layer_sizes=tuple(question.layer_sizes),
        epochs_wanted=question.epochs,
        precision=question.precision,
        study=study,
        question=question.key,
    )
    trainable = wrap_function(function)
    trainable.__name__ = trainable.__qualname__ = "Stack"  # the actors' class in Ray's dashboard
    resources = {"cpu": request.cpus_per_trial, "gpu": request.gpus_per_trial}
    stacks = [task.stack for task in tasks]
    progress = make_progress(question, stacks)
    with ProgressCallback(progress, console, Metrics(study.name)) as callback:
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"stack": tune.grid_search([task_config(task) for task in tasks])},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_name_creator=lambda trial: stack_of(trial.config).name,
                trial_dirname_creator=lambda trial: stack_of(trial.config).key,
            ),
            run_config=tune.RunConfig(
                name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}",
                storage_path=str(study / "ray"),
                failure_config=tune.FailureConfig(max_failures=request.max_failures),
                callbacks=[callback],
                verbose=0,
            ),
        ).fit()
    for place in range(len(results)):
        _keep_failure(results[place], study)


def make_progress(question: Question, stacks: Sequence[Stack]) -> Progress:
    """Return the progress of a study in which these stacks are still to be trained."""
    configurations = len(question.configurations())
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


def _keep_failure(result: Any, study: Storage) -> None:
    if result.error is not None:
        stack = stack_of(result.config)
        trials = [member.trial for member in stack.members]
        write_failure(study, stack.key, trials, str(result.error))
