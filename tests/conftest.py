"""Fixtures that several test files share."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import ray
import torch

from digitrec.session import local_runtime_env
from digitrec.train import TrainingData


@pytest.fixture(scope="session")
def two_cpus() -> Iterator[None]:
    """One real Ray with two CPUs, shared by all tests that need one."""
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env=local_runtime_env(),
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def small_data() -> TrainingData:
    """70 training and 30 validation images of 12 pixels, float64; 70 leaves a short last batch."""
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.random((100, 12)))
    labels = torch.from_numpy(random.integers(0, 10, 100))
    return TrainingData(
        train_images=images[:70],
        train_labels=labels[:70],
        val_images=images[70:],
        val_labels=labels[70:],
    )
