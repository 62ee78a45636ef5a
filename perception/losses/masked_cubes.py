"""What masked video models regress, and the loss over hidden cubes.

Four targets, of a clip that was normalised with a mean and a std per channel:

* ``channel``: every cube normalised per channel, ``(x - mean) / (sqrt(unbiased variance) + 1e-6)`` over its pixels in
  [0, 1] (VideoMAE, 2022);
* ``joint``: every cube normalised over all its values together, ``(x - mean) / sqrt(unbiased variance + 1e-6)``
  ("Masked Autoencoders As Spatiotemporal Learners", 2022);
* ``raw``: the values that the network sees;
* ``unit``: pixels in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.layers.video_tokens import Sizes, cut_cubes
from perception.losses.masked_pixels import patch_statistics

TARGETS = ("channel", "joint", "raw", "unit")
CHANNEL_EPS = 1e-6


def channel_statistics(cubes: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of every cube and channel, in the units of ``cubes``: (..., C, P) -> two of (..., C, 1).

    Args:
        cubes: pixels of a normalised clip.
        std: (C,) that the clip was divided by. The eps belongs to pixels in [0, 1], and so is divided by it, too; that
            gives what un-normalising the clip first would give.
    """
    # From the first pixel on: the mean of equal pixels is then exact, and rounding is not blown up by 1 / eps.
    first = cubes[..., :1]
    mean = first + (cubes - first).mean(dim=-1, keepdim=True)
    return mean, _deviation(cubes - mean) + CHANNEL_EPS / std[:, None]


def cube_statistics(cubes: Tensor, kind: str, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale that ``(cubes - shift) / scale`` makes the target ``kind`` with; both broadcast to ``cubes``.

    Args:
        cubes: (B, K, C, P) pixels of a normalised clip.
        kind: one of ``TARGETS``.
        mean: (C,) that was subtracted from pixels in [0, 1].
        std: (C,) that they were divided by after that.
    """
    if kind == "channel":
        return channel_statistics(cubes, std)
    if kind == "joint":
        shift, scale = patch_statistics(cubes.flatten(-2))
        return shift[..., None], scale[..., None]
    if kind == "unit":
        return (-mean / std)[:, None], (1.0 / std)[:, None]
    return mean.new_zeros(()), mean.new_ones(())


def cube_targets(cubes: Tensor, kind: str, mean: Tensor, std: Tensor) -> Tensor:
    """Targets (B, K, C*P) in float32, made in the memory of ``cubes``; the arguments are those of ``cube_statistics``.

    In place, because on CPUs a new tensor of this size takes longer to allocate than to fill.
    """
    cubes = cubes.float()
    if kind == "channel":
        # The steps of ``channel_statistics``: a shift by the first pixel changes neither mean-free pixels nor scale.
        cubes.sub_(cubes[..., :1].clone())
        cubes.sub_(cubes.mean(dim=-1, keepdim=True))
        cubes.div_(_deviation(cubes).add_((CHANNEL_EPS / std)[:, None]))
    elif kind != "raw":
        shift, scale = cube_statistics(cubes, kind, mean, std)
        cubes.sub_(shift).div_(scale)
    return cubes.flatten(-2)


def _deviation(centred: Tensor) -> Tensor:
    """Unbiased standard deviation of rows (..., P) with mean 0."""
    return torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / (centred.shape[-1] - 1) ** 0.5


def motion_of(clips: Tensor, cube: Sizes, ids: Tensor) -> Tensor:
    """Mean absolute change to the next frame (of the last one: from the one before) in cubes.

    Args:
        clips: (B, C, T, H, W), T at least 2.
        cube: (u, p, q).
        ids: (B, K) cubes wanted.

    Returns:
        (B, K).
    """
    change = clips.float().diff(dim=2).abs().mean(dim=1, keepdim=True)
    change = torch.cat([change, change[:, :, -1:]], dim=2)
    return cut_cubes(change, cube, ids).mean(dim=-1)


def motion_weights(motion: Tensor, strength: float) -> Tensor:
    """Weights with mean 1 that grow with motion: ``(1 - strength) + strength * motion / mean motion`` of every clip.

    Args:
        motion: (B, K), not negative.
        strength: in [0, 1]; 0 weighs all cubes alike, 1 by motion alone. A clip without motion is weighed evenly.
    """
    mean = motion.mean(dim=1, keepdim=True)
    share = torch.where(mean > 0, motion / mean.clamp_min(1e-12), torch.ones_like(motion))
    return 1.0 - strength + strength * share


def masked_cube_loss(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error over cubes in float32, or its mean weighted by cube.

    Args:
        pred: (B, K, P) predictions of the cubes that count.
        target: (B, K, P).
        weights: (B, K), not negative. If all are 0, so is the loss.
    """
    if weights is None:
        return F.mse_loss(pred.float(), target.float())
    error = (pred.float() - target.float()).square().mean(dim=-1)
    return (error * weights).sum() / weights.sum().clamp_min(1e-12)
