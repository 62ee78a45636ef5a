"""How sure an AUROC is, and whether two models differ: resampled groups, and DeLong's test for independent samples.

Samples of one group (clips of one operation, of one camera) are not independent, so groups are drawn, not samples.
With few groups no method is sure: an interval over five groups is a hint, not a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perception.evaluation.ranking import auroc, mid_ranks

RESAMPLES = 1000
_BLOCK = 1 << 22  # entries of a block of resamples


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval.

    Attributes:
        value: on all samples.
        low: lower end.
        high: upper end.
        groups: groups that were drawn from.
        resamples: resamples that count.
        discarded: those that held one class alone, so that they have no AUROC.
    """

    value: float
    low: float
    high: float
    groups: int
    resamples: int
    discarded: int


@dataclass(frozen=True)
class Difference(Interval):
    """The AUROC of one model minus that of another on the same samples; ``p`` is two-sided."""

    p: float


def bootstrap_auroc(
    scores: ArrayLike,
    positive: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """AUROC with a percentile interval over resampled groups.

    Args:
        scores: (n,), higher means more likely positive.
        positive: (n,) bool.
        groups: (n,) group of every sample; ``None`` draws samples.
        resamples: how often as many groups as there are are drawn with replacement.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: as ``auroc``; lengths that differ; or more than a third of the resamples hold one class alone.
    """
    value = auroc(scores, positive)
    drawn, count = _drawn(scores, positive, groups, resamples, seed)
    good = drawn[np.isfinite(drawn)]
    _require_most(len(good), resamples)
    low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), count, len(good), resamples - len(good))


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    positive: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """AUROC of ``first`` minus that of ``second``, both on the same resamples of groups; arguments as above.

    ``p`` is twice the share of resamples on the rarer side of 0, those at 0 on both sides, one resample added to each.
    """
    value = auroc(first, positive) - auroc(second, positive)
    one, count = _drawn(first, positive, groups, resamples, seed)
    other, _ = _drawn(second, positive, groups, resamples, seed)
    good = (one - other)[np.isfinite(one)]
    _require_most(len(good), resamples)
    low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    rarer = min(int((good <= 0).sum()), int((good >= 0).sum()))
    p = min(1.0, 2 * (rarer + 1) / (len(good) + 1))
    return Difference(value, float(low), float(high), count, len(good), resamples - len(good), p)


def delong(first: ArrayLike, second: ArrayLike, positive: ArrayLike) -> tuple[float, float]:
    """Difference of two AUROCs on the same independent samples, and its two-sided p.

    "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves" (DeLong et al., 1988),
    by ranks. Where samples come in groups it is too sure of itself: take ``paired_bootstrap``.

    Raises:
        ValueError: as ``auroc``, or fewer than two samples of a class.
    """
    from scipy.stats import norm

    mask = np.asarray(positive, dtype=bool)
    value = auroc(first, mask) - auroc(second, mask)
    if min(mask.sum(), (~mask).sum()) < 2:
        raise ValueError("DeLong's test needs two samples of either class")
    hits, misses = zip(*(_components(np.asarray(s, dtype=np.float64), mask) for s in (first, second)), strict=True)
    variance = sum((part[0] - part[1]).var(ddof=1) / len(part[0]) for part in (hits, misses))
    if variance <= 0:  # the two rank alike, or differ by the same for every sample
        return value, 1.0 if value == 0 else 0.0
    return value, float(2 * norm.sf(abs(value) / np.sqrt(variance)))


def _components(scores: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every positive the share of negatives below it, for every negative the share of positives above it."""
    ranks = mid_ranks(scores)
    hits, misses = int(mask.sum()), int((~mask).sum())
    above = (ranks[mask] - mid_ranks(scores[mask])) / misses
    below = 1 - (ranks[~mask] - mid_ranks(scores[~mask])) / hits
    return above, below


def _drawn(
    scores: ArrayLike, positive: ArrayLike, groups: ArrayLike | None, resamples: int, seed: int
) -> tuple[np.ndarray, int]:
    """AUROC of every resample, NaN where it holds one class alone, and the number of groups."""
    values, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}: at least one is needed")
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    if names.shape != values.shape:
        raise ValueError(f"scores and groups of one length, got {values.shape} and {names.shape}")
    _, place = np.unique(names, return_inverse=True)
    count = int(place.max()) + 1
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, step := max(1, _BLOCK // max(len(values), count))):
        rows = min(step, resamples - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=rows)
        found.append(_weighted_auroc(values, mask, times[:, place]))
    return np.concatenate(found), count


def _weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC (r,) of samples that count ``weights`` (r, n) times, ties one half; NaN without one of the classes."""
    order = np.argsort(scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # last row of every distinct score
    hits, misses = (
        np.diff(np.cumsum(weights[:, order] * side[order], axis=1)[:, last], axis=1, prepend=0)
        for side in (positive, ~positive)
    )
    below = np.cumsum(misses, axis=1) - misses
    won = (hits * (below + 0.5 * misses)).sum(axis=1)
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def _require_most(good: int, resamples: int) -> None:
    if 3 * good < 2 * resamples:
        lost = resamples - good
        raise ValueError(f"{lost} of {resamples} resamples hold one class alone: too few groups hold the rarer one")
