"""Exact overlap of rotated boxes from above and in space, on any device, with gradients, without a custom operator.

Of two rectangles, the boundary of the first is pressed onto the second: in the second's own axes, every point moves to
the nearest point of the rectangle. Inside nothing moves and everything outside lands on the rim, which has no area, so
the pressed curve encloses exactly the intersection. It is a polygon whose corners are the corners of the first
rectangle and the places where its edges meet the four lines of the second: one shoelace sum of 20 points. Nothing is
sorted by angle, no corner is tested for being inside: equal, touching and nearly parallel boxes need no care.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.geometry.arrays import tensors

Array = TypeVar("Array", np.ndarray, Tensor)
Paired = Callable[[Tensor, Tensor], Tensor]
_ALONG = (-0.5, 0.5, 0.5, -0.5)  # corners, counter-clockwise
_ACROSS = (-0.5, -0.5, 0.5, 0.5)
_CHUNK = 2_000_000  # pairs whose distance is measured at a time
_NEAR = 100_000  # pairs near each other that are intersected at a time, about 100 MB in float64


def bev_intersection_paired(a: Array, b: Any) -> Array:
    """(M,) areas in m2 shared by box i of ``a`` and box i of ``b`` as seen from above.

    Differentiable in both. Where the area has a kink, as at equal boxes, the gradient is one of the one-sided ones.

    Args:
        a: (M, 5) x, y, l, w, yaw or (M, >= 7) x, y, z, l, w, h, yaw; metres and radians. Sizes below 0 count as 0.
        b: likewise. NaN in either gives NaN.
    """
    (a_, b_), back = tensors(a, b)
    return back(_intersection(_flat(a_), _flat(b_)))


def iou_bev_paired(a: Array, b: Any) -> Array:
    """(M,) intersection over union in [0, 1] of box i of ``a`` and of ``b`` from above; 0 for boxes without area."""
    (a_, b_), back = tensors(a, b)
    return back(_iou_bev(a_, b_))


def iou_3d_paired(a: Array, b: Any) -> Array:
    """(M,) intersection over union in [0, 1] of the volumes of upright boxes (M, 7); 0 for two boxes without volume."""
    (a_, b_), back = tensors(a, b)
    return back(_iou_3d(a_, b_))


def bev_intersection(a: Array, b: Any) -> Array:
    """(M, N) areas in m2 shared by every box of ``a`` (M, 5 or >= 7) and every box of ``b`` (N, 5 or >= 7)."""
    return _matrix(a, b, lambda x, y: _intersection(_flat(x), _flat(y)))


def iou_bev(a: Array, b: Any) -> Array:
    """(M, N) intersection over union in [0, 1], seen from above; see ``iou_bev_paired``. Differentiable in both."""
    return _matrix(a, b, _iou_bev)


def iou_3d(a: Array, b: Any) -> Array:
    """(M, N) intersection over union in [0, 1] of volumes; see ``iou_3d_paired``. Differentiable in both."""
    return _matrix(a, b, _iou_3d)


def near_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (K,) into ``a`` and ``b`` of the pairs whose circumscribed circles meet; no other pair can overlap.

    Pairs are in row order. Boxes with NaN are near everything, so that they are not lost.
    """
    with torch.no_grad():
        a, b = _flat(a), _flat(b)
        reach_a, reach_b = (torch.hypot(boxes[:, 2], boxes[:, 3]) / 2 for boxes in (a, b))
        step = max(_CHUNK // max(len(b), 1), 1)
        rows, columns = [], []
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            squared = (a[part, None, 0] - b[:, 0]).square_() + (a[part, None, 1] - b[:, 1]).square_()
            apart = squared > ((reach_a[part, None] + reach_b) * (1 + 1e-5)).square_()
            i, j = (~apart).nonzero(as_tuple=True)
            rows.append(i + start)
            columns.append(j)
        empty = torch.zeros(0, dtype=torch.int64, device=a.device)
        return torch.cat([empty, *rows]), torch.cat([empty, *columns])


def _matrix(a: Any, b: Any, paired: Paired) -> Any:
    """(M, N) of a function of pairs that is 0 for boxes apart, computed for the near pairs only."""
    (a_, b_), back = tensors(a, b)
    i, j = near_pairs(a_, b_)
    parts = [paired(a_[p], b_[q]) for p, q in zip(i.split(_NEAR), j.split(_NEAR), strict=True)]
    values = torch.cat(parts)
    return back(values.new_zeros(len(a_), len(b_)).index_put((i, j), values))


def _flat(boxes: Tensor) -> Tensor:
    """(M, 5) x, y, l, w, yaw of boxes (M, 5) or (M, >= 7), at least in float32, no size below 0."""
    if boxes.ndim != 2 or boxes.shape[1] == 6 or boxes.shape[1] < 5:
        raise ValueError(f"boxes are (M, 5) or (M, >= 7), got {tuple(boxes.shape)}")
    if boxes.shape[1] > 5:
        boxes = boxes[:, [0, 1, 3, 4, 6]]
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    return torch.cat([boxes[:, :2], boxes[:, 2:4].clamp(min=0), boxes[:, 4:]], dim=1)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """(M,) areas shared by rectangles (M, 5) and (M, 5)."""
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    cos, sin = b[:, 4].cos(), b[:, 4].sin()
    turn_cos, turn_sin = (a[:, 4] - b[:, 4]).cos()[:, None], (a[:, 4] - b[:, 4]).sin()[:, None]
    along, across = a[:, 2, None] * a.new_tensor(_ALONG), a[:, 3, None] * a.new_tensor(_ACROSS)
    x = (cos * dx + sin * dy)[:, None] + turn_cos * along - turn_sin * across  # (M, 4) corners of a in b's axes
    y = (cos * dy - sin * dx)[:, None] + turn_sin * along + turn_cos * across
    step_x, step_y = x.roll(-1, 1) - x, y.roll(-1, 1) - y
    half_x, half_y = b[:, 2, None] / 2, b[:, 3, None] / 2
    x_in, x_out = _crossings(x, step_x, half_x)
    y_in, y_out = _crossings(y, step_y, half_y)
    first, last = torch.minimum(x_in, y_in), torch.maximum(x_out, y_out)
    one, two = torch.maximum(x_in, y_in), torch.minimum(x_out, y_out)
    # (M, 4, 5) places on each edge, in order, with the corner that begins it; the next edge has the one that ends it.
    at = torch.stack([torch.zeros_like(x), first, torch.minimum(one, two), torch.maximum(one, two), last], dim=2)
    px = _press(x[..., None] + at * step_x[..., None], half_x[..., None]).flatten(1)
    py = _press(y[..., None] + at * step_y[..., None], half_y[..., None]).flatten(1)
    return ((px * py.roll(-1, 1) - px.roll(-1, 1) * py).sum(1) / 2).clamp(min=0)


def _crossings(start: Tensor, step: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where on an edge, as shares in [0, 1] in order, a coordinate passes -half and +half; both (M, 4)."""
    # Along an edge that keeps its coordinate to rounding, any place does: the pressed curve is the same.
    flat = step.abs() <= 16 * torch.finfo(step.dtype).eps * (start.abs() + half)
    divisor = torch.where(flat, 1, step)
    low = torch.where(flat, 0, (-half - start) / divisor).clamp(0, 1)
    high = torch.where(flat, 0, (half - start) / divisor).clamp(0, 1)
    return torch.minimum(low, high), torch.maximum(low, high)


def _press(value: Tensor, half: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(value, half), -half)


def _iou_bev(a: Tensor, b: Tensor) -> Tensor:
    a, b = _flat(a), _flat(b)
    return _ratio(_intersection(a, b), a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])


def _iou_3d(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] < 7 or b.shape[1] < 7:
        raise ValueError(f"a volume needs boxes (M, >= 7), got {tuple(a.shape)} and {tuple(b.shape)}")
    flat_a, flat_b = _flat(a), _flat(b)
    a, b = a.to(flat_a.dtype), b.to(flat_b.dtype)
    height_a, height_b = a[:, 5].clamp(min=0), b[:, 5].clamp(min=0)
    # From b's centre: the sum of two large heights above sea level would lose the small difference.
    z = a[:, 2] - b[:, 2]
    top, bottom = torch.minimum(z + height_a / 2, height_b / 2), torch.maximum(z - height_a / 2, -height_b / 2)
    shared = _intersection(flat_a, flat_b) * (top - bottom).clamp(min=0)
    return _ratio(shared, flat_a[:, 2] * flat_a[:, 3] * height_a, flat_b[:, 2] * flat_b[:, 3] * height_b)


def _ratio(shared: Tensor, size_a: Tensor, size_b: Tensor) -> Tensor:
    """Shared part over the union; rounding must not lift it above 1."""
    shared = torch.minimum(shared, torch.minimum(size_a, size_b))
    union = size_a + size_b - shared
    return shared / torch.where(union > 0, union, 1 + 0 * union)
