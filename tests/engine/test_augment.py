"""Augmented images: moved within their limits, a function of seed and epoch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from digitrec.engine.augment import (
    MOST_ROTATION,
    MOST_SCALING,
    MOST_SHIFT,
    draw_transformations,
    transform,
)
from digitrec.engine.train import TrainingData, batches_of

SIDE = 12
KINDS = ("shift2", "affine")


def one_dot(row: int, column: int) -> Tensor:
    image = torch.zeros(SIDE, SIDE)
    image[row, column] = 1
    return image.reshape(1, -1)


def draw(kind: str, images: int = 1000, seed: int = 0, epoch: int = 1) -> Tensor:
    return draw_transformations(kind, images, side=SIDE, seed=seed, epoch=epoch)


def places(images: Tensor) -> Tensor:
    """Return the centre of the ink of each image, row and column, (B, 2)."""
    maps = images.reshape(-1, SIDE, SIDE)
    lines = torch.arange(SIDE, dtype=torch.float32)
    ink = maps.sum((1, 2))
    return torch.stack([maps.sum(2) @ lines / ink, maps.sum(1) @ lines / ink], dim=1)


def test_a_shift_moves_by_each_whole_number_of_pixels_up_to_two() -> None:
    moved = transform(one_dot(5, 6).repeat(1000, 1), draw("shift2"))
    steps = (places(moved) - torch.tensor([5.0, 6.0])).round(decimals=3)
    assert moved.amax(1) == pytest.approx(torch.ones(1000), abs=1e-4)
    found = {tuple(step) for step in steps.tolist()}
    whole = range(-MOST_SHIFT, MOST_SHIFT + 1)
    assert found == {(float(row), float(column)) for row in whole for column in whole}


def test_a_whole_shift_copies_the_pixels() -> None:
    image = torch.from_numpy(np.random.default_rng(0).random((SIDE, SIDE), np.float32))
    one_right = torch.tensor([[[1, 0, -2 / SIDE], [0, 1, 0]]])  # from the pixel to the left
    moved = transform(image.reshape(1, -1), one_right).reshape(SIDE, SIDE)
    torch.testing.assert_close(moved[:, 1:], image[:, :-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[:, 0], torch.zeros(SIDE), atol=1e-5, rtol=0)


def test_images_are_transformed_as_affine_grid_would() -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((20, SIDE**2), np.float32))
    drawn = draw("affine", images=20)
    shape = [20, 1, SIDE, SIDE]
    grid = torch.nn.functional.affine_grid(drawn, shape, align_corners=False)
    moved = torch.nn.functional.grid_sample(images.view(shape), grid, align_corners=False)
    torch.testing.assert_close(transform(images, drawn), moved.flatten(1), atol=1e-5, rtol=0)


def test_an_affine_transformation_stays_within_its_limits_and_uses_them() -> None:
    linear, shift = draw("affine")[:, :, :2], draw("affine")[:, :, 2] * SIDE / 2
    scale = 1 / linear.det().sqrt()
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
    for amount, low, high in (
        (scale, 1 - MOST_SCALING, 1 + MOST_SCALING),
        (angle, -MOST_ROTATION, MOST_ROTATION),
        (shift, -MOST_SHIFT, MOST_SHIFT),
    ):
        tenth = (high - low) / 10
        assert low - 1e-4 <= amount.min() < low + tenth
        assert high - tenth < amount.max() <= high + 1e-4


def test_a_rotation_keeps_distances_on_square_images() -> None:
    matrix = draw("affine", images=50)
    matrix[:, :, 2] = 0
    scale = 1 / matrix[:, :, :2].det().sqrt()
    centre = torch.tensor([(SIDE - 1) / 2] * 2)
    for row, column in ((3, 6), (6, 3), (4, 8)):
        before = torch.dist(torch.tensor([float(row), float(column)]), centre)
        after = (places(transform(one_dot(row, column).repeat(50, 1), matrix)) - centre).norm(dim=1)
        torch.testing.assert_close(after, before * scale, atol=0.3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_transformations_depend_on_seed_and_epoch_alone(kind: str) -> None:
    assert torch.equal(draw(kind), draw(kind))
    assert not torch.equal(draw(kind), draw(kind, epoch=2))
    assert not torch.equal(draw(kind), draw(kind, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_moved_alike_in_batches_of_any_size_and_order(kind: str) -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((40, SIDE**2), np.float32))
    data = TrainingData(
        train_images=images,
        train_labels=torch.zeros(40, dtype=torch.int64),
        pixels=torch.arange(SIDE**2),
        val_images=images[:0],
        val_labels=torch.zeros(0, dtype=torch.int64),
        augmentation=kind,
    )
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    whole = torch.cat(list(batches_of(data, order, 40, seed=0, epoch=1)))
    parts = torch.cat(list(batches_of(data, order, 7, seed=0, epoch=1)))
    rest = torch.cat(list(batches_of(data, order[14:], 7, seed=0, epoch=1)))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert torch.equal(rest, parts[14:])
    plain = replace(data, augmentation="none")
    assert torch.equal(torch.cat(list(batches_of(plain, order, 7, seed=0, epoch=1))), images[order])
    assert math.isclose(float(whole.max()), 1, abs_tol=0.1)
