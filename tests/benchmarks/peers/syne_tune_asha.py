"""Syne Tune's search: ASHA, or ASHA with conformal quantile regression (CQR), in two processes.

Its local backend starts a Python process per trial, which imports torch and reads the data anew. So
its scheduler is asked and told here, by two processes that keep both.

    python -m tests.benchmarks.peers.syne_tune_asha --data train.csv --out build/syne --seconds 60
"""

import multiprocessing
from dataclasses import replace
from datetime import datetime
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from tests.benchmarks.peers import points
from tests.benchmarks.peers.events import EventLog
from tests.benchmarks.peers.points import MOST_EPOCHS, Point
from tests.benchmarks.peers.program import WORKERS, Question, parse_question
from tests.benchmarks.peers.training import resident, val_accuracies

METHODS = {"asha": "ASHA", "cqr": "ASHACQR"}


def space(*, augmentation: bool) -> dict[str, Any]:
    """Return the space as Syne Tune describes one."""
    from syne_tune.config_space import choice, loguniform, uniform

    more = {"augmentation": choice(list(points.AUGMENTATIONS))} if augmentation else {}
    return more | {
        "lr": loguniform(*points.LRS),
        "kept": loguniform(*points.KEPT),
        "weight_decay": loguniform(*points.WEIGHT_DECAYS),
        "dropout": uniform(*points.DROPOUTS),
        "batch_size": choice(list(points.BATCH_SIZES)),
        "hidden_sizes": choice(list(points.HIDDEN)),
    }


def work(question: Question, link: Connection) -> None:
    """Train the trials that arrive, and ask after each epoch whether to go on."""
    tensors = resident(question.data)
    log = EventLog(question.out, f"worker{question.worker}", question.begun)
    link.send(None)  # ready
    while (order := link.recv()) is not None:
        trial, drawn = order
        point = Point.of(drawn)
        for epoch, accuracy in enumerate(val_accuracies(point, tensors, epochs=MOST_EPOCHS), 1):
            log.add(str(trial), point, epoch, accuracy)
            link.send({"accuracy": accuracy, "epoch": epoch})
            if not link.recv():
                break
        link.send(None)


def make_scheduler(question: Question) -> Any:
    """Return the scheduler; Syne Tune is imported while the other processes start."""
    from syne_tune.optimizer import baselines

    np.random.seed(question.seed)  # ASHA draws the bracket of a trial from the global generator
    return getattr(baselines, METHODS[question.method])(
        space(augmentation=question.augmentation),
        metric="accuracy",
        time_attr="epoch",
        max_t=MOST_EPOCHS,
        do_minimize=False,
        random_seed=question.seed,
        grace_period=1,
        reduction_factor=3,
    )


def search(question: Question, links: list[Connection]) -> None:
    """Hand out trials and decisions until the time is up, or all trials are made."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.scheduler import SchedulerDecision

    scheduler = make_scheduler(question)
    running: dict[Connection, Trial] = {}
    made = 0
    while links and not question.over:
        for link in wait(links, timeout=question.left):
            assert isinstance(link, Connection)
            result = link.recv()
            if result is not None:
                decision = scheduler.on_trial_result(running[link], result)
                link.send(decision == SchedulerDecision.CONTINUE)
            elif made == question.trials:
                link.send(None)
                links.remove(link)
            else:
                suggestion = scheduler.suggest()
                running[link] = Trial(made, suggestion.config, datetime.now())
                scheduler.on_trial_add(running[link])
                link.send((made, suggestion.config))
                made += 1


def main() -> None:
    """Start the processes that train, and search."""
    question = parse_question(__doc__, tuple(METHODS))
    question.out.mkdir(parents=True, exist_ok=True)
    spawned = multiprocessing.get_context("spawn")
    links, processes = [], []
    for worker in range(WORKERS):
        ours, theirs = spawned.Pipe()
        asked = replace(question, worker=worker)
        processes.append(spawned.Process(target=work, args=(asked, theirs), daemon=True))
        processes[-1].start()
        links.append(ours)
    search(question, links)
    for process in processes:
        process.terminate() if question.over else process.join()


if __name__ == "__main__":
    main()
