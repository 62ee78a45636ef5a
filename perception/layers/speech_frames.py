"""What speech encoders do to frames of padded clips: norm over time, pooling over real frames, scaled gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.layers.log_mel import segment_means

SEGMENTS = 8  # parts of a clip, as many as its log-mel baseline has


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, of any shape, whose gradient is multiplied by ``factor``."""
    if factor == 1.0 or not x.requires_grad:
        return x
    scaled: Tensor = _ScaleGradient.apply(x, factor)
    return scaled


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one frame of a stack of convolutions sees."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


class _FramesFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.transpose(1, 2).contiguous()


def frames_first(x: Tensor) -> Tensor:
    """(B, C, T) -> (B, T, C), both ways in memory, too.

    A view would leave the gradient in the other order than the values: what is done to both, element by element, is
    then five times as slow.
    """
    out: Tensor = _FramesFirst.apply(x)
    return out


def norm_over_time(x: Tensor, norm: nn.GroupNorm, lengths: Tensor | None) -> Tensor:
    """``norm`` of every channel over the real frames, the first ``lengths`` (B,): (B, C, T) -> (B, T, C)."""
    x = x.contiguous()
    if lengths is None:
        return frames_first(norm(x))
    real = (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None]
    count = lengths.clamp(min=1)[:, None, None]
    mean = x.masked_fill(~real, 0.0).sum(dim=2, keepdim=True) / count
    variance = (x - mean).masked_fill(~real, 0.0).square().sum(dim=2, keepdim=True) / count
    scale = norm.weight[:, None] * (variance + norm.eps).rsqrt()
    return frames_first(torch.addcmul(norm.bias[:, None] - mean * scale, x, scale))


def pool_frames(states: Tensor, mask: Tensor | None, feature: str | None = None) -> Tensor:
    """Mean over real frames, (B, T, D) -> (B, D), or for a ``feature`` of segments over parts of them, (B, 8 D).

    Args:
        states: (B, T, D).
        mask: (B, T) bool, True on real frames, which come first; None where all are.
        feature: name of the pooled feature.
    """
    if not str(feature).startswith("segments"):
        if mask is None:
            return states.mean(dim=1)
        return states.masked_fill(~mask[..., None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    frames = torch.full((len(states),), states.shape[1], device=states.device) if mask is None else mask.sum(dim=1)
    return segment_means(states, frames, SEGMENTS)
