"""Average precision of boxes found by overlap, from plain arrays: for any classes, on any data.

Predictions of all samples by falling score each take the free true box of their class and sample that they overlap
most; it is a hit if the overlap reaches the threshold ("The PASCAL Visual Object Classes Challenge", 2010). KITTI's and
nuScenes' own scores are in ``kitti_score`` and ``nuscenes_score``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception.evaluation.box_sets import BoxSet, equal_pairs, match_in_turn, paired_overlap

KINDS = ("bev", "3d")


@dataclass(frozen=True)
class OverlapScore:
    """Figures by class; NaN for a class without a true box that counts.

    Attributes:
        classes: C names.
        ap: (C,) area under precision over recall, precision being the best at that recall or a higher one.
        overlap: (C,) mean over true boxes of the best overlap with a prediction of their class, 0 without one.
        truths: (C,) true boxes that count.
    """

    classes: tuple[str, ...]
    ap: np.ndarray
    overlap: np.ndarray
    truths: np.ndarray

    @property
    def mean_ap(self) -> float:
        """Mean over the classes with true boxes."""
        return float(self.ap[self.truths > 0].mean()) if self.truths.any() else float("nan")

    @property
    def mean_overlap(self) -> float:
        """Mean over all true boxes."""
        known = self.truths > 0
        return (
            float((self.overlap[known] * self.truths[known]).sum() / self.truths.sum()) if known.any() else float("nan")
        )


def overlap_score(
    predictions: BoxSet,
    truth: BoxSet,
    classes: Sequence[str],
    threshold: float = 0.5,
    kind: str = "bev",
    min_points: int = 0,
) -> OverlapScore:
    """Score of predictions.

    Args:
        predictions: with ``score``; of equal scores the earlier row goes first.
        truth: with ``num_points``, if ``min_points`` is to mean anything.
        classes: names of the labels.
        threshold: least overlap of a hit.
        kind: ``'bev'`` from above, or ``'3d'``.
        min_points: true boxes with fewer points do not count, nor do predictions that take one of them.

    Raises:
        DataError: predictions have no score, or the truth no number of points where it is needed.
    """
    score = predictions.needed("score", "it ranks them")
    counts = np.ones(len(truth), dtype=bool)
    if min_points > 0:
        counts = truth.needed("num_points", "min_points asks for it") >= min_points
    keys = (boxes.sample * len(classes) + boxes.label for boxes in (predictions, truth))
    pairs = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    for i, j in equal_pairs(*keys):
        overlap = paired_overlap(predictions.boxes[i], truth.boxes[j], kind)
        met = overlap > 0
        pairs.append((i[met], j[met], overlap[met]))
    i, j, overlap = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    best = np.zeros(len(truth))
    np.maximum.at(best, j, overlap)

    order = np.argsort(-score, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    enough = np.flatnonzero(overlap >= threshold)
    match = enough[match_in_turn(rank[i[enough]], j[enough], [~counts[j[enough]], -overlap[enough]])]
    hit, void = np.zeros(len(predictions), dtype=bool), np.zeros(len(predictions), dtype=bool)
    hit[i[match]] = counts[j[match]]
    void[i[match]] = ~counts[j[match]]

    truths = np.bincount(truth.label[counts], minlength=len(classes))
    ap, mean = np.full(len(classes), np.nan), np.full(len(classes), np.nan)
    for number in np.flatnonzero(truths):
        ranked = order[(predictions.label[order] == number) & ~void[order]]
        ap[number] = average_precision(hit[ranked], int(truths[number]))
        mean[number] = best[counts & (truth.label == number)].mean()
    return OverlapScore(tuple(classes), ap, mean, truths)


def average_precision(hits: np.ndarray, truths: int) -> float:
    """Area under the precision of a ranking over its recall.

    Args:
        hits: (n,) bool, best prediction first.
        truths: what there is to find, at least 1.
    """
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(falling[hits].sum() / truths)
