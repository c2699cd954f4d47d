"""Incumbents trained again by one code, to the end, on fresh seeds, and scored on unseen rows.

Each is trained on the training rows of the search; the validation rows chose it, the held-out rows
had no part in anything. Scores are kept in a file, so a point is trained once however many tools
found it.
"""

import json
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from digitrec.data.digits import read_digits
from tests.benchmarks.peers.points import MOST_EPOCHS, Point
from tests.benchmarks.peers.program import WORKERS
from tests.benchmarks.peers.training import Tensors, accuracy_of, load, train_one

FRESH_SEEDS = (101, 102, 103)  # no search trains with these


class Score(NamedTuple):
    """The accuracy of a point, trained again: means over the fresh seeds."""

    val: float
    unseen: float


def score_all(
    points: Sequence[Point], data: Path, unseen: Path, kept: Path, *, epochs: int = MOST_EPOCHS
) -> dict[Point, Score]:
    """Return the scores of points; train those that the file lacks, and keep them there."""
    known: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [
        (point, seed)
        for point in dict.fromkeys(points)
        for seed in FRESH_SEEDS
        if key_of(point, seed) not in known
    ]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawned) as pool:
        jobs = [pool.submit(score, *each, data, unseen, epochs) for each in missing]
        for (point, seed), job in zip(missing, jobs, strict=True):
            known[key_of(point, seed)] = job.result()
            kept.write_text(json.dumps(known, indent=1) + "\n")
    return {
        point: mean_of([known[key_of(point, seed)] for seed in FRESH_SEEDS]) for point in points
    }


def key_of(point: Point, seed: int) -> str:
    """Return the name of a score in the file."""
    return json.dumps([point.to_json(), seed])


def mean_of(scores: Sequence[Sequence[float]]) -> Score:
    """Return the means over the seeds."""
    return Score(*(statistics.fmean(values) for values in zip(*scores, strict=True)))


def score(point: Point, seed: int, data: Path, unseen: Path, epochs: int) -> list[float]:
    """Train a point with a seed; return its accuracy on validation and on unseen rows."""
    tensors, images, labels = resident(data, unseen)
    *_, model = train_one(point, tensors, epochs=epochs, seed=seed)
    val = accuracy_of(model, tensors.val_images, tensors.val_labels)
    return [val, accuracy_of(model, images, labels)]


@cache
def resident(data: Path, unseen: Path) -> tuple[Tensors, Tensor, Tensor]:
    """Return the rows of the search, and the unseen ones; read once per process."""
    torch.set_num_threads(1)
    digits = read_digits(str(unseen))
    images = torch.from_numpy(digits.images.copy()).float() / 255
    return load(data), images, torch.from_numpy(digits.labels.copy()).long()
