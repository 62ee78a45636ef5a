"""Scaled cosine error, the reconstruction criterion of GraphMAE (Hou et al., KDD 2022, equation 2).

    L = 1/n sum_i (1 - <p_i, t_i> / (max(|p_i|, eps) max(|t_i|, eps)))^alpha ,   alpha >= 1

The cosine removes the scale of the features, the exponent takes weight from rows that are already easy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_cosine_error(prediction: Tensor, target: Tensor, alpha: float = 2.0, eps: float = 1e-12) -> Tensor:
    """Mean scaled cosine error of matching rows.

    Args:
        prediction: (n, d) floats.
        target: (n, d) floats; a zero row contributes the constant 1 and no gradient.
        alpha: exponent, at least 1.
        eps: smallest norm that is divided by. A prediction shorter than that counts as orthogonal, without the
            gradient of 1 / eps that a plain division would give it.

    Returns:
        Scalar in [0, 2^alpha].
    """
    dot = (prediction * target).sum(-1)
    squares = (prediction * prediction).sum(-1)
    return scaled_cosine_from_products(dot, squares, (target * target).sum(-1), alpha, eps)


def scaled_cosine_from_products(
    dot: Tensor, prediction_squares: Tensor, target_squares: Tensor, alpha: float = 2.0, eps: float = 1e-12
) -> Tensor:
    """Mean scaled cosine error from the inner products of the rows, for callers that never form the rows.

    Args:
        dot: (n,) inner products <p_i, t_i>.
        prediction_squares: (n,) |p_i|^2.
        target_squares: (n,) |t_i|^2.
        alpha: exponent, at least 1.
        eps: smallest norm that is divided by.
    """
    smallest = eps * eps
    usable = (prediction_squares > smallest) & (target_squares > smallest)
    # Where a row is unusable, divide by one instead: a clamp inside rsqrt would still pass an infinite gradient.
    one = torch.ones_like(dot)
    scale = torch.where(usable, prediction_squares, one).rsqrt() * torch.where(usable, target_squares, one).rsqrt()
    cosine = torch.where(usable, dot * scale, torch.zeros_like(dot))
    # Rounding can push the cosine past one, and a negative base has no fractional power.
    return (1 - cosine).clamp_min(0).pow(alpha).mean()
