"""Points of a batch of sweeps grouped by the cell they lie in.

*Dynamic* grouping ("End-to-End Multi-View Fusion for 3D Object Detection in LiDAR Point Clouds", Zhou et al., 2020)
keeps every point and does not depend on their order. *Hard* grouping ("VoxelNet", Zhou and Tuzel, 2018) keeps at most
T points of a cell and V cells of a sweep, those that come first. Both are equal where no limit binds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.grid import BEVGrid


@dataclass(frozen=True)
class Voxels:
    """Grouped points, of all sweeps together.

    Attributes:
        points: (P, F) float, those that are kept, in the order of the sweeps and of the points in them.
        voxel: (P,) int64 voxel of every point.
        num_points: (V,) int32 points of every voxel, at least 1.
        coors: (V, 4) int32 cell of every voxel: sweep, z, y, x. No cell occurs twice.
        batch_size: number of sweeps B, the empty ones included.
        shape: cells along z, y and x.
        outside: points that lie outside the grid or are not finite.
        capped_points: points inside that a limit left out.
        capped_voxels: voxels that a limit left out.
    """

    points: Tensor
    voxel: Tensor
    num_points: Tensor
    coors: Tensor
    batch_size: int
    shape: tuple[int, int, int]
    outside: int = 0
    capped_points: int = 0
    capped_voxels: int = 0

    def __len__(self) -> int:
        return len(self.coors)

    def padded(self, slots: int) -> Tensor:
        """Points by voxel, (V, T, F), in their order and with zeros behind the last.

        Args:
            slots: T, at least the largest number of points in a voxel.
        """
        slot, _, _ = _places(self.voxel)
        width = self.points.shape[1]
        out = self.points.new_zeros(len(self) * slots, width)
        return out.index_copy(0, self.voxel * slots + slot, self.points).view(len(self), slots, width)

    def sums(self, values: Tensor) -> Tensor:
        """Sums of values (P, C) over the points of every voxel, (V, C)."""
        return values.new_zeros(len(self), values.shape[1]).index_add(0, self.voxel, values)


def dynamic_voxels(points: Sequence[Tensor], grid: BEVGrid, layers: int = 1) -> Voxels:
    """Group all points; voxels are sorted by sweep, z, y, x.

    Args:
        points: B sweeps (P_b, F), x, y, z first.
        grid: cells of the ground, and the range of heights.
        layers: cells along z; 1 makes pillars.
    """
    kept, cells, shape = _cells_of(points, grid, layers)
    found, voxel, count = torch.unique(cells, return_inverse=True, return_counts=True)
    total = sum(len(p) for p in points)
    return Voxels(kept, voxel, count.int(), _unflatten(found, shape), len(points), shape, total - len(kept))


def hard_voxels(points: Sequence[Tensor], grid: BEVGrid, max_points: int, max_voxels: int, layers: int = 1) -> Voxels:
    """Group points one after the other, as public detectors do; voxels come in the order of their first point.

    A point opens the voxel of its cell if fewer than ``max_voxels`` of its sweep are open, and is stored if fewer than
    ``max_points`` are in it. The result depends on the order of the points: shuffle them in training.

    Args:
        points: B sweeps (P_b, F), x, y, z first.
        grid: cells of the ground, and the range of heights.
        max_points: T, for a voxel.
        max_voxels: V, for a sweep.
        layers: cells along z; 1 makes pillars.
    """
    inside, cells, shape = _cells_of(points, grid, layers)
    slot, order, starts = _places(cells)
    first = order[starts]  # the earliest point of every cell, since sorting kept the order
    opened = first.argsort()
    found = cells[first[opened]]
    sweep = found // (shape[0] * shape[1] * shape[2])
    # Voxels of a sweep are consecutive now: their number within it is their place less that of its first.
    begins = torch.searchsorted(sweep, torch.arange(len(points), device=sweep.device))
    open_ = torch.arange(len(found), device=sweep.device) - begins[sweep] < max_voxels
    number = torch.full_like(opened, -1)  # of cells in sorted order
    number[opened[open_]] = torch.arange(int(open_.sum()), device=opened.device)
    sizes = torch.diff(starts, append=starts.new_tensor([len(cells)]))
    voxel = torch.empty_like(cells)
    voxel[order] = number.repeat_interleave(sizes, output_size=len(cells))
    kept = (voxel >= 0) & (slot < max_points)
    total = sum(len(p) for p in points)
    return Voxels(
        points=inside[kept],
        voxel=voxel[kept],
        num_points=sizes[opened[open_]].clamp_max(max_points).int(),
        coors=_unflatten(found[open_], shape),
        batch_size=len(points),
        shape=shape,
        outside=total - len(inside),
        capped_points=len(inside) - int(kept.sum()),
        capped_voxels=len(found) - int(open_.sum()),
    )


def _cells_of(points: Sequence[Tensor], grid: BEVGrid, layers: int) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """Points (P, F) on the grid, the number of the cell of each, int64 (P,), and the shape (nz, ny, nx)."""
    shape = (layers, grid.ny, grid.nx)
    whole = torch.cat(list(points))
    low = (grid.x[0], grid.y[0], grid.z[0])
    size = (*grid.cell, (grid.z[1] - grid.z[0]) / layers)
    # (x - x_min) / c, not x / c - x_min / c: near the edges of cells floats tell the two apart.
    xyz = whole[:, :3].detach().t().contiguous()
    x, y, z = ((values - first).div_(step).floor_() for values, first, step in zip(xyz, low, size, strict=True))
    inside = (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1]) & (z >= 0) & (z < shape[0])
    rows = inside.nonzero().squeeze(1)
    sweep = torch.repeat_interleave(torch.tensor([len(p) for p in points])).to(whole.device)
    x, y, z, sweep = (values.index_select(0, rows).long() for values in (x, y, z, sweep))
    return whole.index_select(0, rows), ((sweep * shape[0] + z) * shape[1] + y) * shape[2] + x, shape


def _places(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place of every item (n,) within its group, in order; the items sorted by group, and where each group begins."""
    ordered, order = torch.sort(groups, stable=True)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    starts = begins.nonzero().squeeze(1)
    ranks = torch.arange(len(groups), device=groups.device) - starts[begins.cumsum(0) - 1]
    return torch.empty_like(order).index_copy_(0, order, ranks), order, starts


def _unflatten(cells: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Numbers of cells (V,) -> (V, 4) int32 sweep, z, y, x."""
    parts = []
    for size in shape[::-1]:
        parts.append(cells % size)
        cells = cells // size
    return torch.stack([cells, *parts[::-1]], dim=1).int()
