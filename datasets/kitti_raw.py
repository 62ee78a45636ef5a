"""Drives of KITTI's raw data in the official layout, and a drive packed into small files. Both are unlabelled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.base import data_root, load_arrays
from perception.datasets.driving import (
    CameraView,
    DrivingDataset,
    DrivingFrame,
    camera_matrix,
    keep_whole,
    read_sweep,
)
from perception.datasets.images import check_split
from perception.datasets.kitti import PICTURE_ENDINGS, matrix_of, read_calibration, read_rows
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.geometry.transforms import check_rigid, rigid
from perception.registry import DATASETS
from perception.transforms.base import Transform

RAW_AREA, SEQUENCE_AREA = "kitti_raw", "bev/kitti_raw_seq"
RAW_HINT = (
    "It must hold <date>/calib_velo_to_cam.txt, calib_cam_to_cam.txt and <date>/<date>_drive_<number>_sync with "
    "velodyne_points and image_02. The data needs a registration and is not downloaded: the KITTI Vision Benchmark "
    "Suite, raw data, synced and rectified."
)
SEQUENCE_HINT = "It must hold calib.txt and, per frame, a .npz of the sweep and a .jpg."
_ACROSS = ("image_02", "image_03")


@DATASETS.register_module()
class KITTIRaw(DrivingDataset):
    """Raw drives of KITTI ("Vision meets Robotics: The KITTI Dataset", Geiger et al., 2013), synced and rectified.

    Args:
        drives: such as ``2011_09_26_drive_0005_sync``; None: all that there are.
        views: colour cameras: ``image_02`` (left), ``image_03`` (right).
        step: take every ``step``-th frame of a drive.
        on_missing: ``error`` or ``skip`` for frames that lack a sweep or a picture.
        lidar: see ``DrivingDataset``.
        cameras: see ``DrivingDataset``.
        image_size: see ``DrivingDataset``.
        root: folder of the dates; None is ``$PERCEPTION_DATA/kitti_raw``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    def __init__(
        self,
        drives: Sequence[str] | None = None,
        views: Sequence[str] = ("image_02",),
        step: int = 1,
        on_missing: str = "error",
        lidar: bool = True,
        cameras: bool = True,
        image_size: Sequence[int] | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__((), lidar, cameras, image_size, transforms, seed)
        given = {"views": views, "step": step, "on_missing": on_missing, "image_size": image_size}
        faults = [Fault(key, given.get(key), text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "KITTIRaw")
        self.views = tuple(views)
        base = data_root(root, RAW_AREA, RAW_HINT)
        self._folders: dict[str, Path] = {}
        self._calibration: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        names = []
        for folder in drive_folders(base, drives):
            self._folders[folder.name] = folder
            self._calibration[folder.name] = read_raw_calibration(folder.parent, self.views)
            frames = sorted(path.stem for path in (folder / "velodyne_points" / "data").glob("*.bin"))
            if not frames:
                raise DataError(f"drive {str(folder)!r} has no sweep in velodyne_points/data")
            names += [f"{folder.name}/{frame}" for frame in frames[::step]]
        missing = {}
        for name in names if cameras else ():
            lacks = [view for view in self.views if self._picture_file(name, view) is None]
            if lacks:
                missing[name] = f"frame {name!r} has no picture of {' and '.join(lacks)}"
        self.names = keep_whole(names, missing, on_missing, "KITTIRaw")

    def __len__(self) -> int:
        return len(self.names)

    def frame(self, index: int) -> DrivingFrame:
        """See ``DrivingDataset``."""
        name = self.names[index]
        views = []
        for view in self.views if self.cameras else ():
            picture = self._picture_file(name, view)
            assert picture is not None  # looked for when the data set was made
            views.append(CameraView(view, picture, *self._calibration[name.partition("/")[0]][view]))
        return DrivingFrame(name, tuple(views))

    def sweep(self, index: int) -> np.ndarray:
        """(P, 4) float32: x forward, y left, z up in metres, reflectance in [0, 1]."""
        drive, _, frame = self.names[index].partition("/")
        return read_sweep(self._folders[drive] / "velodyne_points" / "data" / f"{frame}.bin", 4)

    def _picture_file(self, name: str, view: str) -> Path | None:
        drive, _, frame = name.partition("/")
        files = (self._folders[drive] / view / "data" / f"{frame}{ending}" for ending in PICTURE_ENDINGS)
        return next((file for file in files if file.is_file()), None)

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.base_faults(cfg)
        for name in cfg["views"]:
            if name not in _ACROSS:
                yield "views", f"{name!r} is {not_among(name, _ACROSS)}"
        if cfg["step"] < 1:
            yield "step", "must be positive"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown cameras or drives, missing folder."""
        yield from cls._faults(cfg)
        base = data_root(cfg["root"], RAW_AREA, RAW_HINT)
        try:
            drive_folders(base, cfg["drives"])
        except DataError as error:
            yield "drives", str(error)


def drive_folders(base: Path, drives: Sequence[str] | None) -> list[Path]:
    """Folders of the drives.

    Raises:
        DataError: no drive at all, or a name that is none of those there are.
    """
    found = {path.name: path for path in sorted(base.glob("*/*_drive_*")) if path.is_dir()}
    if not found:
        raise DataError(f"no drive <date>/<date>_drive_<number>_sync in {str(base)!r}. {RAW_HINT}")
    for name in drives or ():
        if name not in found:
            raise DataError(f"no drive {name!r} in {str(base)!r}: it is {not_among(name, found)}")
    return list(found.values()) if drives is None else [found[name] for name in drives]


def read_raw_calibration(folder: Path, views: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """lidar2cam and cam2img (4, 4) of the cameras of a date.

    Raises:
        DataError: missing file or row, or a matrix that is not what it should be.
    """
    file = folder / "calib_velo_to_cam.txt"
    velo = read_rows(file)
    velo2cam = rigid(matrix_of(velo, "R", (3, 3), file), matrix_of(velo, "T", (1, 3), file)[0])
    check_rigid(velo2cam, f"R, T of {str(file)!r}")
    file = folder / "calib_cam_to_cam.txt"
    rows = read_rows(file)
    rectify = rigid(matrix_of(rows, "R_rect_00", (3, 3), file), (0, 0, 0))
    check_rigid(rectify, f"R_rect_00 of {str(file)!r}")
    found = {}
    for view in views:
        name = f"P_rect_{view[-2:]}"
        matrix = camera_matrix(matrix_of(rows, name, (3, 4), file), f"{name} of {str(file)!r}")
        found[view] = (rectify @ velo2cam, matrix)
    return found


@DATASETS.register_module()
class KITTISequence(DrivingDataset):
    """Sixteen frames of one raw drive at 5 Hz, packed: positions in steps of 5 mm, full 360 degrees.

    Args:
        split: ``train``: all frames but the last ones; ``test``: the last ``test_frames``; ``all``.
        test_frames: length of the test split.
        lidar: see ``DrivingDataset``.
        cameras: see ``DrivingDataset``.
        image_size: see ``DrivingDataset``.
        root: folder of the frames; None is ``$PERCEPTION_DATA/bev/kitti_raw_seq``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("train", "test", "all")

    def __init__(
        self,
        split: str = "train",
        test_frames: int = 4,
        lidar: bool = True,
        cameras: bool = True,
        image_size: Sequence[int] | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__((), lidar, cameras, image_size, transforms, seed)
        check_split(split, self.SPLITS)
        self.folder = data_root(root, SEQUENCE_AREA, SEQUENCE_HINT)
        names = sorted(path.stem for path in self.folder.glob("*.npz"))
        cut = len(names) - test_frames
        if not 0 < cut <= len(names):
            text = f"must leave frames to train on and not be negative: {len(names)} frames in {str(self.folder)!r}"
            raise ConfigError([Fault("test_frames", test_frames, text)], "KITTISequence")
        names = {"train": names[:cut], "test": names[cut:], "all": names}[split]
        missing = {
            name: f"frame {name!r} has no picture {name}.jpg in {str(self.folder)!r}"
            for name in names
            if cameras and not (self.folder / f"{name}.jpg").is_file()
        }
        self.names = keep_whole(names, missing, "error", "KITTISequence")
        self._calibration = read_calibration(self.folder / "calib.txt")

    def __len__(self) -> int:
        return len(self.names)

    def frame(self, index: int) -> DrivingFrame:
        """See ``DrivingDataset``."""
        name, calibration = self.names[index], self._calibration
        view = CameraView("image_2", self.folder / f"{name}.jpg", calibration.lidar2rect, calibration.cam2img)
        return DrivingFrame(name, (view,) if self.cameras else ())

    def sweep(self, index: int) -> np.ndarray:
        """(P, 4) float32: x forward, y left, z up in metres (rounded to 5 mm), reflectance in [0, 1]."""
        file = self.folder / f"{self.names[index]}.npz"
        arrays = load_arrays(file, ("xyz_i16", "reflectance_u8", "scale_m"))
        xyz, reflectance = arrays["xyz_i16"], arrays["reflectance_u8"]
        if xyz.ndim != 2 or xyz.shape[1] != 3 or reflectance.shape != (len(xyz),):
            raise DataError(f"{str(file)!r}: positions {xyz.shape} and reflectance {reflectance.shape} do not fit")
        metres = xyz.astype(np.float64) * float(arrays["scale_m"])
        return np.concatenate([metres, 0.01 * reflectance[:, None]], axis=1).astype(np.float32)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, no frames, no calibration."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls.base_faults(cfg)
        folder = data_root(cfg["root"], SEQUENCE_AREA, SEQUENCE_HINT)
        if not (folder / "calib.txt").is_file():
            yield "root", f"calib.txt is not in {folder}. {SEQUENCE_HINT}"
        count = len(list(folder.glob("*.npz")))
        if not 0 <= cfg["test_frames"] < max(count, 1):
            yield "test_frames", f"must be below the number of frames, {count}"
