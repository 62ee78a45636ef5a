"""Points to pixels and back, through the whole chain of calibration and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.geometry.arrays import tensors
from perception.geometry.transforms import homogeneous

MIN_DEPTH = 0.1  # metres


def project(
    points: Any,
    lidar2cam: Any,
    cam2img: Any,
    img_aug: Any = None,
    lidar_aug: Any = None,
    size: Sequence[int] | None = None,
    min_depth: float = MIN_DEPTH,
) -> tuple[Any, Any, Any]:
    """Pixels and depths of points.

    For an augmented point p': p = inv(lidar_aug) p', q = cam2img lidar2cam p, depth = q_z, (u, v) = (q_x, q_y) / q_z,
    then img_aug (u, v, depth, 1). Leading dimensions broadcast: points (B, 1, P, 3) and matrices (B, N, 4, 4) give
    (B, N, P, ...). It is computed in float64 and given in the precision of the points.

    Args:
        points: (..., P, >= 3), in metres.
        lidar2cam: (..., 4, 4).
        cam2img: (..., 3, 3), (..., 3, 4) or (..., 4, 4); a fourth column (KITTI) counts.
        img_aug: (..., 4, 4) or None, pixels of the original image -> pixels of the augmented one.
        lidar_aug: (..., 4, 4) or None, original LiDAR coordinates -> those of ``points``.
        size: height and width of the augmented image; None tests the depth alone.
        min_depth: points at or below this depth have no pixel.

    Returns:
        uv (..., P, 2) in pixels counted from the image's left and upper edge, depth (..., P) in metres, and mask
        (..., P) bool: in front of the camera, and 0 <= u < W, 0 <= v < H. Where the mask is False because of the depth
        or because a point is not finite, uv is 0; every entry is finite.
    """
    (p, *matrices), back = tensors(points, lidar2cam, cam2img)
    chain = homogeneous(matrices[1]).double() @ homogeneous(matrices[0]).double()
    if lidar_aug is not None:
        chain = chain @ torch.linalg.inv(tensors(p, lidar_aug)[0][1].double())
    q = p[..., :3].double() @ chain[..., :3, :3].transpose(-1, -2) + chain[..., None, :3, 3]
    finite = torch.isfinite(q).all(dim=-1)
    depth = torch.where(finite, q[..., 2], 0.0)
    mask = finite & (depth > min_depth)
    # The division is by one where there is no pixel, so that no gradient becomes infinite or NaN.
    uv = torch.where(mask[..., None], q[..., :2], 0.0) / torch.where(mask, depth, 1.0)[..., None]
    if img_aug is not None:
        uv = torch.where(mask[..., None], _map_pixels(uv, depth, tensors(p, img_aug)[0][1].double()), 0.0)
    uv = uv.to(p.dtype)  # before the test: rounding may reach the far edge
    if size is not None:
        height, width = size
        u, v = uv.unbind(-1)
        mask = mask & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return back(uv), back(depth.to(p.dtype)), back(mask)


def unproject(
    uv: Any,
    depth: Any,
    lidar2cam: Any,
    cam2img: Any,
    img_aug: Any = None,
    lidar_aug: Any = None,
) -> Any:
    """Points (..., P, 3) that ``project`` maps to the pixels ``uv`` (..., P, 2) at ``depth`` (..., P).

    Matrices as in ``project``; their true inverses, so that the round trip is exact to rounding.
    """
    (given, d, *matrices), back = tensors(uv, depth, lidar2cam, cam2img)
    pixels, d = given.double(), d.double()
    if img_aug is not None:
        pixels = _map_pixels(pixels, d, torch.linalg.inv(tensors(given, img_aug)[0][1].double()))
    chain = torch.linalg.inv(homogeneous(matrices[1]).double() @ homogeneous(matrices[0]).double())
    if lidar_aug is not None:
        chain = tensors(given, lidar_aug)[0][1].double() @ chain
    rays = torch.cat([pixels * d[..., None], d.expand(pixels.shape[:-1])[..., None]], dim=-1)
    points = rays @ chain[..., :3, :3].transpose(-1, -2) + chain[..., None, :3, 3]
    return back(points.to(given.dtype))


def _map_pixels(uv: Tensor, depth: Tensor, matrix: Tensor) -> Tensor:
    """u, v of ``matrix`` (u, v, depth, 1)."""
    full = torch.cat([uv, depth.expand(uv.shape[:-1])[..., None]], dim=-1)
    return full @ matrix[..., :2, :3].transpose(-1, -2) + matrix[..., None, :2, 3]


def cut_lines(ends: np.ndarray, nearest: float) -> tuple[np.ndarray, np.ndarray]:
    """Lines cut off where they come too near to a camera.

    Args:
        ends: (..., 2, 3) both ends in the camera's frame, in metres.
        nearest: least z that is kept.

    Returns:
        The ends (..., 2, 3) of what is kept, and (...) bool, False for lines that lie nearer altogether, which are as
        they were.
    """
    near = np.asarray(ends[..., 2] < nearest)
    kept = np.asarray(~near.all(-1))
    crossing = np.asarray(near.any(-1) & kept)
    start, stop = ends[..., 0, :], ends[..., 1, :]
    rise = np.where(crossing, stop[..., 2] - start[..., 2], 1.0)
    cut = start + ((nearest - start[..., 2]) / rise)[..., None] * (stop - start)
    return np.where((near & crossing[..., None])[..., None], cut[..., None, :], ends), kept
