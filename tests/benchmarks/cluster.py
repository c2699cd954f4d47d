"""How well does a race keep a cluster busy? A simulation of 1 to 1,000 workers, without training.

Stacks are planned and cut as in a study; their durations come from the cost model of the plan, and
results are made up. Each free worker takes the next stack of the rung, and the next rung begins
when the last one ends. The driver handles one stack after another, so many workers may have to wait
for it. The ideal is the work of the plan for one worker, shared evenly by all.

    python -m tests.benchmarks.cluster --points 243,1000,10000
"""

import argparse
import heapq
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from digitrec.space.hyperparameters import Trial
from digitrec.space.points import Space
from digitrec.space.race import Race, Standing
from digitrec.space.ranges import Range
from digitrec.space.stacks import CPU_COST, plan_stacks
from tests.benchmarks.plain_loop import integers

TRAIN_ROWS, VAL_ROWS = 33_600, 200
RUNGS = (1, 3, 9, 27)
WORKERS = (1, 2, 10, 30, 100, 300, 1000)


class Makespan(NamedTuple):
    """How long a simulated race takes."""

    seconds: float
    work: float  # seconds of all workers together
    stacks: int


def made_trials(points: int) -> tuple[Trial, ...]:
    """Return the points of a wide space, half of them with wide layers."""
    return Space.of(
        lr=(Range(1e-3, 2.0, "log"),),
        momentum=(Range(0.0, 0.98, "complement"),),
        dropout=(Range(0.0, 0.5, "linear"),),
        batch_size=(32, 64, 128, 256, 512),
        hidden_sizes=((256, 128), (512, 256)),
        points=points,
    ).trials()


def simulate(trials: Sequence[Trial], workers: int, driver_seconds: float) -> Makespan:
    """Return how long a race of these trials takes on so many workers."""
    race, earlier = Race(RUNGS), 0
    seconds = work = 0.0
    stacks = 0
    while True:
        alive, epochs = race.alive(trials), race.open_rung - earlier
        images = TRAIN_ROWS * epochs
        plan = plan_stacks(alive, workers=workers, images=images)
        durations = [CPU_COST.of_stack(stack, images) for stack in plan]
        seconds += schedule(durations, workers, driver_seconds)
        work += math.fsum(durations)
        stacks += len(plan)
        if race.decided:
            return Makespan(seconds, work, stacks)
        earlier = race.open_rung
        race = race.decide([made_standing(trial, epochs=earlier) for trial in alive])


def schedule(durations: Sequence[float], workers: int, driver_seconds: float) -> float:
    """Return when the last stack ends, if the driver hands out one stack after another."""
    free = [0.0] * workers
    driver = 0.0
    for duration in durations:
        driver = max(driver, free[0]) + driver_seconds
        heapq.heapreplace(free, driver + duration)
    return max(free)


def made_standing(trial: Trial, epochs: int) -> Standing:
    """Return made-up results: a hill over the learning rate and the momentum, and some noise."""
    each = trial.configuration
    step = math.log10(each.lr / (1 - each.momentum) / each.batch_size * 100)
    accuracy = 0.98 - 0.05 * step**2 - 0.02 / epochs
    random = np.random.default_rng(zlib.crc32(trial.name.encode()))
    correct = random.random(VAL_ROWS) < accuracy
    return Standing(trial, float(correct.mean()), 1 - accuracy, correct)


def table(points: int, workers: Sequence[int], driver_seconds: float) -> list[str]:
    """Return lines of a Markdown table: a row per number of workers."""
    trials = made_trials(points)
    whole = simulate(trials, 1, 0.0).work
    lines = [
        f"{points:,} points, {whole / 3600:.2f} hours for one worker",
        "",
        "| workers | stacks | seconds | busy | busy, were the driver free |",
        "|---|---|---|---|---|",
    ]
    for count in workers:
        real = simulate(trials, count, driver_seconds)
        free = simulate(trials, count, 0.0)
        shares = [whole / count / each.seconds for each in (real, free)]
        lines.append(
            f"| {count:,} | {real.stacks:,} | {real.seconds:,.0f} | {shares[0]:.0%} "
            f"| {shares[1]:.0%} |"
        )
    return [*lines, ""]


def main() -> None:
    """Simulate and print a table per number of points."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=integers, default=[243, 1000, 10_000])
    parser.add_argument("--workers", type=integers, default=WORKERS)
    parser.add_argument(
        "--driver-seconds", type=float, default=CPU_COST.per_start, help="per stack"
    )
    options = parser.parse_args()
    for points in options.points:
        print("\n".join(table(points, options.workers, options.driver_seconds)), flush=True)


if __name__ == "__main__":
    main()
