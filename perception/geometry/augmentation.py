"""Matrices of image and point augmentations; ranges are drawn in ``transforms``.

Pixel coordinates count from the image's left and upper edge: pixel i covers [i, i + 1). Scaling then has no offset and
a mirrored column is W - u, as in "Lift, Splat, Shoot" (Philion and Fidler, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def image_matrix(
    resize: float | Sequence[float] = 1.0,
    crop: Sequence[float] = (0.0, 0.0),
    flip: bool = False,
    rotate: float = 0.0,
    size: Sequence[int] = (0, 0),
) -> np.ndarray:
    """Matrix (4, 4) float64: pixels of the original image (u, v, depth, 1) -> pixels of the augmented one.

    First resized, then cut, mirrored, and turned about the centre of the cut. Depth is unchanged.

    Args:
        resize: scale, or scales of u and v. An image has whole pixels: give new width / old width and the same of the
            heights, not the scale that was asked for.
        crop: left and upper edge of the cut in the resized image, in pixels.
        flip: mirror left to right.
        rotate: angle in radians, counter-clockwise as it is seen.
        size: height and width of the cut; needed to mirror or turn.
    """
    scale_u, scale_v = (resize, resize) if isinstance(resize, (int, float)) else resize
    height, width = size
    linear, shift = np.diag([float(scale_u), float(scale_v)]), -np.array(crop[:2], dtype=np.float64)
    if flip:
        mirror = np.diag([-1.0, 1.0])
        linear, shift = mirror @ linear, mirror @ shift + (width, 0.0)
    if rotate:
        cos, sin = math.cos(rotate), math.sin(rotate)
        turn, centre = np.array([[cos, sin], [-sin, cos]]), np.array([width, height]) / 2  # v points down
        linear, shift = turn @ linear, turn @ shift + centre - turn @ centre
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:2, 3] = linear, shift
    return matrix


def lidar_matrix(
    rotation: float | np.ndarray = 0.0,
    scale: float | np.ndarray = 1.0,
    translation: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    flip_x: bool | np.ndarray = False,
    flip_y: bool | np.ndarray = False,
) -> np.ndarray:
    """Matrices (..., 4, 4) float64: flip . translate . scale . rotate, original -> augmented LiDAR coordinates.

    Args:
        rotation: (...,) about z in radians, counter-clockwise.
        scale: (...,).
        translation: (..., 3) in metres.
        flip_x: (...,) whether x changes its sign.
        flip_y: (...,) whether y changes its sign.
    """
    rotation, scale = np.asarray(rotation, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    shift = np.asarray(translation, dtype=np.float64)
    signs = np.stack(np.broadcast_arrays(np.where(flip_x, -1.0, 1.0), np.where(flip_y, -1.0, 1.0), 1.0), axis=-1)
    shape = np.broadcast_shapes(rotation.shape, scale.shape, shift.shape[:-1], signs.shape[:-1])
    turn = np.zeros((*shape, 3, 3))
    turn[..., 0, 0] = turn[..., 1, 1] = np.cos(rotation)
    turn[..., 1, 0] = np.sin(rotation)
    turn[..., 0, 1] = -turn[..., 1, 0]
    turn[..., 2, 2] = 1.0
    matrix = np.zeros((*shape, 4, 4))
    matrix[..., :3, :3] = signs[..., :, None] * scale[..., None, None] * turn
    matrix[..., :3, 3] = signs * shift
    matrix[..., 3, 3] = 1.0
    return matrix
