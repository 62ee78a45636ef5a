"""Cameras to a bird's-eye view: an image backbone, a neck, lift-splat and an encoder of the map.

"Lift, Splat, Shoot" (Philion and Fidler, 2020), "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
Representation" (Liu et al., 2023), "BEVDet" (Huang et al., 2021): they differ in sizes, neck and encoder.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.bev_base import BEVBackbone
from perception.backbones.lift_splat_presets import PRESETS
from perception.backbones.vit import pair
from perception.errors import CheckpointError, ConfigError, DataError, Fault, check_arguments, not_among
from perception.geometry.grid import BEVGrid, grid_faults
from perception.layers.bev_encoder import BEVResNet, Downsample
from perception.layers.image_fpn import MERGES, ImageFPN
from perception.layers.lift import Frustum, LiftSplatTransform
from perception.layers.splat import ROUNDINGS
from perception.losses.depth import depth_bins, depth_loss, nearest_depths
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess

ENCODERS = ("none", "downsample", "lss", "bevdet")
_DOWNSAMPLE = 2
_IMAGE = "image."
_DEFAULT = "bevfusion-camera-det"
_OWN: dict[str, Any] = {"image_backbone": {"type": "TimmModel", "name": "resnet18", "out_indices": [2, 3, 4]}}
_COMPARED = ("cell", "depth", "exact_centres", "compat")


@BACKBONES.register_module()
class LiftSplat(BEVBackbone):
    """N cameras with calibration -> one map in the (augmented) LiDAR frame.

    Arguments that are ``None`` take the values of ``preset``, a published camera branch: ``lss``, ``bevfusion-det``
    (beside a LiDAR), ``bevfusion-camera-det``, ``bevfusion-seg``, ``bevdet-tiny`` or ``bevdet-r50``. Without a preset
    the network is that of ``bevfusion-camera-det`` on a ResNet-18.

    Args:
        preset: name of a published branch.
        image_backbone: config of an image backbone whose ``forward`` gives maps, such as ``dict(type='TimmModel',
            name='resnet18', out_indices=[-2, -1])``; several maps are merged to the finest. Its ``init_from`` and
            ``pretrained`` hold here, too.
        image_size: height and width of the camera images that the record asks for.
        point_range: x, y, z of the lower corner of the grid, then of the upper one, in metres. Lifted points outside
            are dropped.
        cell: size of a cell along x and y in metres, before the encoder.
        depth: first depth, end (not reached) and step in metres.
        context_channels: width C of what a pixel puts into cells.
        z_slices: slices of the heights, which become channels.
        neck: ``'concat'`` or ``'add'``: see ``ImageFPN``.
        neck_channels: width of the neck.
        neck_kernel: kernel of the first convolution after a concatenation.
        encoder: ``'downsample'`` (BEVFusion; half as many cells along either side), ``'lss'``, ``'bevdet'`` or
            ``'none'``.
        out_channels: channels of the map; ``'none'`` has those of the splat.
        exact_centres: features stand in the middle of what they cover: see ``Frustum``.
        compat: ``'floor'``, or ``'trunc'``, the rounding that public weights were trained with.
        drop_cameras: cameras left out of every sample in training, drawn at random (LSS: 1 of 6).
        cached_rigs: geometries kept; 0 where augmentation makes each a new one.
        preprocess: Preprocess record; ``None`` has cameras alone, with the statistics of the image backbone.

    Attributes:
        settings: every argument as it counts.
    """

    def __init__(
        self,
        preset: str | None = None,
        image_backbone: dict[str, Any] | None = None,
        image_size: Sequence[int] | None = None,
        point_range: Sequence[float] | None = None,
        cell: Sequence[float] | None = None,
        depth: Sequence[float] | None = None,
        context_channels: int | None = None,
        z_slices: int | None = None,
        neck: str | None = None,
        neck_channels: int | None = None,
        neck_kernel: int | None = None,
        encoder: str | None = None,
        out_channels: int | None = None,
        exact_centres: bool | None = None,
        compat: str | None = None,
        drop_cameras: int | None = None,
        cached_rigs: int = 2,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        arguments = check_arguments("model.backbone", self.check_config, locals())
        settings = self.resolve(arguments)
        size = pair(settings["image_size"])
        image = BACKBONES.build(_sized(settings["image_backbone"], size))
        own = image.preprocess.record()
        statistics = {"mean": own.get("mean"), "std": own.get("std")}
        stride = image.strides[0]
        if size[0] % stride or size[1] % stride:
            text = f"is no multiple of {stride}, the stride of the finest map of the image backbone"
            raise ConfigError([Fault("model.backbone.image_size", size, text)])
        cells = BEVGrid.from_range(settings["point_range"], settings["cell"])
        lifted = settings["z_slices"] * settings["context_channels"]
        super().__init__(
            settings["preprocess"] or {"type": "DrivingPreprocess", "image_size": size, **statistics},
            cells.coarser(_DOWNSAMPLE) if settings["encoder"] == "downsample" else cells,
            lifted if settings["encoder"] == "none" else settings["out_channels"],
        )
        self._require_same_statistics(statistics)
        self.settings = settings
        self.image = image
        widths = map_widths(image, size)
        self.neck = ImageFPN(widths, settings["neck_channels"], settings["neck"], settings["neck_kernel"])
        first, last, step = settings["depth"]
        self.view = LiftSplatTransform(
            settings["neck_channels"],
            settings["context_channels"],
            Frustum(size, stride, (first, last, step), settings["exact_centres"]),
            cells,
            settings["z_slices"],
            settings["compat"],
            cached_rigs,
        )
        self.encoder = _encoder(settings["encoder"], lifted, settings["out_channels"])

    @classmethod
    def resolve(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments with the preset's values where ``None`` was given."""
        name = arguments.get("preset")
        values = PRESETS[name] if name else {**PRESETS[_DEFAULT], **_OWN}
        given = {key: value for key, value in arguments.items() if value is not None and key != "preset"}
        return {"preprocess": None, "cached_rigs": 2, **values, **given}

    def _require_same_statistics(self, own: Mapping[str, Any]) -> None:
        for key, value in own.items():
            used = getattr(self.preprocess, key)
            if value is not None and tuple(value) != tuple(used):
                text = f"the image backbone is made for {tuple(value)}: give it a preprocess of its own, or change this"
                raise ConfigError([Fault(f"model.backbone.preprocess.{key}", used, text)])

    def lift(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Map before the encoder (B, Nz * C, Ny, Nx) and depth distribution (B, N, D, h, w) of a preprocessed batch."""
        cams = batch.get("cams")
        if cams is None:
            raise DataError(f"LiftSplat reads 'cams', but the batch holds {sorted(batch)}")
        given = {key: batch[key] for key in ("lidar2cam", "cam2img", "img_aug")}
        if self.training and self.settings["drop_cameras"]:
            cams, given = _some_cameras(cams, given, self.settings["drop_cameras"])
        if tuple(cams.shape[-2:]) != self.view.frustum.image_size:
            expected = self.view.frustum.image_size
            raise DataError(f"camera images of {tuple(cams.shape[-2:])} pixels, but the frustum is made for {expected}")
        batch_size, count = cams.shape[:2]
        if count == 0:  # networks of images do not take none
            features = cams.new_zeros(batch_size, 0, self.view.depthnet.in_channels, *self.view.frustum.feature_size)
        else:
            pixels = cams.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            features = self.neck(self.image(pixels)).unflatten(0, (batch_size, count))
        return self.view(features, given["lidar2cam"], given["cam2img"], given["img_aug"], batch["lidar_aug"])

    def bev(self, batch: Batch) -> Tensor:
        """The map (B, C, Ny, Nx) of a preprocessed batch."""
        return self.bev_and_depth(batch)[0]

    def bev_and_depth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The map (B, C, Ny, Nx), and the distribution over depths (B, N, D, h, w) for ``depth_loss``."""
        lifted, alpha = self.lift(batch)
        return self.encoder(lifted), alpha

    def depth_fault(self) -> Fault | None:
        """See ``BEVBackbone``."""
        dropped = self.settings["drop_cameras"]
        text = "hides whose depths are told: they are taught with all cameras, drop_cameras = 0"
        return Fault("drop_cameras", dropped, text) if dropped else None

    def depth_loss(self, alpha: Tensor, batch: Batch) -> Tensor:
        """BEVDepth's loss of ``alpha`` by the points of the batch; not with ``drop_cameras``, which hides whose it is.

        Raises:
            DataError: the batch has no points, or other cameras than ``alpha``.
        """
        if batch.get("points") is None:
            raise DataError(f"depths are taught by 'points', but the batch holds {sorted(batch)}")
        if alpha.shape[:2] != batch["lidar2cam"].shape[:2]:
            raise DataError(f"{alpha.shape[1]} depth maps, but {batch['lidar2cam'].shape[1]} cameras: drop none")
        frustum = self.view.frustum
        with torch.no_grad():
            depth = nearest_depths(
                batch["points"],
                batch["lidar2cam"],
                batch["cam2img"],
                frustum.image_size,
                frustum.stride,
                batch["img_aug"],
                batch["lidar_aug"],
            )
            target = depth_bins(depth, frustum.depth)
        return depth_loss(alpha, target)

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without the weights that the image backbone starts from, which the recorded ones replace."""
        if config.get("image_backbone") is None:
            return dict(config)
        image = {key: value for key, value in config["image_backbone"].items() if key != "init_from"}
        kind: Any = BACKBONES.get(str(image.get("type")))
        return {**config, "image_backbone": kind.bare_config(image) if kind is not None else image}

    def require_compatible(self, record: Mapping[str, Any], source: str) -> None:
        """Beside the Preprocess record, compare where pixels are lifted to, which no tensor shows."""
        theirs = record.get("config")
        if theirs and theirs.get("type") == type(self).__name__:
            other = self.resolve(theirs)
            pairs = {key: (_plain(other[key]), _plain(self.settings[key])) for key in _COMPARED}
            lines = [f"  - {key}: {a!r} there, {b!r} here" for key, (a, b) in pairs.items() if a != b]
            if lines:
                text = "\n".join(lines)
                raise CheckpointError(f"{source} was trained with another geometry than this config asks for:\n{text}")
        super().require_compatible(record, source)

    def layer_count(self) -> int:
        """The groups of the image backbone, then what follows it, then the head."""
        return self.image.layer_count() + 1

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter."""
        if name.startswith(_IMAGE):
            return self.image.layer_id(name.removeprefix(_IMAGE))
        return self.image.layer_count() - 1

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        (height, width), (rows, columns) = self.view.frustum.image_size, self.view.frustum.feature_size
        return {
            "cameras": f"{height} x {width} pixels, {rows} x {columns} features, {self.view.frustum.num_depths} depths",
            "map": f"{self.bev_channels} x {self.grid.ny} x {self.grid.nx}, cells of {self.grid.cell[0]:g} m",
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        if cfg["preset"] is not None and cfg["preset"] not in PRESETS:
            yield "preset", not_among(cfg["preset"], PRESETS)
            return
        settings = cls.resolve(cfg)
        grid = list(grid_faults(settings["point_range"], settings["cell"]))
        yield from grid
        if not grid and settings["encoder"] == "downsample":
            cells = BEVGrid.from_range(settings["point_range"], settings["cell"])
            if cells.nx % _DOWNSAMPLE or cells.ny % _DOWNSAMPLE:
                yield "cell", f"{cells.ny} x {cells.nx} cells cannot be halved, as encoder = 'downsample' does"
        for key, choices in (("neck", MERGES), ("encoder", ENCODERS), ("compat", ROUNDINGS)):
            if settings[key] not in choices:
                yield key, not_among(settings[key], choices)
        for key in ("context_channels", "z_slices", "neck_channels", "out_channels", "drop_cameras", "cached_rigs"):
            least = int(not key.startswith(("drop", "cached")))
            if not isinstance(settings[key], int) or settings[key] < least:
                yield key, f"must be a whole number of at least {least}"
        depth = settings["depth"]
        if len(depth) != 3 or not (0 < depth[0] < depth[1] < math.inf and 0 < depth[2] < math.inf):  # nor NaN
            yield "depth", "needs a first depth above 0, a later end and a step above 0, in metres"
        if settings["neck_kernel"] % 2 != 1:
            yield "neck_kernel", "must be odd"
        kind: Any = BACKBONES.get(str(settings["image_backbone"].get("type")))
        if kind is None or kind.modality != "image":
            found = settings["image_backbone"].get("type")
            yield "image_backbone", f"needs the 'type' of an image backbone, not {found!r}"
        size, record = settings["image_size"], settings["preprocess"]
        values = record.record() if isinstance(record, Preprocess) else record
        if values is not None and values.get("image_size") is None:
            yield "preprocess", "is a record without cameras: it needs image_size"
        elif values is not None and pair(values["image_size"]) != pair(size):
            yield "preprocess", f"has images of {pair(values['image_size'])}, but image_size = {tuple(size)}"


def _some_cameras(cams: Tensor, given: Mapping[str, Tensor], dropped: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Without ``dropped`` random cameras of every sample, the others in their order."""
    size, count = cams.shape[:2]
    if dropped >= count:
        raise DataError(f"drop_cameras = {dropped} leaves none of the {count} cameras of a sample")
    kept = torch.rand(size, count).argsort(1)[:, dropped:].sort(1).values.to(cams.device)
    sample = torch.arange(size, device=cams.device)[:, None]
    return cams[sample, kept], {key: value[sample, kept] for key, value in given.items()}


def _sized(config: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The config of an image backbone, told the size of the images if it asks for one."""
    kind: Any = BACKBONES.get(str(config["type"]))
    wants = "image_size" in inspect.signature(kind).parameters and config.get("preprocess") is None
    return {**({"image_size": size} if wants else {}), **config}


def map_widths(image: nn.Module, size: tuple[int, int]) -> list[int]:
    """Channels of every map that an image backbone gives, found without computing anything."""
    shadow = deepcopy(image).to("meta").eval()
    with torch.no_grad():
        return [found.shape[1] for found in shadow(torch.zeros(1, 3, *size, device="meta"))]


def _encoder(name: str, in_channels: int, out_channels: int) -> nn.Module:
    if name == "none":
        return nn.Identity()
    if name == "downsample":
        return Downsample(in_channels, out_channels, _DOWNSAMPLE)
    if name == "lss":
        return BEVResNet(in_channels, (64, 128, 256), 256, out_channels)
    widths = (2 * in_channels, 4 * in_channels, 8 * in_channels)
    return BEVResNet(in_channels, widths, 2 * out_channels, out_channels, stem=False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
