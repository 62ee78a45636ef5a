"""Average precision of boxes at a chosen overlap, for small sets without KITTI's difficulties."""

from __future__ import annotations

import numpy as np

from perception.errors import DataError
from perception.evaluation.box_sets import BoxSet, equal_pairs, match_in_turn, paired_overlap


def box_average_precision(
    predictions: BoxSet, truth: BoxSet, classes: int, overlap: float = 0.5, kind: str = "bev"
) -> np.ndarray:
    """Average precision of every class: the area under the precision that no higher recall surpasses.

    In falling order of scores (of equal ones, the earlier row first), a prediction takes the free true box of its class
    and sample that it overlaps most, if by at least ``overlap``; otherwise it is wrong.

    Args:
        predictions: with ``score``.
        truth: every box must be found.
        classes: number of classes.
        overlap: least intersection over union, above 0.
        kind: ``bev`` (from above), ``3d`` or ``image``.

    Returns:
        (classes,) in [0, 1]; NaN for a class without a true box.

    Raises:
        DataError: scores are missing, or ``overlap`` or ``kind`` is not possible.
    """
    if not 0 < overlap <= 1 or kind not in ("bev", "3d", "image"):
        raise DataError(f"overlap in (0, 1] of kind bev, 3d or image, got {overlap} and {kind!r}")
    column = "image_box" if kind == "image" else "boxes"
    predictions = predictions.take(np.argsort(-predictions.needed("score", "it ranks them"), kind="stable"))
    a, b = predictions.needed(column, "it is compared"), truth.needed(column, "it is compared")
    empty = np.zeros(0, dtype=np.int64)
    found = [(empty, empty, np.zeros(0))]
    for i, j in equal_pairs(predictions.sample * classes + predictions.label, truth.sample * classes + truth.label):
        shared = paired_overlap(a[i], b[j], kind)
        enough = shared >= overlap
        found.append((i[enough], j[enough], shared[enough]))
    rank, row, shared = (np.concatenate(parts) for parts in zip(*found, strict=True))
    hit = np.zeros(len(predictions), dtype=bool)
    hit[rank[match_in_turn(rank, row, [-shared])]] = True
    values = np.full(classes, np.nan)
    for label, count in enumerate(np.bincount(truth.label, minlength=classes)):
        if count:
            hits = np.cumsum(hit[predictions.label == label])
            precision = hits / np.arange(1, len(hits) + 1)
            best = np.maximum.accumulate(precision[::-1])[::-1]
            values[label] = (np.diff(hits, prepend=0) * best).sum() / count
    return values
