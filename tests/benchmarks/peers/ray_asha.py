"""Ray Tune's search: OptunaSearch and ASHA, a trial per core, actors that keep torch and the data.

    python -m tests.benchmarks.peers.ray_asha --data train.csv --out build/ray --seconds 60

The same command restores a search that was killed, as `Tuner.restore` does.
"""

import logging
import os
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from tests.benchmarks.peers import points
from tests.benchmarks.peers.events import EventLog
from tests.benchmarks.peers.points import MOST_EPOCHS, Point
from tests.benchmarks.peers.program import WORKERS, Question, parse_question
from tests.benchmarks.peers.training import resident, val_accuracies

MANY = 100_000  # trials: the time ends the search


def trainable(config: dict[str, Any], question: Question) -> None:
    """Train a point; the function that Ray Tune runs."""
    tensors = resident(question.data)
    log = EventLog(question.out, f"worker{os.getpid()}", question.begun)
    trial = tune.get_context().get_trial_id()
    point = Point.of(config)
    for epoch, accuracy in enumerate(val_accuracies(point, tensors, epochs=MOST_EPOCHS), 1):
        log.add(trial, point, epoch, accuracy)
        tune.report({"accuracy": accuracy, "epoch": epoch})


def space(*, augmentation: bool) -> dict[str, Any]:
    """Return the space as Ray Tune describes one."""
    more = {"augmentation": tune.choice(list(points.AUGMENTATIONS))} if augmentation else {}
    return more | {
        "lr": tune.loguniform(*points.LRS),
        "kept": tune.loguniform(*points.KEPT),
        "weight_decay": tune.loguniform(*points.WEIGHT_DECAYS),
        "dropout": tune.uniform(*points.DROPOUTS),
        "batch_size": tune.choice(list(points.BATCH_SIZES)),
        "hidden_sizes": tune.choice(list(points.HIDDEN)),
    }


def make_tuner(question: Question) -> tune.Tuner:
    """Return the search, or what is left of one that was killed."""
    function = tune.with_resources(tune.with_parameters(trainable, question=question), {"cpu": 1})
    path = question.out.resolve() / "ray"
    if tune.Tuner.can_restore(str(path)):
        return tune.Tuner.restore(str(path), function, restart_errored=True)
    return tune.Tuner(
        function,
        param_space=space(augmentation=question.augmentation),
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(seed=question.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch", max_t=MOST_EPOCHS, grace_period=1, reduction_factor=3
            ),
            num_samples=question.trials or MANY,
            max_concurrent_trials=WORKERS,
            time_budget_s=question.left,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=path.name, storage_path=str(path.parent), verbose=0),
    )


def main() -> None:
    """Search until the time is up."""
    question = parse_question(__doc__)
    question.out.mkdir(parents=True, exist_ok=True)
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # no files of results
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # "local" so that no other Ray of this machine is joined by accident.
    ray.init(
        "local",
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    make_tuner(question).fit()


if __name__ == "__main__":
    main()
