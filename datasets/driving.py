"""The base of data sets with a LiDAR and cameras: frames in, whole batches out."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log

from perception.datasets.base import Dataset
from perception.datasets.images import decode_image
from perception.errors import DataError, not_among
from perception.geometry.transforms import check_rigid, homogeneous
from perception.transforms.base import Transform
from perception.transforms.camera_images import fit_camera
from perception.transforms.preprocess import Batch

THREADS = 4
ON_MISSING = ("error", "skip")


@dataclass(frozen=True)
class CameraView:
    """A camera of a frame.

    Attributes:
        name: such as ``CAM_FRONT``.
        image: file, or the picture itself uint8 (H, W, 3).
        lidar2cam: (4, 4) float64, the full chain, ego motion between the two moments included.
        cam2img: (4, 4) float64, intrinsics filled up with the identity; KITTI's P2 keeps its fourth column.
    """

    name: str
    image: Path | np.ndarray
    lidar2cam: np.ndarray
    cam2img: np.ndarray


@dataclass(frozen=True)
class DrivingFrame:
    """A moment: calibration and labels. Boxes are None where the frame is unlabelled.

    Attributes:
        token: name of the frame.
        cameras: in the order of the batch.
        boxes: (M, 7) float64 x, y, z, l, w, h, yaw in the LiDAR frame, z of the centre.
        box_label: (M,) int64, index of the class.
        velocity: (M, 2) float64 in m/s in the LiDAR frame, NaN where unknown. None: unknown.
        box2d: (M, 4) float64 left, top, right, bottom in pixels of the original picture, where there are such labels.
        extra: what else ``meta`` of a batch tells about the frame.
    """

    token: str
    cameras: tuple[CameraView, ...] = ()
    boxes: np.ndarray | None = None
    box_label: np.ndarray | None = None
    velocity: np.ndarray | None = None
    box2d: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class DrivingDataset(Dataset):
    """Base of data sets of driving scenes. A subclass gives frames and sweeps; batches are assembled here.

    Points that are not finite are dropped; ``meta['dropped_points']`` counts them per sample, and they are reported
    once. So are sweeps without a point, which stay in the batch.

    Args:
        classes: class names in label order.
        lidar: give ``points``.
        cameras: give ``cams`` and their matrices.
        image_size: height and width that every picture is scaled to cover and cut to; the sky above is cut, or both
            sides alike. ``img_aug`` holds the exact matrix. None keeps the size.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        ignored: how many labels of which class were left out, by name.
    """

    modality: ClassVar[str] = "driving"

    def __init__(
        self,
        classes: Sequence[str] = (),
        lidar: bool = True,
        cameras: bool = True,
        image_size: Sequence[int] | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        self.classes = tuple(str(name) for name in classes)
        self.lidar, self.cameras = lidar, cameras
        self.image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        self.ignored: Counter[str] = Counter()
        self._told: set[str] = set()

    @abstractmethod
    def frame(self, index: int) -> DrivingFrame:
        """Calibration and labels of the frame at ``index``."""

    @abstractmethod
    def sweep(self, index: int) -> np.ndarray:
        """(P, F) float32: x, y, z in metres in the LiDAR frame, intensity, and further columns."""

    def fetch(self, indices: np.ndarray) -> Batch:
        """RAW batch.

        ``points`` list of (P, F) float32 and ``point_id`` list of (P,) int64; ``cams`` (B, N, 3, H, W) uint8 RGB with
        ``cam2img``, ``lidar2cam``, ``img_aug`` (B, N, 4, 4) float32; ``lidar_aug`` (B, 4, 4); with labels ``boxes``,
        ``velocity``, ``box_label`` and, where there are such, ``box2d`` lists; ``index`` (B,) and ``meta``.

        Raises:
            DataError: a camera's calibration is not rigid, mirrored or no camera's; frames have different cameras, or
                pictures different sizes.
        """
        frames = [self.frame(int(i)) for i in indices]
        meta: dict[str, Any] = {"classes": self.classes, "tokens": [frame.token for frame in frames]}
        batch: Batch = {"index": torch.from_numpy(np.asarray(indices, dtype=np.int64)), "meta": meta}
        if self.lidar:
            batch["lidar_aug"] = torch.eye(4).repeat(len(frames), 1, 1)
            sweeps = [self._finite(self.sweep(int(i)), frame) for i, frame in zip(indices, frames, strict=True)]
            batch["points"] = [torch.from_numpy(points) for points, _, _ in sweeps]
            batch["point_id"] = [torch.from_numpy(rows) for _, rows, _ in sweeps]
            meta["dropped_points"] = [dropped for _, _, dropped in sweeps]
        if self.cameras:
            batch |= self._cameras(frames)
            meta["cameras"] = [camera.name for camera in frames[0].cameras]
        if all(frame.boxes is not None for frame in frames):
            batch |= self._labels(frames)
        for key in frames[0].extra:
            meta[key] = [frame.extra[key] for frame in frames]
        return batch

    def report_ignored(self) -> None:
        """Tell once, when the data set is made, which boxes are no labels."""
        if self.ignored:
            text = ", ".join(f"{name}: {count}" for name, count in sorted(self.ignored.items()))
            print_log(f"{type(self).__name__}: boxes that are no labels: {text}", logger="current")

    def _finite(self, points: np.ndarray, frame: DrivingFrame) -> tuple[np.ndarray, np.ndarray, int]:
        """The finite points, their rows in the sweep, and the number of the others."""
        good = np.isfinite(points).all(axis=1)
        if not len(points):
            self._tell("empty", f"{frame.token}: the sweep holds no point; it stays in the batch")
        dropped = int((~good).sum())
        if dropped:
            self._tell("nan", f"{frame.token}: dropped {dropped} of {len(points)} points: not finite")
        return np.ascontiguousarray(points[good], dtype=np.float32), np.flatnonzero(good), dropped

    def _tell(self, kind: str, text: str) -> None:
        """Report the first case of a kind; the others are counted in ``meta``."""
        if kind not in self._told:
            self._told.add(kind)
            print_log(f"{type(self).__name__}, {text} (reported once)", logger="current", level=30)  # logging.WARNING

    def _cameras(self, frames: Sequence[DrivingFrame]) -> Batch:
        names = [tuple(camera.name for camera in frame.cameras) for frame in frames]
        for frame, found in zip(frames, names, strict=True):
            if found != names[0] or not found:
                raise DataError(f"frame {frame.token!r} has the cameras {found}, frame {frames[0].token!r} {names[0]}")
        for frame in frames:
            for camera in frame.cameras:
                where = f"of camera {camera.name!r} of frame {frame.token!r}"
                check_rigid(camera.lidar2cam, f"lidar2cam {where}")
                camera_matrix(np.asarray(camera.cam2img)[:3], f"cam2img {where}")
        views = [camera for frame in frames for camera in frame.cameras]
        with ThreadPoolExecutor(max_workers=THREADS) as pool:  # cv2 lets go of the interpreter lock
            pictures = list(pool.map(self._picture, views))
        shapes = {picture.shape for picture, _ in pictures}
        if len(shapes) > 1:
            sizes = ", ".join(f"{h} x {w}" for h, w, _ in sorted(shapes))
            raise DataError(f"{type(self).__name__}: pictures of different sizes ({sizes}): set image_size=(H, W)")
        across = len(names[0])

        def stack(matrices: Iterable[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.stack(list(matrices)).astype(np.float32)).view(len(frames), across, 4, 4)

        image = np.stack([picture.transpose(2, 0, 1) for picture, _ in pictures])
        return {
            "cams": torch.from_numpy(image).view(len(frames), across, *image.shape[1:]),
            "cam2img": stack(view.cam2img for view in views),
            "lidar2cam": stack(view.lidar2cam for view in views),
            "img_aug": stack(matrix for _, matrix in pictures),
        }

    def _picture(self, view: CameraView) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and ``img_aug`` (4, 4) of a view."""
        image = view.image if isinstance(view.image, np.ndarray) else read_picture(view.image)
        return (image, np.eye(4)) if self.image_size is None else fit_camera(image, self.image_size)

    @staticmethod
    def _labels(frames: Sequence[DrivingFrame]) -> Batch:
        boxes = [np.asarray(frame.boxes, dtype=np.float32).reshape(-1, 7) for frame in frames]
        unknown = [np.full((len(found), 2), np.nan, dtype=np.float32) for found in boxes]
        batch: Batch = {
            "boxes": [torch.from_numpy(found) for found in boxes],
            "box_label": [torch.from_numpy(np.asarray(frame.box_label, dtype=np.int64)) for frame in frames],
            "velocity": [
                torch.from_numpy(none if frame.velocity is None else frame.velocity.astype(np.float32))
                for frame, none in zip(frames, unknown, strict=True)
            ],
        }
        if all(frame.box2d is not None for frame in frames):
            batch["box2d"] = [torch.from_numpy(np.asarray(frame.box2d, dtype=np.float32)) for frame in frames]
        return batch

    @staticmethod
    def base_faults(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of the arguments that all driving data sets share."""
        size = cfg.get("image_size")
        if size is not None and (len(size) != 2 or min(size) < 1):
            yield "image_size", "must be a positive height and width"
        if not cfg.get("lidar", True) and not cfg.get("cameras", True):
            yield "cameras", "without lidar=True and cameras=True a batch would hold nothing"
        if "on_missing" in cfg and cfg["on_missing"] not in ON_MISSING:
            yield "on_missing", not_among(cfg["on_missing"], ON_MISSING)


def read_picture(path: Path) -> np.ndarray:
    """The picture of a file, uint8 (H, W, 3) RGB.

    Raises:
        DataError: it is missing or cannot be decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"camera picture {str(path)!r} cannot be read: {error.strerror}") from error
    return decode_image(data, f"camera picture {str(path)!r}").transpose(1, 2, 0)


def read_sweep(path: Path, columns: int) -> np.ndarray:
    """Points (P, columns) float32 of a ``.bin`` file.

    Raises:
        DataError: the file is missing, or its size is no whole number of points.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"sweep {str(path)!r} cannot be read: {error.strerror}") from error
    if len(data) % (4 * columns):
        raise DataError(
            f"sweep {str(path)!r} has {len(data)} bytes, no multiple of {4 * columns} "
            f"({columns} float32 a point): cut off, or another format"
        )
    return np.frombuffer(data, dtype=np.float32).reshape(-1, columns).copy()


def camera_matrix(values: np.ndarray, name: str) -> np.ndarray:
    """Intrinsics (3, 3) or (3, 4) as (4, 4) float64 after a check.

    Raises:
        DataError: not finite, a focal length that is not positive, or a last row other than 0 0 1; naming ``name``.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape not in ((3, 3), (3, 4)) or not np.isfinite(matrix).all():
        raise DataError(f"{name} must be a finite 3 x 3 or 3 x 4 matrix, not of shape {matrix.shape}")
    if min(matrix[0, 0], matrix[1, 1]) <= 0 or not np.allclose(matrix[2, :3], (0, 0, 1), atol=1e-6):
        hint = "; it looks transposed" if np.allclose(matrix[:2, 2], 0) and matrix[2, 0] else ""
        raise DataError(f"{name} is no camera matrix: it needs positive focal lengths and a last row 0 0 1{hint}")
    return homogeneous(matrix)


def keep_whole(names: Sequence[str], faults: Mapping[str, str], on_missing: str, kind: str) -> list[str]:
    """The names without a fault.

    Args:
        names: all frames.
        faults: what is missing, by the name of the frame.
        on_missing: ``error``: raise; ``skip``: leave the frames out and report how many.
        kind: name of the data set, for messages.

    Raises:
        DataError: there are faults and ``on_missing`` is ``error``, or nothing is left.
    """
    kept = [name for name in names if name not in faults]
    if faults:
        first = next(iter(faults))
        text = f"{len(faults)} of {len(names)} frames are incomplete; the first: {faults[first]}"
        if on_missing == "error":
            raise DataError(f"{kind}: {text}. on_missing='skip' leaves them out")
        print_log(f"{kind}: left out {text}", logger="current", level=30)  # logging.WARNING
    if not kept:
        raise DataError(f"{kind}: no frame is left of {len(names)}")
    return kept
