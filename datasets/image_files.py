"""Image files that are decoded when they are asked for, or all at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from perception.datasets.images import decode_image
from perception.errors import DataError
from perception.transforms.image_preprocess import fit

THREADS = 4


class ByteSource(Protocol):
    """Compressed images by position."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The file at ``index``."""

    def describe(self, index: int) -> str:
        """What messages call the file at ``index``."""


class FileBytes:
    """Files of a folder or of several.

    Args:
        paths: one per image.
        sha256: their checksums in hexadecimal, None where there is none; None checks nothing. Decoders pass over
            damage within a file without a word.
    """

    def __init__(self, paths: Sequence[Path], sha256: Sequence[str | None] | None = None) -> None:
        self.paths = list(paths)
        self.sha256 = None if sha256 is None else list(sha256)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """The file at ``index``.

        Raises:
            DataError: it cannot be read or differs from its checksum, naming it.
        """
        try:
            data = self.paths[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self.describe(index)} cannot be read: {error.strerror}") from error
        expected = None if self.sha256 is None else self.sha256[index]
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise DataError(f"{self.describe(index)} differs from its SHA-256 checksum: damaged, or another file")
        return data

    def describe(self, index: int) -> str:
        """What messages call the file at ``index``."""
        return f"image {str(self.paths[index])!r}"


def area_fit(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, C) -> (size, size, C): the shorter side scaled to ``size``, the centre cut out.

    Scaling down averages over the area that a pixel covers (a box filter, hence antialiased); scaling up is bilinear.
    """
    import cv2

    height, width = image.shape[:2]
    factor = size / min(height, width)
    rows, columns = max(round(height * factor), size), max(round(width * factor), size)
    if (rows, columns) != (height, width):
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(image, (columns, rows), interpolation=method)
        image = scaled.reshape(rows, columns, -1)  # OpenCV drops the axis of a single band
    top, left = (rows - size) // 2, (columns - size) // 2
    return image[top : top + size, left : left + size]


class LazyImages:
    """Decodes images on demand in a few threads; OpenCV lets go of the interpreter lock while it works.

    Args:
        source: where the bytes come from.
        size: every image is scaled until it covers a square of so many pixels, whose centre is cut out. None leaves
            images as they are.
        interpolation: ``area``, or one of ``ImagePreprocess`` such as ``bicubic``.
        decode: ``decode(data, source=name)`` -> (C, H, W); ``decode_image`` gives RGB in uint8. ``area`` is for images
            of up to four channels.
    """

    def __init__(
        self,
        source: ByteSource,
        size: int | None,
        interpolation: str = "area",
        decode: Callable[..., np.ndarray] = decode_image,
    ) -> None:
        self.source, self.size, self.interpolation, self.decode = source, size, interpolation, decode
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> Tensor | list[Tensor]:
        """Images at ``indices``: (n, C, H, W), or a list of (C, H, W) where their sizes differ."""
        images = list(self._threads().map(self.one, indices.tolist()))
        if len({image.shape for image in images}) > 1:
            return [torch.from_numpy(image) for image in images]
        return torch.from_numpy(np.stack(images))

    def load(self) -> np.ndarray:
        """All images: (n, C, size, size), RGB in uint8 unless ``decode`` gives something else."""
        if self.size is None:
            raise ValueError("images are held in memory at one size only")
        if not len(self):
            return np.empty((0, 3, self.size, self.size), dtype=np.uint8)
        first = self.one(0)
        images = np.empty((len(self), *first.shape), dtype=first.dtype)

        def fill(index: int) -> None:
            images[index] = self.one(index)

        for _ in self._threads().map(fill, range(len(self))):  # the loop raises what a thread raised
            pass
        return images

    def one(self, index: int) -> np.ndarray:
        """The image at ``index``: (C, H, W), RGB in uint8 unless ``decode`` gives something else.

        Raises:
            DataError: it cannot be read or decoded, naming it.
        """
        image = self.decode(self.source.read(index), source=self.source.describe(index))
        if self.size is None:
            return image
        if self.interpolation == "area":
            return np.ascontiguousarray(area_fit(image.transpose(1, 2, 0), self.size).transpose(2, 0, 1))
        return fit(torch.from_numpy(image), (self.size, self.size), self.interpolation).numpy()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._owner != os.getpid():  # threads do not survive the fork of a worker
            self._pool, self._owner = ThreadPoolExecutor(max_workers=THREADS), os.getpid()
        return self._pool

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None, "_owner": 0}
