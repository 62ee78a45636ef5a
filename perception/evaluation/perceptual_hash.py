"""Perceptual hashes of images, and pairs of hashes that are nearly equal.

The hash is the 64-bit DCT hash ("pHash", Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010): the luminance averaged down to 32 x 32, its two-dimensional DCT-II, of that the 8 x 8 lowest frequencies, and of
those a bit each: whether it exceeds their median. A change of size, of compression or of brightness moves few bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from torch import Tensor

from perception.transforms.image_augment import LUMA

SIDE = 32  # of the picture that is transformed
LOW = 8  # frequencies kept per axis
BITS = LOW * LOW
_BLOCK = 1 << 22  # pairs compared at a time
_COUNTS = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


@lru_cache(maxsize=64)
def _box(length: int, side: int) -> np.ndarray:
    """(side, length) float32: each output pixel is the average over the stretch of the input that it covers."""
    edges = np.arange(side + 1) * (length / side)
    pixel = np.arange(length)
    overlap = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    return (np.clip(overlap, 0, None) * (side / length)).astype(np.float32)


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """(LOW, SIDE) float32: row k of the DCT-II of SIDE values."""
    place = np.arange(SIDE) + 0.5
    return np.cos(np.pi / SIDE * np.arange(LOW)[:, None] * place).astype(np.float32)


def thumbnails(images: Tensor | Sequence[Tensor], side: int = SIDE) -> np.ndarray:
    """Luminance averaged down to ``side`` x ``side``.

    Args:
        images: (n, C, H, W), or a list of (C, H, W) of any sizes. Three bands are RGB, others are averaged.
        side: pixels along a side of the outcome.

    Returns:
        (n, side, side) float32 in the images' units.
    """
    if not isinstance(images, Tensor):
        return np.concatenate([thumbnails(image[None], side) for image in images])
    array = images.numpy()
    weights = np.array(LUMA if array.shape[1] == 3 else [1 / array.shape[1]] * array.shape[1], dtype=np.float32)
    grey = np.tensordot(array.astype(np.float32), weights, axes=([1], [0]))
    return _box(grey.shape[1], side) @ grey @ _box(grey.shape[2], side).T


def hash_thumbnails(pictures: np.ndarray) -> np.ndarray:
    """(n, SIDE, SIDE) -> (n,) uint64; bit 8 v + u is set where frequency (v, u) exceeds the median of the 64."""
    cosines = _cosines()
    low = (cosines @ pictures @ cosines.T).reshape(-1, BITS)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)[:, 0]


def turned(pictures: np.ndarray) -> list[np.ndarray]:
    """The eight flips and right-angle turns of square pictures (n, S, S), themselves first."""
    turns = [np.rot90(pictures, quarter, axes=(1, 2)) for quarter in range(4)]
    return [np.ascontiguousarray(picture) for turn in turns for picture in (turn, turn[:, :, ::-1])]


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of bits in which uint64 ``a`` and ``b`` differ, element by element."""
    words = np.ascontiguousarray(np.bitwise_xor(a, b)).view(np.uint16).reshape(*np.broadcast(a, b).shape, 4)
    return _COUNTS[words].sum(axis=-1, dtype=np.int64)


def near_pairs(a: np.ndarray, b: np.ndarray, threshold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in at most ``threshold`` bits.

    With few bits allowed the hashes are cut into ``threshold + 1`` bands: a pair within the threshold agrees on at
    least one of them, so that only hashes with an equal band are compared. Millions then take seconds.

    Args:
        a: (n,) uint64.
        b: (m,) uint64.
        threshold: bits, 0 to 64.

    Returns:
        Rows of ``a``, rows of ``b`` and distances, sorted by distance, then by row.
    """
    bands = threshold + 1
    if BITS // bands >= 10 and len(a) * len(b) > _BLOCK:
        rows, columns = _candidates(a, b, bands)
    else:
        rows, columns = _all_pairs(len(a), len(b), a, b, threshold)
    found_rows, found_columns, found = [], [], []
    for start in range(0, len(rows), _BLOCK):
        one, other = rows[start : start + _BLOCK], columns[start : start + _BLOCK]
        distance = hamming(a[one], b[other])
        near = distance <= threshold
        found_rows.append(one[near])
        found_columns.append(other[near])
        found.append(distance[near])
    if not found:
        return rows, columns, np.zeros(0, dtype=np.int64)
    rows, columns, distance = map(np.concatenate, (found_rows, found_columns, found))
    order = np.lexsort((columns, rows, distance))
    return rows[order], columns[order], distance[order]


def _all_pairs(n: int, m: int, a: np.ndarray, b: np.ndarray, threshold: int) -> tuple[np.ndarray, np.ndarray]:
    step = max(_BLOCK // max(m, 1), 1)
    found = []
    for start in range(0, n, step):
        near = np.argwhere(hamming(a[start : start + step, None], b[None]) <= threshold)
        found.append(near + np.array([start, 0]))
    pairs = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)
    return pairs[:, 0], pairs[:, 1]


def _candidates(a: np.ndarray, b: np.ndarray, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that agree on at least one band, each once."""
    cuts = np.linspace(0, BITS, bands + 1).astype(int)
    codes = []
    for low, high in pairwise(cuts.tolist()):
        mask = np.uint64((1 << (high - low)) - 1)
        left, right = (a >> np.uint64(low)) & mask, (b >> np.uint64(low)) & mask
        order = np.argsort(right, kind="stable")
        first = np.searchsorted(right[order], left, side="left")
        count = np.searchsorted(right[order], left, side="right") - first
        rows = np.repeat(np.arange(len(a)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        columns = order[np.repeat(first, count) + within]
        codes.append(rows * len(b) + columns)
    pairs = np.unique(np.concatenate(codes))
    return pairs // len(b), pairs % len(b)
