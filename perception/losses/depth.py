"""Depth supervision of lift-splat by LiDAR.

"BEVDepth: Acquisition of Reliable Depth for Multi-view 3D Object Detection" (Li et al., 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.projection import project

NO_DEPTH = -1


def nearest_depths(
    points: Sequence[Tensor],
    lidar2cam: Tensor,
    cam2img: Tensor,
    image_size: tuple[int, int],
    stride: int,
    img_aug: Tensor | None = None,
    lidar_aug: Tensor | None = None,
) -> Tensor:
    """Depth of the nearest LiDAR point in every feature pixel.

    Args:
        points: B sweeps (P_b, >= 3) in the (augmented) LiDAR frame.
        lidar2cam: (B, N, 4, 4).
        cam2img: (B, N, 4, 4).
        image_size: H and W of the augmented images, multiples of the stride.
        stride: image pixels per feature.
        img_aug: (B, N, 4, 4) or None.
        lidar_aug: (B, 4, 4) or None.

    Returns:
        (B, N, H / stride, W / stride) metres; infinite where no point falls.
    """
    rows, columns = image_size[0] // stride, image_size[1] // stride
    batch, cameras = lidar2cam.shape[:2]
    out = lidar2cam.new_full((batch, cameras, rows * columns), torch.inf)
    for sample, sweep in enumerate(points):  # sweeps differ in length; their cameras go at once
        uv, depth, seen = project(
            sweep[None, :, :3],
            lidar2cam[sample],
            cam2img[sample],
            None if img_aug is None else img_aug[sample],
            None if lidar_aug is None else lidar_aug[sample],
            image_size,
        )
        cell = (uv / stride).floor().long()
        cell = (cell[..., 1] * columns + cell[..., 0]).masked_fill(~seen, 0)
        out[sample].scatter_reduce_(1, cell, depth.masked_fill(~seen, torch.inf).to(out), "amin")
    return out.unflatten(2, (rows, columns))


def depth_bins(depth: Tensor, bounds: tuple[float, float, float], rounding: str = "nearest") -> Tensor:
    """Which of the depths start, start + step, ... stands for a depth.

    Args:
        depth: any shape, in metres; not finite where unknown.
        bounds: start, end (not reached) and step.
        rounding: ``'nearest'``, or ``'floor'`` as in BEVDepth: bin k covers what lies between its own depth and the
            next, so that what is lifted to bin k lies half a step too near on average.

    Returns:
        int64 of the same shape, -1 where the depth is unknown or outside of all bins.
    """
    start, end, step = bounds
    count = math.ceil((end - start) / step - 1e-6)
    place = (depth - start) / step
    place = place.round() if rounding == "nearest" else place.floor()
    known = torch.isfinite(place) & (place >= 0) & (place < count)
    return torch.where(known, place, NO_DEPTH).long()


def depth_loss(alpha: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy between a distribution over depths and the one-hot true bin.

    Args:
        alpha: (B, N, D, h, w) probabilities.
        target: (B, N, h, w) true bin, -1 where there is none.

    Returns:
        Sum over the bins, averaged over the pixels with a bin; 0 (with a graph) if there is none. BEVDepth multiplies
        it by 3.
    """
    with torch.autocast(alpha.device.type, enabled=False):
        known = target != NO_DEPTH
        given = alpha.movedim(2, -1)[known].float()
        truth = functional.one_hot(target[known], alpha.shape[2]).to(given)
        total = functional.binary_cross_entropy(given, truth, reduction="sum")
        return total / max(len(given), 1)
