"""Clips as sequences of cubes (tubelet x rows x columns), their embedding and their positions.

A cube is u frames of p x q pixels; cubes are ordered by time, then row, then column.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.layers.linear import linear

Sizes = tuple[int, int, int]


def cube_grid(clip: tuple[int, ...], cube: Sizes) -> Sizes:
    """(slots, rows, columns) of cubes in a clip of the shape (..., T, H, W).

    Raises:
        ValueError: the clip is not divisible by the cube.
    """
    frames, height, width = clip[-3:]
    if frames % cube[0] or height % cube[1] or width % cube[2]:
        raise ValueError(f"a clip of {frames} x {height} x {width} is not divisible by cubes of {cube}")
    return frames // cube[0], height // cube[1], width // cube[2]


def cut_cubes(clips: Tensor, cube: Sizes, ids: Tensor | None = None, channels_first: bool = False) -> Tensor:
    """Pixels of cubes.

    Args:
        clips: (B, C, T, H, W).
        cube: (u, p, q).
        ids: (B, K) cubes wanted; only their pixels are copied. ``None`` takes all L.
        channels_first: lay a cube out as (channel, u, p, q), the order of convolution weights, instead of
            (u, p, q, channel).

    Returns:
        (B, K or L, u*p*q*C).
    """
    batch, channels = clips.shape[:2]
    slots, rows, columns = cube_grid(tuple(clips.shape), cube)
    u, p, q = cube
    if ids is not None:
        taken = _take_cubes(clips, cube, ids)
        return taken.flatten(2) if channels_first else taken.transpose(2, 3).flatten(2)
    blocks = clips.reshape(batch, channels, slots, u, rows, p, columns, q)
    blocks = blocks.permute((0, 2, 4, 6, 1, 3, 5, 7) if channels_first else (0, 2, 4, 6, 3, 5, 7, 1))
    return blocks.reshape(batch, slots * rows * columns, -1)


def _take_cubes(clips: Tensor, cube: Sizes, ids: Tensor) -> Tensor:
    """Cubes ``ids`` (B, K) of clips (B, C, T, H, W): (B, K, C, u*p*q), copied by runs of q pixels.

    Rows of one table, several times faster than indices along every axis.
    """
    batch, channels, frames, height = clips.shape[:4]
    (u, p, q), (_, rows, columns) = cube, cube_grid(tuple(clips.shape), cube)

    def steps(count: int, size: int) -> Tensor:
        return torch.arange(0, count * size, size, device=ids.device)

    frame, clip = height * columns, frames * height * columns  # in runs
    corner = ids // (rows * columns) * (u * frame) + ids // columns % rows * (p * columns) + ids % columns
    within = (steps(u, frame)[:, None] + steps(p, columns)).flatten()
    planes = steps(batch, channels * clip)[:, None, None] + corner[:, :, None] + steps(channels, clip)
    runs = F.embedding(planes[..., None] + within, clips.reshape(-1, q))
    return runs.flatten(3)


def join_cubes(cubes: Tensor, cube: Sizes, grid: Sizes) -> Tensor:
    """Inverse of ``cut_cubes``: (B, L, u*p*q*C) of all cubes of ``grid`` -> (B, C, T, H, W)."""
    batch, length, values = cubes.shape
    if length != grid[0] * grid[1] * grid[2]:
        raise ValueError(f"{length} cubes do not fill a grid of {grid}")
    channels = values // (cube[0] * cube[1] * cube[2])
    blocks = cubes.reshape(batch, *grid, *cube, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return blocks.reshape(batch, channels, *(g * c for g, c in zip(grid, cube, strict=True)))


class CubeEmbed(nn.Module):
    """Linear embedding of cubes. The weight is a 3-D convolution's, as in VideoMAE, with torch's default start."""

    def __init__(self, cube: Sizes, in_channels: int, dim: int) -> None:
        super().__init__()
        self.cube = cube
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=cube, stride=cube)

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, C, T, H, W) -> (B, L, D), or (B, K, D) of the cubes ``keep`` (B, K) alone."""
        cubes = cut_cubes(clips, self.cube, keep, channels_first=True)
        return linear(cubes, self.proj.weight.flatten(1), self.proj.bias)


def flat_sinusoid(length: int, dim: int) -> Tensor:
    """Fixed positions of VideoMAE (2022): one sinusoid over the index p in the flattened grid.

    ``angle(p, j) = p / 10000^(2 floor(j / 2) / D)``; the sine for even j, the cosine for odd j.

    Returns:
        (1, length, dim) float32.
    """
    exponent = 2.0 * (torch.arange(dim, dtype=torch.float64) // 2) / dim
    angles = torch.arange(length, dtype=torch.float64)[:, None] / 10000.0**exponent
    table = torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos())
    return table.float()[None]


def separable_positions(spatial: Tensor, temporal: Tensor) -> Tensor:
    """``pos(t, s) = spatial[s] + temporal[t]``: (1, S, D) and (1, T, D) -> (1, T * S, D), time first."""
    return (temporal[:, :, None] + spatial[:, None]).flatten(1, 2)


def resample_time(positions: Tensor, slots: int) -> Tensor:
    """Linear interpolation of positions over time (1, T, D) -> (1, slots, D), the ends of the clip kept in place."""
    if positions.shape[1] == slots:
        return positions
    stretched = F.interpolate(positions.float().transpose(1, 2), size=slots, mode="linear", align_corners=False)
    return stretched.transpose(1, 2).to(positions.dtype)
