"""Ranking metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mid_ranks(scores: ArrayLike) -> np.ndarray:
    """Ranks from 1, equal scores sharing the mean of their ranks: ``(n,)`` float64."""
    values = np.asarray(scores, dtype=np.float64)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group.reshape(-1)]


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: chance that a positive scores above a negative, ties counting one half.

    Args:
        scores: ``(n,)``, higher means more likely positive.
        positive: ``(n,)`` bool.

    Raises:
        ValueError: a score is NaN, or one of the two groups is empty.
    """
    values, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.shape != mask.shape or values.ndim != 1:
        raise ValueError(f"scores and labels of one length, got {values.shape} and {mask.shape}")
    if np.isnan(values).any():
        raise ValueError("a score is NaN, so the samples have no ranking")
    hits, misses = int(mask.sum()), int((~mask).sum())
    if hits == 0 or misses == 0:
        raise ValueError("AUROC needs positives and negatives")
    return float((mid_ranks(values)[mask].sum() - hits * (hits + 1) / 2) / (hits * misses))
