"""nuScenes in the tables of its devkit: key frames with six cameras, past sweeps, boxes and velocities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from perception.datasets.base import data_root
from perception.datasets.driving import CameraView, DrivingDataset, DrivingFrame, keep_whole, read_sweep
from perception.datasets.nuscenes_tables import VERSIONS, NuScenesTables, scenes_of_split, some_scenes
from perception.errors import ConfigError, Fault, not_among
from perception.geometry.boxes import transform_boxes
from perception.geometry.transforms import invert, transform_points
from perception.registry import DATASETS
from perception.transforms.base import Transform

AREA = "nuscenes"
HINT = (
    "It must hold v1.0-trainval (or v1.0-mini) with the tables, samples and sweeps. The data needs a registration and "
    "is not downloaded: nuScenes by Motional, full dataset v1.0 or mini."
)
CLASSES = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
# Categories that count in the detection task; the others are not evaluated.
CATEGORIES = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
_COLUMNS = 5  # x, y, z, intensity, ring
_OWN_VEHICLE = 1.0  # metres: points of past sweeps that are nearer in |x| and |y| are of the vehicle itself


@DATASETS.register_module()
class NuScenes(DrivingDataset):
    """nuScenes ("nuScenes: A multimodal dataset for autonomous driving", Caesar et al., 2020).

    The LiDAR's axes are x right, y forward, z up. Points are x, y, z, intensity 0 to 255 and the time lag in seconds,
    0 in the key sweep. Past sweeps are moved into the key sweep's LiDAR frame through the ego poses, and points of
    theirs on the vehicle itself (nearer than 1 m in |x| and |y|) are left out. ``meta`` tells ``num_lidar_pts`` of
    every box, the ``scene``, ``lidar2global`` for results in the official format, and ``ego``, x, y, z of the vehicle's
    origin in the LiDAR frame, from which ranges are measured.

    Args:
        split: ``train``, ``val`` or ``test`` of ``v1.0-trainval`` and ``v1.0-test``, ``mini_train``, ``mini_val``,
            ``all``, or a list of scene names.
        fraction: share of the scenes that is taken, drawn by ``fraction_seed``, for training with few labels. Whole
            scenes, because frames drawn one by one would give every share nearly the diversity of the whole.
        fraction_seed: another one draws other scenes; a smaller fraction of one seed is part of a larger one.
        version: folder of the tables.
        sweeps: number of past sweeps that are added; at the start of a scene there are fewer.
        views: cameras, in the order of the batch.
        classes: some or all of the ten classes. Boxes of other categories are left out and counted in ``ignored``.
        valid_only: leave out boxes without a LiDAR or radar point, as the evaluation does.
        on_missing: ``error`` or ``skip`` for key frames that lack a sweep or a picture.
        lidar: see ``DrivingDataset``.
        cameras: see ``DrivingDataset``.
        image_size: see ``DrivingDataset``.
        root: folder that holds ``samples``, ``sweeps`` and the tables; None is ``$PERCEPTION_DATA/nuscenes``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        scenes: names of the scenes.
    """

    def __init__(
        self,
        split: str | Sequence[str] = "train",
        fraction: float = 1.0,
        fraction_seed: int = 0,
        version: str = "v1.0-trainval",
        sweeps: int = 9,
        views: Sequence[str] = CAMERAS,
        classes: Sequence[str] = CLASSES,
        valid_only: bool = True,
        on_missing: str = "error",
        lidar: bool = True,
        cameras: bool = True,
        image_size: Sequence[int] | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(classes, lidar, cameras, image_size, transforms, seed)
        given = {"version": version, "sweeps": sweeps, "views": views, "classes": classes, "on_missing": on_missing}
        given |= {"image_size": image_size, "fraction": fraction}
        faults = [Fault(key, given.get(key), text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "NuScenes")
        self.root = data_root(root, AREA, HINT)
        self.sweeps, self.views = sweeps, tuple(views)
        needed = ("LIDAR_TOP", *(self.views if cameras else ()))
        self.tables = NuScenesTables(self.root / version, needed, HINT)
        self.scenes = some_scenes(scenes_of_split(split, version, self.tables.scenes), fraction, fraction_seed)
        samples = self.tables.samples_of(self.scenes)
        self.tokens = keep_whole(samples, self._missing(samples, needed), on_missing, "NuScenes")
        self._boxes = {token: self._labels_of(token, valid_only) for token in self.tokens}
        self.report_ignored()

    def __len__(self) -> int:
        return len(self.tokens)

    def frame(self, index: int) -> DrivingFrame:
        """See ``DrivingDataset``."""
        token = self.tokens[index]
        record = self.tables.key_frame(token, "LIDAR_TOP")
        lidar2global = self.tables.sensor2global(record)
        views = []
        for name in self.views if self.cameras else ():
            key = self.tables.key_frame(token, name)
            lidar2cam = invert(self.tables.sensor2global(key)) @ lidar2global
            views.append(CameraView(name, self.root / key.file, lidar2cam, self.tables.intrinsics(key)))
        boxes, velocity, label, count = self._boxes[token]
        moved, speed = transform_boxes(boxes, invert(lidar2global), velocity)
        extra = {"num_lidar_pts": count, "scene": self.tables.scene_of(token), "lidar2global": lidar2global}
        extra["ego"] = (invert(lidar2global) @ self.tables.ego2global(record))[:3, 3]
        return DrivingFrame(token, tuple(views), moved, label, speed, extra=extra)

    def sweep(self, index: int) -> np.ndarray:
        """(P, 5) float32: x right, y forward, z up in metres, intensity 0 to 255, time lag in seconds."""
        key = self.tables.key_frame(self.tokens[index], "LIDAR_TOP")
        global2lidar = invert(self.tables.sensor2global(key))
        clouds = []
        for number, record in enumerate(self.tables.past(key, self.sweeps)):
            points = read_sweep(self.root / record.file, _COLUMNS)
            points[:, 4] = key.time - record.time
            if number:  # a past sweep
                points = points[~(np.abs(points[:, :2]) < _OWN_VEHICLE).all(axis=1)]
                moved = transform_points(points[:, :3].astype(np.float64), self.tables.sensor2global(record))
                points[:, :3] = transform_points(moved, global2lidar)
            clouds.append(points)
        return np.concatenate(clouds)

    def _missing(self, samples: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
        """What key frames lack."""
        faults = {}
        for token in samples:
            found = self.tables.key_frames.get(token, {})
            lacks = [name for name in needed if name not in found]
            lacks += [
                found[name].file for name in needed if name in found and not (self.root / found[name].file).is_file()
            ]
            if lacks:
                faults[token] = f"key frame {token!r} has no {' and no '.join(lacks)} below {str(self.root)!r}"
        return faults

    def _labels_of(self, token: str, valid_only: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (M, 7) and velocities (M, 2) in the global frame, labels (M,) and numbers of LiDAR points (M,)."""
        found = self.tables.annotations_of(token)
        names = [CATEGORIES.get(category) for category in found.category]
        keep = np.array([name in self.classes for name in names], dtype=bool)
        self.ignored.update(c for c, kept in zip(found.category, keep, strict=True) if not kept)
        if valid_only:
            empty = keep & (found.num_lidar_pts + found.num_radar_pts == 0)
            if empty.any():
                self.ignored["without points"] += int(empty.sum())
            keep &= ~empty
        label = [self.classes.index(name) for name, kept in zip(names, keep, strict=True) if name and kept]
        return found.boxes[keep], found.velocity[keep], np.array(label, dtype=np.int64), found.num_lidar_pts[keep]

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.base_faults(cfg)
        if cfg["version"] not in VERSIONS:
            yield "version", not_among(cfg["version"], VERSIONS)
        for key, known in (("views", CAMERAS), ("classes", CLASSES)):
            for name in cfg[key]:
                if name not in known:
                    yield key, f"{name!r} is {not_among(name, known)}"
        if cfg["sweeps"] < 0:
            yield "sweeps", "must not be negative"
        if not 0 < cfg["fraction"] <= 1:
            yield "fraction", "must lie in (0, 1]"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown names, missing folder or tables. The tables are not read."""
        faults = list(cls._faults(cfg))
        yield from faults
        folder = data_root(cfg["root"], AREA, HINT)
        if not any(key == "version" for key, _ in faults):
            if not (folder / cfg["version"] / "sample.json").is_file():
                yield "root", f"{cfg['version']}/sample.json is not in {folder}. {HINT}"
            elif isinstance(cfg["split"], str):
                scenes_of_split(cfg["split"], cfg["version"], ())
