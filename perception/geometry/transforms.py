"""Rigid and affine 4 x 4 matrices: building, inverting and checking them."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError
from perception.geometry.arrays import tensors

Array = TypeVar("Array", np.ndarray, Tensor)


def rigid(rotation: Any, translation: Any) -> np.ndarray:
    """Matrix (..., 4, 4) float64 of p -> rotation p + translation.

    Args:
        rotation: (..., 3, 3).
        translation: (..., 3), in metres.
    """
    rotation, translation = np.asarray(rotation, dtype=np.float64), np.asarray(translation, dtype=np.float64)
    shape = np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    matrix = np.zeros((*shape, 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation, translation, 1.0
    return matrix


def homogeneous(matrix: Array) -> Array:
    """(..., 4, 4) of a (..., 3, 3), (..., 3, 4) or (..., 4, 4) matrix, filled up with the identity."""
    (given,), back = tensors(matrix)
    rows, columns = given.shape[-2:]
    if rows not in (3, 4) or columns not in (3, 4):
        raise ValueError(f"a matrix of {rows} x {columns} is none of 3 x 3, 3 x 4 and 4 x 4")
    full = torch.eye(4, dtype=given.dtype, device=given.device).repeat(*given.shape[:-2], 1, 1)
    full[..., :rows, :columns] = given
    return back(full)


def invert_rigid(matrix: Array) -> Array:
    """Inverse [R^T, -R^T t] of a rigid matrix (..., 4, 4).

    Exact as far as R is orthogonal; stored rotations are to about 1e-7, which costs micrometres. ``invert`` has no
    such error.
    """
    (given,), back = tensors(matrix)
    turned = given[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(given)
    inverse[..., :3, :3] = turned
    inverse[..., :3, 3] = -(turned @ given[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return back(inverse)


def invert(matrix: Array) -> Array:
    """Inverse of any regular matrix (..., n, n), computed in float64 and given in the precision of ``matrix``."""
    (given,), back = tensors(matrix)
    return back(torch.linalg.inv(given.double()).to(given.dtype))


def transform_points(points: Array, matrix: Any) -> Array:
    """Points (..., P, F) with x, y, z mapped by ``matrix`` (..., 4, 4); further columns are kept."""
    (given, m), back = tensors(points, matrix)
    m = m.to(given.dtype)
    moved = given[..., :3] @ m[..., :3, :3].transpose(-1, -2) + m[..., None, :3, 3]
    if given.shape[-1] == 3:
        return back(moved)
    rest = given[..., 3:].expand(*moved.shape[:-1], given.shape[-1] - 3)
    return back(torch.cat([moved, rest], dim=-1))


def quaternion_to_matrix(quaternion: Any) -> np.ndarray:
    """Rotation (..., 3, 3) float64 of quaternions (..., 4) in the order w, x, y, z; they are normalised first.

    Raises:
        DataError: a quaternion is zero or not finite.
    """
    q = np.asarray(quaternion, dtype=np.float64)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if q.shape[-1:] != (4,) or not np.isfinite(q).all() or (norm < 1e-9).any():
        raise DataError(f"a rotation needs four finite numbers w, x, y, z that are not all zero, not {q.tolist()}")
    w, x, y, z = np.moveaxis(q / norm, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def check_rigid(matrix: Any, name: str, tolerance: float = 1e-3) -> np.ndarray:
    """``matrix`` (4, 4) or (3, 4) as (4, 4) float64, after a check that it is a rotation and a translation.

    Args:
        matrix: the matrix.
        name: what messages call it, such as ``Tr_velo_to_cam of calib/000001.txt``.
        tolerance: largest accepted entry of |R^T R - 1|.

    Raises:
        DataError: wrong shape, not finite, scaled or sheared, or mirrored; the message says which.
    """
    given = np.asarray(matrix, dtype=np.float64)
    if given.shape not in ((3, 4), (4, 4)):
        raise DataError(f"{name} must be 3 x 4 or 4 x 4, not {' x '.join(map(str, given.shape))}")
    if not np.isfinite(given).all():
        raise DataError(f"{name} holds numbers that are not finite")
    if given.shape == (4, 4) and not np.allclose(given[3], (0, 0, 0, 1), atol=1e-9):
        hint = "; it looks transposed" if np.allclose(given[:, 3], (0, 0, 0, 1), atol=1e-9) else ""
        raise DataError(f"{name}: the last row is {given[3].tolist()}, not 0 0 0 1{hint}")
    rotation = given[:3, :3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if error > tolerance:
        scale = np.cbrt(abs(np.linalg.det(rotation)))
        raise DataError(
            f"{name} is not rigid: its 3 x 3 part is no rotation (R^T R is off by {error:.2g}, scale {scale:.4g})"
        )
    if np.linalg.det(rotation) < 0:
        raise DataError(f"{name} is mirrored: its axes are left-handed (determinant -1); one axis has the wrong sign")
    return homogeneous(given)


def wrap_angle(angle: Array) -> Array:
    """Angles in radians taken to [-pi, pi)."""
    (given,), back = tensors(angle)
    wrapped = torch.remainder(given + math.pi, 2 * math.pi) - math.pi
    return back(torch.where(wrapped >= math.pi, -math.pi, wrapped))  # rounding may reach the open end
