"""Places in a scene and what stands there: labels for probes of bird's-eye-view maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from perception.errors import DataError, check_arguments
from perception.geometry.boxes import points_in_boxes
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


@TRANSFORMS.register_module()
class QueryBoxes(Transform):
    """Adds ``query``, a list of (Q, 3) places, and ``label`` (sum of Q,): the class of the box at each.

    The places are the centres of the boxes and, as a last class, points of the sweep that lie in no box. A driving
    backbone gives its map's vectors at the places, so every protocol that judges features can ask what stands where.

    Args:
        background: points beside boxes that are drawn from a sweep.
        margin: metres that they keep from every box.
        min_height: least height of such a point above the lowest one per cent of the sweep, in metres: what rises from
            the ground is harder to tell from a box than the ground.
        extent: only places with |x| and |y| below it, in metres; ``None`` takes all.
    """

    deterministic = True  # evaluation data may have it: the same places every time

    def __init__(
        self, background: int = 8, margin: float = 1.0, min_height: float = 0.0, extent: float | None = None
    ) -> None:
        check_arguments("transforms.QueryBoxes", self.check_config, locals())
        self.background, self.margin, self.min_height, self.extent = background, margin, min_height, extent

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch with ``points``, ``boxes`` and ``box_label`` -> the same with ``query`` and ``label``.

        Raises:
            DataError: one of the three is missing.
        """
        missing = [key for key in ("points", "boxes", "box_label") if key not in batch]
        if missing:
            raise DataError(f"QueryBoxes needs {' and '.join(missing)} in the batch, which holds {sorted(batch)}")
        nothing = len((batch.get("meta") or {}).get("classes", ()))
        queries, labels = [], []
        for i, (points, boxes, label) in enumerate(
            zip(batch["points"], batch["boxes"], batch["box_label"], strict=True)
        ):
            near = self._near(boxes)
            beside = self._beside(points, boxes, random.generator(i))
            queries.append(torch.cat([boxes[near, :3], points[beside, :3]]))
            labels.append(torch.cat([label[near], torch.full((len(beside),), nothing)]))
        return {**batch, "query": queries, "label": torch.cat(labels)}

    def _near(self, places: torch.Tensor) -> torch.Tensor:
        if self.extent is None:
            return torch.ones(len(places), dtype=torch.bool)
        return (places[:, :2].abs() < self.extent).all(dim=1)

    def _beside(self, points: torch.Tensor, boxes: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Rows of points in no box."""
        free = self._near(points)
        if len(points) and self.min_height > 0:
            free &= points[:, 2] >= np.quantile(points[:, 2].numpy(), 0.01) + self.min_height
        if len(boxes):
            wide = boxes.clone()
            wide[:, 3:6] += 2 * self.margin
            free &= ~points_in_boxes(points, wide).any(dim=1)
        rows = free.nonzero().squeeze(1)
        chosen = generator.permutation(len(rows))[: self.background]
        return rows[torch.from_numpy(np.sort(chosen))]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        for key in ("background", "margin", "min_height"):
            if cfg[key] < 0:
                yield key, "must not be negative"
        if cfg["extent"] is not None and not cfg["extent"] > 0:
            yield "extent", "must be positive"
