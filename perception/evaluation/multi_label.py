"""Figures of samples with several labels each: average precision of scores, F1 of decisions, and their averages."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from perception.evaluation.protocol import EvaluationError


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the precision-recall steps, ``sum_n (R_n - R_{n-1}) P_n`` over the distinct scores, highest first.

    Equal scores form one step, so their order does not matter; scikit-learn's definition.

    Args:
        scores: ``(n,)``, higher means more likely positive.
        positive: ``(n,)`` bool.

    Raises:
        ValueError: there is no positive, or a score is NaN.
    """
    values, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.shape != mask.shape or values.ndim != 1:
        raise ValueError(f"scores and labels of one length, got {values.shape} and {mask.shape}")
    if np.isnan(values).any():
        raise ValueError("a score is NaN, so the samples have no ranking")
    if not mask.any():
        raise ValueError("average precision needs positives")
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # last row of every distinct score
    hits = np.cumsum(mask[order])[last]
    precision, recall = hits / (last + 1), hits / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def averages(values: np.ndarray, support: np.ndarray) -> dict[str, float]:
    """Plain mean over the labels that occur (``macro``) and mean weighted by how often (``weighted``)."""
    occurs = support > 0
    return {"macro": float(values[occurs].mean()), "weighted": float(np.average(values, weights=support))}


def multi_label_figures(scores: Tensor, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """``ap_<average>`` of scores and ``f1_<average>`` of decisions; the averages are micro, macro and weighted.

    Macro averages leave out labels that no sample has: their precision is undefined and would count as 0.

    Args:
        scores: ``(n, L)``, higher means more likely.
        predicted: ``(n, L)`` bool.
        labels: ``(n, L)`` 0 and 1.

    Raises:
        EvaluationError: no sample has any label.
    """
    values, told = scores.double().cpu().numpy(), predicted.cpu().numpy()
    truth = (labels > 0.5).cpu().numpy()
    support = truth.sum(0)
    if not support.any():
        raise EvaluationError(f"none of the {len(truth)} test samples has any of the {truth.shape[1]} labels")
    per_label = np.array([average_precision(v, t) if t.any() else 0.0 for v, t in zip(values.T, truth.T, strict=True)])
    hits, total = (told & truth).sum(0), told.sum(0) + support
    f1 = np.where(total > 0, 2 * hits / np.maximum(total, 1), 0.0)
    figures = {"ap_micro": average_precision(values.ravel(), truth.ravel())}
    figures |= {f"ap_{name}": value for name, value in averages(per_label, support).items()}
    figures |= {"f1_micro": float(2 * hits.sum() / max(total.sum(), 1))}
    return figures | {f"f1_{name}": value for name, value in averages(f1, support).items()}


def micro_ap(scores: Tensor, labels: Tensor) -> float:
    """Average precision over all entries of ``scores (n, L)`` and ``labels (n, L)``."""
    return average_precision(scores.double().cpu().numpy().ravel(), (labels > 0.5).cpu().numpy().ravel())
