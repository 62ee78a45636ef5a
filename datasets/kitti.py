"""KITTI's object benchmark in its official layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from perception.datasets.base import data_root
from perception.datasets.driving import (
    CameraView,
    DrivingDataset,
    DrivingFrame,
    camera_matrix,
    keep_whole,
    read_picture,
    read_sweep,
)
from perception.errors import ConfigError, DataError, Fault, nearest, not_among
from perception.geometry.boxes import kitti_camera_to_lidar
from perception.geometry.projection import project
from perception.geometry.transforms import check_rigid
from perception.registry import DATASETS
from perception.transforms.base import Transform

AREA = "bev/kitti"
HINT = (
    "It must hold training/ with velodyne, calib, image_2 and label_2. The data needs a registration and is not "
    "downloaded: the KITTI Vision Benchmark Suite, 3D object detection evaluation 2017."
)
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
DONT_CARE = "DontCare"
SWEEP_FOLDERS = ("velodyne", "velodyne_reduced", "velodyne_fov")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
_COLUMNS = 15  # of a label row; predictions carry a score behind them


@dataclass(frozen=True)
class KITTICalibration:
    """Matrices of a frame.

    Attributes:
        cam2img: (4, 4) float64, P2 of the left colour camera with its fourth column.
        lidar2rect: (4, 4) float64, R0_rect Tr_velo_to_cam: the rectified frame of camera 0.
    """

    cam2img: np.ndarray
    lidar2rect: np.ndarray


@dataclass(frozen=True)
class KITTILabels:
    """Rows of a ``label_2`` file, with ``DontCare``.

    Attributes:
        kind: M type names.
        truncated: (M,) float64 in [0, 1].
        occluded: (M,) int64, 0 to 3.
        box2d: (M, 4) float64 left, top, right, bottom in pixels.
        camera_boxes: (M, 7) float64 h, w, l, x, y, z, ry in the rectified frame of camera 0, y of the bottom.
    """

    kind: tuple[str, ...]
    truncated: np.ndarray
    occluded: np.ndarray
    box2d: np.ndarray
    camera_boxes: np.ndarray


@dataclass(frozen=True)
class KITTITruth:
    """What KITTI's evaluation must know about a frame, untouched by any transform.

    Attributes:
        labels: all rows of its label file.
        calibration: its matrices.
        picture_size: height and width of its picture in pixels, None without a picture.
    """

    labels: KITTILabels
    calibration: KITTICalibration
    picture_size: tuple[int, int] | None


@DATASETS.register_module()
class KITTI(DrivingDataset):
    """KITTI 3D object detection ("Are we ready for Autonomous Driving?", Geiger et al., 2012).

    One camera (``image_2``, .png or .jpg). ``meta`` tells ``truncated``, ``occluded`` and ``dont_care`` (2D boxes
    whose content is not judged) of every labelled frame, and ``kitti``, the ``KITTITruth`` that ``KITTIMetric`` reads.

    Args:
        split: name of a file in ``ImageSets``; ``all``: every frame with a calibration; or a list of frame names.
        part: ``training`` or ``testing``.
        classes: the types that are labels. Boxes of other types are left out and counted in ``ignored``.
        labelled: keep the frames with a label file only, and give boxes. False: all frames, no boxes.
        in_image: keep the points that the camera sees only, as many detectors want for this data.
        on_missing: ``error`` or ``skip`` for frames that lack a sweep, a picture or a calibration.
        lidar: see ``DrivingDataset``.
        cameras: see ``DrivingDataset``.
        image_size: see ``DrivingDataset``. Pictures of KITTI differ in size.
        root: folder that holds ``training``; None is ``$PERCEPTION_DATA/bev/kitti``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    def __init__(
        self,
        split: str | Sequence[str] = "all",
        part: str = "training",
        classes: Sequence[str] = ("Car", "Pedestrian", "Cyclist"),
        labelled: bool = True,
        in_image: bool = False,
        on_missing: str = "error",
        lidar: bool = True,
        cameras: bool = True,
        image_size: Sequence[int] | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(classes, lidar, cameras, image_size, transforms, seed)
        given = {"classes": classes, "part": part, "on_missing": on_missing, "image_size": image_size}
        faults = [Fault(key, given.get(key), text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "KITTI")
        self.labelled, self.in_image = labelled, in_image
        base = data_root(root, AREA, HINT)
        self.folder = base / part
        names = frame_names(base, self.folder, split)
        if labelled:
            with_labels = [name for name in names if self._label(name).is_file()]
            if len(with_labels) < len(names):
                text = f"KITTI: left out {len(names) - len(with_labels)} of {len(names)} frames without a label file"
                print_log(text, logger="current", level=30)  # logging.WARNING
            names = with_labels
            if not names:
                raise DataError(f"no frame of {str(self.folder)!r} has a label file: set labelled=False. {HINT}")
        self.names = keep_whole(names, self._missing(names), on_missing, "KITTI")
        if labelled:
            for name in self.names:
                self.ignored.update(kind for kind in read_labels(self._label(name)).kind if kind not in self.classes)
            self.report_ignored()

    def __len__(self) -> int:
        return len(self.names)

    def calibration(self, index: int) -> KITTICalibration:
        """Matrices of the frame at ``index``."""
        return read_calibration(self.folder / "calib" / f"{self.names[index]}.txt")

    def labels(self, index: int) -> KITTILabels:
        """All rows of the label file of the frame at ``index``, also those of other types."""
        return read_labels(self._label(self.names[index]))

    def frame(self, index: int) -> DrivingFrame:
        """See ``DrivingDataset``."""
        name, calibration = self.names[index], self.calibration(index)
        view: tuple[CameraView, ...] = ()
        if self.cameras:
            picture = self._picture_file(name)
            assert picture is not None  # looked for when the data set was made
            view = (CameraView("image_2", picture, calibration.lidar2rect, calibration.cam2img),)
        if not self.labelled:
            return DrivingFrame(name, view)
        rows = self.labels(index)
        wanted = np.array([kind in self.classes for kind in rows.kind], dtype=bool)
        label = [self.classes.index(kind) for kind in rows.kind if kind in self.classes]
        return DrivingFrame(
            name,
            view,
            kitti_camera_to_lidar(rows.camera_boxes[wanted], calibration.lidar2rect),
            np.array(label, dtype=np.int64),
            box2d=rows.box2d[wanted],
            extra={
                "truncated": rows.truncated[wanted],
                "occluded": rows.occluded[wanted],
                "dont_care": rows.box2d[[kind == DONT_CARE for kind in rows.kind]],
                "kitti": KITTITruth(rows, calibration, self._picture_size(name)),
            },
        )

    def sweep(self, index: int) -> np.ndarray:
        """(P, 4) float32: x forward, y left, z up in metres, reflectance in [0, 1]."""
        file = self._sweep_file(self.names[index])
        assert file is not None  # looked for when the data set was made
        points = read_sweep(file, 4)
        if not self.in_image:
            return points
        calibration = self.calibration(index)
        picture = self._picture_file(self.names[index])
        if picture is None:
            raise DataError(f"in_image=True needs the picture of frame {self.names[index]!r} for its size")
        size = read_picture(picture).shape[:2]
        return points[project(points, calibration.lidar2rect, calibration.cam2img, size=size)[2]]

    def _label(self, name: str) -> Path:
        return self.folder / "label_2" / f"{name}.txt"

    def _picture_file(self, name: str) -> Path | None:
        return _first(self.folder / "image_2" / f"{name}{ending}" for ending in PICTURE_ENDINGS)

    def _picture_size(self, name: str) -> tuple[int, int] | None:
        """Height and width from the header of the picture, which is not decoded."""
        file = self._picture_file(name)
        if file is None:
            return None
        try:
            with Image.open(file) as picture:
                return picture.height, picture.width
        except OSError as error:
            raise DataError(f"camera picture {str(file)!r} cannot be read: {error}") from error

    def _sweep_file(self, name: str) -> Path | None:
        return _first(self.folder / folder / f"{name}.bin" for folder in SWEEP_FOLDERS)

    def _missing(self, names: Sequence[str]) -> dict[str, str]:
        """What frames lack."""
        faults = {}
        for name in names:
            lacks = []
            if not (self.folder / "calib" / f"{name}.txt").is_file():
                lacks.append(f"calibration calib/{name}.txt")
            if self.lidar and self._sweep_file(name) is None:
                lacks.append(f"sweep {name}.bin in {' or '.join(SWEEP_FOLDERS)}")
            if (self.cameras or self.in_image) and self._picture_file(name) is None:
                lacks.append(f"picture image_2/{name}.png or .jpg")
            if lacks:
                faults[name] = f"frame {name!r} has no {' and no '.join(lacks)} below {str(self.folder)!r}"
        return faults

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.base_faults(cfg)
        for name in cfg["classes"]:
            if name not in TYPES:
                yield "classes", f"{name!r} is {not_among(name, TYPES)}"
        if len(set(cfg["classes"])) < len(cfg["classes"]):
            yield "classes", "names a type twice"
        if cfg["part"] not in ("training", "testing"):
            yield "part", "must be 'training' or 'testing'"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown types or split, missing folder."""
        faults = list(cls._faults(cfg))
        yield from faults
        base = data_root(cfg["root"], AREA, HINT)
        if not any(key == "part" for key, _ in faults):
            try:
                frame_names(base, base / cfg["part"], cfg["split"])
            except DataError as error:
                yield "split", str(error)


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def frame_names(base: Path, folder: Path, split: str | Sequence[str]) -> list[str]:
    """Names of the frames of a split, in order.

    Raises:
        DataError: no such split or no calibration; the message names the splits there are.
    """
    if not isinstance(split, str):
        return [str(name) for name in split]
    if split == "all":
        names = sorted(path.stem for path in (folder / "calib").glob("*.txt"))
        if not names:
            raise DataError(f"no calibration calib/*.txt in {str(folder)!r}. {HINT}")
        return names
    file = base / "ImageSets" / f"{split}.txt"
    if not file.is_file():
        there = ["all", *sorted(path.stem for path in (base / "ImageSets").glob("*.txt"))]
        raise DataError(f"no list {str(file)!r} of split {split!r}: it is {not_among(split, there)}")
    return file.read_text(encoding="utf-8").split()


def read_calibration(path: Path) -> KITTICalibration:
    """Matrices of a ``calib`` file.

    Raises:
        DataError: missing file or row, or a matrix that is not rigid, mirrored or no camera's; naming both.
    """
    values = read_rows(path)
    p2 = camera_matrix(matrix_of(values, "P2", (3, 4), path), f"P2 of {str(path)!r}")
    rectify = np.eye(4)
    rectify[:3, :3] = matrix_of(values, "R0_rect", (3, 3), path)
    check_rigid(rectify, f"R0_rect of {str(path)!r}")
    tr = check_rigid(matrix_of(values, "Tr_velo_to_cam", (3, 4), path), f"Tr_velo_to_cam of {str(path)!r}")
    return KITTICalibration(p2, rectify @ tr)


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """Rows ``name: numbers`` of a calibration file; rows that hold no numbers are left out."""
    if not path.is_file():
        raise DataError(f"calibration {str(path)!r} does not exist")
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, colon, text = line.partition(":")
        try:
            numbers = np.array(text.split(), dtype=np.float64)
        except ValueError:
            continue  # such as the date of the calibration
        if colon and len(numbers):
            found[name.strip()] = numbers
    return found


def matrix_of(values: dict[str, np.ndarray], name: str, shape: tuple[int, int], path: Path) -> np.ndarray:
    """The row ``name`` as a matrix.

    Raises:
        DataError: there is no such row, or not as many numbers.
    """
    if name not in values:
        raise DataError(f"calibration {str(path)!r} has no row {name!r}; it has {', '.join(sorted(values)) or 'none'}")
    if values[name].size != shape[0] * shape[1]:
        raise DataError(f"{name} of {str(path)!r} has {values[name].size} numbers, not {shape[0] * shape[1]}")
    return values[name].reshape(shape)


def read_labels(path: Path) -> KITTILabels:
    """Rows of a ``label_2`` file; an empty file has none.

    Raises:
        DataError: a row of another length, no numbers, a type that KITTI does not have, or a size that is not positive.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"label file {str(path)!r} cannot be read: {error.strerror}") from error
    for number, words in enumerate(lines, start=1):
        where = f"{str(path)!r}, row {number}"
        if words[0] not in (*TYPES, DONT_CARE):
            near = nearest(words[0], (*TYPES, DONT_CARE), 1)
            hint = f" Did you mean {near[0]!r}?" if near else " These labels may belong to another data set."
            raise DataError(f"{where}: {words[0]!r} is no type of KITTI.{hint}")
        if len(words) not in (_COLUMNS, _COLUMNS + 1):
            raise DataError(f"{where}: {len(words)} columns, not {_COLUMNS}")
    kind = tuple(words[0] for words in lines)
    try:
        table = np.array([words[1:_COLUMNS] for words in lines], dtype=np.float64).reshape(-1, _COLUMNS - 1)
    except ValueError as error:
        raise DataError(f"label file {str(path)!r} holds something that is no number: {error}") from error
    real = np.array([name != DONT_CARE for name in kind], dtype=bool)
    wrong = np.flatnonzero(real & ~((table[:, 7:10] > 0).all(1) & np.isfinite(table).all(1)))
    if len(wrong):
        raise DataError(f"{str(path)!r}, row {wrong[0] + 1}: sizes must be positive and all numbers finite")
    return KITTILabels(kind, table[:, 0], table[:, 1].astype(np.int64), table[:, 3:7], table[:, 7:14])
