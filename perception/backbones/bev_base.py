"""What bird's-eye-view encoders share: one map on a metric grid, its pooled features, baselines without training."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault, nearest
from perception.geometry.grid import BEVGrid, sample_bev
from perception.geometry.projection import project
from perception.transforms.preprocess import Batch, Preprocess

_COARSE = 16  # cells a side of the grid that the raw features count points on
_BINS = 16
_AROUND = 2  # cells of about a metre on each side of a place
_PATCH = 8  # pixels a side


class BEVBackbone(Backbone):
    """Base of the encoders of driving scenes: points, cameras or both become one map seen from above.

    Pooled features of ``encode``: ``pooled`` (B, 2 C) mean and maximum of the map over all cells, one after the other;
    ``mean`` and ``max`` (B, C) are its halves. Cells of the mean count whether points fell into them or not, so that it
    is the same thing for cameras. Of a batch that asks for places, ``query``: list of B (Q, >= 2) x, y[, z] in metres,
    they are the vectors of the map there instead, one row a place (sum of Q, C); ``QueryBoxes`` makes such batches, so
    that probes can ask what stands where.

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

    def depth_fault(self) -> Fault | None:
        """Why points cannot teach this backbone the depths of its cameras, by the path of its argument.

        None if they can; then it has ``bev_and_depth`` and ``depth_loss``, as ``LiftSplat`` has them.
        """
        return Fault("type", type(self).__name__, "has no camera branch that tells depths, as LiftSplat does")

    def bev_and_depth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The map (B, C, Ny, Nx) of a preprocessed batch, and its cameras' distribution over depths (B, N, D, h, w)."""
        raise NotImplementedError

    def depth_loss(self, alpha: Tensor, batch: Batch) -> Tensor:
        """Loss of the distribution over depths by the points of the batch."""
        raise NotImplementedError

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
        if batch.get("query") is not None:
            return torch.cat(list(sample_bev(self.bev(batch), batch["query"], self.grid)))
        return pool_map(self.bev(batch), feature or "pooled")

    def raw_features(self, batch: Batch) -> Tensor:
        """What the sensors say without any network, at a fixed size; see ``baselines`` for more.

        Of points: log of their number, and height of the highest, in 16 x 16 cells over ``grid``, (B, 512). Of cameras
        alone: means of every image in 8 x 8 tiles, (B, 192 N).

        At places: number of points (its log), greatest and mean height and mean intensity in the 5 x 5 square metres
        around, (sum of Q, 100). Of cameras alone: 8 x 8 pixels around the place in the first image that shows it, 192.
        """
        if batch.get("query") is not None:
            return _around(batch, self.grid) if batch.get("points") is not None else _seen_at(batch)
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
        if batch.get("points") is not None and batch.get("query") is None:
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


def _around(batch: Batch, grid: BEVGrid) -> Tensor:
    """Statistics of points in 5 x 5 cells of about a metre around every place of a batch: (sum of Q, 100)."""
    spans = (grid.x[1] - grid.x[0], grid.y[1] - grid.y[0])
    coarse = BEVGrid(grid.x, grid.y, grid.z, (spans[0] / round(spans[0]), spans[1] / round(spans[1])))
    whole, sweep = _joined(batch["points"], grid)
    row, column, _ = coarse.index(whole)
    size = len(batch["points"])
    place = (sweep * coarse.ny + row) * coarse.nx + column
    cells = size * coarse.ny * coarse.nx
    count = torch.bincount(place, minlength=cells).float()
    top = torch.full((cells,), grid.z[0], device=whole.device).scatter_reduce(0, place, whole[:, 2].float(), "amax")
    found = [count.log1p(), top - grid.z[0]]
    for value in (whole[:, 2] - grid.z[0], whole[:, min(3, whole.shape[1] - 1)]):
        found.append(torch.zeros(cells, device=whole.device).index_add_(0, place, value.float()) / count.clamp_min(1))
    maps = torch.stack(found).view(4, size, coarse.ny, coarse.nx).transpose(0, 1)
    edge = 2 * _AROUND + 1
    maps = torch.nn.functional.unfold(maps, edge, padding=_AROUND).unflatten(2, coarse.shape)
    rows = []
    for own, query in zip(maps, batch["query"], strict=True):
        row, column, _ = coarse.index(query)
        rows.append(own[:, row, column].T)
    return torch.cat(rows)


def _seen_at(batch: Batch) -> Tensor:
    """Pixels around every place of a batch in the first image that shows it, 0 where none does: (sum of Q, 192)."""
    cams = batch["cams"]
    height, width = cams.shape[-2:]
    offsets = torch.arange(_PATCH, device=cams.device) - (_PATCH - 1) / 2
    rows = []
    for i, query in enumerate(batch["query"]):
        if query.shape[1] < 3:
            raise DataError("places in camera images need their height: give 'query' three columns, x, y, z")
        given = {key: batch[key][i] for key in ("lidar2cam", "cam2img", "img_aug", "lidar_aug")}
        uv, _, shown = project(query[:, :3].float(), size=(height, width), **given)
        camera = shown.float().argmax(0)  # (Q,)
        pixel = uv[camera, torch.arange(len(query), device=cams.device)]
        u = (pixel[:, 0, None] + offsets).round().clamp(0, width - 1).long()
        v = (pixel[:, 1, None] + offsets).round().clamp(0, height - 1).long()
        patch = cams[i].permute(0, 2, 3, 1)[camera[:, None, None], v[:, :, None], u[:, None, :]]  # (Q, 8, 8, 3)
        rows.append(patch.flatten(1) * shown.any(0)[:, None])
    return torch.cat(rows)
