"""Corruptions of the points inside labelled boxes; everything else, the boxes too, stays as it is.

Parameters are those of "Benchmarking Robustness of 3D Object Detection to Common Corruptions in Autonomous Driving"
(Dong et al., CVPR 2023). A point in several boxes belongs to the first. All boxes of a sweep are treated at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perception.geometry.boxes import first_box_of_points
from perception.transforms.lidar_corruptions import (
    LiDARCorruption,
    Outcome,
    Sweep,
    gaussian,
    impulse,
    keep,
    moved,
    uniform,
)


def density_inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """10 to 50 % of the points of every object are lost."""
    return _lose(sweep, (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], lambda box: random.uniform(0.0, 1.0, len(box)))


def cutout_inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Every object has a hole: the 30 to 70 % of its points that lie nearest to one of them."""

    def distance(box: np.ndarray) -> np.ndarray:
        inside = np.flatnonzero(box >= 0)
        drawn = inside[np.lexsort((random.uniform(0.0, 1.0, len(inside)), box[inside]))]
        _, first = np.unique(box[drawn], return_index=True)
        centre = np.zeros(len(sweep.boxes), dtype=np.int64)
        centre[box[drawn[first]]] = drawn[first]
        xyz = sweep.points[:, :3].astype(np.float64)
        return np.square(xyz - xyz[centre[np.maximum(box, 0)]]).sum(1)

    return _lose(sweep, (0.3, 0.4, 0.5, 0.6, 0.7)[severity - 1], distance)


def scale_inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Every object is 4 to 20 % longer or shorter along one of its axes; its bottom stays on the ground."""
    change = (0.04, 0.08, 0.12, 0.16, 0.20)[severity - 1]
    count = len(sweep.boxes)
    axis, sign = random.choice(3, count), random.choice([-1, 1], count)
    factor = np.ones((count, 3))
    factor[np.arange(count), axis] += change * sign
    matrix = np.einsum("mi,ij->mij", factor, np.eye(3))
    lift = np.zeros((count, 3))
    lift[:, 2] = (factor[:, 2] - 1) * sweep.boxes[:, 5] / 2
    return _reshape(sweep, matrix, lift)


def shear_inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Every object is sheared by up to 0.1 to 0.3; points that leave its box are pressed back to its faces."""
    width = (0.05, 0.10, 0.15, 0.20, 0.25)[severity - 1]
    count = len(sweep.boxes)
    amount = random.uniform(width - 0.05, width + 0.05, (count, 4)) * random.choice([-1, 1], (count, 4))
    matrix = np.tile(np.eye(3), (count, 1, 1))
    matrix[:, [2, 0, 1, 0], [0, 1, 0, 2]] = amount
    return _reshape(sweep, matrix, bounded=True)


def rotation_inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Every object is turned about its upright axis by 1 to 9 degrees, give or take one, either way."""
    middle = (1, 3, 5, 7, 9)[severity - 1]
    count = len(sweep.boxes)
    angle = np.radians(random.uniform(middle - 1, middle + 1, count) * random.choice([-1, 1], count))
    matrix = np.tile(np.eye(3), (count, 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 1, 0], matrix[:, 0, 1] = np.sin(angle), -np.sin(angle)
    return _reshape(sweep, matrix)


def motion_inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Objects that drive off while the beam passes: all but their rearmost third along the front moves by 0.2 to 1 m.

    As in the public code the rearmost third moves by half of that.
    """
    step = (0.2, 0.4, 0.6, 0.8, 1.0)[severity - 1]
    box = first_box_of_points(sweep.points, sweep.boxes)
    inside = np.flatnonzero(box >= 0)
    ahead = np.array([math.cos(sweep.forward), math.sin(sweep.forward)])
    along = sweep.points[:, :2].astype(np.float64) @ ahead
    low, high = np.full(len(sweep.boxes), np.inf), np.full(len(sweep.boxes), -np.inf)
    np.minimum.at(low, box[inside], along[inside])
    np.maximum.at(high, box[inside], along[inside])
    rear = along[inside] <= (low + (high - low) / 3)[box[inside]]
    return moved(sweep, np.where(rear, step / 2, step)[:, None] * ahead, inside)


def _lose(sweep: Sweep, share: float, rank: Any) -> Outcome:
    """Drop ``share`` of the points of every box: those of the lowest ``rank(box of every point)``."""
    box = first_box_of_points(sweep.points, sweep.boxes)
    if not len(sweep.boxes):
        return keep(sweep, np.ones(len(box), dtype=bool))
    order = np.lexsort((rank(box), box))  # by box, then by rank
    start = np.searchsorted(box[order], box[order])
    size = np.searchsorted(box[order], box[order], side="right") - start
    lost = (np.arange(len(box)) - start < (share * size).astype(np.int64)) & (box[order] >= 0)
    kept = np.ones(len(box), dtype=bool)
    kept[order[lost]] = False
    return keep(sweep, kept)


def _reshape(sweep: Sweep, matrix: np.ndarray, lift: np.ndarray | None = None, bounded: bool = False) -> Outcome:
    """Apply ``matrix`` (M, 3, 3) and ``lift`` (M, 3) to the points of every box in its own axes."""
    box = first_box_of_points(sweep.points, sweep.boxes)
    inside = np.flatnonzero(box >= 0)
    own = box[inside]
    boxes = sweep.boxes.astype(np.float64)
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    axes = np.zeros((len(boxes), 3, 3))
    axes[:, 0, 0], axes[:, 0, 1], axes[:, 1, 0], axes[:, 1, 1], axes[:, 2, 2] = cos, -sin, sin, cos, 1.0
    xyz = sweep.points[inside, :3].astype(np.float64)
    local = np.einsum("pji,pj->pi", axes[own], xyz - boxes[own, :3])
    local = np.einsum("pij,pj->pi", matrix[own], local)
    if lift is not None:
        local = local + lift[own]
    if bounded:
        half = boxes[own, 3:6] / 2
        local = np.clip(local, -half, half)
    shift = np.einsum("pij,pj->pi", axes[own], local) + boxes[own, :3] - xyz
    return moved(sweep, shift, inside)


def _within(corruption: LiDARCorruption) -> LiDARCorruption:
    """``corruption`` of the points in boxes, as if they were the sweep. It must neither drop nor add points."""

    def inside(sweep: Sweep, severity: int, random: Any) -> Outcome:
        chosen = np.flatnonzero(first_box_of_points(sweep.points, sweep.boxes) >= 0)
        part, _ = corruption(Sweep(sweep.points[chosen], compat=sweep.compat), severity, random)
        points = sweep.points.copy()
        points[chosen] = part
        return points, np.arange(len(points))

    return inside


OBJECT: dict[str, LiDARCorruption] = {
    "object-gaussian": _within(gaussian),
    "object-uniform": _within(uniform),
    "object-impulse": _within(impulse),
    "object-density": density_inside,
    "object-cutout": cutout_inside,
    "object-scale": scale_inside,
    "object-shear": shear_inside,
    "object-rotation": rotation_inside,
    "object-motion": motion_inside,
}
