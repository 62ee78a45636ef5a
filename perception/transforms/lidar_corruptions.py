"""Corruptions of one LiDAR sweep in five severities.

Parameters are those of "Benchmarking Robustness of 3D Object Detection to Common Corruptions in Autonomous Driving"
(Dong et al., CVPR 2023). Weather is in ``lidar_weather``, what happens inside boxes in ``lidar_object_corruptions``.

A corruption takes a ``Sweep`` and gives its points anew: ``(points (P', F) float32, source (P',) int64)``, where
``source`` is the old place of every point. It never writes into what it was given. The public code adds noise to
every column, intensity and ring included, measures the field of view from +y whatever the sensor's front is, and
blurs the pose of a slice by a matrix that is no rotation. Here x, y, z alone move; ``compat`` gives the public
values, drawn in the public order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perception.geometry.boxes import first_box_of_points

FORWARD = {"x": 0.0, "y": math.pi / 2}  # azimuth of the sensor's front: KITTI looks along +x, nuScenes along +y
_SLICES = 100  # parts of a turn that the pose is noisy in, each by itself
_NOISE = (0.02, 0.04, 0.06, 0.08, 0.10)
_ROTATION = (0.002, 0.004, 0.006, 0.008, 0.010)


@dataclass(frozen=True)
class Sweep:
    """What a corruption may look at.

    Attributes:
        points: (P, F) float32: x, y, z in metres, intensity, further columns.
        boxes: (M, 7) float32, the labelled boxes.
        velocity: (M, 2) in m/s, NaN where unknown.
        forward: azimuth of the sensor's front in radians, counter-clockwise from +x.
        intensity_scale: intensity of a surface that returns everything: 1 or 255.
        beams: lines of the sensor.
        speed: of the vehicle in m/s, for what an old sweep looks like.
        period: seconds between sweeps.
        compat: reproduce the public code.
    """

    points: np.ndarray
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 7), dtype=np.float32))
    velocity: np.ndarray | None = None
    forward: float = 0.0
    intensity_scale: float = 1.0
    beams: int = 64
    speed: float = 10.0
    period: float = 0.1
    compat: bool = False


Outcome = tuple[np.ndarray, np.ndarray]
LiDARCorruption = Callable[[Sweep, int, Any], Outcome]


def keep(sweep: Sweep, kept: np.ndarray) -> Outcome:
    """The points at ``kept``, a mask (P,) or places (P',)."""
    source = np.flatnonzero(kept) if kept.dtype == bool else kept
    return sweep.points[source], source


def moved(sweep: Sweep, shift: np.ndarray, chosen: np.ndarray | None = None) -> Outcome:
    """All points, those at ``chosen`` (all, if None) shifted by (c, <= F) numbers of their first columns."""
    points = sweep.points.copy()
    rows = slice(None) if chosen is None else chosen
    points[rows, : shift.shape[1]] = (points[rows, : shift.shape[1]] + shift).astype(np.float32)
    return points, np.arange(len(points))


def gaussian(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Normal noise of 2 to 10 cm on every coordinate."""
    return moved(sweep, random.normal(size=(len(sweep.points), _columns(sweep))) * _NOISE[severity - 1])


def uniform(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Uniform noise within 2 to 10 cm on every coordinate."""
    width = _NOISE[severity - 1]
    return moved(sweep, random.uniform(-width, width, (len(sweep.points), _columns(sweep))))


def impulse(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """One point in 30 to 10 jumps by 10 cm in every coordinate, either way."""
    count = len(sweep.points) // (30, 25, 20, 15, 10)[severity - 1]
    chosen = random.choice(len(sweep.points), count, replace=False)
    return moved(sweep, random.choice([-1, 1], size=(count, _columns(sweep))) * 0.1, chosen)


def crosstalk(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """0.4 to 2 % of the points are those of another sensor: normal noise of 3 m."""
    return _far_noise(sweep, (0.004, 0.008, 0.012, 0.016, 0.020)[severity - 1], 3.0, random)


def sunlight(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """1 to 5 % of the points are blinded by the sun: normal noise of 2 m."""
    return _far_noise(sweep, (0.01, 0.02, 0.03, 0.04, 0.05)[severity - 1], 2.0, random)


def density(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """6 to 30 % of the points are lost anywhere."""
    count = int((0.2, 0.4, 0.6, 0.8, 1.0)[severity - 1] * int(0.3 * len(sweep.points)))
    kept = np.ones(len(sweep.points), dtype=bool)
    kept[random.choice(len(sweep.points), count, replace=False)] = False
    return keep(sweep, kept)


def cutout(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """2 to 10 holes, each the 2 % of the points that lie nearest to one of them."""
    size = int(0.02 * len(sweep.points))
    source = np.arange(len(sweep.points))
    if not size:
        return keep(sweep, source)
    for _ in range((2, 3, 5, 7, 10)[severity - 1]):
        near = sweep.points[source, : _columns(sweep)]
        centre = near[random.choice(len(source), 1)]
        nearest = np.argpartition(np.square(near - centre).sum(1), size)[:size]
        source = np.delete(source, nearest)
    return keep(sweep, source)


def field_of_view(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Only points within 105 to 45 degrees of the front are left."""
    front = FORWARD["y"] if sweep.compat else sweep.forward
    azimuth = np.arctan2(sweep.points[:, 1], sweep.points[:, 0]).astype(np.float64) - front
    azimuth = np.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
    return keep(sweep, np.abs(np.degrees(azimuth)) <= (105, 90, 75, 60, 45)[severity - 1])


def motion(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """A vehicle whose pose is known badly during the turn of the sensor.

    The turn falls into 100 slices of azimuth, each seen from a pose that is off by 2 to 10 cm and 2 to 10 mrad. The
    public code starts from the recorded trajectory; here the sweep is taken as motion compensated.
    """
    azimuth = np.arctan2(sweep.points[:, 1], sweep.points[:, 0])
    part = np.clip((azimuth + math.pi) / (2 * math.pi) * _SLICES, 0, _SLICES - 1).astype(np.int64)
    pose = noisy_poses(_SLICES, _NOISE[severity - 1], _ROTATION[severity - 1], random, sweep.compat)[part]
    xyz = sweep.points[:, :3].astype(np.float64)
    shift = np.einsum("pij,pj->pi", pose[:, :3, :3], xyz) + pose[:, :3, 3] - xyz
    return moved(sweep, shift)


def temporal(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """The sweep of 2 to 10 periods ago beside the labels of now.

    Without the older sweeps themselves, the scene is taken back in time: what stands lay further ahead by the way of
    the vehicle (``speed``, straight on), what moves by its ``velocity`` less than that. Occlusion stays that of now.
    """
    lag = (2, 4, 6, 8, 10)[severity - 1] * sweep.period
    ahead = np.array([math.cos(sweep.forward), math.sin(sweep.forward)]) * sweep.speed
    way = np.tile(ahead, (len(sweep.points), 1))
    if sweep.velocity is not None and len(sweep.boxes):
        box = first_box_of_points(sweep.points, sweep.boxes)
        way[box >= 0] -= np.nan_to_num(sweep.velocity)[box[box >= 0]]
    return moved(sweep, way * lag)


def beams(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Every 2nd, 3rd, 4th, 6th or 8th line of the sensor is left: 32 lines become 16 and, at last, 4.

    Lines are told by the angle of elevation, as equal parts of the angles that occur.
    """
    flat = np.hypot(sweep.points[:, 0], sweep.points[:, 1])
    angle = np.arctan2(sweep.points[:, 2], np.maximum(flat, 1e-6))
    if not len(angle):
        return keep(sweep, np.zeros(0, dtype=bool))
    low, high = np.quantile(angle, (0.001, 0.999))  # a few stray points do not stretch the fan
    line = np.clip((angle - low) / max(high - low, 1e-6) * sweep.beams, 0, sweep.beams - 1).astype(np.int64)
    return keep(sweep, line % (2, 3, 4, 6, 8)[severity - 1] == 0)


def empty(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """A sensor that sends nothing, at any severity."""
    return keep(sweep, np.zeros(len(sweep.points), dtype=bool))


def noisy_poses(count: int, translation: float, rotation: float, random: Any, compat: bool = False) -> np.ndarray:
    """(count, 4, 4) float64 poses around the identity.

    Args:
        count: how many.
        translation: standard deviation along every axis in metres.
        rotation: standard deviation about every axis in radians.
        random: generator.
        compat: add the noise to all nine entries of the rotation, which then is none.
    """
    poses = np.tile(np.eye(4), (count, 1, 1))
    if compat:
        poses[:, :3, :3] += random.normal(size=(count, 3, 3)) * rotation
        poses[:, :3, 3] += random.normal(size=(count, 3)) * translation
        return poses
    turn = random.normal(size=(count, 3)) * rotation
    poses[:, :3, 3] = random.normal(size=(count, 3)) * translation
    angle = np.linalg.norm(turn, axis=1)[:, None, None]
    axis = turn / np.maximum(angle[:, 0], 1e-12)
    cross = np.zeros((count, 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]], cross[:, [1, 2, 0], [2, 0, 1]] = axis, -axis
    poses[:, :3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    return poses


def _far_noise(sweep: Sweep, share: float, deviation: float, random: Any) -> Outcome:
    count = int(share * len(sweep.points))
    chosen = random.choice(len(sweep.points), count, replace=False)
    return moved(sweep, random.normal(size=(count, _columns(sweep))) * deviation, chosen)


def _columns(sweep: Sweep) -> int:
    return sweep.points.shape[1] if sweep.compat else 3


SENSOR: dict[str, LiDARCorruption] = {
    "gaussian": gaussian,
    "uniform": uniform,
    "impulse": impulse,
    "density": density,
    "cutout": cutout,
    "crosstalk": crosstalk,
    "sunlight": sunlight,
    "fov": field_of_view,
    "motion": motion,
    "temporal": temporal,
    "beams": beams,
    "empty": empty,
}
