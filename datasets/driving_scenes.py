"""Driving scenes that are made up: the embedded data of the driving modality, exact in every matrix and box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.driving import CameraView, DrivingDataset, DrivingFrame
from perception.datasets.driving_rays import CameraModel, LidarModel
from perception.datasets.driving_world import CLASSES, MAP_CLASSES, World, build_world
from perception.datasets.images import check_split
from perception.errors import check_arguments
from perception.geometry.boxes import first_box_of_points
from perception.geometry.grid import BEVGrid, grid_faults
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch

# Splits are made from numbers of their own, so that scenes of one are never those of another.
SPLITS = {"train": 0, "val": 1, "test": 2}


@DATASETS.register_module()
class DrivingScenes(DrivingDataset):
    """Streets with cars, trucks and pedestrians between houses and poles, seen by a LiDAR and cameras.

    Rays end at the first surface, so things hide each other. Boxes that fewer than ``min_points`` points fall on are
    left out and counted in ``ignored``. A scene is a function of (world_seed, split, index); it is made when it is
    first asked for and kept.

    Args:
        split: ``train``, ``val`` or ``test``.
        count: number of scenes.
        fraction: share of the scenes that is there at all, for training with few labels; the first ones.
        extent: half the edge of the square that objects stand in, in metres.
        lidar: give ``points`` (P, 4): x, y, z, intensity in [0, 1].
        cameras: give ``cams`` and their matrices.
        beams: of the LiDAR.
        azimuths: shots of a turn.
        camera_count: number of cameras; they look around at equal angles.
        camera_size: height and width of a picture.
        labelled: give boxes.
        map_cell: edge of the cells of ``bev_mask`` in metres; ``None`` gives no map.
        min_points: least number of points on a labelled box.
        sensor_height: of the LiDAR above the ground in metres.
        world_seed: another one makes other scenes.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        map_classes: names of the layers of ``bev_mask`` (B, K, Ny, Nx) uint8, which lies in the frame of the LiDAR
            before any augmentation: ``WarpMasks`` brings it into that of augmented points.
        map_grid: where its cells lie; ``meta['map_range']`` of a batch says it, too.
    """

    map_classes: ClassVar[tuple[str, ...]] = MAP_CLASSES

    def __init__(
        self,
        split: str = "train",
        count: int = 200,
        fraction: float = 1.0,
        extent: float = 16.0,
        lidar: bool = True,
        cameras: bool = True,
        beams: int = 32,
        azimuths: int = 512,
        camera_count: int = 4,
        camera_size: Sequence[int] = (96, 192),
        labelled: bool = True,
        map_cell: float | None = None,
        min_points: int = 3,
        sensor_height: float = 1.8,
        world_seed: int = 0,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, tuple(SPLITS))
        check_arguments("DrivingScenes", self.check_config, locals())
        super().__init__(CLASSES, lidar, cameras, None, transforms, seed)
        self.split, self.extent, self.labelled = split, float(extent), labelled
        self.count = max(1, round(count * fraction))
        self.min_points, self.sensor_height, self.world_seed = min_points, sensor_height, world_seed
        self.lidar_model = LidarModel(beams=beams, azimuths=azimuths)
        self.camera_model = CameraModel(camera_count, int(camera_size[0]), int(camera_size[1]))
        self.map_grid = None if map_cell is None else _map_grid(extent, map_cell)
        self._worlds: dict[int, World] = {}
        self._sweeps: dict[int, np.ndarray] = {}
        self._pictures: dict[int, np.ndarray] = {}
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def world(self, index: int) -> World:
        """The scene at ``index``."""
        if index not in self._worlds:
            self._worlds[index] = build_world(self._random(index, "world"), self.extent, self.sensor_height)
        return self._worlds[index]

    def sweep(self, index: int) -> np.ndarray:
        """Points (P, 4) of the scene at ``index``."""
        if index not in self._sweeps:
            self._sweeps[index] = self.lidar_model.sweep(self.world(index), self._random(index, "lidar"))
        return self._sweeps[index]

    def pictures(self, index: int) -> np.ndarray:
        """(N, 3, H, W) uint8 of the scene at ``index``."""
        if index not in self._pictures:
            self._pictures[index] = self.camera_model.images(self.world(index), self._random(index, "cameras"))
        return self._pictures[index]

    def frame(self, index: int) -> DrivingFrame:
        """Calibration and, where labelled, boxes of the scene at ``index``."""
        views: tuple[CameraView, ...] = ()
        if self.cameras:
            model = self.camera_model
            views = tuple(
                CameraView(f"camera_{i}", picture.transpose(1, 2, 0), model.lidar2cam[i], model.cam2img[i])
                for i, picture in enumerate(self.pictures(index))
            )
        token = f"{self.split}_{index}"
        if not self.labelled:
            return DrivingFrame(token, views)
        world, kept = self.world(index), self._visible(index)
        return DrivingFrame(token, views, world.boxes[kept], world.kinds[kept], world.velocity[kept])

    def fetch(self, indices: np.ndarray) -> Batch:
        """As ``DrivingDataset``'s, with ``bev_mask`` where there is a map."""
        batch = super().fetch(indices)
        if self.map_grid is not None:
            centres = self.map_grid.centres().numpy()
            masks = np.stack([self.world(int(i)).road.masks(centres) for i in indices])
            batch["bev_mask"] = torch.from_numpy(masks.astype(np.uint8))
            batch["meta"] |= {"map_classes": self.map_classes, "map_range": self.map_grid.point_range}
        return batch

    def _visible(self, index: int) -> np.ndarray:
        """Rows of the labelled boxes that enough points fall on."""
        if index not in self._kept:
            world = self.world(index)
            boxes = world.boxes[: world.labelled]
            on = first_box_of_points(self.sweep(index).astype(np.float64), boxes)
            seen = np.bincount(np.asarray(on)[np.asarray(on) >= 0], minlength=len(boxes)) >= self.min_points
            self.ignored.update(f"{CLASSES[kind]} (hidden)" for kind in world.kinds[: world.labelled][~seen])
            self._kept[index] = np.flatnonzero(seen)
        return self._kept[index]

    def _random(self, index: int, part: str) -> np.random.Generator:
        """A generator of its own for each part of a scene: what is left out changes nothing in the rest."""
        parts = ("world", "lidar", "cameras")
        return np.random.default_rng([self.world_seed, SPLITS[self.split], index, parts.index(part)])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        yield from cls.base_faults({**cfg, "image_size": None})
        for key in ("count", "beams", "azimuths", "camera_count"):
            if not isinstance(cfg[key], int) or cfg[key] < 1:
                yield key, "must be a whole number of at least 1"
        if cfg["min_points"] < 0:
            yield "min_points", "must not be negative"
        if not 0 < cfg["fraction"] <= 1:
            yield "fraction", "must lie in (0, 1]"
        if len(cfg["camera_size"]) != 2 or min(cfg["camera_size"]) < 1:
            yield "camera_size", "must be a positive height and width"
        if cfg["extent"] < 15:
            yield "extent", "must be at least 15 m: a street needs room"
        if not cfg["sensor_height"] > 0:
            yield "sensor_height", "must be positive"
        elif cfg["map_cell"] is not None:
            yield from (("map_cell", text) for _, text in grid_faults(_span(cfg["extent"]), (cfg["map_cell"],) * 2))


def _span(extent: float) -> tuple[float, ...]:
    return (-extent, -extent, -5.0, extent, extent, 5.0)


def _map_grid(extent: float, cell: float) -> BEVGrid:
    return BEVGrid.from_range(_span(extent), (cell, cell))
