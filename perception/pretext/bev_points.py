"""What pretexts on points of a bird's-eye view share: which points, and what the maps say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.bev_base import BEVBackbone
from perception.errors import ConfigError, DataError
from perception.geometry.grid import BEVGrid
from perception.layers.linear import Linear
from perception.transforms.preprocess import Batch

View = Mapping[str, Any]
_ID_BITS = 40  # more points than a sweep has; what is left of 63 bits numbers the sweeps


class Projector(nn.Module):
    """Two layers onto unit vectors, thrown away after pre-training.

    Args:
        dims: channels C of the maps.
        hidden_dim: width of the hidden layer; ``None`` takes C.
        projection_dim: width E in which points are compared.
    """

    def __init__(self, dims: int, hidden_dim: int | None, projection_dim: int) -> None:
        super().__init__()
        hidden_dim = hidden_dim or dims
        self.projection_dim = projection_dim
        self.layers = nn.Sequential(
            Linear(dims, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), Linear(hidden_dim, projection_dim)
        )

    def forward(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Vectors (..., C) -> unit embeddings (..., E), float32; padding (``valid`` is False) becomes 0.

        The batch norm sees real points only, those of all views together.
        """
        chosen = vectors[valid]
        # A batch norm has no statistics of a single row; nothing can be contrasted then anyhow.
        few = self.training and len(chosen) < 2
        rows = chosen.sum() * 0.0 if few else F.normalize(self.layers(chosen).float(), dim=-1)
        out = vectors.new_zeros((*valid.shape, self.projection_dim), dtype=torch.float32)
        if few:
            return out + rows
        return out.masked_scatter(valid.unsqueeze(-1), rows)


@dataclass(frozen=True)
class PointSample:
    """K points of every sweep, padded.

    Attributes:
        xy: for each view (B, K, 2), where the points lie in it, in metres.
        region: (B, K) int64, -1 for points without a region.
        valid: (B, K) bool, False for padding.
        original: (B, K) int64, which point of the sweep it is.
    """

    xy: tuple[Tensor, ...]
    region: Tensor
    valid: Tensor
    original: Tensor


def sample_points(views: Sequence[View], grid: BEVGrid, rich: int, poor: int, by_region: bool = True) -> PointSample:
    """Draw points that lie within the grid in all views, from torch's global generator.

    Args:
        views: one or two of ``{'points': [B x (P, F)], 'region': [B x (P,)], 'point_id': [B x (P,)]}``, with rows of
            ``points`` after augmentation. ``point_id`` tells which points correspond; one view does without.
        grid: the range.
        rich: number of points of regions in a sweep, if there are so many.
        poor: number of points without a region.
        by_region: without it, ``rich + poor`` points are drawn from all alike.

    Raises:
        DataError: the views know no regions.
    """
    flat = [_flattened(view, grid, need_id=len(views) > 1) for view in views]
    first = flat[0]
    rows = [first.inside]
    if len(flat) > 1:
        rows = list(_in_both(first, flat[1]))
    sweep, region = first.sweep[rows[0]], first.region[rows[0]]
    group = sweep * 2 + (region < 0) if by_region else sweep * 2
    sizes = (rich, poor) if by_region else (rich + poor, 0)
    # Order within a group at random; the rank of a point in its group says whether it is taken.
    order = (group.double() + torch.rand(len(group), dtype=torch.float64, device=group.device)).argsort()
    group = group[order]
    starts = torch.searchsorted(group, torch.arange(2 * first.batch, device=group.device))
    rank = torch.arange(len(group), device=group.device) - starts[group]
    kind = group % 2
    taken = rank < torch.where(kind == 0, sizes[0], sizes[1])
    order, slot, sweep = order[taken], (rank + kind * sizes[0])[taken], group[taken] // 2
    shape = (first.batch, sizes[0] + sizes[1])

    def padded(values: Tensor, fill: float) -> Tensor:
        out = values.new_full((*shape, *values.shape[1:]), fill)
        out[sweep, slot] = values
        return out

    xy = tuple(padded(part.xy[row[order]], 0.0) for part, row in zip(flat, rows, strict=True))
    chosen = rows[0][order]
    valid = torch.zeros(shape, dtype=torch.bool, device=sweep.device)
    valid[sweep, slot] = True
    return PointSample(xy, padded(first.region[chosen], -1), valid, padded(first.original[chosen], -1))


@dataclass(frozen=True)
class _Flat:
    """The points of all sweeps of a view in one row: positions, sweep, region, original, and which lie inside."""

    xy: Tensor
    sweep: Tensor
    region: Tensor
    original: Tensor
    inside: Tensor
    batch: int


def _flattened(view: View, grid: BEVGrid, need_id: bool) -> _Flat:
    points: Sequence[Tensor] = view["points"]
    if "region" not in view:
        raise DataError("the batch has no 'region' of its points: put FindRegions before TwoViews in the transforms")
    if need_id and "point_id" not in view:
        raise DataError("the views have no 'point_id': let TwoViews make them, so that points correspond")
    device = points[0].device
    counts = torch.tensor([len(p) for p in points], device=device)
    sweep = torch.repeat_interleave(torch.arange(len(points), device=device), counts)
    xy = torch.cat([p[:, :2] for p in points])
    region = torch.cat(list(view["region"]))
    ids = view.get("point_id") or [torch.arange(len(p), device=device) for p in points]
    inside = grid.index(xy)[2].nonzero().squeeze(1)
    return _Flat(xy, sweep, region, torch.cat(list(ids)), inside, len(points))


def _in_both(first: _Flat, second: _Flat) -> tuple[Tensor, Tensor]:
    """Rows of the points that lie inside in both views, pair by pair."""
    keys = [(part.sweep[part.inside] << _ID_BITS) + part.original[part.inside] for part in (first, second)]
    ordered, order = keys[1].sort()
    place = torch.searchsorted(ordered, keys[0]).clamp_(max=max(len(ordered) - 1, 0))
    found = ordered[place] == keys[0] if len(ordered) else torch.zeros_like(keys[0], dtype=torch.bool)
    return first.inside[found], second.inside[order[place[found]]]


def require_map(backbone: Backbone, asked_by: nn.Module) -> BEVBackbone:
    """``backbone``, if it makes a map seen from above.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(backbone, BEVBackbone):
        raise ConfigError(
            f"{type(asked_by).__name__} reads bird's-eye-view maps, but {type(backbone).__name__} makes none: it needs "
            "a driving backbone such as PillarNet"
        )
    return backbone


def two_views(batch: Batch) -> list[View]:
    """The two views of every sweep.

    Raises:
        DataError: the batch has another number of them.
    """
    views = batch.get("views")
    if views is None or len(views) != 2:
        found = "none" if views is None else str(len(views))
        raise DataError(
            f"two views of every sweep are contrasted, but the batch has {found}: end the transforms with TwoViews"
        )
    return list(views)


def regions_per_sweep(batch: Batch) -> Tensor:
    """Mean number of regions of a sweep, for the log, from the numbers that regions have: 0, 1, ..."""
    found = [region.max() + 1 for region in batch["views"][0]["region"] if len(region)]
    return torch.stack(found).float().mean() if found else torch.zeros(())


def region_agreement(batch: Batch) -> dict[str, Tensor]:
    """``region_iou`` for the log: mean over the sweeps that ``FindRegions`` gauged by boxes; nothing without any."""
    gauged = batch.get("region_iou")
    if gauged is None or gauged.isnan().all():
        return {}
    return {"region_iou": gauged.nanmean()}


def contrast_faults(cfg: Mapping[str, Any], counts: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Faults of the arguments that contrasts of points share; ``counts`` are those that must be whole numbers > 0."""
    for key in counts:
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            yield key, "must be a whole number of at least 1"
    for key in ("hidden_dim", "projection_dim"):
        if cfg[key] is not None and (not isinstance(cfg[key], int) or cfg[key] < 1):
            yield key, "must be a whole number of at least 1"
    if not cfg["temperature"] > 0:
        yield "temperature", "must be positive"
