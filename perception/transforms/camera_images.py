"""Camera pictures with the exact matrix of what was done to them.

Pixel coordinates count from the left and upper edge, as in ``perception.geometry.augmentation``: pixel i covers
[i, i + 1), its centre lies at i + 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception.geometry.augmentation import image_matrix


def scale_image(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (rows, columns, 3): averages over the area of a pixel, or bilinear where it grows."""
    import cv2

    if image.shape[:2] == (rows, columns):
        return image
    method = cv2.INTER_AREA if rows <= image.shape[0] and columns <= image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, (columns, rows), interpolation=method)


def fit_camera(image: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale a picture until it covers ``size`` and cut what is too much: the sky above, or both sides alike.

    Args:
        image: uint8 (H, W, 3).
        size: height and width.

    Returns:
        The picture uint8 (*size, 3), and the matrix (4, 4) that takes pixels of ``image`` to its pixels. The matrix
        holds the scales of the rounded sizes, not the scale that was asked for, so that no fraction of a pixel is lost.
    """
    height, width = image.shape[:2]
    factor = max(size[0] / height, size[1] / width)
    rows, columns = max(round(height * factor), size[0]), max(round(width * factor), size[1])
    top, left = rows - size[0], (columns - size[1]) // 2
    scaled = scale_image(image, rows, columns)[top:, left : left + size[1]]
    return np.ascontiguousarray(scaled), image_matrix((columns / width, rows / height), (left, top), size=size)


def warp_camera(
    image: np.ndarray, scale: float, crop: Sequence[float], flip: bool, rotate: float, size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, cut, mirror and turn a picture; outside it is black.

    Args:
        image: uint8 (H, W, 3).
        scale: scale of both sides; they are rounded to whole pixels.
        crop: left and upper edge of the cut in the scaled picture, in whole pixels.
        flip: mirror left to right.
        rotate: angle in radians, counter-clockwise as it is seen.
        size: height and width of the cut.

    Returns:
        The picture uint8 (*size, 3), and the exact matrix (4, 4) as in ``fit_camera``.
    """
    import cv2

    height, width = image.shape[:2]
    rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
    after = image_matrix(1.0, crop, flip, rotate, size)  # of the scaled picture
    half = np.array([0.5, 0.5])
    linear = after[:2, :2]
    index = np.concatenate([linear, (after[:2, 3] + linear @ half - half)[:, None]], axis=1)  # of pixel centres
    scaled = scale_image(image, rows, columns)
    picture = cv2.warpAffine(scaled, index, (int(size[1]), int(size[0])), flags=cv2.INTER_LINEAR)
    return picture, image_matrix((columns / width, rows / height), crop, flip, rotate, size)
