"""Regression of hidden pixels ("Masked Autoencoders Are Scalable Vision Learners", He et al., 2022)."""

from __future__ import annotations

from torch import Tensor

NORM_PIX_EPS = 1e-6


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and ``sqrt(unbiased variance + 1e-6)`` of every patch: (..., P) -> two of (..., 1)."""
    mean = patches.mean(dim=-1, keepdim=True)
    # Two passes by hand: torch.var_mean over short rows is an order of magnitude slower on CPUs.
    variance = (patches - mean).square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    return mean, (variance + NORM_PIX_EPS).sqrt()


def normalize_patches(patches: Tensor) -> Tensor:
    """Patches (..., P) with mean 0 and unbiased variance 1 each."""
    mean, scale = patch_statistics(patches)
    return (patches - mean) / scale


def masked_pixel_loss(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """``sum_{n,l} mask * mean_c (pred - target)^2 / sum mask``, in float32.

    Args:
        pred: (B, L, P) predicted patches.
        target: (B, L, P) patches to predict.
        mask: (B, L), 1 where the patch was removed. With nothing removed the loss is 0.
    """
    error = (pred.float() - target.float()).square().mean(dim=-1)
    mask = mask.float()
    return (error * mask).sum() / mask.sum().clamp(min=1.0)
