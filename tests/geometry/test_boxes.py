import math

import numpy as np
import pytest
import torch

from perception.geometry.augmentation import lidar_matrix
from perception.geometry.boxes import (
    EDGES,
    bev_corners,
    box_corners,
    count_points,
    first_box_of_points,
    kitti_camera_corners,
    kitti_camera_to_lidar,
    legacy_to_boxes,
    lidar_to_kitti_camera,
    points_in_boxes,
    transform_boxes,
)
from perception.geometry.transforms import quaternion_to_matrix, rigid, transform_points


def random_boxes(count, seed=0):
    r = np.random.default_rng(seed)
    parts = [r.uniform(-30, 30, (count, 2)), r.uniform(-2, 1, (count, 1)), r.uniform(0.5, 6, (count, 3))]
    return np.concatenate([*parts, r.uniform(-math.pi, math.pi, (count, 1))], axis=1)


def inside_one_by_one(points, boxes):
    """The definition, a point and a box at a time: turn back about the centre, compare with half the sizes."""
    found = np.zeros((len(points), len(boxes)), dtype=bool)
    for i, p in enumerate(points):
        for j, (x, y, z, length, w, h, yaw) in enumerate(boxes):
            turned = complex(p[0] - x, p[1] - y) * complex(math.cos(yaw), -math.sin(yaw))
            found[i, j] = abs(turned.real) <= length / 2 and abs(turned.imag) <= w / 2 and abs(p[2] - z) <= h / 2
    return found


def test_corners_by_hand():
    box = np.array([[10.0, 20, 1, 4, 2, 3, math.pi / 2]])  # heading +y: 2 wide in x, 4 long in y
    assert np.allclose(bev_corners(box), [[[11, 18], [11, 22], [9, 22], [9, 18]]])
    corners = box_corners(box)
    assert corners.shape == (1, 8, 3) and np.allclose(corners[0, :4, 2], -0.5) and np.allclose(corners[0, 4:, 2], 2.5)
    assert np.allclose(bev_corners(box[:, [0, 1, 3, 4, 6]]), bev_corners(box))
    lengths = [np.linalg.norm(corners[0, a] - corners[0, b]) for a, b in EDGES]
    assert np.allclose(sorted(lengths), sorted([4] * 4 + [2] * 4 + [3] * 4))


def test_corners_run_counter_clockwise():
    corners = bev_corners(random_boxes(20))
    ahead = np.roll(corners, -1, axis=1)
    area = (corners[..., 0] * ahead[..., 1] - ahead[..., 0] * corners[..., 1]).sum(1) / 2
    assert np.allclose(area, random_boxes(20)[:, 3] * random_boxes(20)[:, 4])


def test_points_in_boxes_against_the_definition():
    boxes = random_boxes(12)
    points = np.concatenate(
        [box_corners(boxes).mean(1) + np.random.default_rng(i).normal(0, 1.5, (12, 3)) for i in range(9)]
    )
    expected = inside_one_by_one(points, boxes)
    assert 20 < expected.sum() < 100
    assert np.array_equal(points_in_boxes(points, boxes), expected)
    first = np.where(expected.any(1), expected.argmax(1), -1)
    assert np.array_equal(first_box_of_points(points, boxes), first)
    assert np.array_equal(count_points(points, boxes), expected.sum(0))
    as_tensor = points_in_boxes(torch.from_numpy(points).float(), torch.from_numpy(boxes).float())
    assert as_tensor.dtype == torch.bool and np.array_equal(as_tensor, expected)


def test_faces_are_inside_and_nan_is_outside():
    box = np.array([[0.0, 0, 0, 4, 2, 2, 0]])
    points = np.array([[2.0, 1, 1], [2.001, 0, 0], [0, 0, -1], [np.nan, 0, 0], [0, np.inf, 0]])
    assert points_in_boxes(points, box)[:, 0].tolist() == [True, False, True, False, False]


def test_the_lower_of_two_boxes_that_overlap_wins():
    boxes = np.array([[0.0, 0, 0, 2, 2, 2, 0], [0.5, 0, 0, 2, 2, 2, 0]])
    points = np.array([[0.0, 0, 0], [1.2, 0, 0], [5, 0, 0]])
    assert first_box_of_points(points, boxes).tolist() == [0, 1, -1]


def test_nothing_in_nothing():
    none, points = np.zeros((0, 7)), np.zeros((5, 4), np.float32)
    assert points_in_boxes(points, none).shape == (5, 0) and points_in_boxes(points[:0], random_boxes(3)).shape == (
        0,
        3,
    )
    assert first_box_of_points(points, none).tolist() == [-1] * 5 and len(count_points(points, none)) == 0
    assert box_corners(none).shape == (0, 8, 3) and transform_boxes(none, np.eye(4)).shape == (0, 7)
    assert kitti_camera_to_lidar(none, np.eye(4)).shape == (0, 7) and legacy_to_boxes(none).shape == (0, 7)


def test_chunks_change_nothing(monkeypatch):
    boxes, points = random_boxes(5), np.random.default_rng(1).uniform(-30, 30, (1000, 3))
    whole = points_in_boxes(points, boxes), first_box_of_points(points, boxes), count_points(points, boxes)
    monkeypatch.setattr("perception.geometry.boxes._CHUNK", 37)
    parts = points_in_boxes(points, boxes), first_box_of_points(points, boxes), count_points(points, boxes)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize(
    "matrix",
    [
        lidar_matrix(0.7, 1.08, [1, -2, 0.3], True, False),
        lidar_matrix(-2.9, 0.92, [0, 4, 0.1], False, True),
        lidar_matrix(1.2, 1.0, [0, 0, 0], True, True),
    ],
)
def test_augmented_boxes_hold_the_same_points(matrix):
    """Scale and mirrors included: the masks do not change when points and boxes move together."""
    boxes = random_boxes(30)
    near = np.repeat(boxes[:, :3], 40, axis=0) + np.random.default_rng(2).normal(0, 1.5, (1200, 3))
    before = points_in_boxes(near, boxes)
    after = points_in_boxes(transform_points(near, matrix), transform_boxes(boxes, matrix))
    assert before.sum() > 100 and np.array_equal(before, after)


def test_velocity_and_heading_turn_together():
    boxes = random_boxes(10)
    forward = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    forward[3] = np.nan
    matrix = lidar_matrix(0.4, 1.1, [3, 2, 1], False, True)
    moved, velocity = transform_boxes(boxes, matrix, forward)
    heading = np.stack([np.cos(moved[:, 6]), np.sin(moved[:, 6])], axis=1)
    known = np.arange(10) != 3
    assert np.allclose(velocity[known], 1.1 * heading[known]) and np.isnan(velocity[3]).all()
    narrow = transform_boxes(torch.from_numpy(boxes).float(), torch.from_numpy(matrix))
    assert narrow.dtype == torch.float32 and np.allclose(narrow, moved, atol=1e-5)


def test_shear_is_refused():
    with pytest.raises(ValueError, match="one scale for all axes"):
        transform_boxes(random_boxes(1), np.diag([1.0, 1.2, 1.0, 1.0]))


def test_kitti_boxes_by_hand():
    """Axes only: LiDAR x forward, y left, z up -> camera x right, y down, z forward."""
    axes = rigid([[0, -1, 0], [0, 0, -1], [1, 0, 0]], [0, 0, 0])
    label = np.array([[1.5, 1.8, 4.0, 2.0, 1.7, 10.0, 0.0]])  # heads along the camera's +x: to the right, so -y
    expected = [[10, -2, -1.7 + 0.75, 4.0, 1.8, 1.5, -math.pi / 2]]
    assert np.allclose(kitti_camera_to_lidar(label, axes), expected)
    label[0, 6] = -math.pi / 2  # drives away from the camera
    assert np.isclose(kitti_camera_to_lidar(label, axes)[0, 6], 0)


def test_kitti_boxes_there_and_back():
    turn = quaternion_to_matrix([0.5, -0.5, 0.5, -0.5]) @ quaternion_to_matrix([1, 0.004, -0.003, 0.005])
    lidar2rect, boxes = rigid(turn, [0.01, -0.07, -0.27]), random_boxes(40)
    assert np.allclose(kitti_camera_to_lidar(lidar_to_kitti_camera(boxes, lidar2rect), lidar2rect), boxes, atol=1e-12)


def test_kitti_corners_against_the_rotation_matrix():
    """Corners of the label, each turned by the matrix of a rotation about the camera's y axis."""
    label = np.array([[1.5, 1.8, 4.0, 2.0, 1.7, 10.0, 0.6], [2.0, 0.6, 0.9, -4.0, 1.5, 20.0, -2.8]])
    corners = kitti_camera_corners(label)
    for (h, w, length, x, y, z, ry), found in zip(label, corners, strict=True):
        turn = np.array([[math.cos(ry), 0, math.sin(ry)], [0, 1, 0], [-math.sin(ry), 0, math.cos(ry)]])
        signs = [(1, 0, 1), (1, 0, -1), (-1, 0, -1), (-1, 0, 1), (1, -2, 1), (1, -2, -1), (-1, -2, -1), (-1, -2, 1)]
        expected = [turn @ (np.array(s) * (length, h, w) / 2) + (x, y, z) for s in signs]
        assert np.allclose(found, expected)


def test_old_boxes():
    """The front of an old box at r = 0 points along -y; a box that heads along +x has r = -pi/2."""
    old = np.array([[1.0, 2, 0, 1.8, 4.5, 1.6, 0.0], [1.0, 2, 0, 1.8, 4.5, 1.6, -math.pi / 2]])
    new = legacy_to_boxes(old)
    assert np.allclose(new, [[1, 2, 0, 4.5, 1.8, 1.6, -math.pi / 2], [1, 2, 0, 4.5, 1.8, 1.6, 0]])
    assert np.allclose(legacy_to_boxes(old, bottom=True)[:, 2], 0.8)
