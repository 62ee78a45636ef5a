"""Sensors in a made-up world: a LiDAR and cameras, both by rays that end at the first surface they meet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception.datasets.driving_world import World

_FAR = np.float32(1e6)
_ROAD, _GRASS, _PAINT, _HORIZON, _ZENITH = np.array(
    [(0.35, 0.35, 0.37), (0.36, 0.45, 0.25), (0.92, 0.92, 0.92), (0.78, 0.86, 0.95), (0.35, 0.55, 0.88)],
    dtype=np.float32,
)
_FACES = np.array([0.85, 0.65, 1.0], dtype=np.float32)  # brightness of sides across x, across y and of tops
_HAZE = 90.0  # metres at which a colour is mixed with the horizon's to 1 - 1/e


@dataclass(frozen=True)
class Hits:
    """Where rays end.

    Attributes:
        distance: (R,) float32 metres along the ray, ``inf`` in the sky.
        box: (R,) int64, the box that is met; -1 for the ground and the sky.
        face: (R,) int64, the axis of the box's frame that the met face is perpendicular to; 2 elsewhere.
    """

    distance: np.ndarray
    box: np.ndarray
    face: np.ndarray


def cast(world: World, origin: np.ndarray, directions: np.ndarray) -> Hits:
    """First surfaces along rays from ``origin`` (3,) in ``directions`` (R, 3) of length 1.

    The slab method in the frame of every box, all rays and boxes at once.
    """
    directions = np.asarray(directions, dtype=np.float32)
    rays = np.arange(len(directions))
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.float32(world.ground - origin[2]) / directions[:, 2]
    ground = np.where(down > 0, down, np.inf).astype(np.float32)
    if len(world.boxes) == 0:
        return Hits(ground, np.full(len(rays), -1), np.full(len(rays), 2))
    yaw = world.boxes[:, 6]
    cosine, sine = np.cos(yaw).astype(np.float32), np.sin(yaw).astype(np.float32)
    start = (origin[None, :] - world.boxes[:, :3]).astype(np.float32)
    along = np.stack([cosine, sine]), np.stack([-sine, cosine])
    local = [directions[:, :2] @ axis for axis in along] + [directions[:, 2:]]
    centre = [start[:, 0] * cosine + start[:, 1] * sine, start[:, 1] * cosine - start[:, 0] * sine, start[:, 2]]
    half = (world.boxes[:, 3:6] / 2).astype(np.float32)
    enter = np.full((len(rays), len(yaw)), -_FAR, dtype=np.float32)
    leave = np.full_like(enter, _FAR)
    face = np.zeros(enter.shape, dtype=np.int8)
    for axis in range(3):
        slope = np.where(np.abs(local[axis]) < 1e-9, np.float32(1e-9), local[axis])
        middle, reach = -centre[axis] / slope, half[:, axis] / np.abs(slope)
        near = middle - reach
        face[near > enter] = axis
        np.maximum(enter, near, out=enter)
        np.minimum(leave, middle + reach, out=leave)
    enter[(leave < enter) | (enter <= 0)] = np.inf
    box = enter.argmin(axis=1)
    distance = enter[rays, box]
    on_box = distance < ground
    return Hits(
        np.where(on_box, distance, ground), np.where(on_box, box, -1), np.where(on_box, face[rays, box], 2).astype(int)
    )


@dataclass(frozen=True)
class LidarModel:
    """A turning LiDAR.

    Attributes:
        beams: number of beams.
        elevation: lowest and highest beam in degrees.
        azimuths: shots of a turn.
        reach: largest distance in metres.
        noise: standard deviation of a distance in metres.
        dropout: share of the shots that do not come back.
    """

    beams: int = 32
    elevation: tuple[float, float] = (-25.0, 5.0)
    azimuths: int = 512
    reach: float = 60.0
    noise: float = 0.02
    dropout: float = 0.05

    @cached_property
    def directions(self) -> np.ndarray:
        """(beams * azimuths, 3) float32."""
        up = np.deg2rad(np.linspace(*self.elevation, self.beams))[:, None]
        around = (np.arange(self.azimuths) * (2 * np.pi / self.azimuths) - np.pi)[None, :]
        rays = [np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up) * np.ones_like(around)]
        return np.stack(rays, axis=-1).reshape(-1, 3).astype(np.float32)

    def sweep(self, world: World, random: np.random.Generator) -> np.ndarray:
        """(P, 4) float32 x, y, z in metres and intensity in [0, 1], beam by beam."""
        hits = cast(world, np.zeros(3), self.directions)
        back = (hits.distance < self.reach) & (random.uniform(size=len(hits.distance)) >= self.dropout)
        exact = hits.distance[back].astype(np.float64)
        box, rays = hits.box[back], self.directions[back]
        xyz = rays * (exact + random.normal(0, self.noise, len(exact)))[:, None]
        bright = np.where(world.road.painted(xyz[:, :2]), 0.8, 0.12 + 0.1 * ~world.road.masks(xyz[:, :2])[0])
        if len(world.boxes):
            bright = np.where(box >= 0, world.reflectance[box], bright)
        bright = np.clip(bright * np.exp(-exact / 80) + random.normal(0, 0.02, len(exact)), 0, 1)
        return np.column_stack([xyz, bright]).astype(np.float32)


@dataclass(frozen=True)
class CameraModel:
    """Pinhole cameras that look around at equal angles, the first one forward.

    Attributes:
        count: number of cameras.
        height: pixels.
        width: pixels.
        view: horizontal angle of view in degrees.
        place: metres in front of and above the LiDAR, each camera in its own direction.
    """

    count: int = 4
    height: int = 64
    width: int = 128
    view: float = 95.0
    place: tuple[float, float] = (0.4, -0.2)

    @cached_property
    def cam2img(self) -> np.ndarray:
        """(count, 4, 4) float64. Pixels count from the edge of the image: the centre of the first is u = v = 0.5."""
        focal = self.width / 2 / np.tan(np.deg2rad(self.view) / 2)
        matrix = np.eye(4)
        matrix[0, 0] = matrix[1, 1] = focal
        matrix[0, 2], matrix[1, 2] = self.width / 2, self.height / 2
        return np.tile(matrix, (self.count, 1, 1))

    @cached_property
    def lidar2cam(self) -> np.ndarray:
        """(count, 4, 4) float64, rigid."""
        found = []
        for yaw in 2 * np.pi * np.arange(self.count) / self.count:
            forward, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
            rotation = np.stack([-left, [0, 0, -1], forward])  # x right, y down, z forward
            centre = self.place[0] * forward + [0, 0, self.place[1]]
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ centre
            found.append(matrix)
        return np.stack(found)

    @cached_property
    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Origins (count, 3) float64 and directions (count, height * width, 3) float32 in the LiDAR frame."""
        v, u = np.mgrid[: self.height, : self.width] + 0.5
        pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
        inside = np.linalg.inv(self.cam2img[:, :3, :3]) @ pixels
        inside /= np.linalg.norm(inside, axis=1, keepdims=True)
        back = self.lidar2cam[:, :3, :3].transpose(0, 2, 1)
        origins = -(back @ self.lidar2cam[:, :3, 3:])[..., 0]
        return origins, (back @ inside).transpose(0, 2, 1).astype(np.float32)

    def images(self, world: World, random: np.random.Generator) -> np.ndarray:
        """(count, 3, height, width) uint8 RGB."""
        origins, directions = self.rays
        light = random.uniform(0.8, 1.1)
        found = [self._colours(world, o, d) for o, d in zip(origins, directions, strict=True)]
        pixels = np.stack(found) * light + random.normal(0, 0.02, (self.count, self.height * self.width, 3))
        whole = (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        return whole.reshape(self.count, self.height, self.width, 3).transpose(0, 3, 1, 2).copy()

    def _colours(self, world: World, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(R, 3) float32 in [0, 1]."""
        hits = cast(world, origin, directions)
        sky = ~np.isfinite(hits.distance)
        reached = np.where(sky, 0, hits.distance)[:, None] * directions + origin.astype(np.float32)
        road = world.road.masks(reached[:, :2])[0]
        colour = np.where(road[:, None], _ROAD, _GRASS)
        colour = np.where(world.road.painted(reached[:, :2])[:, None], _PAINT, colour)
        if len(world.boxes):
            shaded = world.colour.astype(np.float32)[hits.box] * _FACES[hits.face][:, None]
            colour = np.where((hits.box >= 0)[:, None], shaded, colour)
        haze = (1 - np.exp(-np.where(sky, 0, hits.distance) / _HAZE))[:, None]
        colour = colour * (1 - haze) + _HORIZON * haze
        up = np.clip(directions[:, 2:] * 2, 0, 1)
        return np.asarray(np.where(sky[:, None], _HORIZON * (1 - up) + _ZENITH * up, colour))
