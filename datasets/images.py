"""What image data sets share: arrays in memory, decoding, label checks, splits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset
from perception.errors import ConfigError, DataError, Fault, nearest
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch


class ArrayImages(Dataset):
    """Images of one size that lie in memory.

    Args:
        images: (n, C, H, W) uint8.
        labels: (n,) int64, or None without labels.
        classes: class names in label order.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        classes: Sequence[str],
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        self.images = images
        self.labels = labels
        self.classes = tuple(str(name) for name in classes)

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, H, W) uint8, ``index`` (n,) and, with labels, ``label`` (n,) int64."""
        batch: Batch = {"image": torch.from_numpy(self.images[indices]), "index": torch.from_numpy(indices)}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[indices])
        return batch


def decode_image(data: bytes | np.ndarray, source: str, grey: bool = False) -> np.ndarray:
    """Compressed image -> uint8 (C, H, W), RGB or one grey band.

    Raises:
        DataError: the data is not a whole image; the message names ``source``.
    """
    import cv2

    buffer = np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data
    _require_whole(buffer, source)
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(buffer, flag) if len(buffer) else None
    except cv2.error as error:
        raise DataError(f"{source} cannot be decoded as an image: {error}") from error
    if image is None:
        raise DataError(f"{source} cannot be decoded as an image: damaged, or no image format")
    if grey:
        return image[None]
    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1))


def _require_whole(buffer: np.ndarray, source: str) -> None:
    """Refuse cut-off JPEG and PNG files: decoders fill the missing part with grey without a word."""
    head, tail = bytes(buffer[:8]), bytes(buffer[-1024:])
    if head[:2] == b"\xff\xd8" and b"\xff\xd9" not in tail:
        raise DataError(f"{source} is a truncated JPEG: its end marker is missing")
    if head == b"\x89PNG\r\n\x1a\n" and b"IEND" not in tail:
        raise DataError(f"{source} is a truncated PNG: its end chunk is missing")


def decode_packed(
    packed: np.ndarray, offsets: np.ndarray, rows: np.ndarray, source: str, grey: bool = False
) -> np.ndarray:
    """Decode ``rows`` of images packed end to end: (n, C, H, W) uint8.

    Args:
        packed: (bytes,) uint8.
        offsets: (total + 1,) image i is ``packed[offsets[i]:offsets[i + 1]]``.
        rows: (n,) images wanted.
        source: name of the file for messages.
        grey: one grey band instead of RGB.

    Raises:
        DataError: offsets that do not fit, an image that does not decode, or images of different sizes.
    """
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(packed) or (np.diff(offsets) <= 0).any():
        raise DataError(f"{source}: the offsets do not rise from 0 to the {len(packed)} packed bytes")

    def decode(row: int) -> np.ndarray:
        return decode_image(packed[offsets[row] : offsets[row + 1]], f"image {row} of {source}", grey)

    with ThreadPoolExecutor(max_workers=4) as pool:  # cv2 releases the interpreter lock
        images = list(pool.map(decode, rows.tolist()))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DataError(f"{source} holds images of different shapes: {sorted(shapes)}")
    return np.stack(images)


def check_labels(labels: np.ndarray, count: int, classes: int, source: str) -> np.ndarray:
    """Labels as int64 after a check of their number and range; negative labels mean unlabelled and pass.

    Raises:
        DataError: naming the first row that is wrong.
    """
    if labels.shape != (count,):
        raise DataError(f"{source} has labels of shape {labels.shape} for {count} images")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source} has labels of type {labels.dtype}, not integers")
    labels = labels.astype(np.int64)
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise DataError(f"{source}: label {labels[wrong[0]]} of row {wrong[0]} is out of range: {classes} classes")
    return labels


def check_rows(rows: np.ndarray, total: int, source: str) -> np.ndarray:
    """Row numbers of a split as int64 after a check of their range."""
    rows = np.asarray(rows).astype(np.int64)
    wrong = rows[(rows < 0) | (rows >= total)]
    if len(wrong):
        raise DataError(f"{source}: row {wrong[0]} is out of range: {total} images")
    return rows


def check_split(split: str, splits: Sequence[str]) -> str:
    """``split`` if it is one of ``splits``.

    Raises:
        ConfigError: with the nearest names.
    """
    if split not in splits:
        raise ConfigError(
            [Fault("split", split, f"not a split; there are {', '.join(splits)}", nearest(split, splits))]
        )
    return split


def stratified_split(labels: np.ndarray, parts: Sequence[float], seed: int) -> list[np.ndarray]:
    """Disjoint row numbers with the classes in equal shares.

    Args:
        labels: (n,) int.
        parts: share of every part but the last, which takes what is left.
        seed: seed of the shuffle within each class.

    Returns:
        ``len(parts) + 1`` sorted arrays that together hold every row once.
    """
    generator = np.random.default_rng(seed)
    found: list[list[np.ndarray]] = [[] for _ in range(len(parts) + 1)]
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(parts) * len(rows)).astype(int)
        for part, chunk in zip(found, np.split(rows, cuts), strict=True):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in found]


def missing_files(cfg: dict[str, Any], folder: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Faults (key, message) for the files of a data set that are not there."""
    return [("root", f"{name} is not in {folder}") for name in names if not (folder / name).is_file()]
