"""Map segmentation on the bird's-eye-view map of any driving backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.bev_base import BEVBackbone
from perception.errors import ConfigError, DataError, Fault, check_arguments
from perception.geometry.grid import BEVGrid, grid_faults, sample_bev
from perception.losses.map_focal import map_focal_loss
from perception.registry import MODELS
from perception.tasks.base import BatchPreprocessor
from perception.tasks.bev_task import BEVTask, task_faults
from perception.tasks.centre_head import ConvNormAct
from perception.transforms.preprocess import Batch, Preprocess

NUSCENES_LAYERS = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider")


class MapHead(nn.Module):
    """Reads the map at the cells of another grid, then two convolutions and one output for every class.

    As in "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation" (Liu et al., ICRA
    2023).

    Args:
        in_channels: channels of the map.
        source: where its cells lie.
        target: where those of the outcome lie, within ``source``.
        classes: number of classes K.
        width: channels of the convolutions; None for those of the map.
    """

    def __init__(
        self, in_channels: int, source: BEVGrid, target: BEVGrid, classes: int, width: int | None = None
    ) -> None:
        super().__init__()
        width = in_channels if width is None else width
        self.source, self.target = source, target
        self.classifier = nn.Sequential(
            ConvNormAct(in_channels, width), ConvNormAct(width, width), nn.Conv2d(width, classes, 1)
        )

    def forward(self, bev: Tensor) -> Tensor:
        """(B, C, Ny, Nx) on ``source`` -> logits (B, K, *target.shape)."""
        return self.classifier(resample(bev, self.source, self.target))


def resample(bev: Tensor, source: BEVGrid, target: BEVGrid) -> Tensor:
    """Maps (B, C, Ny, Nx) on ``source`` read bilinearly at the centres of the cells of ``target``."""
    if source.shape == target.shape and source.point_range == target.point_range:
        return bev
    centres = target.centres(bev.device).view(1, -1, 2).expand(len(bev), -1, -1)
    read = sample_bev(bev, centres, source)
    assert isinstance(read, Tensor)
    return read.transpose(1, 2).reshape(len(bev), bev.shape[1], *target.shape).to(bev.dtype)


@MODELS.register_module()
class BEVSegmenter(BEVTask):
    """A backbone and a map head; every class is a yes or no in every cell.

    A batch carries ``bev_mask`` (B, K, Ny, Nx) on the grid of the outcome, drawn in the frame of its points: bool, or
    numbers that are negative where nobody knows.

    Args:
        backbone: config or instance of a ``BEVBackbone``; ``init_from`` in its config starts from a pre-training run.
        classes: names of the K layers.
        point_range: (x_min, y_min, z_min, x_max, y_max, z_max) of the outcome in metres, within the backbone's.
        cell: size of its cells in metres.
        width: channels of the head; None for those of the backbone's map.
        gamma: of the focal loss.
        frozen: keep the backbone in eval mode and without gradients, whatever ``.train()`` is told.
    """

    def __init__(
        self,
        backbone: BEVBackbone | dict[str, Any],
        classes: Sequence[str] = NUSCENES_LAYERS,
        point_range: Sequence[float] = (-50.0, -50.0, -5.0, 50.0, 50.0, 3.0),
        cell: Sequence[float] = (0.5, 0.5),
        width: int | None = None,
        gamma: float = 2.0,
        frozen: bool = False,
    ) -> None:
        check_arguments("model", self.check_config, locals())
        super().__init__(backbone, frozen)
        self.classes = tuple(classes)
        self.gamma = gamma
        source, target = self.backbone.grid, BEVGrid.from_range(point_range, cell)
        if any(a[0] > b[0] + 1e-6 or a[1] < b[1] - 1e-6 for a, b in ((source.x, target.x), (source.y, target.y))):
            text = f"reaches beyond the backbone's map of x {source.x} and y {source.y}"
            raise ConfigError([Fault("model.point_range", tuple(point_range), text)])
        self.data_preprocessor = MaskCheck(self.backbone.preprocess, self.classes, target)
        self.map_head = MapHead(self.backbone.bev_channels, source, target, len(self.classes), width)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        yield from task_faults(cfg)
        names = list(cfg["classes"])
        if not names or len(set(names)) < len(names):
            yield "classes", "needs names, each once"
        yield from grid_faults(cfg["point_range"], cfg["cell"])
        if cfg["width"] is not None and cfg["width"] < 1:
            yield "width", "must be at least 1"
        if cfg["gamma"] < 0:
            yield "gamma", "must not be negative"

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Any]:  # type: ignore[override]
        """Losses, or probabilities, of a preprocessed batch.

        Returns:
            ``mode='loss'``: ``loss_<class>`` of every class. ``mode='predict'``: ``map_scores`` (B, K, Ny, Nx) in
            [0, 1] and ``index`` (B,).
        """
        logits = self.map_head(self.bev(batch))
        if mode == "loss":
            each = map_focal_loss(logits, batch["bev_mask"], self.gamma)
            return {f"loss_{name}": value for name, value in zip(self.classes, each, strict=True)}
        found = {"map_scores": logits.float().sigmoid()}
        if "index" in batch:
            found["index"] = batch["index"]
        return found


class MaskCheck(BatchPreprocessor):
    """Preprocesses a batch after a look at its masks: their classes, their size, and the frame they are drawn in."""

    def __init__(self, preprocess: Preprocess, classes: tuple[str, ...], grid: BEVGrid) -> None:
        super().__init__(preprocess)
        self.classes, self.grid = classes, grid

    def forward(self, data: Batch, training: bool = False) -> tuple[Batch]:  # type: ignore[override]
        """Preprocessed batch on the device, as a one-tuple."""
        masks = data.get("bev_mask")
        if masks is None and training:
            raise DataError(f"map segmentation trains on 'bev_mask', but the batch holds only {sorted(data)}")
        if masks is not None:
            self._check(masks, data)
        return super().forward(data, training)

    def _check(self, masks: Tensor, data: Batch) -> None:
        if not isinstance(masks, Tensor) or masks.ndim != 4:
            kind = f"of shape {tuple(masks.shape)}" if isinstance(masks, Tensor) else type(masks).__name__
            raise DataError(f"'bev_mask' must be a tensor (B, K, Ny, Nx), not {kind}")
        sensor = data.get("points") if data.get("points") is not None else data.get("cams")
        if sensor is not None and len(sensor) != len(masks):
            raise DataError(f"'bev_mask' has {len(masks)} maps, but the batch {len(sensor)} samples")
        if masks.dtype != torch.bool and not bool(((masks <= 0) | (masks == 1)).all()):  # NaN is neither
            raise DataError("'bev_mask' must be 0 or 1 in every cell, or negative where nobody knows; it holds others")
        meta = data.get("meta") or {}
        names = meta.get("map_classes")
        if names is not None and tuple(names) != self.classes:
            raise DataError(f"the map's layers are {', '.join(names)}, but model.classes {', '.join(self.classes)}")
        shape = (len(self.classes), *self.grid.shape)
        if tuple(masks.shape[1:]) != shape:
            raise DataError(
                f"masks of {tuple(masks.shape[1:])} (classes, rows, columns), but the model tells {shape}: "
                "draw them on model.point_range with model.cell"
            )
        extent = meta.get("map_range")  # of a map in the frame of the sensor
        if extent is None:
            return
        own = self.grid.point_range
        if max(abs(extent[i] - own[i]) for i in (0, 1, 3, 4)) > 1e-6:
            raise DataError(
                f"the map lies on x {extent[0]:g} to {extent[3]:g} and y {extent[1]:g} to {extent[4]:g}, the model's "
                f"on {own[0]:g} to {own[3]:g} and {own[1]:g} to {own[4]:g}: WarpMasks cuts it"
            )
        moved = data.get("lidar_aug")
        if moved is not None and (moved - torch.eye(4, dtype=moved.dtype, device=moved.device)).abs().max() > 1e-6:
            raise DataError(
                "the points were moved by lidar_aug and the map was not: put WarpMasks behind what moves them"
            )
