"""Maps of where boxes stand: what stands in for map layers, and the vehicle map of camera models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from perception.errors import DataError, check_arguments
from perception.geometry.grid import BEVGrid, grid_faults
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

_CHUNK = 8_000_000


def box_masks(boxes: Tensor, labels: Tensor, classes: int, grid: BEVGrid) -> Tensor:
    """Cells whose centre lies in a box, by class.

    Args:
        boxes: (M, 7), in the frame of the grid.
        labels: (M,) int64; boxes of other labels than 0..classes - 1 are not drawn.
        classes: number of classes K.
        grid: cells.

    Returns:
        (K, Ny, Nx) bool.
    """
    centres = grid.centres(boxes.device).view(-1, 2).double()
    masks = torch.zeros(classes, len(centres), dtype=torch.bool, device=boxes.device)
    chosen = (labels >= 0) & (labels < classes)
    step = max(_CHUNK // len(centres), 1)
    for part, kind in zip(boxes[chosen].split(step), labels[chosen].split(step), strict=True):
        b = part.double()
        x, y = (centres[:, axis] - b[:, axis, None] for axis in range(2))
        cos, sin = b[:, 6, None].cos(), b[:, 6, None].sin()
        inside = ((x * cos + y * sin).abs() <= b[:, 3, None] / 2) & ((y * cos - x * sin).abs() <= b[:, 4, None] / 2)
        masks |= functional.one_hot(kind, classes).T.float() @ inside.float() > 0
    return masks.view(classes, *grid.shape)


@TRANSFORMS.register_module()
class DrawBoxMasks(Transform):
    """Draws the boxes of every sample into ``bev_mask`` (B, K, Ny, Nx) bool.

    It belongs after the augmentation: masks lie in the frame of the points that the backbone sees, turned with them.

    Args:
        layers: labels of the boxes that make up each of the K layers.
        point_range: (x_min, y_min, z_min, x_max, y_max, z_max) of the map in metres.
        cell: size of its cells in metres.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[int]],
        point_range: Sequence[float] = (-50.0, -50.0, -5.0, 50.0, 50.0, 3.0),
        cell: Sequence[float] = (0.5, 0.5),
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.layers = [list(layer) for layer in layers]
        self.grid = BEVGrid.from_range(point_range, cell)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not cfg["layers"] or not all(len(layer) for layer in cfg["layers"]):
            yield "layers", "needs at least one layer, each of at least one label"
        elif any(label < 0 for layer in cfg["layers"] for label in layer):
            yield "layers", "labels are at least 0"
        yield from grid_faults(cfg["point_range"], cfg["cell"])

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch.

        Raises:
            DataError: the batch has no boxes.
        """
        if batch.get("boxes") is None:
            raise DataError(f"DrawBoxMasks needs 'boxes' in the batch, which holds {sorted(batch)}")
        count = max(label for layer in self.layers for label in layer) + 1
        drawn = [
            box_masks(boxes, label, count, self.grid)
            for boxes, label in zip(batch["boxes"], batch["box_label"], strict=True)
        ]
        return {**batch, "bev_mask": torch.stack([torch.stack([d[x].any(0) for x in self.layers]) for d in drawn])}
