import math

import numpy as np
import pytest

from perception.geometry.augmentation import image_matrix, lidar_matrix


def lss_step_by_step(u, v, s, crop, flip, theta, size):
    """A pixel through the steps: scale, cut, mirror, turn about the centre of the cut."""
    u, v = u * s - crop[0], v * s - crop[1]
    height, width = size
    if flip:
        u = width - u
    du, dv = u - width / 2, v - height / 2
    return math.cos(theta) * du + math.sin(theta) * dv + width / 2, -math.sin(theta) * du + math.cos(
        theta
    ) * dv + height / 2


def test_image_matrix_against_the_steps():
    r = np.random.default_rng(0)
    for _ in range(50):
        s, theta, flip = r.uniform(0.3, 0.6), r.uniform(-0.1, 0.1), bool(r.integers(2))
        crop, size, (u, v), depth = r.uniform(-5, 80, 2), (256, 704), r.uniform(0, 1600, 2), r.uniform(1, 60)
        found = image_matrix(s, crop, flip, theta, size) @ [u, v, depth, 1]
        assert np.allclose(found, [*lss_step_by_step(u, v, s, crop, flip, theta, size), depth, 1], atol=1e-10)


def test_image_matrix_by_hand():
    assert np.array_equal(image_matrix(), np.eye(4))
    matrix = image_matrix((0.5, 0.25), (10, 20, 110, 70), True, 0.0, (50, 100))
    assert np.allclose(matrix @ [100, 200, 9, 1], [100 - (50 - 10), 50 - 20, 9, 1])
    turned = image_matrix(rotate=math.pi / 2, size=(100, 100))  # counter-clockwise: the right edge goes to the top
    assert np.allclose(turned @ [100, 50, 1, 1], [50, 0, 1, 1])


def test_lidar_matrix_is_flip_translate_scale_rotate():
    r = np.random.default_rng(1)
    angle, scale, shift, fx, fy = 0.7, 1.07, r.normal(size=3), True, False
    c, s = math.cos(angle), math.sin(angle)
    for p in r.normal(0, 20, (10, 3)):
        q = np.array([c * p[0] - s * p[1], s * p[0] + c * p[1], p[2]]) * scale + shift
        q = np.array([-q[0] if fx else q[0], -q[1] if fy else q[1], q[2]])
        assert np.allclose(lidar_matrix(angle, scale, shift, fx, fy) @ [*p, 1], [*q, 1])


def test_lidar_matrices_of_a_batch():
    angles, scales = np.array([0.1, -0.2, 0.3]), np.array([1.0, 0.9, 1.1])
    shifts, flips = np.arange(9.0).reshape(3, 3), np.array([True, False, True])
    batch = lidar_matrix(angles, scales, shifts, flips, ~flips)
    assert batch.shape == (3, 4, 4)
    for i in range(3):
        assert np.array_equal(batch[i], lidar_matrix(angles[i], scales[i], shifts[i], flips[i], ~flips[i]))
    assert np.isclose(np.linalg.det(batch[1, :3, :3]), -(0.9**3))


@pytest.mark.parametrize("flip", [True, False])
def test_matrices_invert(flip):
    matrix = image_matrix((0.48, 0.479), (30, 140), flip, 0.05, (256, 704))
    assert np.abs(np.linalg.inv(matrix) @ matrix - np.eye(4)).max() < 1e-12
