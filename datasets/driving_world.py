"""Streets that are made up: a road with markings, vehicles and pedestrians on a plane, houses and poles beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("car", "truck", "pedestrian")
MAP_CLASSES = ("drivable_area", "ped_crossing", "divider")
CLUTTER = ("house", "pole")
# Length, width and height in metres: mean and standard deviation.
_SIZES = {
    "car": ((4.5, 1.9, 1.6), (0.3, 0.1, 0.1)),
    "truck": ((8.5, 2.6, 3.2), (1.0, 0.15, 0.3)),
    "pedestrian": ((0.7, 0.7, 1.75), (0.08, 0.08, 0.1)),
    "house": ((14.0, 9.0, 7.0), (3.0, 1.5, 1.0)),
    "pole": ((0.35, 0.35, 5.0), (0.05, 0.05, 0.5)),
}
_SPEED = {"car": 8.0, "truck": 6.0, "pedestrian": 1.2}  # m/s of what moves
_OWN_VEHICLE = 3.5  # metres around the sensor that stay free
_TRIES = 30
_LANE_MARK, _DASH = 0.15, 3.0  # half the width of a marking, length of a dash, in metres
_DIVIDER = 0.5  # half the width of the divider in maps, in metres
_STRIPE = 0.5  # width of a stripe of a crossing, in metres


@dataclass(frozen=True)
class Road:
    """A straight road across the whole scene.

    Attributes:
        heading: its direction in radians from +x.
        offset: distance of its axis from the sensor to the left, in metres.
        width: in metres.
        crossing: where a zebra crossing begins and ends along the axis, in metres; ``None`` without one.
    """

    heading: float
    offset: float
    width: float
    crossing: tuple[float, float] | None

    def coordinates(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres along and to the left of the axis of points (..., 2)."""
        cosine, sine = np.cos(self.heading), np.sin(self.heading)
        along = xy[..., 0] * cosine + xy[..., 1] * sine
        return along, xy[..., 1] * cosine - xy[..., 0] * sine - self.offset

    def place(self, along: float, across: float) -> tuple[float, float]:
        """Position (x, y) of road coordinates."""
        cosine, sine = np.cos(self.heading), np.sin(self.heading)
        left = across + self.offset
        return along * cosine - left * sine, along * sine + left * cosine

    def masks(self, xy: np.ndarray) -> np.ndarray:
        """Which of ``MAP_CLASSES`` the points (..., 2) lie on: (3, ...) bool."""
        along, across = self.coordinates(xy)
        drivable = np.abs(across) <= self.width / 2
        crossing = np.zeros_like(drivable)
        if self.crossing is not None:
            crossing = drivable & (along >= self.crossing[0]) & (along <= self.crossing[1])
        return np.stack([drivable, crossing, np.abs(across) <= _DIVIDER])

    def painted(self, xy: np.ndarray) -> np.ndarray:
        """Whether the points (..., 2) lie on white paint: dashes of the axis, stripes of the crossing."""
        along, across = self.coordinates(xy)
        drivable, crossing, _ = self.masks(xy)
        dashes = (np.abs(across) <= _LANE_MARK) & (np.floor(along / _DASH) % 2 == 0) & ~crossing
        return dashes | (crossing & drivable & (np.floor(across / _STRIPE) % 2 == 0))


@dataclass(frozen=True)
class World:
    """One scene. The sensor is the origin, x forward, y left, z up.

    Attributes:
        road: the road.
        ground: z of the ground in metres.
        boxes: (M, 7) float64 x, y, z of the centre, length, width, height, yaw; labelled ones first.
        kinds: (M,) int64, an index into ``CLASSES + CLUTTER``.
        velocity: (M, 2) float64 in m/s.
        colour: (M, 3) float64 RGB in [0, 1].
        reflectance: (M,) float64 in [0, 1].
    """

    road: Road
    ground: float
    boxes: np.ndarray
    kinds: np.ndarray
    velocity: np.ndarray
    colour: np.ndarray
    reflectance: np.ndarray

    @property
    def labelled(self) -> int:
        """Number of objects that have a class; they come first."""
        return int((self.kinds < len(CLASSES)).sum())


def build_world(random: np.random.Generator, extent: float, sensor_height: float) -> World:
    """A street within ``extent`` metres of a sensor ``sensor_height`` metres above the ground."""
    crossing = None
    if random.uniform() < 0.7:
        start = float(random.uniform(0.15, 0.5) * extent * random.choice((-1, 1)))
        crossing = (start, start + 4.0)
    road = Road(
        heading=float(random.normal(0, 0.25)),
        offset=float(random.uniform(-2.5, 2.5)),
        width=float(random.uniform(10, 15)),
        crossing=crossing,
    )
    wanted = (
        ["truck"] * int(random.integers(0, 3))
        + ["car"] * int(random.integers(4, 9))
        + ["pedestrian"] * int(random.integers(2, 6))
        + ["house"] * int(random.integers(2, 5))
        + ["pole"] * int(random.integers(2, 6))
    )
    names = [*CLASSES, *CLUTTER]
    placed: list[tuple[int, np.ndarray, float]] = []
    for kind in wanted:
        found = _place(kind, road, placed, random, extent)
        if found is not None:
            placed.append((names.index(kind), *found))
    placed.sort(key=lambda item: item[0])  # stable: labelled ones first
    kinds = np.array([kind for kind, _, _ in placed], dtype=np.int64)
    boxes = np.array([box for _, box, _ in placed], dtype=np.float64).reshape(-1, 7)
    boxes[:, 2] = boxes[:, 5] / 2 - sensor_height
    speed = np.array([speed for _, _, speed in placed], dtype=np.float64)
    velocity = speed[:, None] * np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    colour = random.uniform(0.15, 0.95, (len(kinds), 3))
    return World(road, -sensor_height, boxes, kinds, velocity, colour, random.uniform(0.15, 0.7, len(kinds)))


def _place(
    kind: str, road: Road, placed: list[tuple[int, np.ndarray, float]], random: np.random.Generator, extent: float
) -> tuple[np.ndarray, float] | None:
    """Box without its z, and speed, of an object that touches no other; ``None`` where there is no room left."""
    mean, spread = (np.asarray(v) for v in _SIZES[kind])
    size = np.maximum(random.normal(mean, spread), 0.5 * mean)
    for _ in range(_TRIES):
        along = random.uniform(-0.95, 0.95) * extent
        side = random.choice((-1.0, 1.0))
        yaw, moving = road.heading, 0.0
        if kind in ("car", "truck"):
            parked = random.uniform() < 0.4
            lane = road.width / 2 - size[1] / 2 - 0.3 if parked else road.width / 4
            across = side * lane + random.normal(0, 0.2)
            yaw += (np.pi if side > 0 else 0.0) + random.normal(0, 0.05)  # traffic keeps to the right
            moving = 0.0 if parked else abs(random.normal(_SPEED[kind], 2.0))
        elif kind == "pedestrian":
            across = side * (road.width / 2 + random.uniform(0.8, 3.0))
            yaw = random.uniform(-np.pi, np.pi)
            moving = abs(random.normal(_SPEED[kind], 0.3)) * (random.uniform() < 0.7)
        elif kind == "house":
            across = side * (road.width / 2 + 4.5 + size[1] / 2 + random.uniform(0, 3))
            yaw += random.normal(0, 0.03)
        else:
            across = side * (road.width / 2 + random.uniform(0.5, 1.0))
        x, y = road.place(along, across)
        if max(abs(x), abs(y)) > extent or np.hypot(x, y) < _OWN_VEHICLE + np.hypot(size[0], size[1]) / 2:
            continue
        box = np.array([x, y, 0.0, *size, np.arctan2(np.sin(yaw), np.cos(yaw))])
        if not any(_touching(box, other) for _, other, _ in placed):
            return box, float(moving)
    return None


def _touching(a: np.ndarray, b: np.ndarray, gap: float = 0.3) -> bool:
    """Whether two upright boxes (7,) come within ``gap`` metres of each other on the ground (separating axes)."""
    axes = [(np.cos(yaw + turn), np.sin(yaw + turn)) for yaw in (a[6], b[6]) for turn in (0, np.pi / 2)]
    between = b[:2] - a[:2]
    for axis in np.asarray(axes):
        reach = sum(
            abs(axis @ (np.cos(box[6]), np.sin(box[6]))) * box[3] / 2
            + abs(axis @ (-np.sin(box[6]), np.cos(box[6]))) * box[4] / 2
            for box in (a, b)
        )
        if abs(axis @ between) > reach + gap:
            return False
    return True
