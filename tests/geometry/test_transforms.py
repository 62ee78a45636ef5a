import math

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.geometry.transforms import (
    check_rigid,
    homogeneous,
    invert,
    invert_rigid,
    quaternion_to_matrix,
    rigid,
    transform_points,
    wrap_angle,
)

QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # +x goes to +y


def test_a_rigid_matrix_and_its_inverse_by_hand():
    matrix = rigid(QUARTER, [1, 2, 3])
    assert np.array_equal(matrix @ [1, 0, 0, 1], [1, 3, 3, 1])
    expected = [[0, 1, 0, -2], [-1, 0, 0, 1], [0, 0, 1, -3], [0, 0, 0, 1]]
    assert np.array_equal(invert_rigid(matrix), expected) and np.allclose(invert(matrix), expected)
    both = invert_rigid(torch.from_numpy(np.stack([matrix, np.eye(4)])).float())
    assert both.dtype == torch.float32 and np.allclose(both[0], expected) and np.array_equal(both[1], np.eye(4))


def test_only_the_true_inverse_is_exact_for_stored_rotations():
    stored = rigid(quaternion_to_matrix([0.5, 0.5, -0.5, 0.5]), [30.0, 40, 50])
    stored[:3, :3] += 1e-7 * np.array([[1, -2, 1], [0, 1, 2], [1, 1, -1]])
    assert np.abs(invert(stored) @ stored - np.eye(4)).max() < 1e-13
    assert 1e-8 < np.abs(invert_rigid(stored) @ stored - np.eye(4)).max() < 1e-5


def test_quaternions():
    half = math.sqrt(0.5)
    assert np.allclose(quaternion_to_matrix([half, 0, 0, half]), QUARTER)
    assert np.allclose(quaternion_to_matrix([2 * half, 0, 0, 2 * half]), QUARTER)  # normalised
    assert np.allclose(quaternion_to_matrix([0, 1, 0, 0]), np.diag([1, -1, -1]))
    many = quaternion_to_matrix(np.random.default_rng(0).standard_normal((50, 4)))
    assert np.allclose(many @ many.transpose(0, 2, 1), np.eye(3), atol=1e-14) and np.allclose(np.linalg.det(many), 1)
    with pytest.raises(DataError, match="w, x, y, z"):
        quaternion_to_matrix([0, 0, 0, 0])
    with pytest.raises(DataError, match="w, x, y, z"):
        quaternion_to_matrix([1, 0, 0])


def test_homogeneous_fills_up():
    k = np.arange(9.0).reshape(3, 3)
    full = homogeneous(k)
    assert (
        np.array_equal(full[:3, :3], k)
        and np.array_equal(full[3], [0, 0, 0, 1])
        and np.array_equal(full[:3, 3], [0, 0, 0])
    )
    assert np.array_equal(homogeneous(np.arange(12.0).reshape(3, 4))[:3], np.arange(12.0).reshape(3, 4))
    with pytest.raises(ValueError, match="2 x 4"):
        homogeneous(np.zeros((2, 4)))


def test_points_keep_further_columns():
    points = np.array([[1.0, 0, 0, 7, 8]], dtype=np.float32)
    moved = transform_points(points, rigid(QUARTER, [1, 2, 3]))
    assert moved.dtype == np.float32 and np.array_equal(moved, [[1, 3, 3, 7, 8]])
    stack = transform_points(torch.zeros(1, 5, 3), torch.eye(4).repeat(2, 1, 1))
    assert stack.shape == (2, 5, 3)
    assert transform_points(np.zeros((0, 4)), np.eye(4)).shape == (0, 4)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (rigid(1.1 * QUARTER, [0, 0, 0]), r"Tr of file is not rigid.*scale 1\.1"),
        (rigid(np.diag([1, -1, 1]), [0, 0, 0]), "Tr of file is mirrored.*left-handed"),
        (rigid(QUARTER, [1, 2, 3]).T, "Tr of file: the last row is .*looks transposed"),
        (rigid(QUARTER, [1, 2, np.nan]), "Tr of file holds numbers that are not finite"),
        (np.eye(3), "Tr of file must be 3 x 4 or 4 x 4, not 3 x 3"),
        (rigid(np.array([[0, -1, 0.01], [1, 0, 0], [0, 0, 1]]), [0, 0, 0]), "Tr of file is not rigid"),
    ],
)
def test_wrong_matrices_are_named(matrix, text):
    with pytest.raises(DataError, match=text):
        check_rigid(matrix, "Tr of file")


def test_rounded_rotations_pass():
    given = rigid(np.round(quaternion_to_matrix([0.9, 0.1, 0.2, 0.3]), 6), [1, 2, 3])
    assert np.array_equal(check_rigid(given[:3], "Tr"), given)


def test_angles_are_half_open():
    given = np.array([math.pi, -math.pi, 3 * math.pi, 0.0, -1e-17, 4.0, -4.0])
    wrapped = wrap_angle(given)
    assert ((wrapped >= -math.pi) & (wrapped < math.pi)).all()
    assert np.allclose(wrapped, [-math.pi, -math.pi, -math.pi, 0, 0, 4 - 2 * math.pi, 2 * math.pi - 4])
    narrow = wrap_angle(torch.tensor([-1e-9, math.pi, -3.2], dtype=torch.float32))
    assert narrow.dtype == torch.float32 and (narrow < math.pi).all() and (narrow >= -np.float32(math.pi)).all()
