"""How sure a figure is: binomial intervals over test samples, means and t-intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def binomial_interval(value: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson interval of a proportion, which stays inside [0, 1] and is right for small ``n``.

    Args:
        value: observed proportion in [0, 1].
        n: number of test samples.
        z: normal quantile; the default gives 95 %.

    Returns:
        Lower and upper end. 1000 samples at 0.5 give 0.5 -+ 0.031.
    """
    if n < 1:
        raise ValueError(f"an interval needs at least one sample, got n = {n}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"a proportion lies in [0, 1], got {value}")
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The ends of 0 and 1 are exact; rounding must not leave the value outside its own interval.
    return max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value))


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divided by n - 1); the deviation of one value is 0."""
    if not values:
        raise ValueError("the mean of no values is undefined")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student-t interval of the mean over seeds, or ``None`` for a single seed, which says nothing of the spread."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, std = mean_std(values)
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean - half, mean + half
