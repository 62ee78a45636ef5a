"""One full key frame of nuScenes, converted to plain files: six cameras, a sweep, 69 boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.base import data_root
from perception.datasets.driving import CameraView, DrivingDataset, DrivingFrame, camera_matrix, read_sweep
from perception.datasets.images import missing_files
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.geometry.transforms import check_rigid
from perception.registry import DATASETS
from perception.transforms.base import Transform

AREA, INDEX = "bev/nuscenes_frame", "frame.json"
HINT = (
    "It must hold frame.json, LIDAR_TOP.bin and CAM_*.jpg; whole nuScenes, in the devkit's tables, is read by NuScenes."
)
COLUMNS = 5  # x, y, z, intensity, ring
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")


@DATASETS.register_module()
class NuScenesFrame(DrivingDataset):
    """A key frame of nuScenes mini ("nuScenes: A multimodal dataset for autonomous driving", Caesar et al., 2020).

    The LiDAR's axes are x right, y forward, z up. Points are x, y, z, intensity 0 to 255 and the time lag, which is 0;
    the file's fifth column is the ring. ``meta`` tells ``num_lidar_pts`` of every box.

    Args:
        repeat: length of the data set, for epochs of more than one step.
        views: cameras, in the order of the batch.
        valid_only: leave out boxes without a LiDAR or radar point.
        lidar: see ``DrivingDataset``.
        cameras: see ``DrivingDataset``.
        image_size: see ``DrivingDataset``.
        root: folder of ``frame.json``; None is ``$PERCEPTION_DATA/bev/nuscenes_frame``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    def __init__(
        self,
        repeat: int = 1,
        views: Sequence[str] = CAMERAS,
        valid_only: bool = False,
        lidar: bool = True,
        cameras: bool = True,
        image_size: Sequence[int] | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        given = {"repeat": repeat, "views": views, "image_size": image_size}
        faults = [Fault(key, given.get(key), text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "NuScenesFrame")
        self.folder = data_root(root, AREA, HINT)
        self._content = read_frame(self.folder / INDEX)
        super().__init__(self._content["categories"], lidar, cameras, image_size, transforms, seed)
        self.repeat, self.views = repeat, tuple(views)
        self._frame = self._build(valid_only)
        self.report_ignored()

    def __len__(self) -> int:
        return self.repeat

    def frame(self, index: int) -> DrivingFrame:
        """See ``DrivingDataset``."""
        return self._frame

    def sweep(self, index: int) -> np.ndarray:
        """(34688, 5) float32: x right, y forward, z up in metres, intensity 0 to 255, time lag 0 s."""
        points = read_sweep(self.folder / self._content["lidar"]["file"], COLUMNS)
        points[:, 4] = 0.0
        return points

    def _build(self, valid_only: bool) -> DrivingFrame:
        where = str(self.folder / INDEX)
        views = []
        for name in self.views if self.cameras else ():
            camera = self._content["cameras"].get(name)
            if camera is None:
                raise DataError(f"{where!r} has no camera {name!r}; it has {', '.join(self._content['cameras'])}")
            lidar2cam = check_rigid(camera["lidar2cam"], f"lidar2cam of {name} in {where!r}")
            cam2img = camera_matrix(camera["cam2img"], f"cam2img of {name} in {where!r}")
            views.append(CameraView(name, self.folder / camera["file"], lidar2cam, cam2img))
        rows = []
        for row in self._content["boxes_lidar"]:
            if row["label"] < 0 or (valid_only and not row["valid"]):
                self.ignored[row["name"] if row["label"] < 0 else "without points"] += 1
            else:
                rows.append(row)
        boxes = np.array([row["box"] for row in rows], dtype=np.float64).reshape(-1, 7)
        label = np.array([row["label"] for row in rows], dtype=np.int64)
        speed = [row["velocity"] if row["velocity"] is not None else (np.nan, np.nan) for row in rows]
        velocity = np.array(speed, dtype=np.float64).reshape(-1, 2)
        extra = {"num_lidar_pts": np.array([row["num_lidar_pts"] for row in rows], dtype=np.int64)}
        return DrivingFrame(self._content["token"], tuple(views), boxes, label, velocity, extra=extra)

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.base_faults(cfg)
        if cfg["repeat"] < 1:
            yield "repeat", "must be positive"
        for name in cfg["views"]:
            if name not in CAMERAS:
                yield "views", f"{name!r} is {not_among(name, CAMERAS)}"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown cameras, missing files."""
        yield from cls._faults(cfg)
        yield from missing_files(cfg, data_root(cfg["root"], AREA, HINT), (INDEX, "LIDAR_TOP.bin"))


def read_frame(path: Path) -> dict[str, Any]:
    """Content of ``frame.json``.

    Raises:
        DataError: missing or damaged file, or one without a key that is needed.
    """
    if not path.is_file():
        raise DataError(f"file {str(path)!r} does not exist. {HINT}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no valid JSON: {error}") from error
    needed = ("token", "lidar", "cameras", "categories", "boxes_lidar")
    missing = [key for key in needed if key not in content]
    if missing:
        raise DataError(f"{str(path)!r} lacks {', '.join(missing)}")
    return content
