"""Stacks through Ray Tune: the grid search itself."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ray import tune
from rich.console import Console

from digitrec.data import SharedData
from digitrec.metrics import Metrics
from digitrec.progress import Progress, ProgressCallback
from digitrec.request import Request
from digitrec.results.stacks import write_failure
from digitrec.space import CPU_COST, Stack
from digitrec.trainable import stack_config, stack_of, train_stack


def search(
    request: Request,
    layer_sizes: Sequence[int],
    shared: SharedData,
    stacks: Sequence[Stack],
    console: Console,
) -> None:
    """Train stacks with Ray Tune; each writes its own file as it finishes, or its failure.

    Args:
        request: what the study asks for; its directory gets the files.
        layer_sizes: widths of the MLP, from input to output.
        shared: the data; it crosses Ray's object store once.
        stacks: what to train, in this order as workers become free.
        console: shows the progress.
    """
    stack_files = request.directory / "stacks"
    trainable = tune.with_parameters(
        train_stack,
        shared=shared,
        layer_sizes=tuple(layer_sizes),
        epochs_wanted=request.epochs,
        precision=request.precision,
        directory=stack_files,
    )
    resources = {"cpu": request.cpus_per_trial, "gpu": request.gpus_per_trial}
    progress = make_progress(request, len(shared.split.train), stacks)
    metrics = Metrics(request.directory.name)
    with ProgressCallback(progress, console, metrics) as callback:
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"stack": tune.grid_search([stack_config(stack) for stack in stacks])},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_name_creator=lambda trial: stack_of(trial.config).name,
                trial_dirname_creator=lambda trial: stack_of(trial.config).key,
            ),
            run_config=tune.RunConfig(
                name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}",
                storage_path=str(request.directory / "ray"),
                callbacks=[callback],
                verbose=0,
            ),
        ).fit()
    for place in range(len(results)):
        _keep_failure(results[place], stack_files)


def make_progress(request: Request, train_rows: int, stacks: Sequence[Stack]) -> Progress:
    """Return the progress of a study in which these stacks are still to be trained."""
    configurations = len(request.space.configurations())
    to_train = sum(len(stack.members) for stack in stacks)
    images = request.epochs * train_rows
    return Progress(
        configurations=configurations,
        configurations_done=configurations - to_train,
        epochs_wanted=request.epochs * to_train,
        epochs=request.epochs,
        images_per_epoch=train_rows,
        work={stack.key: CPU_COST.of_stack(stack, images) for stack in stacks},
    )


def _keep_failure(result: Any, stack_files: Any) -> None:
    if result.error is not None:
        stack = stack_of(result.config)
        trials = [member.trial for member in stack.members]
        write_failure(stack_files, stack.key, trials, str(result.error))
