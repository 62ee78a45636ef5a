"""Made-up streets: what rays meet, worked out again by other means."""

from __future__ import annotations

import numpy as np
import pytest

from perception.datasets.driving_rays import CameraModel, LidarModel, cast
from perception.datasets.driving_world import CLASSES, Road, World, build_world


def world(seed: int = 0) -> World:
    return build_world(np.random.default_rng([7, seed]), extent=32.0, sensor_height=1.8)


def in_boxes(points: np.ndarray, boxes: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """(P, M) bool, one box after the other."""
    found = []
    for x, y, z, length, width, height, yaw in boxes:
        q = points - [x, y, z]
        along = q[:, 0] * np.cos(yaw) + q[:, 1] * np.sin(yaw)
        across = -q[:, 0] * np.sin(yaw) + q[:, 1] * np.cos(yaw)
        inside = (np.abs(along) <= length / 2 + slack) & (np.abs(across) <= width / 2 + slack)
        found.append(inside & (np.abs(q[:, 2]) <= height / 2 + slack))
    return np.stack(found, axis=1)


def test_one_box_is_met_at_its_near_face() -> None:
    road = Road(heading=0.0, offset=0.0, width=10.0, crossing=None)
    box = np.array([[10.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.0]])
    alone = World(road, -1.8, box, np.array([0]), np.zeros((1, 2)), np.ones((1, 3)), np.ones(1))
    down = np.array([1.0, 0.0, -1.8]) / np.hypot(1.0, 1.8)
    hits = cast(alone, np.zeros(3), np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], down]))
    assert hits.distance[0] == pytest.approx(8.0) and hits.box[0] == 0 and hits.face[0] == 0
    assert np.isinf(hits.distance[1:3]).all() and (hits.box[1:] == -1).all()
    assert hits.distance[3] == pytest.approx(np.hypot(1.0, 1.8)) and hits.face[3] == 2


def test_a_turned_box_is_met_where_trigonometry_says() -> None:
    road = Road(0.0, 0.0, 10.0, None)
    box = np.array([[10.0, 0.0, 0.0, 2.0, 2.0, 2.0, np.pi / 4]])  # a corner points at the sensor
    alone = World(road, -1.8, box, np.array([0]), np.zeros((1, 2)), np.ones((1, 3)), np.ones(1))
    assert cast(alone, np.zeros(3), np.array([[1.0, 0, 0]])).distance[0] == pytest.approx(10 - np.sqrt(2), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_rays_end_at_the_first_surface(seed: int) -> None:
    made = world(seed)
    rays = LidarModel(beams=12, azimuths=90).directions
    hits = cast(made, np.zeros(3), rays)
    reached = np.isfinite(hits.distance) & (hits.distance < 60)
    ends = hits.distance[reached, None].astype(float) * rays[reached]
    near = in_boxes(ends, made.boxes, slack=1e-3)
    on_box = hits.box[reached] >= 0
    assert near[np.flatnonzero(on_box), hits.box[reached][on_box]].all()
    np.testing.assert_allclose(ends[~on_box, 2], made.ground, atol=1e-3)
    assert on_box.sum() > 50 and (~on_box).sum() > 50
    for share in np.linspace(0.02, 0.995, 60):  # nothing stands in the way
        assert not in_boxes(share * ends, made.boxes, slack=-2e-2).any()


@pytest.mark.parametrize("seed", range(5))
def test_worlds_are_streets_without_collisions(seed: int) -> None:
    made = world(seed)
    assert made.labelled >= 5 and set(made.kinds[: made.labelled]) <= set(range(len(CLASSES)))
    np.testing.assert_allclose(made.boxes[:, 2] - made.boxes[:, 5] / 2, made.ground)
    assert np.abs(made.boxes[:, :2]).max() <= 32
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 9)] * 2), axis=-1).reshape(-1, 2)
    for i, box in enumerate(made.boxes):
        cosine, sine = np.cos(box[6]), np.sin(box[6])
        own = (grid * box[3:5]) @ np.array([[cosine, sine], [-sine, cosine]]) + box[:2]
        points = np.column_stack([own, np.full(len(own), made.ground + 0.1)])
        assert not np.delete(in_boxes(points, made.boxes), i, axis=1).any()
        assert np.hypot(*own.T).min() > 3.0  # the own vehicle


def test_traffic_keeps_to_the_right_and_moves_along_its_heading() -> None:
    sides = []
    for seed in range(10):
        made = world(seed)
        cars = made.kinds < 2
        across = made.road.coordinates(made.boxes[cars, :2])[1]
        ahead = np.cos(made.boxes[cars, 6] - made.road.heading)
        sides.append(np.sign(across) == -np.sign(ahead))
        speed = np.linalg.norm(made.velocity, axis=1)
        heading = np.stack([np.cos(made.boxes[:, 6]), np.sin(made.boxes[:, 6])], axis=1)
        np.testing.assert_allclose(made.velocity, speed[:, None] * heading)
    assert np.concatenate(sides).all()


def test_maps_and_paint() -> None:
    road = Road(heading=np.pi / 2, offset=1.0, width=8.0, crossing=(10.0, 14.0))
    # Heading north, the axis is one metre to its left: x = -1.
    points = np.array([[-1.0, 0.0], [2.9, 0.0], [3.1, 0.0], [1.0, 12.0], [4.0, 12.0], [-1.0, 12.0]])
    np.testing.assert_array_equal(
        road.masks(points),
        [[1, 1, 0, 1, 0, 1], [0, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 1]],
    )
    x, y = road.place(12.0, 2.0)
    np.testing.assert_allclose((x, y), (-3.0, 12.0), atol=1e-12)
    stripes = road.painted(np.stack([np.linspace(-4.75, 2.75, 16), np.full(16, 12.0)], axis=1))
    assert stripes[:-1].astype(int).tolist() == (1 - stripes[1:].astype(int)).tolist()  # every half metre


def test_cameras_see_what_their_matrices_say() -> None:
    cameras = CameraModel(count=3, height=40, width=60, view=80.0)
    origins, rays = cameras.rays
    for camera in range(3):
        points = origins[camera] + 7.0 * rays[camera].astype(float)
        q = cameras.lidar2cam[camera] @ np.column_stack([points, np.ones(len(points))]).T
        uv = (cameras.cam2img[camera] @ q)[:2] / q[2]
        v, u = np.mgrid[:40, :60] + 0.5
        np.testing.assert_allclose(uv, np.stack([u.ravel(), v.ravel()]), atol=1e-4)
        rotation = cameras.lidar2cam[camera, :3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
    half = np.rad2deg(np.arctan2(30, cameras.cam2img[0, 0, 0]))
    assert 2 * half == pytest.approx(80.0)


def test_a_red_box_is_red_in_the_camera_that_faces_it() -> None:
    road = Road(0.0, 0.0, 10.0, None)
    box = np.array([[0.0, 10.0, 0.0, 2.0, 2.0, 2.0, 0.0]])  # to the left
    made = World(road, -1.8, box, np.array([0]), np.zeros((1, 2)), np.array([[1.0, 0, 0]]), np.ones(1))
    images = CameraModel(count=4, height=32, width=48).images(made, np.random.default_rng(0)).astype(int)
    red = (images[:, 0] > images[:, 1] + 60) & (images[:, 0] > images[:, 2] + 60)
    assert red[1, 12:20, 20:28].any() and not red[[0, 2, 3]].any()


def test_a_sweep_is_noisy_thinned_and_repeatable() -> None:
    made = world()
    lidar = LidarModel(dropout=0.2)
    first, again = (lidar.sweep(made, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    full = LidarModel(dropout=0.0, noise=0.0).sweep(made, np.random.default_rng(5))
    assert len(first) == pytest.approx(0.8 * len(full), rel=0.03)
    assert (full[:, 2] >= made.ground - 1e-3).all() and full[:, 3].min() >= 0 and full[:, 3].max() <= 1
    assert np.linalg.norm(full[:, :3], axis=1).max() < lidar.reach
