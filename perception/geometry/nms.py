"""Greedy suppression of repeated detections by rotated overlap or by distance, without a loop over boxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perception.geometry.rotated_iou import iou_3d_paired, iou_bev_paired, near_pairs

_CHUNK = 4_000_000  # pairs whose distance is measured at a time
_NEAR = 100_000  # pairs whose overlap is computed at a time


def rotated_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    labels: Tensor | None = None,
    before: int | None = None,
    after: int | None = None,
    volume: bool = False,
) -> Tensor:
    """Boxes that overlap no better kept box by more than ``threshold``.

    Args:
        boxes: (M, 5) x, y, l, w, yaw or (M, >= 7) x, y, z, l, w, h, yaw.
        scores: (M,), higher is better; of equal scores the lower index goes first.
        threshold: IoU in [0, 1] above which a box is dropped.
        labels: (M,) classes; boxes of different classes leave each other alone. None is one class.
        before: only so many of the best are considered, over all classes.
        after: only so many of the best are kept.
        volume: IoU of volumes instead of the view from above.

    Returns:
        (K,) int64 indices of the kept boxes, best first.
    """
    order = _order(boxes, scores, before)
    b = boxes.detach()[order]
    pair = iou_3d_paired if volume else iou_bev_paired

    def rivals() -> tuple[Tensor, Tensor]:
        i, j = _same(*_upper(*near_pairs(b, b)), labels, order)
        chunks = zip(i.split(_NEAR), j.split(_NEAR), strict=True)
        over = torch.cat([pair(b[p], b[q]) > threshold for p, q in chunks])
        return i[over], j[over]

    return order[_greedy(len(order), rivals)][:after]


def circle_nms(
    centres: Tensor,
    scores: Tensor,
    radius: float | Tensor,
    labels: Tensor | None = None,
    before: int | None = None,
    after: int | None = None,
) -> Tensor:
    """Boxes whose centre is farther than ``radius`` metres from that of every better kept box.

    CenterPoint's code compares its "radii" 4, 12, 10, 1, 0.85 and 0.175 with *squared* distances: pass their roots for
    its results.

    Args:
        centres: (M, >= 2), x and y first; boxes may be passed whole.
        scores: (M,), higher is better; of equal scores the lower index goes first.
        radius: metres, or (C,) a radius for every class, which needs ``labels``.
        labels: (M,) int64 classes; boxes of different classes leave each other alone. None is one class.
        before: only so many of the best are considered, over all classes.
        after: only so many of the best are kept.

    Returns:
        (K,) int64 indices of the kept boxes, best first.
    """
    order = _order(centres, scores, before)
    xy = centres.detach()[order, :2]
    if isinstance(radius, Tensor) and radius.ndim:
        if labels is None:
            raise ValueError("a radius for every class needs labels")
        reach = radius.to(xy)[labels[order]]
    else:
        reach = torch.full_like(xy[:, 0], float(radius))

    def rivals() -> tuple[Tensor, Tensor]:
        step = max(_CHUNK // max(len(xy), 1), 1)
        empty = torch.zeros(0, dtype=torch.int64, device=xy.device)
        found = [(empty, empty)]
        for start in range(0, len(xy), step):
            part = slice(start, start + step)
            squared = (xy[part, None, 0] - xy[:, 0]).square_() + (xy[part, None, 1] - xy[:, 1]).square_()
            i, j = (squared <= reach[part, None].square()).nonzero(as_tuple=True)
            found.append(_same(*_upper(i + start, j), labels, order))
        return torch.cat([i for i, _ in found]), torch.cat([j for _, j in found])

    return order[_greedy(len(order), rivals)][:after]


def _order(boxes: Tensor, scores: Tensor, before: int | None) -> Tensor:
    """(M,) indices by falling score."""
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"a score for each of {len(boxes)} boxes is needed, got {tuple(scores.shape)}")
    if not bool(torch.isfinite(boxes).all()) or bool(scores.isnan().any()):
        raise ValueError("boxes or scores that are not finite cannot be ranked or compared")
    return scores.detach().argsort(descending=True, stable=True)[:before]


def _upper(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    better = i < j
    return i[better], j[better]


def _same(i: Tensor, j: Tensor, labels: Tensor | None, order: Tensor) -> tuple[Tensor, Tensor]:
    if labels is None:
        return i, j
    ranked = labels[order]
    same = ranked[i] == ranked[j]
    return i[same], j[same]


def _greedy(count: int, rivals: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
    """(count,) bool: kept boxes of a ranking in which box i of a pair (i, j), i < j, drops j if it is itself kept.

    "Kept" means "no kept box drops me". Applied again and again to all boxes at once, the rule settles from the best
    box down, in as many rounds as the longest chain of boxes that drop each other, on the result of going one by one.
    """
    i, j = rivals()
    kept = torch.ones(count, dtype=torch.bool, device=i.device)
    while True:
        dropped = torch.zeros(count, dtype=torch.int32, device=i.device).index_add_(0, j, kept[i].int())
        now = dropped == 0
        if bool((now == kept).all()):
            return kept
        kept = now
