"""The centre-heatmap detection head ("Center-based 3D Object Detection and Tracking", Yin et al., CVPR 2021).

Classes that look alike share a group; every group has its own small branches on a shared map. Module names follow
mmdetection3d (``shared_conv``, ``task_heads.<group>.<branch>.<layer>``), and sizes are in the order l, w, h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.errors import ConfigError
from perception.geometry.grid import BEVGrid
from perception.geometry.nms import circle_nms, rotated_nms
from perception.losses.centre_heatmap import (
    CentreTargets,
    box_l1_loss,
    centre_targets,
    decode_boxes,
    heatmap_focal_loss,
)

NMS = ("circle", "rotated", "none")
_BRANCHES = (("reg", 2), ("height", 1), ("dim", 3), ("rot", 2))
_PRIOR = -2.19  # of the heatmap: a probability of 0.1


@dataclass(frozen=True)
class Preset:
    """What heads of a data set share.

    Attributes:
        groups: classes that share branches; a class that is in none has a group of its own.
        radii: metres of circle NMS for the groups, in their order; other groups take the first.
        velocity: whether the head tells velocities.
        nms: one of ``NMS``.
        limit: centres farther than this from the sensor along x or y are dropped, in metres.
    """

    groups: tuple[tuple[str, ...], ...]
    radii: tuple[float, ...]
    velocity: bool
    nms: str
    limit: float


PRESETS = {
    # The public code compares 4, 12, 10, 1, 0.85 and 0.175 with squared distances.
    "nuscenes": Preset(
        groups=(
            ("car",),
            ("truck", "construction_vehicle"),
            ("bus", "trailer"),
            ("barrier",),
            ("motorcycle", "bicycle"),
            ("pedestrian", "traffic_cone"),
        ),
        radii=tuple(math.sqrt(square) for square in (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)),
        velocity=True,
        nms="circle",
        limit=61.2,
    ),
    "kitti": Preset(
        groups=(("Car", "Van", "Truck"), ("Pedestrian", "Person_sitting", "Cyclist")),
        radii=(2.0, 0.4),
        velocity=False,
        nms="rotated",
        limit=math.inf,
    ),
}


@dataclass(frozen=True)
class Detections:
    """Boxes found in one sample, best first: (n, 7), scores (n,), labels (n,) int64 and velocities (n, 2) or None."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    velocity: Tensor | None


def group_classes(classes: Sequence[str], groups: Sequence[Sequence[str]]) -> list[list[int]]:
    """Labels of each group that has any of ``classes``, in the order of ``groups``; then one group for each class left.

    Raises:
        ConfigError: a class stands in two groups.
    """
    place = {name: number for number, name in enumerate(classes)}
    named = [name for group in groups for name in group if name in place]
    if len(set(named)) < len(named):
        twice = sorted({name for name in named if named.count(name) > 1})
        raise ConfigError(f"classes that are in two groups: {', '.join(twice)}")
    found = [[place[name] for name in group if name in place] for group in groups]
    alone = [[number] for name, number in place.items() if name not in named]
    return [group for group in found if group] + alone


class ConvNormAct(nn.Module):
    """3 x 3 convolution, batch norm, ReLU; ``conv`` and ``bn`` as mmcv names them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Ny, Nx) -> (B, outputs, Ny, Nx)."""
        return functional.relu(self.bn(self.conv(x)))


class CentreHead(nn.Module):
    """Shared convolution, then for every group of classes a branch each for heatmap, place, height, size and heading.

    Args:
        in_channels: channels of the map.
        grid: where its cells lie.
        classes: names by label.
        groups: labels of every group, such as ``group_classes`` gives.
        velocity: also a branch for the velocity.
        width: channels of the shared convolution and inside the branches.
    """

    def __init__(
        self,
        in_channels: int,
        grid: BEVGrid,
        classes: Sequence[str],
        groups: Sequence[Sequence[int]],
        velocity: bool = True,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.classes = tuple(classes)
        self.groups = [list(group) for group in groups]
        self.branches = (*_BRANCHES, ("vel", 2)) if velocity else _BRANCHES
        self.shared_conv = ConvNormAct(in_channels, width)
        self.task_heads = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: nn.Sequential(ConvNormAct(width, width), nn.Conv2d(width, channels, 3, padding=1))
                    for name, channels in (*self.branches, ("heatmap", len(group)))
                }
            )
            for group in self.groups
        )
        for head in self.task_heads:
            nn.init.constant_(head["heatmap"][-1].bias, _PRIOR)  # type: ignore[index]

    @property
    def names(self) -> list[str]:
        """Names of the groups in the log: their first classes."""
        return [self.classes[group[0]] for group in self.groups]

    def forward(self, bev: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, C, Ny, Nx) -> for every group the heatmap's logits (B, K, Ny, Nx) and the codes (B, 8 or 10, Ny, Nx)."""
        shared = self.shared_conv(bev)
        return [
            (head["heatmap"](shared), torch.cat([head[name](shared) for name, _ in self.branches], 1))  # type: ignore[index]
            for head in self.task_heads
        ]

    def targets(
        self,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        velocity: Sequence[Tensor] | None = None,
        **options: Any,
    ) -> list[CentreTargets]:
        """Targets of every group; ``options`` are those of ``centre_targets``. Unknown velocities are NaN."""
        speed = None
        if len(self.branches) > len(_BRANCHES):
            speed = [b.new_full((len(b), 2), math.nan) for b in boxes] if velocity is None else velocity
        found = []
        for group in self.groups:
            # The last entry is for label -1, no class.
            own = torch.full((len(self.classes) + 1,), -1, device=labels[0].device)
            own[torch.tensor(group, device=own.device)] = torch.arange(len(group), device=own.device)
            inside = [own[label.clamp_min(-1)] for label in labels]
            found.append(centre_targets(boxes, inside, self.grid, len(group), speed, **options))
        return found

    def loss(
        self, outputs: Sequence[tuple[Tensor, Tensor]], targets: Sequence[CentreTargets], box_weight: float = 0.25
    ) -> dict[str, Tensor]:
        """``loss_heatmap_<group>`` and ``loss_box_<group>`` of every group."""
        losses = {}
        for name, (heatmap, codes), target in zip(self.names, outputs, targets, strict=True):
            losses[f"loss_heatmap_{name}"] = heatmap_focal_loss(heatmap, target.heatmap)
            read = codes[target.sample, :, target.row, target.column]
            losses[f"loss_box_{name}"] = box_weight * box_l1_loss(read, target.code)
        return losses

    def decode(
        self,
        outputs: Sequence[tuple[Tensor, Tensor]],
        nms: str,
        radii: Sequence[float],
        iou: float = 0.2,
        score: float = 0.1,
        peak: int = 3,
        top: int = 500,
        keep: int = 83,
        limit: float = math.inf,
    ) -> list[Detections]:
        """Boxes of every sample.

        Args:
            outputs: what ``forward`` gave.
            nms: one of ``NMS``, within the groups: their classes suppress each other.
            radii: metres of circle NMS, one a group.
            iou: of rotated NMS.
            score: lowest score of a box.
            peak: a cell must be the highest of its class in a square of so many cells; 1 takes all cells.
            top: best cells of a group that are looked at.
            keep: most boxes of a group and sample.
            limit: see ``Preset``.
        """
        count = len(outputs[0][0])
        found: list[list[Detections]] = [[] for _ in range(count)]
        for place, (logits, codes) in enumerate(outputs):
            heatmap = logits.float().sigmoid()
            if peak > 1:
                highest = functional.max_pool2d(heatmap, peak, stride=1, padding=peak // 2)
                heatmap = torch.where(heatmap == highest, heatmap, heatmap.new_zeros(()))
            _, kinds, rows, columns = heatmap.shape
            best, where = heatmap.flatten(1).topk(min(top, kinds * rows * columns))
            cell = where % (rows * columns)
            code = codes.float().flatten(2).gather(2, cell[:, None].expand(-1, codes.shape[1], -1)).transpose(1, 2)
            boxes, velocity = decode_boxes(code, cell // columns, cell % columns, self.grid)
            label = torch.tensor(self.groups[place], device=where.device)[where // (rows * columns)]
            good = (best >= score) & boxes.isfinite().all(-1) & (boxes[..., :2].abs() <= limit).all(-1)
            for sample in range(count):
                chosen = good[sample].nonzero().flatten()
                order = _suppress(nms, boxes[sample, chosen], best[sample, chosen], radii[place], iou, keep)
                chosen = chosen[order]
                speed = None if velocity is None else velocity[sample, chosen]
                found[sample].append(
                    Detections(boxes[sample, chosen], best[sample, chosen], label[sample, chosen], speed)
                )
        return [_joined(parts) for parts in found]


def _suppress(nms: str, boxes: Tensor, scores: Tensor, radius: float, iou: float, keep: int) -> Tensor:
    if nms == "circle":
        return circle_nms(boxes, scores, radius, after=keep)
    if nms == "rotated":
        return rotated_nms(boxes, scores, iou, after=keep)
    return scores.argsort(descending=True, stable=True)[:keep]


def _joined(parts: Sequence[Detections]) -> Detections:
    """Detections of all groups, best first; of equal scores those of the earlier group."""
    scores = torch.cat([part.scores for part in parts])
    order = scores.argsort(descending=True, stable=True)
    speeds = [part.velocity for part in parts if part.velocity is not None]
    return Detections(
        torch.cat([part.boxes for part in parts])[order],
        scores[order],
        torch.cat([part.labels for part in parts])[order],
        torch.cat(speeds)[order] if speeds else None,
    )
