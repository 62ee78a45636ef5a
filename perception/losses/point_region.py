r"""Contrast of points and regions between two views of a sweep, and between two sensors.

From "CALICO: Self-Supervised Camera-LiDAR Contrastive Pre-training for BEV Perception" (Sun et al., 2024). Point i has
the embedding :math:`f_i` in the first view and :math:`g_i` in the second, both of length 1, and the region
:math:`r_i`, -1 where it belongs to none; :math:`s_{ij} = f_i \cdot g_j / \tau`.

All functions take a batch of B sweeps with K points each, padded: sweeps are contrasted within themselves, their
losses are averaged over the sweeps that have something to contrast. Without any the loss is 0, with a graph.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Denominator = Literal["all", "positive+negatives"]
DENOMINATORS = ("all", "positive+negatives")


def region_contrast(
    first: Tensor,
    second: Tensor,
    region: Tensor,
    valid: Tensor,
    temperature: float,
    denominator: Denominator = "all",
) -> Tensor:
    r"""Point-level region contrast (PLRC): every point of a region is a positive of every other.

    .. math:: -\frac1N \sum_i \frac1{|P_i|} \sum_{j \in P_i} \Big[ s_{ij} - \log \sum_k e^{s_{ik}} \Big]

    over the N points i of regions; :math:`P_i` are the points j with :math:`r_j = r_i`, i among them. Points without a
    region are negatives and never anchors.

    Args:
        first: (B, K, D) embeddings of the anchors, of length 1.
        second: (B, K, D) embeddings of the same points in the other view.
        region: (B, K) int64, -1 for points without a region.
        valid: (B, K) bool, False for padding.
        temperature: :math:`\tau`.
        denominator: k runs over ``all`` points, or over j and the points of other regions
            (``positive+negatives``).

    Returns:
        Scalar, float32 for inputs of lower precision.
    """
    scores, same, anchors = _compared(first, second, region, valid, temperature)
    positives = same.sum(dim=2).clamp(min=1)
    if denominator == "all":
        total = scores.logsumexp(dim=2, keepdim=True)
    else:
        total = torch.logaddexp(scores, _negatives(scores, same).unsqueeze(2))
    gains = torch.where(same, scores - total, 0.0).sum(dim=2) / positives
    return _mean_over_sweeps(-gains, anchors)


def point_contrast(
    first: Tensor,
    second: Tensor,
    region: Tensor,
    valid: Tensor,
    temperature: float,
    exclude_same_region: bool = True,
    anchors: Literal["regions", "all"] = "regions",
) -> Tensor:
    r"""Region-aware point contrast (RAPC): the positive of a point is its own copy.

    .. math:: -\frac1N \sum_i \Big[ s_{ii} - \log \Big( e^{s_{ii}} + \sum_{k: r_k \ne r_i} e^{s_{ik}} \Big) \Big]

    With ``exclude_same_region=False`` and ``anchors='all'`` it is the NCE of "PointContrast: Unsupervised Pre-training
    for 3D Point Cloud Understanding" (Xie et al., 2020).

    Args:
        first: see ``region_contrast``.
        second: see ``region_contrast``.
        region: see ``region_contrast``.
        valid: see ``region_contrast``.
        temperature: see ``region_contrast``.
        exclude_same_region: points of the own region are no negatives.
        anchors: the sum runs over the points of ``regions``, or over ``all``.

    Returns:
        Scalar, see ``region_contrast``.
    """
    scores, same, rich = _compared(first, second, region, valid, temperature)
    chosen = valid if anchors == "all" else rich
    own = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    positive = scores.diagonal(dim1=1, dim2=2)
    negatives = _negatives(scores, (same | own) if exclude_same_region else own.expand_as(scores))
    # Padding gives -inf - -inf in rows that do not count; they are taken out before and not after.
    positive = torch.where(chosen, positive, 0.0)
    return _mean_over_sweeps(torch.logaddexp(positive, negatives) - positive, chosen)


def region_distillation(student: Tensor, teacher: Tensor, region: Tensor, valid: Tensor, temperature: float) -> Tensor:
    r"""Region-aware distillation (RAD): the student's point has to find the teacher's, every region weighs the same.

    .. math:: -\frac1S \sum_s \frac1{n_s} \sum_{i \in s}
        \Big[ \frac{h_i \cdot t_i}\tau - \log \sum_k e^{h_i \cdot t_k / \tau} \Big]

    with k over all points, those without a region included.

    Args:
        student: (B, K, D) embeddings of length 1.
        teacher: (B, K, D) embeddings of length 1; no gradient flows into them.
        region: see ``region_contrast``.
        valid: see ``region_contrast``.
        temperature: see ``region_contrast``.

    Returns:
        Scalar, see ``region_contrast``.
    """
    scores, same, anchors = _compared(student, teacher.detach(), region, valid, temperature)
    gains = torch.where(anchors, scores.diagonal(dim1=1, dim2=2), 0.0) - scores.logsumexp(dim=2)
    # Shares of 1 / n_s add up to the number of regions of a sweep.
    share = torch.where(anchors, 1.0 / same.sum(dim=2).clamp(min=1), 0.0)
    return _mean_over_sweeps(-gains, anchors, share)


def _compared(
    first: Tensor, second: Tensor, region: Tensor, valid: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, K, K) with padded columns at -inf, pairs of one region, and the anchors (B, K)."""
    if first.shape != second.shape or first.shape[:2] != region.shape or region.shape != valid.shape:
        shapes = [tuple(t.shape) for t in (first, second, region, valid)]
        raise ValueError(f"embeddings (B, K, D) twice, regions (B, K) and valid (B, K) do not fit: {shapes}")
    anchors = valid & (region >= 0)
    same = (region.unsqueeze(2) == region.unsqueeze(1)) & anchors.unsqueeze(2) & anchors.unsqueeze(1)
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    with torch.autocast(first.device.type, enabled=False):  # which would round the scores to three digits
        scores = (first.to(dtype) @ second.to(dtype).transpose(1, 2)) / temperature
    # A large finite number: with -inf the gradient of a row without any valid column would be NaN.
    return scores.masked_fill(~valid.unsqueeze(1), torch.finfo(scores.dtype).min / 2), same, anchors


def _negatives(scores: Tensor, excluded: Tensor) -> Tensor:
    """Log of the summed exponentials (B, K) over the columns that are not excluded."""
    return scores.masked_fill(excluded, torch.finfo(scores.dtype).min / 2).logsumexp(dim=2)


def _mean_over_sweeps(losses: Tensor, chosen: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of the chosen (B, K) within each sweep, then over the sweeps with any."""
    weight = chosen.to(losses.dtype) if weight is None else weight
    total = weight.sum(dim=1)
    per_sweep = (torch.where(chosen, losses, 0.0) * weight).sum(dim=1) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return per_sweep.sum() / (total > 0).sum().clamp(min=1)
