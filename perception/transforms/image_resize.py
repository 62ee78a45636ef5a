"""Resizing of uint8 images with antialiasing, as Pillow does it and as the papers' recipes assume."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def resize(image: Tensor, size: Sequence[int], interpolation: str = "bicubic") -> Tensor:
    """uint8 (C, H, W) or (B, C, H, W) -> the same with ``size`` (height, width)."""
    size = (int(size[0]), int(size[1]))
    if tuple(image.shape[-2:]) == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    if interpolation == "nearest":
        batch = F.interpolate(batch, size=size, mode="nearest-exact")
    else:
        batch = F.interpolate(batch, size=size, mode=interpolation, antialias=True, align_corners=False)
    return batch if image.ndim == 4 else batch[0]
