"""What LiDAR encoders share: settings by the name of a published one, grouping of points, 2-D network and neck."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception.backbones.bev_base import BEVBackbone, points_of
from perception.errors import CheckpointError, not_among
from perception.geometry.grid import BEVGrid, grid_faults
from perception.layers.bev_conv import BEVNeck, BEVStages, out_stride, stage_faults
from perception.layers.voxels import Voxels, dynamic_voxels, hard_voxels
from perception.transforms.driving_preprocess import POINT_COLUMNS
from perception.transforms.preprocess import Batch, Preprocess

VOXELISATIONS = ("dynamic", "hard")
WORTH_A_WARNING = 0.01  # share of voxels that max_voxels leaves out
# Detectors of one sensor name their parts without the prefix that those of several have.
_PARTS = ("voxel_encoder.", "middle_encoder.", "backbone.", "neck.")


class LidarBackbone(BEVBackbone):
    """Base of ``PillarNet`` and ``VoxelNet``: points -> voxels -> map -> stages -> neck.

    A subclass fills ``pts_voxel_encoder`` and so on in ``__init__`` and gives the map in ``canvas``.

    Attributes:
        settings: every argument as it counts, after the preset's values took the place of ``None``.
        presets: settings by name; ``default_preset`` is one of them, with ``own_defaults`` in place of some.
        compared: settings that weights depend on and no tensor's shape shows.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    default_preset: ClassVar[str]
    own_defaults: ClassVar[Mapping[str, Any]] = {"voxelisation": "dynamic", "include_padding": False}
    compared: ClassVar[tuple[str, ...]] = ("cell",)

    def __init__(self, arguments: Mapping[str, Any], canvas_channels: int, canvas_stride: int = 1) -> None:
        settings = self.resolve(arguments)
        record = settings["preprocess"]
        grid = BEVGrid.from_range(_range_of(record), settings["cell"])
        stride = canvas_stride * (out_stride(settings["strides"], settings["scales"]) or 1)
        super().__init__(record, grid.coarser(stride), sum(settings["neck_channels"]))
        self.settings = settings
        self.canvas_grid = grid
        self.strides = (stride,)
        self.pts_backbone = BEVStages(canvas_channels, settings["layers"], settings["strides"], settings["channels"])
        self.pts_neck = BEVNeck(
            settings["channels"], settings["scales"], settings["neck_channels"], settings["conv_for_one"]
        )
        self._seen = torch.zeros(4, dtype=torch.int64)  # on the host: of voxels and points, all and left out
        self._warned = False

    @classmethod
    def resolve(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments with the preset's values where ``None`` was given, and the Preprocess record they imply."""
        name = arguments.get("preset")
        published = dict(cls.presets[name or cls.default_preset])
        values = published if name else {**published, **cls.own_defaults}
        found = {**values, **{k: v for k, v in arguments.items() if v is not None and k != "preset"}}
        if found.get("preprocess") is None:
            found["preprocess"] = {
                "type": "DrivingPreprocess",
                "point_range": found["point_range"],
                "point_features": found["point_features"],
            }
        return {k: v for k, v in found.items() if k not in ("point_range", "point_features")}

    @abstractmethod
    def canvas(self, voxels: Voxels) -> Tensor:
        """The map (B, C, Ny, Nx) of encoded voxels that the 2-D network gets."""

    @property
    @abstractmethod
    def voxel_layers(self) -> int:
        """Cells along z; 1 makes pillars."""

    def bev(self, batch: Batch) -> Tensor:
        """The map (B, C, Ny, Nx) of the ``points`` of a preprocessed batch or view, on ``grid``."""
        voxels = self.voxelise(points_of(batch, type(self).__name__))
        return self.pts_neck(self.pts_backbone(self.canvas(voxels)))

    def voxelise(self, points: list[Tensor]) -> Voxels:
        """Group points as the settings say; what limits leave out is counted for ``log_values``.

        The first time that more than 1 % of the voxels of a batch are left out, a warning says so.
        """
        if self.settings["voxelisation"] == "dynamic":
            return dynamic_voxels(points, self.canvas_grid, self.voxel_layers)
        limit = self.settings["max_voxels"][0 if self.training else 1]
        voxels = hard_voxels(points, self.canvas_grid, self.settings["max_points"], limit, self.voxel_layers)
        every = len(voxels) + voxels.capped_voxels
        counts = (every, voxels.capped_voxels, len(voxels.points) + voxels.capped_points, voxels.capped_points)
        self._seen += torch.tensor(counts)
        if voxels.capped_voxels > WORTH_A_WARNING * every and not self._warned:
            self._warned = True
            warnings.warn(
                f"max_voxels = {limit} leaves out {voxels.capped_voxels / every:.1%} of the voxels of a batch, those "
                "whose first point comes late; raise it, or take voxelisation='dynamic'",
                stacklevel=2,
            )
        return voxels

    def log_values(self) -> dict[str, Tensor]:
        """Shares of voxels and points that limits left out since this was last asked; nothing for dynamic grouping."""
        voxels, capped_voxels, points, capped_points = self._seen.tolist()
        self._seen.zero_()
        if not voxels:
            return {}
        return {
            "dropped_voxels": torch.tensor(capped_voxels / voxels),
            "dropped_points": torch.tensor(capped_points / points),
        }

    # Weights.

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """mmdetection3d's names and layouts.

        Detectors of several sensors have our names; those of LiDAR alone lack the prefix ``pts_`` and get it. Sparse
        weights of spconv 2, (outputs, kz, ky, kx, inputs), are turned into spconv 1's and ours. Heads stay as they
        are: ``tools/convert_weights.py`` leaves out and lists them.
        """
        own = self.state_dict()
        out = {}
        for key, value in state.items():
            named = f"pts_{key}" if key not in own and key.startswith(_PARTS) else key
            if value.ndim == 5 and named in own and value.shape != own[named].shape:
                value = value.permute(1, 2, 3, 4, 0).contiguous()
            out[named] = value
        return out

    def require_compatible(self, record: Mapping[str, Any], source: str) -> None:
        """Beside the Preprocess record, compare what no tensor shows, such as the size of cells."""
        theirs = record.get("config")
        if theirs and theirs.get("type") == type(self).__name__:
            other = self.resolve({**theirs, "preprocess": self.preprocess})
            pairs = {key: (_plain(other.get(key)), _plain(self.settings.get(key))) for key in self.compared}
            lines = [
                f"  - {key}: {there!r} there, {here!r} here" for key, (there, here) in pairs.items() if there != here
            ]
            if lines:
                text = "\n".join(lines)
                raise CheckpointError(f"{source} was trained with other voxels than this config asks for:\n{text}")
        super().require_compatible(record, source)

    # Layer decay.

    def layer_count(self) -> int:
        """The encoder of voxels, the stages, the neck, the head."""
        return len(self.settings["strides"]) + 3

    def layer_id(self, name: str) -> int:
        """0 for the encoder of voxels, k + 1 for stage k, one more for the neck."""
        parts = name.split(".")
        if parts[0] == "pts_backbone":
            return int(parts[2]) + 1
        return self.layer_count() - 2 if parts[0] == "pts_neck" else 0

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        rows, columns = self.grid.shape
        canvas = " x ".join(str(n) for n in self.canvas_grid.shape)
        return {
            "voxels": f"{self.settings['voxelisation']}, {canvas} cells",
            "map": f"{self.bev_channels} x {rows} x {columns}, cells of {self.grid.cell[0]:g} m",
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        if cfg["preset"] is not None and cfg["preset"] not in cls.presets:
            yield "preset", not_among(cfg["preset"], cls.presets)
            return
        settings = cls.resolve(cfg)
        if settings["voxelisation"] not in VOXELISATIONS:
            yield "voxelisation", not_among(settings["voxelisation"], VOXELISATIONS)
        if not isinstance(settings["max_points"], int) or settings["max_points"] < 1:
            yield "max_points", "must be a whole number of at least 1"
        limits = settings["max_voxels"]
        if isinstance(limits, int) or len(limits) != 2 or min(limits) < 1:
            yield "max_voxels", "must be two whole numbers of at least 1: in training, and otherwise"
        point_range, cell = _range_of(settings["preprocess"]), settings["cell"]
        if point_range is None:
            yield "preprocess", "needs a point_range: this backbone reads points"
            return
        faults = [(k if k == "cell" else "preprocess", text) for k, text in grid_faults(point_range, cell)]
        yield from faults
        if not faults:
            yield from cls.check_shape(settings, BEVGrid.from_range(point_range, cell).shape)

    @classmethod
    def check_shape(cls, settings: Mapping[str, Any], shape: tuple[int, int]) -> Iterable[tuple[str, str]]:
        """Faults of stages and neck on a canvas of ``shape`` (Ny, Nx)."""
        keys = ("layers", "strides", "channels", "scales", "neck_channels")
        return stage_faults(shape, *(settings[key] for key in keys))


def columns_of(record: Preprocess | Mapping[str, Any]) -> int:
    """Columns of the points that a Preprocess record gives."""
    values = record.record() if isinstance(record, Preprocess) else record
    return len(values.get("point_features", POINT_COLUMNS[:4]))


def _range_of(record: Preprocess | Mapping[str, Any]) -> Any:
    values = record.record() if isinstance(record, Preprocess) else record
    return values.get("point_range")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
