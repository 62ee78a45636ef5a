"""The Preprocess record of driving scenes: which points and columns count, how cameras are normalised."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception.errors import ConfigError, DataError, Fault
from perception.geometry.grid import grid_faults
from perception.registry import PREPROCESSES
from perception.transforms.image_preprocess import IMAGENET_MEAN, IMAGENET_STD, VIEWS
from perception.transforms.preprocess import Batch, Preprocess

POINT_COLUMNS = ("x", "y", "z", "intensity", "time")
"""Columns of raw points in their order; a data set may leave out the last ones."""
PER_POINT = ("region", "point_id")
"""Fields of a batch, or of a view, with one value a point: they lose the values of points that are dropped."""
DROPPED = "dropped_points"
_RIGID = 0.3  # entry of |R^T R - 1|; the worst rotation that corruptions give on purpose is off by a tenth
_SINGULAR = 1e-12  # determinant
_POINT_VALUES = ("point_range", "point_features", "intensity_scale")
_CAMERA_VALUES = ("image_size", "mean", "std")


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class DrivingPreprocess(Preprocess):
    """Points inside a range with the columns that a backbone reads, and camera images ``(value / 255 - mean) / std``.

    A batch may hold points, cameras or both, as far as the record describes them; two-view batches hold ``views``, a
    list of such. Points that are not finite or lie outside the range are dropped together with their ``region`` and
    ``point_id``, and counted in ``dropped_points`` int64 (B, 2): not finite, outside.

    Attributes:
        point_range: (x_min, y_min, z_min, x_max, y_max, z_max) in metres in the LiDAR frame. Lower edges belong to it,
            upper ones do not. ``None`` is a record without points.
        point_features: columns that the backbone reads, of x, y, z, intensity, time in this order; x, y, z are among
            them. ``time`` is the lag of a sweep in seconds.
        intensity_scale: intensity is divided by it. KITTI's lies in [0, 1] and nuScenes' in 0..255, which public
            nuScenes models read as it is: 1 for both.
        image_size: (height, width) of the camera images in pixels, which calibration refers to. ``None`` is a record
            without cameras.
        mean: of red, green and blue, after division by 255.
        std: likewise.
    """

    point_range: Sequence[float] | None = None
    point_features: tuple[str, ...] = POINT_COLUMNS[:4]
    intensity_scale: float = 1.0
    image_size: Sequence[int] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    modality: ClassVar[str] = "driving"

    def __post_init__(self) -> None:
        faults = [
            Fault(f"model.backbone.preprocess.{key}", getattr(self, key), text)
            for key, text in self.check_config({k: getattr(self, k) for k in self.field_names()})
        ]
        if faults:
            raise ConfigError(faults)
        for name, kind in (("point_range", float), ("image_size", int), ("mean", float), ("std", float)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        object.__setattr__(self, "point_features", tuple(self.point_features))

    def __call__(self, batch: Batch) -> Batch:
        """Crop and select points, normalise cameras, and complete the calibration.

        ``img_aug`` and ``lidar_aug`` that a batch with cameras lacks become identities; ``lidar_aug`` of points, too.

        Raises:
            DataError: neither points nor cameras; fields of another type, dtype or size than the record's; cameras
                without calibration, or with one that is not finite, not rigid or mirrored; augmentations without
                inverse.
        """
        out = dict(batch)
        if batch.get(VIEWS) is not None:
            out[VIEWS] = [self._points(view) for view in batch[VIEWS]]
        if batch.get("points") is not None:
            out = self._points(out)
        if batch.get("cams") is not None:
            out = self._cameras(out)
        if not any(batch.get(key) is not None for key in (VIEWS, "points", "cams")):
            raise DataError(f"a batch for a driving backbone needs 'points' or 'cams'; it holds {sorted(batch)}")
        return out

    def _points(self, batch: Batch) -> Batch:
        points: Any = batch.get("points")
        if self.point_range is None:
            return batch  # a camera backbone looks at none of them
        columns = self._columns(points)
        sizes = [len(p) for p in points]
        whole = torch.cat(list(points))
        low, high = whole.new_tensor(self.point_range[:3]), whole.new_tensor(self.point_range[3:])
        finite = whole[:, columns].isfinite().all(1)
        kept = finite & ((whole[:, :3] >= low) & (whole[:, :3] < high)).all(1)
        per_sample = torch.stack([torch.stack([(~f).sum(), k.sum()]) for f, k in _split(sizes, finite, kept)])
        counts = per_sample.tolist()
        left = [count for _, count in counts]
        if any(bad for bad, _ in counts):
            warnings.warn("points that are not finite are dropped; batch['dropped_points'] counts them", stacklevel=3)
        values = (whole if len(columns) == whole.shape[1] else whole[:, columns])[kept]
        if self.intensity_scale != 1 and "intensity" in self.point_features:
            values[:, self.point_features.index("intensity")] /= self.intensity_scale
        out = {**batch, "points": list(values.split(left))}
        out[DROPPED] = torch.tensor([[bad, size - bad - n] for (bad, n), size in zip(counts, sizes, strict=True)])
        for name in PER_POINT:
            if batch.get(name) is not None:
                self._same_length(name, batch[name], sizes)
                out[name] = list(torch.cat(list(batch[name]))[kept].split(left))
        out["lidar_aug"] = _identity_unless(batch, "lidar_aug", (len(points), 4, 4), whole)
        return out

    def _columns(self, points: Any) -> list[int]:
        """Places of ``point_features`` in the columns of raw points."""
        if not isinstance(points, (list, tuple)) or not points or not all(isinstance(p, Tensor) for p in points):
            raise DataError(f"'points' must be a list of tensors, one a sweep, not {type(points).__name__}")
        for place, sweep in enumerate(points):
            # Half precision would move a point at 50 m by centimetres.
            if sweep.ndim != 2 or sweep.dtype not in (torch.float32, torch.float64):
                kind = f"{sweep.dtype} of shape {tuple(sweep.shape)}"
                raise DataError(f"points of sweep {place} of the batch must be float32 (P, F), not {kind}")
        columns = [POINT_COLUMNS.index(name) for name in self.point_features]
        widths = {p.shape[1] for p in points}
        if len(widths) > 1:
            raise DataError(f"sweeps of one batch have different numbers of columns: {sorted(widths)}")
        width = widths.pop()
        if width <= max(columns):
            missing = [self.point_features[i] for i, c in enumerate(columns) if c >= width]
            raise DataError(
                f"points have {width} columns ({', '.join(POINT_COLUMNS[:width])}), but the Preprocess record reads "
                f"{', '.join(missing)}, too: set point_features, or add the column in the data set"
            )
        return columns

    def _same_length(self, name: str, values: Sequence[Tensor], sizes: list[int]) -> None:
        found = [len(v) for v in values]
        if found != sizes:
            raise DataError(f"{name!r} has {found} values a sweep, but there are {sizes} points")

    def _cameras(self, batch: Batch) -> Batch:
        cams = batch["cams"]
        if self.image_size is None:
            return batch  # a LiDAR backbone looks at none of them
        if not isinstance(cams, Tensor) or cams.dtype != torch.uint8 or cams.ndim != 5 or cams.shape[2] != 3:
            kind = f"{cams.dtype} {tuple(cams.shape)}" if isinstance(cams, Tensor) else type(cams).__name__
            raise DataError(f"'cams' must be a uint8 tensor (B, N, 3, H, W), not {kind}")
        if tuple(cams.shape[-2:]) != self.image_size:
            raise DataError(
                f"camera images of {tuple(cams.shape[-2:])} pixels, but the Preprocess record says {self.image_size}: "
                "give the data set image_size= (DrivingScenes: camera_size=), which keeps the calibration right"
            )
        count = tuple(cams.shape[:2])
        for name in ("cam2img", "lidar2cam"):
            matrix = batch.get(name)
            if matrix is None:
                raise DataError(f"a batch with cameras needs the calibration {name!r} {(*count, 4, 4)}")
            if tuple(matrix.shape) != (*count, 4, 4):
                raise DataError(f"{name!r} has shape {tuple(matrix.shape)}, but the cameras need {(*count, 4, 4)}")
            _refuse(name, ~matrix.isfinite().flatten(2).all(2), "holds numbers that are not finite")
        _check_poses(batch["lidar2cam"])
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=cams.device).view(3, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=cams.device)
        like = batch["lidar2cam"]
        return {
            **batch,
            "cams": cams.float().mul_(scale).add_(shift.view(3, 1, 1)),
            "img_aug": _identity_unless(batch, "img_aug", (*count, 4, 4), like),
            "lidar_aug": _identity_unless(batch, "lidar_aug", (count[0], 4, 4), like),
        }

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's, but for what weights do not depend on.

        Another x and y range and another ``image_size`` are allowed: maps of any size work. What describes points, or
        cameras, is compared where both records have them: a LiDAR branch may start a fusion.
        """
        theirs = {**{f.name: f.default for f in fields(self) if f.default is not MISSING}, **other}
        for present, names in (("point_range", _POINT_VALUES), ("image_size", _CAMERA_VALUES)):
            if getattr(self, present) is None or theirs.get(present) is None:
                theirs.update({name: getattr(self, name) for name in names})
        if self.point_range is not None and self._heights(theirs["point_range"]) == self._heights(self.point_range):
            theirs["point_range"] = self.point_range
        theirs["image_size"] = self.image_size
        super().require_same(theirs, source)

    @staticmethod
    def _heights(point_range: Sequence[float]) -> tuple[float, float]:
        return float(point_range[2]), float(point_range[5])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a record that would stop it from being used."""
        if cfg["point_range"] is None and cfg["image_size"] is None:
            yield "point_range", "a record needs point_range, image_size or both"
        if cfg["point_range"] is not None:
            yield from grid_faults(cfg["point_range"], _any_cell(cfg["point_range"]))
        names = list(cfg["point_features"])
        if names != [name for name in POINT_COLUMNS if name in names] or names[:3] != ["x", "y", "z"]:
            yield "point_features", f"must be x, y, z and perhaps more of {', '.join(POINT_COLUMNS)}, in this order"
        if not cfg["intensity_scale"] > 0:
            yield "intensity_scale", "must be positive"
        size = cfg["image_size"]
        if size is not None and (isinstance(size, int) or len(size) != 2 or min(size) < 1):
            yield "image_size", "must be a pair (height, width) of pixels"
        for key in ("mean", "std"):
            if len(cfg[key]) != 3:
                yield key, "must have one value each for red, green and blue"
        if any(not s > 0 for s in cfg["std"]):
            yield "std", "must be positive"


def _any_cell(point_range: Sequence[float]) -> tuple[float, float]:
    """One cell as large as the range: the record knows no cells, a backbone chooses them."""
    if len(point_range) != 6:
        return 1.0, 1.0
    return point_range[3] - point_range[0], point_range[4] - point_range[1]


def _split(sizes: list[int], *values: Tensor) -> Iterable[tuple[Tensor, ...]]:
    return zip(*(value.split(sizes) for value in values), strict=True)


def _check_poses(lidar2cam: Tensor) -> None:
    """Whether matrices (B, N, 4, 4) can be those of cameras; roughly, for calibrations that are disturbed on purpose.

    Data sets look closer, at what their files say.

    Raises:
        DataError: a mirror or no rotation.
    """
    turn = lidar2cam[..., :3, :3].double()
    off = (turn.transpose(-1, -2) @ turn - torch.eye(3, dtype=turn.dtype, device=turn.device)).abs().amax((-1, -2))
    _refuse("lidar2cam", off > _RIGID, "is not rigid: its 3 x 3 part is no rotation")
    _refuse("lidar2cam", torch.linalg.det(turn) < 0, "is mirrored: one of its axes has the wrong sign")


def _no_inverse(matrices: Tensor) -> Tensor:
    """Which matrices (..., 4, 4) have no inverse or hold numbers that are not finite."""
    return ~(torch.linalg.det(matrices.double()).abs() > _SINGULAR)


def _refuse(name: str, wrong: Tensor, text: str) -> None:
    """Raise a ``DataError`` about the first sample, or camera of a sample, that is ``wrong`` (B,) or (B, N)."""
    if bool(wrong.any()):
        sample, *camera = wrong.nonzero()[0].tolist()
        where = f"camera {camera[0]} of sample {sample}" if camera else f"sample {sample}"
        raise DataError(f"{name!r} of {where} {text}; perception.geometry.consistency.check_rig looks for the cause")


def _identity_unless(batch: Batch, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The matrices of a batch, or identities of the given shape.

    Raises:
        DataError: they have another shape, or no inverse.
    """
    given = batch.get(name)
    if given is None:
        return torch.eye(4, dtype=like.dtype, device=like.device).expand(shape)
    if tuple(given.shape) != shape:
        raise DataError(f"{name!r} has shape {tuple(given.shape)}, but the batch needs {shape}")
    _refuse(name, _no_inverse(given), "has no inverse, but an augmentation can be undone")
    return given
