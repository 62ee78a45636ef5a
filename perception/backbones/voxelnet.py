"""Voxels with a sparse 3-D encoder: "VoxelNet" (Zhou and Tuzel, 2018), "SECOND" (Yan et al., 2018) and "CenterPoint".

"Center-based 3D Object Detection and Tracking" (Yin et al., 2021) and BEVFusion use this form: a voxel is the mean of
its points, the sparse encoder brings the map to an eighth of the resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from perception.backbones.lidar_base import LidarBackbone, columns_of
from perception.errors import check_arguments
from perception.layers.sparse_conv import SparseEncoder, SparseMap, encoded_shape
from perception.layers.voxels import Voxels
from perception.registry import BACKBONES
from perception.transforms.driving_preprocess import POINT_COLUMNS
from perception.transforms.preprocess import Preprocess

_COMMON = {
    "point_features": POINT_COLUMNS,
    "voxelisation": "hard",
    "max_points": 10,
    "encoder": ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
    "encoder_channels": 128,
    "layers": (5, 5),
    "strides": (1, 2),
    "channels": (128, 256),
    "scales": (1, 2),
    "neck_channels": (256, 256),
    "conv_for_one": True,
}


@BACKBONES.register_module()
class VoxelNet(LidarBackbone):
    """Mean of the points of every voxel, sparse encoder, 2-D network and neck.

    Arguments that are ``None`` take the values of ``preset``: ``nuscenes-0.1`` or ``nuscenes-0.075``, the networks of
    BEVFusion and CenterPoint by the size of their cells. Without a preset it is ``nuscenes-0.1`` on dynamic voxels.

    Public weights: names and layout are mmdetection3d's; ``adapt_state`` turns spconv 2's weights. Those of the
    original BEVFusion have their axes in the order x, y, z and do not fit.

    Args:
        preset: name of a published network.
        cell: (x, y, z) size of a voxel in metres.
        voxelisation: ``dynamic`` or ``hard``; see ``perception.layers.voxels``.
        max_points: points of a voxel in hard grouping.
        max_voxels: voxels of a sweep in hard grouping, in training and otherwise.
        encoder: widths of the residual blocks of every stage of the sparse encoder; the last of all but the last stage
            is that of its convolution of stride 2.
        encoder_channels: output width of the sparse encoder at one height.
        layers: convolutions of every 2-D stage after its first.
        strides: of every stage.
        channels: of every stage.
        scales: of every stage's map in the neck.
        neck_channels: of every stage behind the neck; the map has their sum.
        conv_for_one: a convolution where a scale is 1, instead of a transposed one.
        preprocess: Preprocess record; ``None`` has the preset's range and columns.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nuscenes-0.1": {
            **_COMMON,
            "point_range": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
            "cell": (0.1, 0.1, 0.2),
            "max_voxels": (90_000, 120_000),
        },
        "nuscenes-0.075": {
            **_COMMON,
            "point_range": (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
            "cell": (0.075, 0.075, 0.2),
            "max_voxels": (120_000, 160_000),
        },
    }
    default_preset: ClassVar[str] = "nuscenes-0.1"
    own_defaults: ClassVar[Mapping[str, Any]] = {"voxelisation": "dynamic"}

    def __init__(
        self,
        preset: str | None = None,
        cell: Sequence[float] | None = None,
        voxelisation: str | None = None,
        max_points: int | None = None,
        max_voxels: Sequence[int] | None = None,
        encoder: Sequence[Sequence[int]] | None = None,
        encoder_channels: int | None = None,
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
        stages, width = settings["encoder"], settings["encoder_channels"]
        z_range = _heights(settings)
        self._layers = round((z_range[1] - z_range[0]) / settings["cell"][2])
        heights = encoded_shape((self._layers + 1, 1, 1), len(stages))[0]
        super().__init__(arguments, width * heights, canvas_stride=2 ** (len(stages) - 1))
        self.pts_middle_encoder = SparseEncoder(columns_of(self.preprocess), stages, width)

    @property
    def voxel_layers(self) -> int:
        """Cells along z."""
        return self._layers

    def canvas(self, voxels: Voxels) -> Tensor:
        """Voxels (V) -> (B, C x heights, Ny / 8, Nx / 8)."""
        count = voxels.num_points[:, None].to(voxels.points.dtype)
        layers, rows, columns = voxels.shape
        # One cell of height more than there are: 41 come down to 2, 40 would come down to 1.
        shape = (layers + 1, rows, columns)
        sparse = SparseMap.of(voxels.sums(voxels.points) / count, voxels.coors, shape, voxels.batch_size)
        return self.pts_middle_encoder(sparse)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        settings = cls.resolve(cfg) if cfg["preset"] is None or cfg["preset"] in cls.presets else None
        if settings is not None:
            faults = list(_encoder_faults(settings))
            yield from faults
            if faults:
                return
        yield from super().check_config(cfg)

    @classmethod
    def check_shape(cls, settings: Mapping[str, Any], shape: tuple[int, int]) -> Iterable[tuple[str, str]]:
        """Faults of the 2-D network behind the encoder on voxels of ``shape`` (Ny, Nx)."""
        shrink = 2 ** (len(settings["encoder"]) - 1)
        if shape[0] % shrink or shape[1] % shrink:
            yield "cell", f"{shape[0]} x {shape[1]} cells cannot be divided by {shrink}, as the encoder needs"
            return
        yield from super().check_shape(settings, (shape[0] // shrink, shape[1] // shrink))


def _encoder_faults(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    stages = settings["encoder"]
    if not stages or any(not widths or any(not isinstance(w, int) or w < 1 for w in widths) for widths in stages):
        yield "encoder", "needs stages of whole numbers of at least 1"
        return
    width = stages[0][0]
    for place, widths in enumerate(stages):
        strided = place < len(stages) - 1
        if any(w != width for w in (widths[:-1] if strided else widths)):
            yield "encoder", f"the residual blocks of stage {place} keep its {width} channels; only the last may differ"
            return
        width = widths[-1]
    if not isinstance(settings["encoder_channels"], int) or settings["encoder_channels"] < 1:
        yield "encoder_channels", "must be a whole number of at least 1"
    if len(settings["cell"]) != 3 or not settings["cell"][2] > 0:
        yield "cell", f"needs sizes along x, y and z above 0, in metres, not {tuple(settings['cell'])}"
        return
    low, high = _heights(settings)
    count = (high - low) / settings["cell"][2]
    if round(count) < 1 or abs(count - round(count)) > 1e-3:
        yield "cell", f"{high - low:g} m along z is no whole number of cells of {settings['cell'][2]:g} m"
    elif encoded_shape((round(count) + 1, 1, 1), len(stages))[0] < 1:
        yield "encoder", f"{round(count)} cells along z are too few for {len(stages)} stages"


def _heights(settings: Mapping[str, Any]) -> tuple[float, float]:
    record = settings["preprocess"]
    point_range = (record.record() if isinstance(record, Preprocess) else record).get("point_range")
    return (point_range[2], point_range[5]) if point_range is not None and len(point_range) == 6 else (0.0, 1.0)
