"""The corruption suite as a transform of RAW driving batches: points, cameras and calibration, five severities."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError, check_arguments, not_among
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.camera_corruptions import CAMERA
from perception.transforms.driving_preprocess import PER_POINT
from perception.transforms.lidar_corruptions import FORWARD, SENSOR, LiDARCorruption, Sweep, noisy_poses
from perception.transforms.lidar_object_corruptions import OBJECT
from perception.transforms.lidar_weather import WEATHER
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

LIDAR: dict[str, LiDARCorruption] = {**WEATHER, **SENSOR, **OBJECT}
# Standard deviations by severity: metres along and radians about every axis of the camera.
_EXTRINSIC = {
    "spatial": tuple((0.02 * s, 0.002 * s) for s in range(1, 6)),
    "calibration": tuple(
        (m, math.radians(d)) for m, d in ((0.02, 0.2), (0.05, 0.5), (0.1, 1.0), (0.15, 1.5), (0.2, 2.0))
    ),
}
CORRUPTIONS: tuple[str, ...] = (
    *(f"lidar-{name}" for name in LIDAR),
    *(f"camera-{name}" for name in CAMERA),
    "camera-dropout",
    *(f"extrinsic-{name}" for name in _EXTRINSIC),
)
SCENE_LEVEL: tuple[str, ...] = tuple(f"lidar-{n}" for n in (*WEATHER, *SENSOR) if n not in ("beams", "empty"))
"""LiDAR corruptions of a whole sweep that the public benchmark has."""
CAMERA_LEVEL: tuple[str, ...] = tuple(n for n in CORRUPTIONS if n.startswith(("camera-", "extrinsic-")))
"""What befalls cameras: their pictures, one after the other of them, and their calibration."""


@TRANSFORMS.register_module()
class Corrupt(Transform):
    """Corrupts the samples of a batch with one of ``CORRUPTIONS``; labels stay as they are.

    ``lidar-*`` changes ``points`` together with ``region`` and ``point_id``, ``camera-*`` changes ``cams``,
    ``extrinsic-*`` adds an error to ``lidar2cam``, another one for every camera: ``spatial`` of 2 to 10 cm and 2 to 10
    mrad, ``calibration`` of 2 to 20 cm and 0.2 to 2 degrees. ``camera-dropout`` blackens as many cameras as the
    severity says, all if there are fewer. ``lidar-object-*`` needs ``boxes``. Weather in both sensors is two of them.

    What is drawn depends on (seed, epoch, index) alone. Nothing is written into the arrays of the batch that comes in.

    Args:
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5; 0 changes nothing.
        forward: axis that the LiDAR looks along: ``'x'`` for KITTI, ``'y'`` for nuScenes.
        intensity_scale: intensity of a surface that returns everything: 1 for KITTI, 255 for nuScenes.
        beams: lines of the LiDAR.
        speed: of the vehicle in m/s, for ``lidar-temporal``.
        period: seconds between sweeps, for ``lidar-temporal``.
        compat: give the values of the public code, faults included: noise on all columns, the field of view measured
            from +y, rotations that are none, twice the spatial error.
    """

    def __init__(
        self,
        name: str,
        severity: int,
        forward: str = "x",
        intensity_scale: float = 1.0,
        beams: int = 64,
        speed: float = 10.0,
        period: float = 0.1,
        compat: bool = False,
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.name = name
        self.severity = severity
        self.sensor, _, self.kind = name.partition("-")
        self.compat = compat
        self._scene: dict[str, Any] = {
            "forward": FORWARD[forward],
            "intensity_scale": float(intensity_scale),
            "beams": beams,
            "speed": float(speed),
            "period": float(period),
            "compat": compat,
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if cfg["name"] not in CORRUPTIONS:
            yield "name", f"is {not_among(cfg['name'], CORRUPTIONS)}"
        if cfg["severity"] not in range(6):
            yield "severity", "must be 0 (nothing) to 5"
        if cfg["forward"] not in FORWARD:
            yield "forward", "must be 'x' or 'y'"
        for key in ("intensity_scale", "beams", "period"):
            if not cfg[key] > 0:
                yield key, "must be positive"

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch.

        Raises:
            DataError: the batch lacks what is to be corrupted.
        """
        if self.severity == 0:
            return batch
        if self.sensor == "lidar":
            return self._lidar(batch, random)
        return self._cameras(batch, random) if self.sensor == "camera" else self._extrinsic(batch, random)

    def _lidar(self, batch: Batch, random: SampleRandom) -> Batch:
        sweeps = self._needed(batch, "points")
        boxes = self._needed(batch, "boxes") if self.kind.startswith("object-") else batch.get("boxes")
        velocity = batch.get("velocity")
        changed: dict[str, list[Tensor]] = {name: [] for name in ("points", *(n for n in PER_POINT if n in batch))}
        for place, generator in enumerate(generators(random)):
            labelled = {} if boxes is None else {"boxes": boxes[place].numpy()}
            speed = None if velocity is None else velocity[place].numpy()
            sweep = Sweep(sweeps[place].numpy(), velocity=speed, **labelled, **self._scene)
            points, source = LIDAR[self.kind](sweep, self.severity, generator)
            changed["points"].append(torch.from_numpy(points))
            for name in changed.keys() - {"points"}:
                changed[name].append(batch[name][place][torch.from_numpy(source)])
        return {**batch, **changed}

    def _cameras(self, batch: Batch, random: SampleRandom) -> Batch:
        cams = self._needed(batch, "cams")
        if self.kind == "dropout":
            lost = np.stack([g.permutation(cams.shape[1]) for g in generators(random)]) < self.severity
            return {**batch, "cams": cams.masked_fill(torch.from_numpy(lost)[:, :, None, None, None], 0)}
        changed = torch.empty_like(cams)
        for place, generator in enumerate(generators(random)):
            images = cams[place].permute(0, 2, 3, 1).numpy() / 255.0
            found = CAMERA[self.kind](images, self.severity, generator)
            changed[place] = torch.from_numpy(np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)).permute(0, 3, 1, 2)
        return {**batch, "cams": changed}

    def _extrinsic(self, batch: Batch, random: SampleRandom) -> Batch:
        given = self._needed(batch, "lidar2cam")
        translation, rotation = _EXTRINSIC[self.kind][self.severity - 1]
        twice = 2 if self.compat and self.kind == "spatial" else 1
        count = given.shape[1]
        poses = [noisy_poses(count, twice * translation, twice * rotation, g) for g in generators(random)]
        matrix = given.double()
        noise = torch.from_numpy(np.stack(poses))
        return {**batch, "lidar2cam": (noise @ matrix).to(given.dtype)}

    def _needed(self, batch: Batch, key: str) -> Any:
        if batch.get(key) is None:
            raise DataError(f"{self.name} needs {key!r} in the batch, which holds {sorted(batch)}")
        return batch[key]

    def __repr__(self) -> str:
        return f"Corrupt({self.name!r}, severity={self.severity})"


def generators(random: SampleRandom) -> list[np.random.Generator]:
    """A generator for every sample. It takes one draw, so that two corruptions in a row are independent."""
    return [np.random.default_rng(int(bits)) for bits in random.bits()]
