"""A bird's-eye-view backbone that is small enough to reason about."""

from __future__ import annotations

import torch
from torch import nn

from perception.backbones.bev_base import BEVBackbone
from perception.geometry.grid import BEVGrid
from perception.registry import BACKBONES

RANGE = (-8.0, -4.0, -3.0, 8.0, 4.0, 1.0)


@BACKBONES.register_module()
class TinyBEV(BEVBackbone):
    """Counts the points of every cell and convolves the counts."""

    def __init__(self, channels: int = 8, cell: float = 0.5) -> None:
        super().__init__(
            {"type": "DrivingPreprocess", "point_range": RANGE}, BEVGrid.from_range(RANGE, (cell, cell)), channels
        )
        self.body = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())

    def bev(self, batch):
        maps = []
        for points in batch["points"]:
            row, column, _ = self.grid.index(points)
            canvas = torch.zeros(self.grid.ny * self.grid.nx)
            maps.append(
                canvas.index_add(0, row * self.grid.nx + column, torch.ones(len(row))).view(1, *self.grid.shape)
            )
        return self.body(torch.stack(maps))


def scene_batch(counts=(2, 0, 1), seed=0):
    """Sweeps with boxes well inside the range; labels 0 and 1 alternate."""
    generator = torch.Generator().manual_seed(seed)
    boxes, points = [], []
    for count in counts:
        box = torch.rand(count, 7, generator=generator) * torch.tensor([14.0, 6.0, 1.0, 3.0, 1.0, 1.0, 6.0])
        box += torch.tensor([-7.0, -3.0, -2.0, 1.0, 0.5, 1.0, -3.0])
        boxes.append(box)
        points.append((torch.rand(200, 4, generator=generator) - 0.5) * torch.tensor([16.0, 8.0, 2.0, 1.0]))
    return {
        "points": points,
        "boxes": boxes,
        "box_label": [torch.arange(len(b)) % 2 for b in boxes],
        "velocity": [torch.full((len(b), 2), float("nan")) for b in boxes],
        "index": torch.arange(len(counts)),
        "meta": {"classes": ("car", "pedestrian")},
    }
