"""Boxes x, y, z, l, w, h, yaw: corners, points inside, transformation, and the conventions of other tools.

z is of the centre; yaw turns counter-clockwise from +x, in [-pi, pi); l lies along the heading.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.geometry.arrays import tensors
from perception.geometry.transforms import invert, transform_points, wrap_angle

Array = TypeVar("Array", np.ndarray, Tensor)
# Counter-clockwise from above, first the rear right: (-, -), (+, -), (+, +), (-, +).
_ALONG = (-0.5, 0.5, 0.5, -0.5)
_ACROSS = (-0.5, -0.5, 0.5, 0.5)
# Lines between corners that draw a box: bottom, top, uprights.
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_CHUNK = 50_000  # point-box pairs that are tested at a time: what fits into a cache is four times as fast


def bev_corners(boxes: Array) -> Array:
    """(M, 4, 2) corners of boxes (M, 7), or (M, 5) of x, y, l, w, yaw, seen from above, counter-clockwise."""
    (b,), back = tensors(boxes)
    x, y, length, width, yaw = (b[..., i] for i in ((0, 1, 3, 4, 6) if b.shape[-1] >= 7 else range(5)))
    along = length[..., None] * b.new_tensor(_ALONG)
    across = width[..., None] * b.new_tensor(_ACROSS)
    cos, sin = yaw.cos()[..., None], yaw.sin()[..., None]
    return back(
        torch.stack([x[..., None] + cos * along - sin * across, y[..., None] + sin * along + cos * across], dim=-1)
    )


def box_corners(boxes: Array) -> Array:
    """(M, 8, 3) corners of boxes (M, 7): the four of ``bev_corners`` at the bottom, then the same at the top."""
    (b,), back = tensors(boxes)
    flat = bev_corners(b)
    half = b[..., 5, None] * b.new_tensor([-0.5, 0.5])
    height = (b[..., 2, None] + half).repeat_interleave(4, dim=-1)
    return back(torch.cat([torch.cat([flat, flat], dim=-2), height[..., None]], dim=-1))


def points_in_boxes(points: Array, boxes: Any) -> Array:
    """(P, M) bool: whether a point (P, >= 3) lies in a box (M, 7); faces count as inside, NaN as outside."""
    (p, b), back = tensors(points, boxes)
    inside = torch.empty(len(p), len(b), dtype=torch.bool, device=p.device)
    step = max(_CHUNK // max(len(b), 1), 1)
    for start in range(0, len(p), step):
        inside[start : start + step] = _inside(p[start : start + step], b)
    return back(inside)


def first_box_of_points(points: Array, boxes: Any) -> Array:
    """(P,) int64: the first box (M, 7) that holds a point, -1 where none does."""
    (p, b), back = tensors(points, boxes)
    found = torch.full((len(p),), -1, dtype=torch.int64, device=p.device)
    if not len(b):
        return back(found)
    step = max(_CHUNK // len(b), 1)
    for start in range(0, len(p), step):
        inside = _inside(p[start : start + step], b)
        found[start : start + step] = torch.where(inside.any(1), inside.to(torch.uint8).argmax(1), -1)
    return back(found)


def count_points(points: Array, boxes: Any) -> Array:
    """(M,) int64: number of points (P, >= 3) in each box (M, 7)."""
    (p, b), back = tensors(points, boxes)
    count = torch.zeros(len(b), dtype=torch.int64, device=p.device)
    step = max(_CHUNK // max(len(b), 1), 1)
    for start in range(0, len(p), step):
        count += _inside(p[start : start + step], b).sum(0)
    return back(count)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(P, M) bool, in float64: a sweep's rim rounds to whole millimetres in float32."""
    b = boxes.double()
    x, y, z = (points[:, None, i].double() - b[:, i] for i in range(3))
    cos, sin = b[:, 6].cos(), b[:, 6].sin()
    along = (x * cos + y * sin).abs_() <= b[:, 3] / 2
    across = (y * cos - x * sin).abs_() <= b[:, 4] / 2
    return along & across & (z.abs_() <= b[:, 5] / 2)


def transform_boxes(boxes: Array, matrix: Any, velocity: Any = None) -> Any:
    """Boxes (M, 7) in the frame that ``matrix`` (4, 4) maps to: rotation, one scale, mirrors and translation.

    A tilted rotation leaves boxes upright: the heading is projected onto the new ground plane.

    Args:
        boxes: (M, 7).
        matrix: 4 x 4.
        velocity: (M, 2) in m/s or None; NaN stays NaN.

    Returns:
        The boxes; with ``velocity`` a pair of boxes and velocities.

    Raises:
        ValueError: the matrix scales its axes differently, so that boxes would no longer be boxes.
    """
    (b, m), back = tensors(boxes, matrix)
    m = m.double()
    linear = m[:3, :3]
    gram = linear.T @ linear
    scale = (gram.trace() / 3).sqrt()
    if (gram / scale**2 - torch.eye(3, dtype=m.dtype, device=m.device)).abs().max() > 1e-3:
        raise ValueError(f"boxes stay boxes under one scale for all axes only, not under {linear.tolist()}")
    wide = b.double()
    heading = torch.stack([wide[:, 6].cos(), wide[:, 6].sin()], dim=-1) @ linear[:2, :2].T
    centre = transform_points(wide[:, :3], m)
    yaw = wrap_angle(torch.atan2(heading[:, 1], heading[:, 0]))
    moved = back(torch.cat([centre, wide[:, 3:6] * scale, yaw[:, None]], dim=-1).to(b.dtype))
    if velocity is None:
        return moved
    (v,), back = tensors(velocity)
    return moved, back((v.double() @ linear[:2, :2].T).to(v.dtype))


def kitti_camera_to_lidar(boxes: Array, lidar2rect: Any) -> Array:
    """KITTI's camera boxes (M, 7) h, w, l, x, y, z, ry -> LiDAR boxes (M, 7).

    The labelled x, y, z is the centre of the bottom face in the rectified camera frame. The bottom is mapped and half
    the height added along the LiDAR's z, as the public tools do; along the camera's y, it would lie up to 1 cm away.

    Args:
        boxes: as in ``label_2`` files; ry = 0 points along the camera's +x.
        lidar2rect: (4, 4), R0_rect Tr_velo_to_cam.
    """
    (b, m), back = tensors(boxes, lidar2rect)
    wide = b.double()
    centre = transform_points(wide[:, 3:6], invert(m.double()))
    centre[:, 2] += wide[:, 0] / 2
    yaw = wrap_angle(-wide[:, 6] - math.pi / 2)
    sizes = wide[:, [2, 1, 0]]
    return back(torch.cat([centre, sizes, yaw[:, None]], dim=-1).to(b.dtype))


def lidar_to_kitti_camera(boxes: Array, lidar2rect: Any) -> Array:
    """LiDAR boxes (M, 7) -> KITTI's h, w, l, x, y, z, ry; the inverse of ``kitti_camera_to_lidar``."""
    (b, m), back = tensors(boxes, lidar2rect)
    wide = b.double()
    bottom = wide[:, :3].clone()
    bottom[:, 2] -= wide[:, 5] / 2
    yaw = wrap_angle(-wide[:, 6] - math.pi / 2)
    return back(torch.cat([wide[:, [5, 4, 3]], transform_points(bottom, m.double()), yaw[:, None]], dim=-1).to(b.dtype))


def kitti_camera_corners(boxes: Array) -> Array:
    """(M, 8, 3) corners of KITTI's camera boxes h, w, l, x, y, z, ry in the rectified camera frame.

    Order: bottom (+l, +w), (+l, -w), (-l, -w), (-l, +w) of the box's own axes, then the top.
    """
    (b,), back = tensors(boxes)
    h, w, length, x, y, z, ry = (b[:, i, None] for i in range(7))
    along = length * b.new_tensor([0.5, 0.5, -0.5, -0.5] * 2)
    across = w * b.new_tensor([0.5, -0.5, -0.5, 0.5] * 2)
    up = h * b.new_tensor([0.0] * 4 + [-1.0] * 4)
    cos, sin = ry.cos(), ry.sin()
    return back(torch.stack([x + cos * along + sin * across, y + up, z - sin * along + cos * across], dim=-1))


def legacy_to_boxes(boxes: Array, bottom: bool = False) -> Array:
    """Boxes of old mmdetection3d and BEVFusion, x, y, z, w, l, h, r with r = -pi/2 - yaw, in our convention.

    Args:
        boxes: (M, 7).
        bottom: z is of the bottom face.
    """
    (b,), back = tensors(boxes)
    height = b[:, 2] + b[:, 5] / 2 if bottom else b[:, 2]
    yaw = wrap_angle(-b[:, 6] - math.pi / 2)
    return back(torch.stack([b[:, 0], b[:, 1], height, b[:, 4], b[:, 3], b[:, 5], yaw], dim=-1))
