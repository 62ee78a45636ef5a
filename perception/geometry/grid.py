"""The grid that bird's-eye-view maps lie on, and reading maps at metric positions.

One convention everywhere: maps are (B, C, Ny, Nx), the row is the y index, the column the x index, and cell (0, 0) lies
at (x_min, y_min). A cell holds its lower edges and not its upper ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.errors import ConfigError
from perception.geometry.arrays import tensors

_WHOLE = 1e-3  # how far, in cells, a range may be from a whole number of cells: 108 m / 0.075 m is not exact in floats


@dataclass(frozen=True)
class BEVGrid:
    """A rectangle of the ground in cells.

    Attributes:
        x: (min, max) in metres.
        y: likewise.
        z: likewise; heights outside it are not on the grid.
        cell: (size along x, size along y) of a cell in metres.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    z: tuple[float, float]
    cell: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("x", "y", "z", "cell"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        _require_grid(self.point_range, self.cell)

    @classmethod
    def from_range(cls, point_range: Sequence[float], cell: Sequence[float]) -> BEVGrid:
        """Grid over ``point_range`` (x_min, y_min, z_min, x_max, y_max, z_max) in metres."""
        _require_grid(point_range, cell)
        x0, y0, z0, x1, y1, z1 = point_range
        return cls((x0, x1), (y0, y1), (z0, z1), (cell[0], cell[1]))

    @property
    def nx(self) -> int:
        """Columns."""
        return round((self.x[1] - self.x[0]) / self.cell[0])

    @property
    def ny(self) -> int:
        """Rows."""
        return round((self.y[1] - self.y[0]) / self.cell[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of a map."""
        return self.ny, self.nx

    @property
    def point_range(self) -> tuple[float, float, float, float, float, float]:
        """(x_min, y_min, z_min, x_max, y_max, z_max) in metres."""
        return self.x[0], self.y[0], self.z[0], self.x[1], self.y[1], self.z[1]

    def index(self, xy: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Cell of every position.

        Args:
            xy: (..., >= 2) x and y in metres; further columns are not looked at.

        Returns:
            ``row``, ``column`` int64 (...) and ``inside`` bool (...). Rows and columns of positions that are outside,
            or not finite, are those of cell (0, 0).
        """
        (xy,), _ = tensors(xy)
        column = ((xy[..., 0] - self.x[0]) / self.cell[0]).floor()
        row = ((xy[..., 1] - self.y[0]) / self.cell[1]).floor()
        inside = (column >= 0) & (column < self.nx) & (row >= 0) & (row < self.ny)
        zero = torch.zeros((), dtype=row.dtype, device=row.device)
        return torch.where(inside, row, zero).long(), torch.where(inside, column, zero).long(), inside

    def centres(self, device: torch.device | str | None = None) -> Tensor:
        """(x, y) of the centre of every cell: (Ny, Nx, 2) float32, metres."""
        x = self.x[0] + (torch.arange(self.nx, dtype=torch.float64, device=device) + 0.5) * self.cell[0]
        y = self.y[0] + (torch.arange(self.ny, dtype=torch.float64, device=device) + 0.5) * self.cell[1]
        return torch.stack([x.expand(self.ny, -1), y[:, None].expand(-1, self.nx)], dim=-1).float()

    def coarser(self, stride: int) -> BEVGrid:
        """The grid of a map with cells ``stride`` times as long.

        Raises:
            ConfigError: the cells do not fill the rectangle.
        """
        if self.nx % stride or self.ny % stride:
            raise ConfigError(f"a grid of {self.ny} x {self.nx} cells has no whole number of cells {stride} as long")
        return BEVGrid(self.x, self.y, self.z, (self.cell[0] * stride, self.cell[1] * stride))


def grid_faults(point_range: Sequence[float], cell: Sequence[float]) -> list[tuple[str, str]]:
    """What is wrong with a range of six numbers and a cell size, as ('point_range' or 'cell', message)."""
    if len(point_range) != 6 or not np.isfinite(point_range).all():
        return [("point_range", "needs six finite numbers: x, y, z of the lower corner, then of the upper one")]
    if any(low >= high for low, high in zip(point_range[:3], point_range[3:], strict=True)):
        return [("point_range", f"{tuple(point_range)} is empty: x, y, z of the lower corner come first")]
    if len(cell) < 2 or any(not c > 0 for c in cell):
        return [("cell", f"needs sizes along x and y above 0, in metres, not {tuple(cell)}")]
    found = []
    for axis, name in enumerate("xy"):
        extent = point_range[axis + 3] - point_range[axis]
        count = extent / cell[axis]
        if round(count) < 1 or abs(count - round(count)) > _WHOLE:
            found.append(("cell", f"{extent:g} m along {name} is no whole number of cells of {cell[axis]:g} m"))
    return found


def _require_grid(point_range: Sequence[float], cell: Sequence[float]) -> None:
    faults = grid_faults(point_range, cell)
    if faults:
        raise ConfigError(f"no grid: {'; '.join(f'{key} {text}' for key, text in faults)}")


def sample_bev(maps: Tensor, xy: Tensor | Sequence[Tensor], grid: BEVGrid) -> Tensor | list[Tensor]:
    """Values of maps at metric positions, bilinear between the centres of cells.

    Positions within half a cell of the outer edge, and outside, read the nearest cells: leave out what is outside by
    ``grid.index``.

    Args:
        maps: (B, C, Ny, Nx).
        xy: (B, P, >= 2) x and y in metres, or B tensors (P_b, >= 2).
        grid: where the maps lie.

    Returns:
        (B, P, C), or B tensors (P_b, C), float32 for maps of lower precision. Differentiable in ``maps`` and ``xy``.

    Raises:
        ValueError: the maps have another size than the grid.
    """
    if tuple(maps.shape[-2:]) != grid.shape:
        raise ValueError(f"maps of {tuple(maps.shape[-2:])} cells do not lie on a grid of {grid.shape}")
    if not isinstance(xy, Tensor):
        if len(xy) != len(maps):
            raise ValueError(f"{len(maps)} maps cannot be read at {len(xy)} lists of positions")
        return [_read(maps[i : i + 1], points[None], grid)[0] for i, points in enumerate(xy)]
    return _read(maps, xy, grid)


def _read(maps: Tensor, xy: Tensor, grid: BEVGrid) -> Tensor:
    # Positions in half precision would be off by whole cells.
    dtype = torch.promote_types(maps.dtype, torch.float32)
    # -1 and 1 of grid_sample are the outer edges of the first and the last cell.
    x = (xy[..., 0] - grid.x[0]) * (2 / (grid.x[1] - grid.x[0])) - 1
    y = (xy[..., 1] - grid.y[0]) * (2 / (grid.y[1] - grid.y[0])) - 1
    places = torch.stack([x, y], dim=-1)[:, None].to(dtype)
    found = F.grid_sample(maps.to(dtype), places, mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2)
