"""Resizing of images with antialiasing, as Pillow does it and as the papers' recipes assume, and without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# ``bilinear-corners`` is kornia's bilinear resizing, which the resize-and-normalise benchmark (Corley et al., 2024)
# uses: corner pixels stay corner pixels, and nothing is smoothed before pixels are dropped.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "bilinear-corners")


def resize(image: Tensor, size: Sequence[int], interpolation: str = "bicubic") -> Tensor:
    """Scale images to ``size`` (height, width), whatever their aspect.

    Args:
        image: (C, H, W) or (B, C, H, W), uint8, another integer type, or float32.
        size: (height, width) wanted.
        interpolation: one of ``INTERPOLATIONS``; ``bilinear`` and ``bicubic`` are antialiased.

    Returns:
        The scaled image in the dtype of ``image``; integers are rounded and stay within their range.
    """
    size = (int(size[0]), int(size[1]))
    if tuple(image.shape[-2:]) == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    if interpolation == "nearest":
        # No arithmetic on values, so that every integer type is as good as any: torch scales only some of them.
        rows, columns = (_nearest(old, new, image.device) for old, new in zip(batch.shape[-2:], size, strict=True))
        batch = batch[..., rows[:, None], columns]
    elif interpolation == "bilinear-corners":
        batch = _in_float(batch, size, mode="bilinear", align_corners=True)
    elif batch.dtype == torch.uint8:
        batch = F.interpolate(batch, size=size, mode=interpolation, antialias=True, align_corners=False)
    else:
        batch = _in_float(batch, size, mode=interpolation, antialias=True, align_corners=False)
    return batch if image.ndim == 4 else batch[0]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """Index of the old pixel whose centre is nearest to that of every new one."""
    return ((torch.arange(new, device=device, dtype=torch.float64) + 0.5) * (old / new)).long().clamp_(max=old - 1)


def _in_float(batch: Tensor, size: tuple[int, int], **how: object) -> Tensor:
    scaled = F.interpolate(batch.float(), size=size, **how)  # type: ignore[arg-type]
    if batch.is_floating_point():
        return scaled.to(batch.dtype)
    limits = torch.iinfo(batch.dtype)
    return scaled.round_().clamp_(limits.min, limits.max).to(batch.dtype)
