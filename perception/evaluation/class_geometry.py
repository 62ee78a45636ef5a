"""How classes lie in an embedding, and what a figure over unseen groups, such as speakers, is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception.errors import DataError

_RESAMPLES = 1000


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64: samples of the true class (row) that go to each class (column)."""
    flat = labels.astype(np.int64) * classes + predicted
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def class_f1(counts: np.ndarray) -> np.ndarray:
    """(..., C) F1 of every class from confusion counts (..., C, C): 0 for one that is never predicted right.

    NaN for a class that neither occurs nor is predicted, about which the data say nothing.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    both = counts.sum(-1) + counts.sum(-2)
    with np.errstate(invalid="ignore"):
        return np.where(both > 0, 2 * hits / both, np.nan)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """(...) mean F1 over the classes that occur or are predicted, those that are never predicted as 0."""
    return np.nanmean(class_f1(counts), axis=-1)


def centroid_cosines(x: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) cosines between the means of classes, about the mean of these means; NaN for classes without samples.

    Embeddings share a large common direction as a rule, and cosines about the origin would all be near 1.

    Args:
        x: (n, F) embeddings.
        labels: (n,) in [0, C).
        classes: C.
    """
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, labels, x.astype(np.float64))
    counts = np.bincount(labels, minlength=classes)[:, None]
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    means = means - np.nanmean(means, axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    unit = means / np.where(lengths == 0, 1.0, lengths)
    return unit @ unit.T


def cross_group_knn(
    x: np.ndarray, labels: np.ndarray, groups: np.ndarray, k: int = 5, chunk: int = 1024
) -> tuple[float, int]:
    """Accuracy of the k nearest samples of OTHER groups by cosine, one vote each, equal votes to the lower class.

    A neighbour of the same speaker says who speaks, not how.

    Args:
        x: (n, F) embeddings.
        labels: (n,) in [0, C).
        groups: (n,) such as speakers.
        k: neighbours; fewer where other groups have fewer samples.
        chunk: samples compared at once.

    Returns:
        The accuracy, and the number of samples that have a neighbour of their class in another group: only those can be
        right.

    Raises:
        ValueError: a single group.
    """
    if len(np.unique(groups)) < 2:
        raise ValueError("neighbours across groups need two groups or more")
    unit = x.astype(np.float64) / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    classes = int(labels.max()) + 1
    right = possible = 0
    for start in range(0, len(x), chunk):
        rows = slice(start, start + chunk)
        other = groups[rows, None] != groups[None]
        cosine = np.where(other, unit[rows] @ unit.T, -np.inf)
        near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        counted = np.take_along_axis(other, near, axis=1)
        votes = np.zeros((len(near), classes))
        np.add.at(votes, (np.arange(len(near))[:, None], labels[near]), counted)
        right += int((votes.argmax(1) == labels[rows]).sum())
        possible += int((other & (labels[rows, None] == labels[None])).any(1).sum())
    return right / len(x), possible


def silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette by cosine distance, in [-1, 1] ("Silhouettes", Rousseeuw, 1987).

    Raises:
        ValueError: fewer than two classes, or as many as samples.
    """
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(x, labels, metric="cosine"))


@dataclass(frozen=True)
class GroupInterval:
    """Macro-F1 and accuracy with 95 % intervals over resampled groups.

    Attributes:
        macro_f1: value, low, high.
        accuracy: value, low, high.
        groups: number of groups that were drawn from.
    """

    macro_f1: tuple[float, float, float]
    accuracy: tuple[float, float, float]
    groups: int


def bootstrap_over_groups(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    classes: int,
    resamples: int = _RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> GroupInterval:
    """Percentile intervals where whole groups are drawn with replacement: clips of one speaker are not independent.

    The macro-F1 of a resample is the mean over the classes of all samples, and one that was not drawn counts only where
    it is predicted: with few groups a class the interval is wide, as it should be.

    Args:
        labels: (n,) in [0, C).
        predicted: (n,) likewise.
        groups: (n,) such as speakers.
        classes: C.
        resamples: how often as many groups as there are are drawn.
        level: of the interval.
        seed: of the draws.
    """
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1
    each = np.zeros((count, classes * classes), dtype=np.int64)
    np.add.at(each, (place, labels.astype(np.int64) * classes + predicted), 1)
    random = np.random.default_rng(seed)
    times = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = (times @ each).reshape(resamples, classes, classes)
    whole = each.sum(0).reshape(classes, classes)
    ends = [(1 - level) / 2, (1 + level) / 2]

    def interval(value: float, values: np.ndarray) -> tuple[float, float, float]:
        low, high = np.quantile(values, ends)
        return value, float(low), float(high)

    shares = np.trace(drawn, axis1=1, axis2=2) / drawn.sum((1, 2))
    return GroupInterval(
        interval(float(macro_f1(whole)), macro_f1(drawn)),
        interval(float(np.trace(whole) / whole.sum()), shares),
        count,
    )


def class_order(names: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Numbers of the classes ``names`` in the order ``wanted``, such as from north to south; None keeps theirs.

    Raises:
        DataError: it does not name every class once.
    """
    if wanted is None:
        return list(range(len(names)))
    if sorted(wanted) != sorted(names):
        missing, unknown = sorted(set(names) - set(wanted)), sorted(set(wanted) - set(names))
        raise DataError(f"the order must name every class once; missing: {missing}, unknown: {unknown}, or repeated")
    return [list(names).index(name) for name in wanted]
