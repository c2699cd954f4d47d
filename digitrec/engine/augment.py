"""Augmentation: the training images of an epoch, moved a little, the same for all members.

Letters: N training images, B images of a part of them, D = S x S pixels.
"""

import math

import numpy as np
import torch
from torch import Tensor

MOST_SHIFT = 2  # pixels, in each direction
MOST_ROTATION = 12.0  # degrees, either way
MOST_SCALING = 0.1  # up and down
PURPOSE = 1  # keeps these random numbers apart from those of the order of the images


def draw_transformations(
    augmentation: str, images: int, *, side: int, seed: int, epoch: int
) -> Tensor:
    """Return a transformation for each training image of an epoch, float32 (N, 2, 3).

    They map the coordinates of the augmented image to those of the original, both from -1 to 1 as
    `torch.nn.functional.affine_grid` takes them. Each amount is uniform within its limits: `shift2`
    moves by whole pixels; `affine` also rotates and scales about the centre, and moves by parts of
    pixels. They are a function of the arguments alone, so that a training that pauses needs none.
    """
    random = np.random.default_rng((seed, epoch, PURPOSE))
    matrices = np.zeros((images, 2, 3), dtype=np.float32)
    if augmentation == "shift2":
        matrices[:, 0, 0] = matrices[:, 1, 1] = 1
        steps = random.integers(-MOST_SHIFT, MOST_SHIFT, (images, 2), endpoint=True)
        matrices[:, :, 2] = 2 * steps / side
    else:
        angle = random.uniform(-math.radians(MOST_ROTATION), math.radians(MOST_ROTATION), images)
        scale = random.uniform(1 - MOST_SCALING, 1 + MOST_SCALING, images)
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        matrices[:, 0, 0], matrices[:, 0, 1] = cosine, -sine
        matrices[:, 1, 0], matrices[:, 1, 1] = sine, cosine
        matrices[:, :, 2] = 2 * random.uniform(-MOST_SHIFT, MOST_SHIFT, (images, 2)) / side
    return torch.from_numpy(matrices)


def transform(images: Tensor, transformations: Tensor) -> Tensor:
    """Return scaled images (B, D) transformed; what comes from outside an image is 0.

    Values between pixels are interpolated linearly in both directions.

    Args:
        images: of the type of the transformations.
        transformations: as `draw_transformations` returns them, (B, 2, 3).
    """
    side = math.isqrt(images.shape[1])
    line = (2 * torch.arange(side, device=images.device) + 1) / side - 1  # centres of pixels
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten(), torch.ones_like(x.flatten())])  # (3, D)
    # As `affine_grid`, which takes four times as long as all the rest.
    grid = (transformations.reshape(-1, 3) @ points).view(-1, 2, side, side).permute(0, 2, 3, 1)
    originals = images.view(-1, 1, side, side)
    moved = torch.nn.functional.grid_sample(originals, grid, align_corners=False)
    return moved.view(images.shape)
