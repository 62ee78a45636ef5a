"""The tables of nuScenes' devkit, reduced to what a reader needs, and the official splits."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.driving import camera_matrix
from perception.errors import ConfigError, DataError, Fault, nearest, not_among
from perception.geometry.transforms import quaternion_to_matrix, rigid

VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
# Numbers of the scenes of the official splits; train is all of v1.0-trainval that is not val.
_VAL = (
    "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775 "
    "777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073"
)
_TEST = (
    "77-91 111-119 140 142-148 265-266 279-282 307-314 333-343 481-498 547-551 601-604 606-624 827-831 833-842 844-846 "
    "932-933 935-943 1026-1043"
)
_MINI_TRAIN, _MINI_VAL = "61 553 655 757 796 1077 1094 1100", "103 916"
SPLITS = ("train", "val", "test", "mini_train", "mini_val", "all")
_OF_VERSION = {
    "v1.0-trainval": ("train", "val", "all"),
    "v1.0-mini": ("mini_train", "mini_val", "all"),
    "v1.0-test": ("test", "all"),
}
# Keys that are read, besides the token.
_KEYS = {
    "scene": ("name",),
    "sample": ("scene_token", "timestamp"),
    "sensor": ("channel",),
    "calibrated_sensor": ("sensor_token", "translation", "rotation", "camera_intrinsic"),
    "sample_data": (
        "sample_token",
        "calibrated_sensor_token",
        "ego_pose_token",
        "filename",
        "timestamp",
        "is_key_frame",
        "prev",
    ),
    "ego_pose": ("translation", "rotation"),
    "category": ("name",),
    "instance": ("category_token",),
    "sample_annotation": (
        "sample_token",
        "instance_token",
        "translation",
        "size",
        "rotation",
        "num_lidar_pts",
        "num_radar_pts",
        "prev",
        "next",
    ),
}
_MAX_GAP = 1.5  # seconds between two annotations that a velocity is taken from


def scene_numbers(text: str) -> list[str]:
    """``3 12-14`` -> scene-0003, scene-0012, scene-0013, scene-0014."""
    names = []
    for part in text.split():
        first, _, last = part.partition("-")
        names += [f"scene-{number:04d}" for number in range(int(first), int(last or first) + 1)]
    return names


def scenes_of_split(split: str | Sequence[str], version: str, scenes: Sequence[str]) -> list[str]:
    """Those of ``scenes`` that belong to a split.

    Args:
        split: name of an official split, ``all``, or scene names.
        version: folder of the tables.
        scenes: names of all scenes in the tables.

    Raises:
        ConfigError: a split that is not of this version.
        DataError: a scene name that is not in the tables.
    """
    if not isinstance(split, str):
        unknown = [name for name in split if name not in scenes]
        if unknown:
            near = nearest(unknown[0], scenes, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(f"no scene {unknown[0]!r} among the {len(scenes)} of {version}.{hint}")
        return list(split)
    if split not in _OF_VERSION[version]:
        reason = not_among(split, _OF_VERSION[version])
        raise ConfigError([Fault("split", split, f"not a split of {version}: {reason}")], "NuScenes")
    if split in ("all", "test"):
        return list(scenes)
    chosen = set(scene_numbers({"mini_train": _MINI_TRAIN, "mini_val": _MINI_VAL}.get(split, _VAL)))
    return [name for name in scenes if (name in chosen) != (split == "train")]


def some_scenes(scenes: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A share of ``scenes`` in their order, at least one: the first ones of a permutation drawn by ``seed``."""
    count = max(1, round(len(scenes) * fraction)) if scenes else 0
    chosen = np.random.default_rng(seed).permutation(len(scenes))[:count]
    return [scenes[i] for i in sorted(chosen)]


@dataclass(frozen=True)
class SensorRecord:
    """A file of a sensor.

    Attributes:
        token: of ``sample_data``.
        file: path below the root.
        time: in seconds.
        pose: token of ``ego_pose``.
        calibration: token of ``calibrated_sensor``.
        previous: token of the file before it, empty at the start of a scene.
    """

    token: str
    file: str
    time: float
    pose: str
    calibration: str
    previous: str


@dataclass(frozen=True)
class Annotations:
    """Boxes of a key frame in the global frame.

    Attributes:
        category: M full category names.
        boxes: (M, 7) float64 x, y, z, l, w, h, yaw.
        velocity: (M, 2) float64 in m/s, NaN where unknown.
        num_lidar_pts: (M,) int64.
        num_radar_pts: (M,) int64.
    """

    category: tuple[str, ...]
    boxes: np.ndarray
    velocity: np.ndarray
    num_lidar_pts: np.ndarray
    num_radar_pts: np.ndarray


class NuScenesTables:
    """Scenes, key frames, LiDAR sweeps, poses and boxes of one version.

    Args:
        folder: of the tables.
        channels: sensors whose key frames are kept; of ``LIDAR_TOP`` the sweeps between them too.
        hint: where the data comes from, for messages.

    Attributes:
        scenes: scene names in the order of the table.
        key_frames: per sample token its key frames by channel.

    Raises:
        DataError: a table is missing or damaged, or refers to a record that is not there.
    """

    def __init__(self, folder: Path, channels: Sequence[str], hint: str) -> None:
        self.folder, self._hint = folder, hint
        scenes = {row["token"]: row["name"] for row in self._table("scene")}
        self.scenes = list(scenes.values())
        self._samples: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._scene: dict[str, str] = {}
        self._time: dict[str, float] = {}
        for row in self._table("sample"):
            name = self._get(scenes, row["scene_token"], "scene")
            self._samples[name].append((row["timestamp"], row["token"]))
            self._scene[row["token"]], self._time[row["token"]] = name, 1e-6 * row["timestamp"]
        channel_of = {row["token"]: row["channel"] for row in self._table("sensor")}
        self._calibrations = {row["token"]: row for row in self._table("calibrated_sensor")}
        self._read_files(channel_of, channels)
        needed = {record.pose for record in self._files.values()}
        self._poses = {row["token"]: row for row in self._table("ego_pose") if row["token"] in needed}
        self._read_annotations()

    def _table(self, name: str) -> list[dict[str, Any]]:
        file = self.folder / f"{name}.json"
        try:
            rows = json.loads(file.read_bytes())
        except OSError as error:
            raise DataError(f"table {str(file)!r} cannot be read: {error.strerror}. {self._hint}") from error
        except ValueError as error:
            raise DataError(f"table {str(file)!r} is no valid JSON: {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"table {str(file)!r} must be a list of records")
        needed = {"token", *_KEYS[name]}
        for number, row in enumerate(rows):
            if not needed <= row.keys():
                raise DataError(f"table {str(file)!r}, record {number}: lacks {', '.join(sorted(needed - row.keys()))}")
        return rows

    def _get(self, records: dict[str, Any], token: str, table: str) -> Any:
        if token not in records:
            raise DataError(
                f"{str(self.folder)!r}: no record {token!r} in the table {table!r}, to which another refers"
            )
        return records[token]

    def _read_files(self, channel_of: dict[str, str], channels: Sequence[str]) -> None:
        self.key_frames: dict[str, dict[str, SensorRecord]] = defaultdict(dict)
        self._files: dict[str, SensorRecord] = {}
        for row in self._table("sample_data"):
            sensor = self._get(self._calibrations, row["calibrated_sensor_token"], "calibrated_sensor")["sensor_token"]
            channel = self._get(channel_of, sensor, "sensor")
            if channel not in channels or not (row["is_key_frame"] or channel == "LIDAR_TOP"):
                continue
            record = SensorRecord(
                row["token"],
                row["filename"],
                1e-6 * row["timestamp"],
                row["ego_pose_token"],
                row["calibrated_sensor_token"],
                row["prev"],
            )
            self._files[record.token] = record
            if row["is_key_frame"]:
                self.key_frames[row["sample_token"]][channel] = record

    def _read_annotations(self) -> None:
        categories = {row["token"]: row["name"] for row in self._table("category")}
        category_of = {
            row["token"]: self._get(categories, row["category_token"], "category") for row in self._table("instance")
        }
        rows = self._table("sample_annotation")
        self._rows_of: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            self._rows_of[row["sample_token"]].append(number)
        self._category = [self._get(category_of, row["instance_token"], "instance") for row in rows]
        centres = np.array([row["translation"] for row in rows], dtype=np.float64).reshape(-1, 3)
        sizes = np.array([row["size"] for row in rows], dtype=np.float64).reshape(-1, 3)  # width, length, height
        turns = quaternion_to_matrix(np.array([row["rotation"] for row in rows], dtype=np.float64).reshape(-1, 4))
        yaw = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
        self._boxes = np.concatenate([centres, sizes[:, [1, 0, 2]], yaw[:, None]], axis=1)
        self._counts = np.array([(row["num_lidar_pts"], row["num_radar_pts"]) for row in rows], dtype=np.int64).reshape(
            -1, 2
        )
        place = {row["token"]: number for number, row in enumerate(rows)}
        own = np.arange(len(rows))
        before = np.array([place.get(row["prev"], n) for n, row in enumerate(rows)], dtype=np.int64)
        after = np.array([place.get(row["next"], n) for n, row in enumerate(rows)], dtype=np.int64)
        time = np.array([self._get(self._time, row["sample_token"], "sample") for row in rows], dtype=np.float64)
        gap = time[after] - time[before]
        # The devkit allows twice the gap where there is an annotation on both sides.
        known = (gap > 0) & (gap <= np.where((before != own) & (after != own), 2 * _MAX_GAP, _MAX_GAP))
        moved = (centres[after] - centres[before])[:, :2]
        self._velocity = np.where(known[:, None], moved / np.where(known, gap, 1.0)[:, None], np.nan)

    def samples_of(self, scenes: Sequence[str]) -> list[str]:
        """Tokens of the key frames of scenes, in the order of time within each."""
        return [token for name in scenes for _, token in sorted(self._samples[name])]

    def scene_of(self, sample: str) -> str:
        """Name of the scene of a key frame."""
        return self._scene[sample]

    def key_frame(self, sample: str, channel: str) -> SensorRecord:
        """The file of a channel at a key frame."""
        return self.key_frames[sample][channel]

    def past(self, record: SensorRecord, count: int) -> list[SensorRecord]:
        """``record`` and up to ``count`` files before it, newest first."""
        found = [record]
        while len(found) <= count and found[-1].previous:
            found.append(self._get(self._files, found[-1].previous, "sample_data"))
        return found

    def sensor2global(self, record: SensorRecord) -> np.ndarray:
        """(4, 4) float64: coordinates of the sensor -> global ones at the moment of the file."""
        return self.ego2global(record) @ _matrix(self._calibrations[record.calibration])

    def ego2global(self, record: SensorRecord) -> np.ndarray:
        """(4, 4) float64: coordinates of the vehicle, whose origin is its rear axle -> global ones."""
        return _matrix(self._get(self._poses, record.pose, "ego_pose"))

    def intrinsics(self, record: SensorRecord) -> np.ndarray:
        """(4, 4) float64 ``cam2img``."""
        matrix = np.array(self._calibrations[record.calibration]["camera_intrinsic"], dtype=np.float64)
        return camera_matrix(matrix, f"camera_intrinsic of {record.file!r}")

    def annotations_of(self, sample: str) -> Annotations:
        """Boxes of a key frame."""
        rows = np.array(self._rows_of.get(sample, ()), dtype=np.int64)
        return Annotations(
            tuple(self._category[row] for row in rows),
            self._boxes[rows],
            self._velocity[rows],
            self._counts[rows, 0],
            self._counts[rows, 1],
        )


def _matrix(record: dict[str, Any]) -> np.ndarray:
    return rigid(quaternion_to_matrix(record["rotation"]), record["translation"])
