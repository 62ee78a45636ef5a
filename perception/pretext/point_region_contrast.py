"""PRC: contrast of points and regions between two views of a LiDAR sweep, the first stage of CALICO.

"CALICO: Self-Supervised Camera-LiDAR Contrastive Pre-training for BEV Perception", Sun et al., ICLR 2024. The paper
leaves open what stands as an argument here: temperature, projector, the denominator of PLRC, whether points of one
region may be negatives of each other in RAPC. ``perception.losses.point_region`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.errors import check_arguments, not_among
from perception.geometry.grid import sample_bev
from perception.losses.point_region import DENOMINATORS, point_contrast, region_contrast
from perception.pretext.base import Pretext
from perception.pretext.bev_points import (
    PointSample,
    Projector,
    contrast_faults,
    region_agreement,
    regions_per_sweep,
    require_map,
    sample_points,
    two_views,
)
from perception.pretext.pictures import principal_colours, tile
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch


class _TwoViews(Pretext):
    """What contrasts of two views of a sweep share: both maps, the same points read from them, the projector."""

    projector: Projector

    def __init__(self, hidden_dim: int | None, projection_dim: int, temperature: float) -> None:
        super().__init__()
        self.hidden_dim, self.projection_dim = hidden_dim, projection_dim
        self.temperature = temperature

    def attach(self, backbone: Backbone) -> None:
        """Build the projector for the channels of the map."""
        self.projector = Projector(require_map(backbone, self).bev_channels, self.hidden_dim, self.projection_dim)

    def embeddings(
        self, backbone: Backbone, batch: Batch, rich: int, poor: int, by_region: bool
    ) -> tuple[Tensor, Tensor, PointSample]:
        """Unit embeddings (B, K, E) of the same points in both views, and the points."""
        net = require_map(backbone, self)
        views = two_views(batch)
        chosen = sample_points(views, net.grid, rich, poor, by_region)
        # One pass for both: the batch norms of the backbone see the two views alike.
        maps = net.bev({"points": [points for view in views for points in view["points"]]})
        read = sample_bev(maps, torch.cat(chosen.xy), net.grid)
        assert isinstance(read, Tensor)
        projected = self.projector(read, chosen.valid.repeat(2, 1))
        first, second = projected.chunk(2)
        return first, second, chosen

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``bev_features``: the map of every view, its three main directions as red, green and blue, north up."""
        net = require_map(backbone, self)
        views = two_views(batch)
        maps = [net.bev({"points": view["points"][:4]}) for view in views]
        colours = principal_colours(torch.cat(maps)).reshape(2, len(maps[0]), 3, *maps[0].shape[-2:])
        return {"bev_features": tile(colours.swapaxes(0, 1)[..., ::-1, :], scale_to=192)}


@PRETEXTS.register_module()
class PointRegionContrast(_TwoViews):
    """``alpha * PLRC + (1 - alpha) * RAPC`` between two views (``TwoViews``) of sweeps with regions.

    Args:
        rich: points of regions that are drawn from a sweep.
        poor: points without a region that are drawn; they are negatives only.
        alpha: share of the region level. 0.9 was better with 5 % of the labels, 0.1 with 50 %.
        temperature: of the softmax.
        hidden_dim: width of the projector; ``None`` takes that of the map.
        projection_dim: width in which points are compared.
        denominator: of PLRC: ``all`` points, or ``positive+negatives``.
        exclude_same_region: in RAPC, points of one region are no negatives of each other.
        symmetric: also take anchors from the second view, and the mean of both.

    ``forward`` gives ``loss``, and for the log ``plrc``, ``rapc`` and ``regions``, the number of regions in a sweep;
    also ``region_iou``, their mean agreement with boxes, if ``FindRegions(gauge=True)`` looked at some.
    """

    def __init__(
        self,
        rich: int = 1024,
        poor: int = 1024,
        alpha: float = 0.5,
        temperature: float = 0.07,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        denominator: str = "all",
        exclude_same_region: bool = True,
        symmetric: bool = False,
    ) -> None:
        check_arguments("model.pretexts.prc", self.check_config, locals())
        super().__init__(hidden_dim, projection_dim, temperature)
        self.rich, self.poor, self.alpha = rich, poor, alpha
        self.denominator: Any = denominator
        self.exclude_same_region, self.symmetric = exclude_same_region, symmetric

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Losses of ``batch['views']``, two views of every sweep."""
        first, second, chosen = self.embeddings(backbone, batch, self.rich, self.poor, by_region=True)
        pairs = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        region, valid, tau = chosen.region, chosen.valid, self.temperature
        plrc = [region_contrast(a, b, region, valid, tau, self.denominator) for a, b in pairs]
        rapc = [point_contrast(a, b, region, valid, tau, self.exclude_same_region) for a, b in pairs]
        both = torch.stack(plrc).mean(), torch.stack(rapc).mean()
        return {
            "loss": self.alpha * both[0] + (1 - self.alpha) * both[1],
            "plrc": both[0].detach(),
            "rapc": both[1].detach(),
            "regions": regions_per_sweep(batch),
            **region_agreement(batch),
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        yield from contrast_faults(cfg, ("rich", "poor"))
        if not 0 <= cfg["alpha"] <= 1:
            yield "alpha", "must lie in [0, 1]"
        if cfg["denominator"] not in DENOMINATORS:
            yield "denominator", not_among(cfg["denominator"], DENOMINATORS)


@PRETEXTS.register_module()
class PointContrast(_TwoViews):
    """NCE of points drawn uniformly, without regions: the baseline of PRC.

    "PointContrast: Unsupervised Pre-training for 3D Point Cloud Understanding", Xie et al., ECCV 2020.

    Args:
        points: points that are drawn from a sweep.
        temperature: of the softmax.
        hidden_dim: see ``PointRegionContrast``.
        projection_dim: see ``PointRegionContrast``.
    """

    def __init__(
        self, points: int = 2048, temperature: float = 0.07, hidden_dim: int | None = None, projection_dim: int = 128
    ) -> None:
        check_arguments("model.pretexts.point_contrast", self.check_config, locals())
        super().__init__(hidden_dim, projection_dim, temperature)
        self.points = points

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` of ``batch['views']``, two views of every sweep."""
        first, second, chosen = self.embeddings(backbone, batch, self.points, 0, by_region=False)
        return {
            "loss": point_contrast(
                first, second, chosen.region, chosen.valid, self.temperature, exclude_same_region=False, anchors="all"
            )
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        yield from contrast_faults(cfg, ("points",))
