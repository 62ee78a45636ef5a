r"""Focal loss of map classes that exclude each other nowhere ("Focal Loss for Dense Object Detection", ICCV 2017).

Every class of a bird's-eye-view map is a yes or no in every cell, as in "BEVFusion" (Liu et al., ICRA 2023):

.. math:: L_k = -\frac{1}{n} \sum_{i=1}^{n} (1 - p_i)^\gamma \log p_i

where p_i is the probability of the truth at cell i; gamma = 2, and classes are not weighted. Each class is one loss.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def map_focal_loss(logits: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over samples and cells, for every class.

    Args:
        logits: (B, K, Ny, Nx), before the sigmoid.
        masks: (B, K, Ny, Nx) bool or floats in {0, 1}; negative where nobody knows, which counts nothing.
        gamma: exponent; 0 is the cross-entropy.

    Returns:
        (K,) float32; 0 for a class without a known cell.
    """
    logits, truth = logits.float(), masks.to(logits.device).float()
    known = truth >= 0
    truth = truth.clamp_min(0)
    # log p of the truth, and 1 - p, without ever dividing or taking the log of a rounded probability.
    sign = 2 * truth - 1
    wrong = (-sign * logits).sigmoid()
    each = wrong.pow(gamma) * functional.softplus(-sign * logits) * known
    return each.sum((0, 2, 3)) / known.sum((0, 2, 3)).clamp_min(1)
