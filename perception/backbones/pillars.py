"""Pillars: "PointPillars: Fast Encoders for Object Detection from Point Clouds", Lang et al., 2019."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from perception.backbones.lidar_base import LidarBackbone, columns_of
from perception.errors import check_arguments
from perception.layers.pillar_features import PillarFeatureNet, scatter_to_map
from perception.layers.voxels import Voxels
from perception.registry import BACKBONES
from perception.transforms.driving_preprocess import POINT_COLUMNS
from perception.transforms.preprocess import Preprocess

_NUSCENES = {
    "point_range": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    "point_features": POINT_COLUMNS,
    "cell": (0.2, 0.2),
    "max_points": 20,
    "max_voxels": (30_000, 40_000),
    "strides": (2, 2, 2),
    "scales": (0.5, 1, 2),
    "conv_for_one": True,
}
_COMMON = {
    "voxelisation": "hard",
    "include_padding": True,
    "legacy": False,
    "with_distance": False,
    "pillar_channels": (64,),
    "layers": (3, 5, 5),
    "channels": (64, 128, 256),
    "neck_channels": (128, 128, 128),
    "conv_for_one": False,
}


@BACKBONES.register_module()
class PillarNet(LidarBackbone):
    """Pillar feature net, scatter, 2-D network and neck.

    Arguments that are ``None`` take the values of ``preset``, a published network: ``kitti`` (PointPillars of
    mmdetection3d), ``nuscenes`` (pillars of CenterPoint), ``bevfusion`` and ``waymo`` (ProposalContrast). These group
    points as their checkpoints need it. Without a preset the network is that of ``nuscenes`` on dynamic pillars, which
    is what new weights should be trained with: faster, and the order of points does not matter.

    Public weights: names are mmdetection3d's, so a checkpoint of CenterPoint loads by its keys, and one of PointPillars
    after ``adapt_state`` has put ``pts_`` before them; ``tools/convert_weights.py FILE CONFIG`` makes an export of it
    and lists what is left out. Set ``preset``, or ``legacy`` and ``include_padding``, as the weights need: no tensor's
    shape shows them.

    Args:
        preset: name of a published network.
        cell: (x, y) size of a pillar in metres.
        voxelisation: ``dynamic`` or ``hard``; see ``perception.layers.voxels``.
        max_points: points T of a pillar in hard grouping.
        max_voxels: pillars of a sweep in hard grouping, in training and otherwise.
        include_padding: pad pillars to T points and let the zero rows take part; needs hard grouping.
        legacy: offsets to the pillar's centre take the place of x, y, z.
        with_distance: decorate points with their distance, too.
        pillar_channels: widths of the pillar feature net.
        layers: convolutions of every stage after its first.
        strides: of every stage.
        channels: of every stage.
        scales: of every stage's map in the neck: 2 doubles its sides, 0.5 halves them.
        neck_channels: of every stage behind the neck; the map has their sum.
        conv_for_one: a convolution where a scale is 1, instead of a transposed one.
        preprocess: Preprocess record; ``None`` has the preset's range and columns.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "kitti": {
            **_COMMON,
            "point_range": (0.0, -39.68, -3.0, 69.12, 39.68, 1.0),
            "point_features": POINT_COLUMNS[:4],
            "cell": (0.16, 0.16),
            "max_points": 32,
            "max_voxels": (16_000, 40_000),
            "legacy": True,
            "strides": (2, 2, 2),
            "scales": (1, 2, 4),
        },
        "nuscenes": {**_COMMON, **_NUSCENES},
        "bevfusion": {**_COMMON, **_NUSCENES, "max_voxels": (30_000, 60_000), "pillar_channels": (64, 64)},
        "waymo": {
            **_COMMON,
            "point_range": (-74.88, -74.88, -2.0, 74.88, 74.88, 4.0),
            "point_features": POINT_COLUMNS,
            "cell": (0.32, 0.32),
            "max_points": 20,
            "max_voxels": (32_000, 32_000),
            "pillar_channels": (64, 64),
            "strides": (1, 2, 2),
            "scales": (1, 2, 4),
        },
    }
    default_preset: ClassVar[str] = "nuscenes"
    compared: ClassVar[tuple[str, ...]] = ("cell", "legacy", "include_padding")
    voxel_layers = 1  # type: ignore[assignment]

    def __init__(
        self,
        preset: str | None = None,
        cell: Sequence[float] | None = None,
        voxelisation: str | None = None,
        max_points: int | None = None,
        max_voxels: Sequence[int] | None = None,
        include_padding: bool | None = None,
        legacy: bool | None = None,
        with_distance: bool | None = None,
        pillar_channels: Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        channels: Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
        neck_channels: Sequence[int] | None = None,
        conv_for_one: bool | None = None,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        arguments = check_arguments("model.backbone", self.check_config, locals())
        settings = self.resolve(arguments)
        super().__init__(arguments, settings["pillar_channels"][-1])
        self.pts_voxel_encoder = PillarFeatureNet(
            columns_of(self.preprocess),
            settings["pillar_channels"],
            self.canvas_grid,
            legacy=settings["legacy"],
            with_distance=settings["with_distance"],
            slots=settings["max_points"] if settings["include_padding"] else 0,
        )

    def canvas(self, voxels: Voxels) -> Tensor:
        """Pillars (V) -> (B, C, Ny, Nx), zero where there is none."""
        features = self.pts_voxel_encoder(voxels)
        return scatter_to_map(features, voxels.coors, voxels.batch_size, self.canvas_grid.shape)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        yield from super().check_config(cfg)
        if cfg["preset"] is not None and cfg["preset"] not in cls.presets:
            return
        settings = cls.resolve(cfg)
        widths = settings["pillar_channels"]
        if not widths or any(not isinstance(w, int) or w < 1 for w in widths) or any(w % 2 for w in widths[:-1]):
            yield "pillar_channels", "needs whole numbers of at least 1, even ones before the last"
        if settings["include_padding"] and settings["voxelisation"] != "hard":
            yield "include_padding", "there is no padding in dynamic pillars: set voxelisation='hard'"
