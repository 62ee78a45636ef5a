"""Do points find themselves, and their object, in another view of the sweep? What PRC trains, on unseen sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.backbones.base import Backbone
from perception.backbones.bev_base import BEVBackbone
from perception.evaluation.features import batches, device_of, undisturbed
from perception.evaluation.protocol import EvaluationError, Outcome, positive
from perception.evaluation.whole_backbone import BackboneProtocol
from perception.geometry.grid import sample_bev
from perception.layers.eval_mode import eval_mode
from perception.pretext.bev_points import sample_points
from perception.registry import PROTOCOLS, TRANSFORMS
from perception.tasks.base import to_device
from perception.transforms.randomness import SampleRandom


@PROTOCOLS.register_module()
class RegionRetrieval(BackboneProtocol):
    """Nearest neighbour between two views of a sweep, by the cosine of the map's vectors.

    ``points`` points of regions are drawn that lie inside in both views; each looks for the most similar one among
    them in the other view. The headline is the share that finds a point of its region; ``within`` is the share whose
    find lies within ``radius`` of the true point in the unaugmented sweep.

    Args:
        points: drawn from every sweep.
        radius: in metres.
        views: transform that makes the views; ``None`` is ``TwoViews`` with its defaults.
        dataset: see ``BackboneProtocol``; its batches have ``region`` (``FindRegions``).
    """

    def __init__(
        self, points: int = 512, radius: float = 1.0, views: Mapping[str, Any] | None = None, dataset: Any = None
    ) -> None:
        super().__init__(dataset)
        self.points, self.radius = points, radius
        self.views = dict(views or {"type": "TwoViews"})

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive sizes."""
        return positive(cfg, "points", "radius")

    @classmethod
    def misfit(cls, kind: type) -> str | None:
        """Only maps can be read at points."""
        if issubclass(kind, BEVBackbone):
            return None
        return f"it reads bird's-eye-view maps, and {kind.__name__} makes none"

    @torch.no_grad()
    def run(self, backbone: Backbone, dataset: Any, seed: int, **options: Any) -> list[Outcome]:
        """Share of points that find their region, and share that find themselves up to ``radius``.

        Raises:
            EvaluationError: no map, no regions, or no sweep with two points of regions.
        """
        if not isinstance(backbone, BEVBackbone):
            raise EvaluationError(f"RegionRetrieval: {self.misfit(type(backbone))}")
        transform = TRANSFORMS.build(dict(self.views))
        same: list[Tensor] = []
        near: list[Tensor] = []
        with eval_mode(backbone), undisturbed():
            # Sweep by sweep, so that what is drawn does not depend on the size of batches.
            for batch in batches(dataset, 1, int(options.get("num_workers", 0))):
                found = self._compare(backbone, transform, batch, seed)
                same.append(found[0])
                near.append(found[1])
        hits = torch.cat(same)
        if len(hits) == 0:
            raise EvaluationError(f"RegionRetrieval: no point of {type(dataset).__name__} lies in a region")
        settings = {"points": self.points, "radius": self.radius, "views": self.views}
        shares = {"same region": hits.double().mean(), "within": torch.cat(near).double().mean()}
        # Points of a sweep hang together, so a binomial interval would be far too narrow.
        return [Outcome(name, float(v), len(hits), settings=settings, proportion=False) for name, v in shares.items()]

    def _compare(
        self, backbone: BEVBackbone, transform: Any, batch: dict[str, Any], seed: int
    ) -> tuple[Tensor, Tensor]:
        if "region" not in batch:
            raise EvaluationError("RegionRetrieval needs regions: add FindRegions to the transforms of its data set")
        index = torch.as_tensor(batch["index"]).reshape(-1).numpy()
        whole = [points[:, :3] for points in batch["points"]]
        own = [ids.argsort() for ids in batch["point_id"]]  # ids may have gaps where points were dropped
        places = [ids[order] for ids, order in zip(batch["point_id"], own, strict=True)]
        batch = backbone.preprocess(to_device(transform(batch, SampleRandom(seed, 0, index)), device_of(backbone)))
        torch.manual_seed(int(np.random.SeedSequence([seed, *index]).generate_state(1)[0]))
        chosen = sample_points(batch["views"], backbone.grid, self.points, 0)
        first, second = (
            F.normalize(torch.as_tensor(sample_bev(backbone.bev(view), xy, backbone.grid)), dim=-1)
            for view, xy in zip(batch["views"], chosen.xy, strict=True)
        )
        scores = (first @ second.transpose(1, 2)).masked_fill(~chosen.valid[:, None], -torch.inf)
        best = scores.argmax(dim=2)
        same = chosen.region.gather(1, best) == chosen.region
        near = torch.zeros_like(same)
        for i, (points, order, ids) in enumerate(zip(whole, own, places, strict=True)):
            rows = order[torch.searchsorted(ids, chosen.original[i].cpu().clamp(min=0)).clamp(max=len(ids) - 1)]
            at = points[rows].to(best.device)
            near[i] = (at[best[i]] - at).norm(dim=1) <= self.radius
        return same[chosen.valid].cpu(), near[chosen.valid].cpu()
