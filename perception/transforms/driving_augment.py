"""Augmentations of driving scenes: of points, of cameras, and two views of a sweep. The matrices go with them.

``lidar_aug`` maps original LiDAR coordinates to those of ``points``, ``img_aug`` pixels of the original picture to
those of ``cams``; a transform multiplies its own matrix from the left. Boxes and velocities move with the points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError, check_arguments
from perception.geometry.augmentation import lidar_matrix
from perception.geometry.boxes import transform_boxes
from perception.geometry.transforms import transform_points
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.camera_images import warp_camera
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

_THREADS = 4
_PER_POINT = ("point_id", "region")  # lists of (P,) that go with the points


def normal(random: SampleRandom) -> np.ndarray:
    """(n,) float64 of the standard normal distribution (Box and Muller)."""
    radius = np.sqrt(-2 * np.log(1 - random.uniform()))
    return radius * np.cos(2 * math.pi * random.uniform())


def draw_lidar_matrices(random: SampleRandom, ranges: Mapping[str, Any]) -> np.ndarray:
    """(n, 4, 4) float64 random ``lidar_aug``.

    Args:
        random: of n samples.
        ranges: ``rotation`` (degrees to both sides), ``scale`` (pair), ``translation`` (standard deviation in metres),
            ``flip_x`` and ``flip_y`` (probabilities).
    """
    rotation = np.deg2rad(random.uniform(-ranges["rotation"], ranges["rotation"]))
    scale = random.uniform(*ranges["scale"])
    shift = ranges["translation"] * np.stack([normal(random) for _ in range(3)], axis=1)
    return lidar_matrix(
        rotation, scale, shift, random.uniform() < ranges["flip_x"], random.uniform() < ranges["flip_y"]
    )


def move_points(points: Sequence[Tensor], matrices: np.ndarray) -> list[Tensor]:
    """Clouds (P, F), each moved by its matrix of (n, 4, 4)."""
    return [transform_points(cloud, torch.from_numpy(m)) for cloud, m in zip(points, matrices, strict=True)]


def compose(matrices: np.ndarray, before: Tensor | None) -> Tensor:
    """``matrices`` after ``before`` (None: nothing was done), as float32."""
    found = torch.from_numpy(matrices)
    return (found if before is None else found @ before.double()).float()


def range_faults(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Faults of the ranges of ``draw_lidar_matrices``."""
    if not 0 <= cfg["rotation"] <= 180:
        yield "rotation", "must lie in [0, 180] degrees"
    if not 0 < cfg["scale"][0] <= cfg["scale"][1]:
        yield "scale", "must be a rising pair of positive numbers"
    if cfg["translation"] < 0:
        yield "translation", "must not be negative"
    for key in ("flip_x", "flip_y"):
        if not 0 <= cfg[key] <= 1:
            yield key, "must lie in [0, 1]"


def _require(batch: Batch, key: str, transform: Transform, hint: str) -> Any:
    if batch.get(key) is None:
        raise DataError(f"{type(transform).__name__} needs {key!r}, which the batch does not have: {hint}")
    return batch[key]


@TRANSFORMS.register_module()
class AugmentPoints(Transform):
    """Turns, scales, shifts and mirrors sweeps, their boxes and velocities ("BEVFusion", Liu et al., 2023).

    Args:
        rotation: about the vertical, uniform up to so many degrees to both sides.
        scale: range of the scale.
        translation: standard deviation of the shift along each axis, in metres.
        flip_x: probability that x changes its sign.
        flip_y: probability that y changes its sign.
        shuffle: bring the points into a random order, as capped voxels need it.
    """

    def __init__(
        self,
        rotation: float = 45.0,
        scale: Sequence[float] = (0.9, 1.1),
        translation: float = 0.5,
        flip_x: float = 0.5,
        flip_y: float = 0.5,
        shuffle: bool = False,
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.ranges = {
            "rotation": float(rotation),
            "scale": (float(scale[0]), float(scale[1])),
            "translation": float(translation),
            "flip_x": float(flip_x),
            "flip_y": float(flip_y),
        }
        self.shuffle = shuffle

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        points = _require(batch, "points", self, "give the data set lidar=True")
        matrices = draw_lidar_matrices(random, self.ranges)
        out = {**batch, "points": move_points(points, matrices)}
        out["lidar_aug"] = compose(matrices, batch.get("lidar_aug"))
        if batch.get("boxes") is not None:
            known = batch.get("velocity") is not None
            speeds = batch["velocity"] if known else [None] * len(points)
            moved = [
                transform_boxes(boxes, torch.from_numpy(m), speed)
                for boxes, m, speed in zip(batch["boxes"], matrices, speeds, strict=True)
            ]
            if known:
                out["velocity"] = [speed for _, speed in moved]
                moved = [boxes for boxes, _ in moved]
            out["boxes"] = moved
        if self.shuffle:
            streams = random.streams(1)
            orders = [torch.from_numpy(streams.generator(i).permutation(len(p))) for i, p in enumerate(points)]
            for key in ("points", *_PER_POINT):
                if out.get(key) is not None:
                    out[key] = [value[order] for value, order in zip(out[key], orders, strict=True)]
        return out

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from range_faults(cfg)


@TRANSFORMS.register_module()
class TwoViews(Transform):
    """Two independently augmented copies of every sweep, for contrast between points.

    ``views`` holds two dicts with ``points``, ``point_id``, ``lidar_aug`` and, where the batch has it, ``region``.
    Points of equal ``point_id`` correspond.

    Args:
        rotation: about the vertical, uniform up to so many degrees to both sides.
        scale: range of the scale.
        translation: standard deviation of the shift along each axis, in metres.
        flip_x: probability that x changes its sign.
        flip_y: probability that y changes its sign.
        drop: range of the share of points that a view loses, drawn uniformly for each.
        keep_sweep: leave the sweep itself in the batch. Without it nobody has to prepare and move it for nothing.
    """

    def __init__(
        self,
        rotation: float = 90.0,
        scale: Sequence[float] = (0.9, 1.1),
        translation: float = 0.0,
        flip_x: float = 0.0,
        flip_y: float = 0.0,
        drop: Sequence[float] = (0.0, 0.0),
        keep_sweep: bool = False,
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.ranges = {
            "rotation": float(rotation),
            "scale": (float(scale[0]), float(scale[1])),
            "translation": float(translation),
            "flip_x": float(flip_x),
            "flip_y": float(flip_y),
        }
        self.drop = (float(drop[0]), float(drop[1]))
        self.keep_sweep = keep_sweep

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch with ``views``."""
        points = _require(batch, "points", self, "give the data set lidar=True")
        ids = batch.get("point_id") or [torch.arange(len(cloud)) for cloud in points]
        marks: Batch = {"point_id": list(ids)}
        if batch.get("region") is not None:
            marks["region"] = list(batch["region"])
        for key, value in marks.items():
            if [len(v) for v in value] != [len(p) for p in points]:
                sizes = [len(v) for v in value], [len(p) for p in points]
                raise DataError(f"TwoViews: {key!r} has {sizes[0]} values a sweep, but there are {sizes[1]} points")
        streams = random.streams(2)
        matrices = draw_lidar_matrices(streams, self.ranges)
        shares = streams.uniform(*self.drop)
        views = []
        for view in range(2):
            own = slice(view * len(points), (view + 1) * len(points))
            found: Batch = {"points": list(points), **marks}
            if self.drop[1] > 0:
                numbers = range(own.start, own.stop)
                kept = [self._kept(streams, n, shares[n], len(p)) for n, p in zip(numbers, points, strict=True)]
                found = {key: [v[k] for v, k in zip(value, kept, strict=True)] for key, value in found.items()}
            found["points"] = move_points(found["points"], matrices[own])
            found["lidar_aug"] = compose(matrices[own], batch.get("lidar_aug"))
            views.append(found)
        gone = () if self.keep_sweep else ("points", "lidar_aug", *_PER_POINT)
        return {**{key: value for key, value in batch.items() if key not in gone}, "views": views}

    @staticmethod
    def _kept(streams: SampleRandom, position: int, share: float, count: int) -> Tensor:
        """Rows that stay, in their order."""
        return torch.from_numpy(np.flatnonzero(streams.generator(position).random(count) >= share))

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from range_faults(cfg)
        if not 0 <= cfg["drop"][0] <= cfg["drop"][1] < 1:
            yield "drop", "must be a rising pair in [0, 1)"


@TRANSFORMS.register_module()
class AugmentCameras(Transform):
    """Scales, cuts, mirrors and turns every picture by itself ("Lift, Splat, Shoot", Philion and Fidler, 2020).

    The sky is cut away: the cut ends at the lower edge, or ``bottom`` above it. The defaults are BEVFusion's for
    pictures of 900 x 1600; ``scale=(0.48, 0.48), rotation=0, flip=0, centre=True`` are its settings for tests.

    Args:
        size: height and width of the outcome.
        scale: range of the scale of the picture.
        bottom: range of the share of the height that is cut away below.
        rotation: uniform up to so many degrees to both sides.
        flip: probability of mirroring left to right.
        centre: cut from the middle of the width instead of anywhere.
    """

    def __init__(
        self,
        size: Sequence[int] = (256, 704),
        scale: Sequence[float] = (0.38, 0.55),
        bottom: Sequence[float] = (0.0, 0.0),
        rotation: float = 5.4,
        flip: float = 0.5,
        centre: bool = False,
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.size = (int(size[0]), int(size[1]))
        self.scale = (float(scale[0]), float(scale[1]))
        self.bottom = (float(bottom[0]), float(bottom[1]))
        self.rotation, self.flip, self.centre = float(rotation), float(flip), centre

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch with ``cams`` (B, N, 3, *size)."""
        cams = _require(batch, "cams", self, "give the data set cameras=True")
        samples, across, _, height, width = cams.shape
        streams = random.streams(across)  # numbers of (N * B,), camera by camera
        scales = streams.uniform(*self.scale)
        rows, columns = np.round(height * scales), np.round(width * scales)
        top = np.floor((1 - streams.uniform(*self.bottom)) * rows) - self.size[0]
        spare = np.maximum(columns - self.size[1], 0)
        left = np.floor(spare / 2 if self.centre else spare * streams.uniform())
        flips = streams.uniform() < self.flip
        turns = np.deg2rad(streams.uniform(-self.rotation, self.rotation))

        def warp(number: int) -> tuple[np.ndarray, np.ndarray]:
            image = cams[number % samples, number // samples].permute(1, 2, 0).numpy()
            crop = (left[number], top[number])
            return warp_camera(
                np.ascontiguousarray(image), scales[number], crop, bool(flips[number]), turns[number], self.size
            )

        with ThreadPoolExecutor(max_workers=_THREADS) as pool:  # cv2 lets go of the interpreter lock
            done = list(pool.map(warp, range(samples * across)))
        images = np.stack([image for image, _ in done]).reshape(across, samples, *self.size, 3)
        matrices = np.stack([matrix for _, matrix in done]).reshape(across, samples, 4, 4).swapaxes(0, 1)
        out = {**batch, "cams": torch.from_numpy(np.ascontiguousarray(images.transpose(1, 0, 4, 2, 3)))}
        out["img_aug"] = compose(matrices, batch.get("img_aug"))
        return out

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if min(cfg["size"]) < 1:
            yield "size", "must be positive"
        if not 0 < cfg["scale"][0] <= cfg["scale"][1]:
            yield "scale", "must be a rising pair of positive numbers"
        if not 0 <= cfg["bottom"][0] <= cfg["bottom"][1] < 1:
            yield "bottom", "must be a rising pair in [0, 1)"
        if not 0 <= cfg["rotation"] <= 180:
            yield "rotation", "must lie in [0, 180] degrees"
        if not 0 <= cfg["flip"] <= 1:
            yield "flip", "must lie in [0, 1]"
