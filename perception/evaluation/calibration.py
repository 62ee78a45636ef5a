"""Calibration and selective-prediction metrics of class probabilities: NLL, ECE, AURC and excess AURC.

ECE: "On Calibration of Modern Neural Networks", Guo et al., 2017. AURC and E-AURC: "Bias-Reduced Uncertainty
Estimation for Deep Neural Classifiers", Geifman et al., 2019. All values are fractions, not multiplied by 100 or 1000.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _check(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"probabilities (n, C) and labels (n,) with n > 0, got {tuple(probabilities.shape)}, {tuple(labels.shape)}"
        )
    sums = probabilities.double().sum(1)
    if probabilities.min() < 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise ValueError("the rows of probabilities are no distributions: pass them through softmax first")
    return probabilities.double(), labels.long()


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of ``-log p(label)``.

    Args:
        probabilities: ``(n, C)``, rows sum to 1.
        labels: ``(n,)`` class ids.
    """
    probabilities, labels = _check(probabilities, labels)
    chosen = probabilities.gather(1, labels[:, None]).squeeze(1)
    return float(-chosen.clamp_min(torch.finfo(torch.float64).tiny).log().mean())


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 10) -> float:
    """``sum_b |B_b|/n * |accuracy(B_b) - confidence(B_b)|`` over equal-width bins of the largest probability.

    Bins are open on the left and closed on the right.
    """
    probabilities, labels = _check(probabilities, labels)
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    bin_of = torch.bucketize(confidence, edges[1:-1].contiguous(), right=False)  # edge value -> the lower bin
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, right - confidence)
    return float(gap.abs().sum() / len(labels))


def risk_coverage(probabilities: Tensor, labels: Tensor) -> Tensor:
    """``(n,)`` error rate among the 1, 2, ..., n most confident samples; equal confidences keep their order."""
    probabilities, labels = _check(probabilities, labels)
    confidence, predicted = probabilities.max(1)
    order = confidence.argsort(descending=True, stable=True)
    wrong = (predicted != labels).double()[order]
    return wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, dtype=torch.float64)


def aurc(probabilities: Tensor, labels: Tensor) -> float:
    """Area under the risk-coverage curve: the mean of the risks."""
    return float(risk_coverage(probabilities, labels).mean())


def excess_aurc(probabilities: Tensor, labels: Tensor) -> float:
    """AURC minus the AURC of a perfect ranking with the same errors: ``1/n sum_{k=1..r} k/(n-r+k)``, r errors."""
    risks = risk_coverage(probabilities, labels)
    n = len(risks)
    errors = round(float(risks[-1]) * n)
    k = torch.arange(1, errors + 1, dtype=torch.float64)
    return float(risks.mean() - (k / (n - errors + k)).sum() / n)
