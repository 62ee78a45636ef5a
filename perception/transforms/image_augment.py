"""Augmentations of RAW image batches, vectorised over the samples.

``batch['image']`` is uint8 (B, C, H, W), or a list of (C, H, W) of different sizes where noted. Every random number is
a function of (seed, epoch, index), so a sample's outcome does not depend on the batch that it falls into.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from perception.errors import DataError
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.image_preprocess import IMAGENET_MEAN, IMAGENET_STD
from perception.transforms.image_resize import INTERPOLATIONS, resize
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness (ITU-R BT.601)


def pixel_field(batch: Batch) -> str:
    """Field of a batch that a transform of images works on: ``video`` where there are clips, else ``image``.

    Raises:
        DataError: it has neither.
    """
    for name in ("video", "image"):
        if name in batch:
            return name
    raise DataError(f"transforms of pixels need 'image' or 'video'; the batch holds {', '.join(sorted(batch))}")


def stacked(batch: Batch, transform: Transform) -> np.ndarray:
    """The images (B, C, H, W) or clips (B, C, T, H, W) of a batch as one array.

    Raises:
        DataError: they are a list, of different sizes.
    """
    images = batch[pixel_field(batch)]
    if not isinstance(images, Tensor):
        raise DataError(
            f"{type(transform).__name__} needs images of one size: "
            "put it after RandomResizedCrop or give the data set size="
        )
    return images.numpy()


@TRANSFORMS.register_module()
class RandomFlip(Transform):
    """Mirrors images left to right, and clips with all their frames. Not for labels that tell left from right.

    Args:
        probability: share of samples that are mirrored.
    """

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch; takes lists too."""
        chosen = random.uniform() < self.probability
        field = pixel_field(batch)
        images = batch[field]
        if not isinstance(images, Tensor):
            flipped = [image.flip(-1) if flip else image for image, flip in zip(images, chosen, strict=True)]
            return {**batch, field: flipped}
        array = images.numpy()
        mirrored = chosen.reshape(-1, *[1] * (array.ndim - 1))
        return {**batch, field: torch.from_numpy(np.where(mirrored, array[..., ::-1], array))}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not 0 <= cfg["probability"] <= 1:
            yield "probability", "must lie in [0, 1]"


@TRANSFORMS.register_module()
class RandomCropPad(Transform):
    """Pads images on all sides and cuts a random window of the old size: a shift by up to ``padding`` pixels.

    Args:
        padding: pixels added on each side.
        mode: ``constant`` (black), ``reflect`` or ``edge``.
    """

    def __init__(self, padding: int = 4, mode: str = "constant") -> None:
        self.padding = padding
        self.mode = mode

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        images = stacked(batch, self)
        height, width = images.shape[-2:]
        sides = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), (0, 0), sides, sides), mode=self.mode)  # type: ignore[call-overload]
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))  # (B, C, 2p+1, 2p+1, H, W), a view
        top = random.integers(0, 2 * self.padding + 1)
        left = random.integers(0, 2 * self.padding + 1)
        return {**batch, "image": torch.from_numpy(windows[np.arange(len(images)), :, top, left])}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if cfg["padding"] < 0:
            yield "padding", "must not be negative"
        if cfg["mode"] not in ("constant", "reflect", "edge"):
            yield "mode", "must be 'constant', 'reflect' or 'edge'"


@TRANSFORMS.register_module()
class RandomResizedCrop(Transform):
    """Cuts a window of random area and aspect and scales it ("Going Deeper with Convolutions", Szegedy et al., 2015).

    Args:
        size: height and width of the outcome; one number is a square.
        scale: range of the window's share of the area, drawn uniformly.
        ratio: range of its width over its height, drawn uniformly in the logarithm.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, antialiased.
    """

    TRIES = 10

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.interpolation = interpolation

    def windows(self, heights: np.ndarray, widths: np.ndarray, random: SampleRandom) -> np.ndarray:
        """(B, 4) int: top, left, height and width of a window for images of these sizes.

        The first of ten draws that fits inside is taken; if none does, the largest centred window within ``ratio``.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        rows, columns = heights.copy(), widths.copy()
        found = np.zeros(len(heights), dtype=bool)
        for _ in range(self.TRIES):
            area = heights * widths * random.uniform(*self.scale)
            aspect = np.exp(random.uniform(low, high))
            h = np.round(np.sqrt(area / aspect)).astype(np.int64)
            w = np.round(np.sqrt(area * aspect)).astype(np.int64)
            fits = ~found & (h > 0) & (w > 0) & (h <= heights) & (w <= widths)
            rows, columns = np.where(fits, h, rows), np.where(fits, w, columns)
            found |= fits
        image_ratio = widths / heights
        tall, wide = image_ratio < self.ratio[0], image_ratio > self.ratio[1]
        rows = np.where(~found & tall, np.round(widths / self.ratio[0]), rows).astype(np.int64)
        columns = np.where(~found & wide, np.round(heights * self.ratio[1]), columns).astype(np.int64)
        top = np.floor(random.uniform() * (heights - rows + 1)).astype(np.int64)
        left = np.floor(random.uniform() * (widths - columns + 1)).astype(np.int64)
        top = np.where(found, top, (heights - rows) // 2)
        left = np.where(found, left, (widths - columns) // 2)
        return np.stack([top, left, rows, columns], axis=1)

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch, stacked or a list -> RAW batch of (B, C, *size)."""
        images = batch["image"]
        heights = np.fromiter((image.shape[-2] for image in images), dtype=np.int64, count=len(images))
        widths = np.fromiter((image.shape[-1] for image in images), dtype=np.int64, count=len(images))
        windows = self.windows(heights, widths, random).tolist()
        cut = [
            resize(image[:, top : top + rows, left : left + columns], self.size, self.interpolation)
            for image, (top, left, rows, columns) in zip(images, windows, strict=True)
        ]
        return {**batch, "image": torch.stack(cut)}

    @classmethod
    def image_sizes(cls, cfg: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """That of the outcome."""
        size = cfg["size"]
        return {"size": (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        size = cfg["size"]
        if min([size] if isinstance(size, int) else size) < 1:
            yield "size", "must be positive"
        low, high = cfg["scale"]
        if not 0 < low <= high <= 1:
            yield "scale", "must be a rising pair in (0, 1]"
        low, high = cfg["ratio"]
        if not 0 < low <= high:
            yield "ratio", "must be a rising pair of positive numbers"
        if cfg["interpolation"] not in INTERPOLATIONS:
            yield "interpolation", f"must be one of {', '.join(INTERPOLATIONS)}"


@TRANSFORMS.register_module()
class RandomErasing(Transform):
    """Replaces a random rectangle by noise ("Random Erasing Data Augmentation", Zhong et al., 2020).

    Of clips (``video``) it is the same rectangle in every frame.

    Args:
        probability: share of images that lose a rectangle.
        area: range of the rectangle's share of the image.
        ratio: smallest and largest height over width, drawn uniformly in the logarithm.
        mean: mean of the normal noise per band, in units of 255.
        std: its standard deviation, likewise; noise is clipped to 0..255.
    """

    def __init__(
        self,
        probability: float = 0.25,
        area: Sequence[float] = (0.02, 1 / 3),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.probability = probability
        self.area = (float(area[0]), float(area[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.mean = np.asarray(mean, dtype=np.float64)[:, None, None] * 255.0
        self.std = np.asarray(std, dtype=np.float64)[:, None, None] * 255.0

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        images = stacked(batch, self).copy()
        bands, *frames, height, width = images.shape[1:]
        if bands != len(self.mean):
            raise DataError(f"RandomErasing has a mean for {len(self.mean)} bands, the images have {bands}")
        chosen = random.uniform() < self.probability
        share = random.uniform(*self.area) * height * width
        ratio = np.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        rows = np.clip(np.round(np.sqrt(share * ratio)), 1, height).astype(int)
        columns = np.clip(np.round(np.sqrt(share / ratio)), 1, width).astype(int)
        top = np.floor(random.uniform() * (height - rows + 1)).astype(int)
        left = np.floor(random.uniform() * (width - columns + 1)).astype(int)
        seeds = random.bits()
        for i in np.flatnonzero(chosen):
            shape = (bands, *frames, rows[i], columns[i])
            mean, std = (part[:, None] if frames else part for part in (self.mean, self.std))
            noise = np.random.default_rng(int(seeds[i])).standard_normal(shape) * std + mean
            target = images[i, ..., top[i] : top[i] + rows[i], left[i] : left[i] + columns[i]]
            target[:] = noise.round().clip(0, 255)
        return {**batch, pixel_field(batch): torch.from_numpy(images)}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not 0 <= cfg["probability"] <= 1:
            yield "probability", "must lie in [0, 1]"
        if not 0 < cfg["area"][0] <= cfg["area"][1] <= 1:
            yield "area", "must be a rising pair in (0, 1]"
        if len(cfg["mean"]) != len(cfg["std"]):
            yield "std", "must have as many bands as mean"
