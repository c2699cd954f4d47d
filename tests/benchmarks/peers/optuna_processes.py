"""Optuna's search: TPE and the Hyperband pruner, in two processes that share a journal file.

    python -m tests.benchmarks.peers.optuna_processes --data train.csv --out build/o --seconds 60

The same command continues a search that was killed, with the trials that its storage holds.
"""

import subprocess
import sys

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.benchmarks.peers import points
from tests.benchmarks.peers.events import EventLog
from tests.benchmarks.peers.points import MOST_EPOCHS, Point
from tests.benchmarks.peers.program import WORKERS, Question, parse_question
from tests.benchmarks.peers.training import Tensors, load, val_accuracies

APART = 1000  # between the seeds of two processes: with one seed, both would ask for equal points


def suggest(trial: optuna.Trial, *, augmentation: bool) -> Point:
    """Return the point of a trial."""
    drawn: dict[str, object] = {
        "lr": trial.suggest_float("lr", *points.LRS, log=True),
        "kept": trial.suggest_float("kept", *points.KEPT, log=True),
        "weight_decay": trial.suggest_float("weight_decay", *points.WEIGHT_DECAYS, log=True),
        "dropout": trial.suggest_float("dropout", *points.DROPOUTS),
        "batch_size": 2 ** trial.suggest_int("log2_batch_size", *points.powers_of_two()),
        "hidden_sizes": trial.suggest_categorical("hidden_sizes", points.HIDDEN),
    }
    if augmentation:
        drawn["augmentation"] = trial.suggest_categorical("augmentation", points.AUGMENTATIONS)
    return Point.of(drawn)


def search(question: Question, tensors: Tensors) -> None:
    """Search in this process until the time is up or all processes have made enough trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log = EventLog(question.out, f"worker{question.worker}", question.begun)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(question.out / "journal.log"))),
        study_name="digits",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=question.seed + APART * question.worker),
        pruner=optuna.pruners.HyperbandPruner(1, MOST_EPOCHS, 3),
        load_if_exists=True,
    )

    def objective(trial: optuna.Trial) -> float:
        point = suggest(trial, augmentation=question.augmentation)
        accuracy = 0.0
        for epoch, accuracy in enumerate(val_accuracies(point, tensors, epochs=MOST_EPOCHS), 1):
            log.add(str(trial.number), point, epoch, accuracy)
            trial.report(accuracy, epoch)
            if question.over:
                study.stop()
            if question.over or trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    states = (TrialState.COMPLETE, TrialState.PRUNED)
    enough = [optuna.study.MaxTrialsCallback(question.trials, states)] if question.trials else []
    study.optimize(objective, timeout=question.left, callbacks=enough)


def main() -> None:
    """Search in this process and, from the first, in the others."""
    question = parse_question(__doc__)
    question.out.mkdir(parents=True, exist_ok=True)
    others = [
        subprocess.Popen([*sys.orig_argv, "--worker", str(worker), "--begun", str(question.begun)])
        for worker in range(1, WORKERS)
        if question.worker == 0
    ]
    search(question, load(question.data))
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
