"""What bird's-eye-view encoders share: one map on a metric grid, its pooled features, baselines without training."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault, nearest
from perception.geometry.grid import BEVGrid
from perception.transforms.preprocess import Batch, Preprocess

_COARSE = 16  # cells a side of the grid that the raw features count points on
_BINS = 16


class BEVBackbone(Backbone):
    """Base of the encoders of driving scenes: points, cameras or both become one map seen from above.

    Pooled features of ``encode``: ``pooled`` (B, 2 C) mean and maximum of the map over all cells, one after the other;
    ``mean`` and ``max`` (B, C) are its halves. Cells of the mean count whether points fell into them or not, so that it
    is the same thing for cameras.

    Attributes:
        grid: where the cells of the map lie; its shape is (Ny, Nx).
        bev_channels: channels C of the map. ``embed_dims`` is 2 C.
    """

    modality: ClassVar[str] = "driving"
    grid: BEVGrid
    bev_channels: int

    def __init__(self, preprocess: Preprocess | dict[str, Any], grid: BEVGrid, bev_channels: int) -> None:
        super().__init__(preprocess)
        self.grid = grid
        self.bev_channels = bev_channels
        self.embed_dims = 2 * bev_channels

    @abstractmethod
    def bev(self, batch: Batch) -> Tensor:
        """The map (B, C, Ny, Nx) of a preprocessed batch, or of one of its ``views``, on ``grid``."""

    def forward(self, x: Batch) -> tuple[Tensor, ...]:
        """Preprocessed batch -> the map, alone in a tuple."""
        return (self.bev(x),)

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Ways to pool the map."""
        return ("pooled", "mean", "max")

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of a feature."""
        return self.embed_dims if feature in (None, "pooled") else self.bev_channels

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled map (B, 2 C) or (B, C) of a preprocessed batch; see the class for the features."""
        choices = self.feature_choices()
        if feature is not None and feature not in choices:
            known = f"not one of {', '.join(choices)}"
            raise ConfigError([Fault("feature", feature, known, nearest(feature, choices))])
        return pool_map(self.bev(batch), feature or "pooled")

    def raw_features(self, batch: Batch) -> Tensor:
        """What the sensors say without any network, at a fixed size; see ``baselines`` for more.

        Of points: log of their number, and height of the highest, in 16 x 16 cells over ``grid``, (B, 512). Of cameras
        alone: means of every image in 8 x 8 tiles, (B, 192 N).
        """
        if batch.get("points") is None:
            cams = batch["cams"]
            return torch.nn.functional.adaptive_avg_pool2d(cams.flatten(0, 1), 8).reshape(len(cams), -1)
        count, top, _ = _coarse_cells(batch["points"], self.grid)
        return torch.cat([count.log1p(), top], dim=1)

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """``raw`` as above; of points also ``statistics`` (B, 35), which turning the scene leaves nearly as it is.

        These are histograms of height and of distance from the sensor (16 shares each), the share of occupied cells,
        and mean and standard deviation of the intensity (of the height where there is none).
        """
        found = {"raw": self.raw_features(batch)}
        if batch.get("points") is not None:
            found["statistics"] = _statistics(batch["points"], self.grid)
        return found


def points_of(batch: Batch, name: str) -> list[Tensor]:
    """The sweeps of a batch.

    Raises:
        DataError: it has none.
    """
    points = batch.get("points")
    if points is None:
        raise DataError(f"{name} reads 'points', but the batch holds {sorted(batch)}")
    return list(points)


def pool_map(bev: Tensor, feature: str) -> Tensor:
    """``mean``, ``max`` or both (``pooled``) of a map (B, C, Ny, Nx) over its cells."""
    parts = [bev.mean((2, 3))] if feature != "max" else []
    if feature != "mean":
        parts.append(bev.amax((2, 3)))
    return torch.cat(parts, dim=1)


def _joined(points: list[Tensor], grid: BEVGrid) -> tuple[Tensor, Tensor]:
    """Points (P, F) of all sweeps that lie on the grid, and the sweep of each."""
    sizes = torch.tensor([len(p) for p in points])
    whole = torch.cat(points)
    sweep = torch.repeat_interleave(sizes).to(whole.device)
    inside = grid.index(whole)[2] & (whole[:, 2] >= grid.z[0]) & (whole[:, 2] < grid.z[1])
    return whole[inside], sweep[inside]


def _coarse_cells(points: list[Tensor], grid: BEVGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Number of points and height of the highest (0 if none) in 16 x 16 cells (B, 256); and occupied share (B, 1)."""
    whole, sweep = _joined(points, grid)
    spans = (grid.x[1] - grid.x[0], grid.y[1] - grid.y[0])
    row, column, _ = BEVGrid(grid.x, grid.y, grid.z, (spans[0] / _COARSE, spans[1] / _COARSE)).index(whole)
    cells = len(points) * _COARSE * _COARSE
    place = (sweep * _COARSE + row) * _COARSE + column
    count = torch.bincount(place, minlength=cells).float()
    lowest = torch.full((cells,), -torch.inf, device=whole.device, dtype=whole.dtype)
    top = lowest.scatter_reduce(0, place, whole[:, 2], "amax")
    top = torch.where(count > 0, top, torch.zeros_like(top)).float()
    count = count.view(len(points), -1)
    return count, top.view(len(points), -1), (count > 0).float().mean(1, keepdim=True)


def _statistics(points: list[Tensor], grid: BEVGrid) -> Tensor:
    whole, sweep = _joined(points, grid)
    size = len(points)
    farthest = max(abs(v) for v in (*grid.x, *grid.y)) * 2**0.5
    shares = []
    for value, low, high in (
        (whole[:, 2], grid.z[0], grid.z[1]),
        (whole[:, :2].norm(dim=1), 0.0, farthest),
    ):
        bin_ = ((value - low) * (_BINS / (high - low))).long().clamp(0, _BINS - 1)
        found = torch.bincount(sweep * _BINS + bin_, minlength=size * _BINS).view(size, _BINS).float()
        shares.append(found / found.sum(1, keepdim=True).clamp_min(1))
    number = torch.bincount(sweep, minlength=size).clamp_min(1)
    value = whole[:, min(3, whole.shape[1] - 1)].float()
    mean = torch.zeros(size, device=whole.device).index_add_(0, sweep, value) / number
    spread = torch.zeros(size, device=whole.device).index_add_(0, sweep, (value - mean[sweep]).square()) / number
    return torch.cat([*shares, _coarse_cells(points, grid)[2], torch.stack([mean, spread.sqrt()], 1)], dim=1)
