"""Races of equally good points: how often the verdict claims that one is better."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.rules.winner import judge_winner
from digitrec.results.analysis.statistics import ERROR_RATE
from digitrec.space.hyperparameters import Trial
from digitrec.space.points import Space
from digitrec.space.race import Race, Standing
from digitrec.space.ranges import Range
from digitrec.space.records import EpochRecord
from digitrec.store.record import StudyRecord
from digitrec.store.stacks import StackResult
from tests.studies import LABELS, VAL_ROWS, make_result, raced_record

STUDIES = 100
RULES = Race((1, 3, 9))
SPACE = Space.of(lr=(Range(1e-3, 1),), batch_size=(32, 64), points=36)


class EqualPoints:
    """Trials that are equally likely to recognise an image; which ones changes with training."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.images = self.random.normal(1.4, 1.5, VAL_ROWS)  # easy or hard for all
        self.own = {trial: self.random.normal(0, 0.7, VAL_ROWS) for trial in SPACE.trials()}

    def train(self, trial: Trial, epochs: int) -> StackResult:
        """A trial at a rung."""
        odds: NDArray[np.float64] = self.images + self.own[trial]
        right = odds + self.random.logistic(0, 0.5, VAL_ROWS) > 0
        share = float(right.mean())
        history = [
            [EpochRecord(epoch, epoch, 1 - share, share, 1 - share, share, 0.5)]
            for epoch in range(1, epochs + 1)
        ]
        predictions = np.where(right, LABELS, (LABELS + 1) % 10).astype(np.uint8)
        return replace(make_result([trial], history), predictions=predictions[None])


def standing(result: StackResult) -> Standing:
    last = result.epochs[-1][0]
    (trial,) = result.stack.members
    return Standing(trial, last.val_accuracy, last.val_loss, result.predictions[0] == LABELS)


def race_of_equal_points(directory: Path, seed: int) -> StudyRecord:
    """A finished race, decided by the rules that decide every race."""
    points, race, results = EqualPoints(seed), RULES, list[StackResult]()
    for rung in RULES.rungs:
        trained = [points.train(trial, rung) for trial in race.alive(SPACE.trials())]
        results += trained
        if not race.decided:
            race = race.decide([standing(result) for result in trained])
    return raced_record(directory, SPACE, race, results)


@pytest.mark.slow
def test_races_of_equal_points_rarely_have_a_clear_winner_or_a_clear_loser(tmp_path: Path) -> None:
    clear = wrong = 0
    for seed in range(STUDIES):
        evidence = Evidence(race_of_equal_points(tmp_path, seed))
        assert evidence.comparisons is not None
        wrong += bool(evidence.comparisons.told_apart.any())
        clear += "it is better than each" in judge_winner(evidence).sentence
    assert clear <= wrong <= ERROR_RATE * STUDIES
