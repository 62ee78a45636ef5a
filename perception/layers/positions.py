"""Position embeddings of 2-D token grids: fixed sin-cos tables and resampling to another grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_1d(positions: Tensor, dim: int) -> Tensor:
    """``[sin(pos f_k), cos(pos f_k)]`` with ``f_k = 10000^(-k / (dim / 2))``, ``k = 0 .. dim/2 - 1``.

    Args:
        positions: (N,) coordinates in units of tokens.
        dim: even width.

    Returns:
        (N, dim) float64.
    """
    if dim % 2:
        raise ValueError(f"dim = {dim} must be even")
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.to(torch.float64)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(dim: int, grid: tuple[int, int], prefix_tokens: int = 0) -> Tensor:
    """Fixed positions of a grid (He et al., MAE, 2022): the first half of the width encodes the COLUMN, then the row.

    Args:
        dim: width, a multiple of 4.
        grid: (rows, columns).
        prefix_tokens: number of zero rows in front, for class tokens.

    Returns:
        (1, prefix_tokens + rows * columns, dim) float32, tokens in row-major order.
    """
    if dim % 4:
        raise ValueError(f"dim = {dim} must be a multiple of 4 for 2-D sin-cos positions")
    rows, columns = grid
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    table = torch.cat([sincos_1d(column, dim // 2), sincos_1d(row, dim // 2)], dim=1).float()
    return torch.cat([table.new_zeros(prefix_tokens, dim), table])[None]


def resample_positions(
    positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], prefix_tokens: int = 0
) -> Tensor:
    """Resize the grid part of position embeddings by antialiased bicubic interpolation, in float32.

    Args:
        positions: (1, prefix_tokens + rows * columns, D).
        grid: (rows, columns) that ``positions`` were made for.
        new_grid: (rows, columns) wanted.
        prefix_tokens: tokens in front that have no place in the grid; kept as they are.

    Returns:
        (1, prefix_tokens + new_rows * new_columns, D) in the dtype of ``positions``; the same tensor for an equal grid.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    prefix, table = positions[:, :prefix_tokens], positions[:, prefix_tokens:]
    table = table.float().reshape(1, *grid, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False)
    table = table.permute(0, 2, 3, 1).reshape(1, new_grid[0] * new_grid[1], -1)
    return torch.cat([prefix, table.to(positions.dtype)], dim=1)


def guess_grid(tokens: int, target: tuple[int, int]) -> tuple[int, int]:
    """The (rows, columns) that ``tokens`` positions of a checkpoint were laid out in.

    A state dict holds only their number. A square number is taken as a square, as in every published checkpoint;
    otherwise the factorisation whose aspect ratio is nearest to that of ``target``.
    """
    side = math.isqrt(tokens)
    if side * side == tokens:
        return side, side
    wanted = math.log(target[0] / target[1])
    factors = [(r, tokens // r) for r in range(1, tokens + 1) if tokens % r == 0]
    return min(factors, key=lambda grid: abs(math.log(grid[0] / grid[1]) - wanted))
