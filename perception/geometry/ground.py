"""The ground below a LiDAR as one plane: random sample consensus, refined by least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CANDIDATES = 8192  # points that the draws are judged by; more tell the same


@dataclass(frozen=True)
class Plane:
    """Points p with ``normal . p + offset = 0``.

    Attributes:
        normal: (3,) float64 of length 1 that points up.
        offset: float; the height of the origin above the plane, in metres.
        support: share of the candidate points within the band around the plane; 0 where none was found.
    """

    normal: np.ndarray
    offset: float
    support: float

    def height(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (P,) of points (P, >= 3) from the plane, in metres; above is positive."""
        return np.asarray(points[:, :3] @ self.normal.astype(points.dtype) + points.dtype.type(self.offset))


def ground_plane(
    points: np.ndarray,
    sensor_height: float | None = None,
    band: float = 0.25,
    max_tilt: float = 18.0,
    draws: int = 200,
    seed: int = 0,
) -> Plane:
    """The plane with the most points near it, among nearly level planes below the sensor.

    Args:
        points: (P, >= 3) x, y, z in metres, z up, the sensor at the origin.
        sensor_height: height of the sensor above the ground in metres. Candidates then lie within 1 m of that level
            at the sensor and within ``max_tilt`` of it farther away; ``None`` takes all points below the sensor.
        band: largest distance of an inlier from the plane, in metres.
        max_tilt: largest angle of the normal to the vertical, in degrees.
        draws: planes through three random points that are tried.
        seed: of the draws. The result is a function of the arguments alone.

    Returns:
        The plane, refitted to its inliers. Where fewer than three candidates or no level plane exists, a level one at
        ``-sensor_height`` (at the lowest point without it), with a support of 0.
    """
    xyz = np.asarray(points[:, :3], dtype=np.float64)
    low = xyz[:, 2] < 0
    if sensor_height is not None:
        reach = 1.0 + np.hypot(xyz[:, 0], xyz[:, 1]) * np.tan(np.deg2rad(max_tilt))
        low &= np.abs(xyz[:, 2] + sensor_height) < reach
    candidates = xyz[low]
    height = sensor_height if sensor_height is not None else -float(xyz[:, 2].min()) if len(xyz) else 0.0
    level = Plane(np.array([0.0, 0.0, 1.0]), float(height), 0.0)
    if len(candidates) < 3:
        return level
    random = np.random.default_rng(seed)
    if len(candidates) > _CANDIDATES:
        judges = candidates[random.choice(len(candidates), _CANDIDATES, replace=False)]
    else:
        judges = candidates
    corners = judges[random.integers(0, len(judges), (draws, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    proper = lengths > 1e-9  # three points on a line span no plane
    normals[proper] /= lengths[proper, None]
    normals *= np.where(normals[:, 2:] < 0, -1.0, 1.0)
    proper &= normals[:, 2] >= np.cos(np.deg2rad(max_tilt))
    if not proper.any():
        return level
    normals = normals[proper]
    offsets = -np.einsum("kc,kc->k", normals, corners[proper, 0])
    near = np.abs(judges @ normals.T + offsets) <= band
    best = int(near.sum(axis=0).argmax())
    normal, offset = normals[best], float(offsets[best])
    inliers = candidates[np.abs(candidates @ normal + offset) <= band]
    centre = inliers.mean(axis=0)
    fitted = np.linalg.eigh((inliers - centre).T @ (inliers - centre))[1][:, 0]
    fitted = -fitted if fitted[2] < 0 else fitted
    if fitted[2] >= np.cos(np.deg2rad(max_tilt)):  # else: a wall's foot, kept as it was drawn
        normal, offset = fitted, -float(fitted @ centre)
    support = float((np.abs(candidates @ normal + offset) <= band).mean())
    return Plane(normal, offset, support)
