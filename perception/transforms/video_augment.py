"""Augmentations of RAW clips: one draw for a clip, so that all its frames change alike and motion stays what it was.

``batch['video']`` is uint8 (B, 3, T, H, W), or a list of (3, T, H, W) of different sizes where noted. Every random
number is a function of (seed, epoch, index), and so independent of the batch that a clip falls into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError, not_among
from perception.registry import TRANSFORMS
from perception.transforms.base import Compose, Transform
from perception.transforms.image_augment import LUMA, RandomResizedCrop
from perception.transforms.image_resize import INTERPOLATIONS, resize
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

# Brightness and two axes of colour (NTSC's YIQ): a turn of the latter is a turn of the hue that leaves grey as it is.
_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def clips_of(batch: Batch, transform: Transform) -> Tensor:
    """The clips of a batch as one tensor (B, 3, T, H, W).

    Raises:
        DataError: there are none, or they are a list, of different sizes.
    """
    name = type(transform).__name__
    if "video" not in batch:
        raise DataError(f"{name} needs 'video', which the batch does not have: it holds {', '.join(sorted(batch))}")
    if not isinstance(batch["video"], Tensor):
        raise DataError(f"{name} needs clips of one size: put it after ClipResizedCrop or give the data set size=")
    return batch["video"]


class _ClipCrop(Transform):
    """Cuts one window out of all frames of a clip and scales it to ``size``."""

    def __init__(self, size: int | Sequence[int], interpolation: str) -> None:
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.interpolation = interpolation

    def windows(self, heights: np.ndarray, widths: np.ndarray, random: SampleRandom) -> np.ndarray:
        """(B, 4) int: top, left, height and width of a window for clips of these sizes."""
        raise NotImplementedError

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch, stacked or a list -> RAW batch of (B, 3, T, *size)."""
        clips = batch["video"] if isinstance(batch.get("video"), list) else clips_of(batch, self)
        heights = np.fromiter((clip.shape[-2] for clip in clips), dtype=np.int64, count=len(clips))
        widths = np.fromiter((clip.shape[-1] for clip in clips), dtype=np.int64, count=len(clips))
        windows = self.windows(heights, widths, random).tolist()
        cut = [
            resize(clip[..., top : top + rows, left : left + columns].transpose(0, 1), self.size, self.interpolation)
            for clip, (top, left, rows, columns) in zip(clips, windows, strict=True)
        ]
        if len({len(clip) for clip in cut}) > 1:
            raise DataError(f"{type(self).__name__} needs clips of one length, got {sorted({len(c) for c in cut})}")
        return {**batch, "video": torch.stack(cut).transpose(1, 2).contiguous()}

    @classmethod
    def image_sizes(cls, cfg: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """That of the outcome."""
        size = cfg["size"]
        return {"size": (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))}

    @classmethod
    def crop_faults(cls, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of what all crops take."""
        if min([cfg["size"]] if isinstance(cfg["size"], int) else cfg["size"]) < 1:
            yield "size", "must be positive"
        if cfg["interpolation"] not in INTERPOLATIONS:
            yield "interpolation", not_among(cfg["interpolation"], INTERPOLATIONS)


@TRANSFORMS.register_module()
class ClipResizedCrop(_ClipCrop):
    """A window of random area and aspect; see ``RandomResizedCrop``. The default area is the spatiotemporal MAE's.

    Args:
        size: height and width of the outcome; one number is a square.
        scale: range of the window's share of the area: (0.5, 1) for pre-training, (0.08, 1) for fine-tuning.
        ratio: range of its width over its height, drawn uniformly in the logarithm.
        interpolation: one of ``resize``.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(size, interpolation)
        self._crop = RandomResizedCrop(size, scale, ratio, interpolation)

    def windows(self, heights: np.ndarray, widths: np.ndarray, random: SampleRandom) -> np.ndarray:
        """See ``RandomResizedCrop``."""
        return self._crop.windows(heights, widths, random)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from cls.crop_faults(cfg)
        low, high = cfg["scale"]
        if not 0 < low <= high <= 1:
            yield "scale", "must be a rising pair in (0, 1]"
        low, high = cfg["ratio"]
        if not 0 < low <= high:
            yield "ratio", "must be a rising pair of positive numbers"


@TRANSFORMS.register_module()
class ClipMultiScaleCrop(_ClipCrop):
    """One of a few window sizes at one of 13 places, as in VideoMAE ("Temporal Segment Networks", Wang et al., 2016).

    Height and width are each the shorter side times one of ``scales``, at most ``distortion`` entries apart. The places
    are the corners, the middle, the middles of the sides and the points half way from the middle to the corners.

    Args:
        size: height and width of the outcome; one number is a square.
        scales: falling factors in (0, 1].
        distortion: by how many entries of ``scales`` height and width may differ.
        interpolation: one of ``resize``.
    """

    # Quarters of the free height and width.
    PLACES = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3))

    def __init__(
        self,
        size: int | Sequence[int],
        scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
        distortion: int = 1,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(size, interpolation)
        numbers = range(len(scales))
        self._pairs = np.array([[scales[i], scales[j]] for i in numbers for j in numbers if abs(i - j) <= distortion])

    def windows(self, heights: np.ndarray, widths: np.ndarray, random: SampleRandom) -> np.ndarray:
        """(B, 4) int: top, left, height and width, every size and every place with the same probability."""
        short = np.minimum(heights, widths)
        pair = self._pairs[random.integers(0, len(self._pairs))]
        rows, columns = np.maximum(np.floor(short[:, None] * pair), 1).astype(np.int64).T
        place = np.array(self.PLACES)[random.integers(0, len(self.PLACES))]
        top, left = place[:, 0] * (heights - rows) // 4, place[:, 1] * (widths - columns) // 4
        return np.stack([top, left, rows, columns], axis=1)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from cls.crop_faults(cfg)
        scales = list(cfg["scales"])
        if not scales or not all(0 < scale <= 1 for scale in scales) or scales != sorted(scales, reverse=True):
            yield "scales", "must be falling factors in (0, 1]"
        if cfg["distortion"] < 0:
            yield "distortion", "must not be negative"


@TRANSFORMS.register_module()
class ClipJitter(Transform):
    """Changes brightness, contrast, saturation and hue of clips, in this order, by one linear map of colours a clip.

    Values are cut off once at the end. The hue is turned about the grey axis.

    Args:
        brightness: values are multiplied by a factor from [1 - b, 1 + b].
        contrast: distances from the clip's mean grey likewise.
        saturation: distances from grey likewise.
        hue: colours are turned by a share from [-h, h] of a full turn.
        probability: share of clips that are changed.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        probability: float = 0.8,
    ) -> None:
        self.ranges = (brightness, contrast, saturation)
        self.hue, self.probability = hue, probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        clips = clips_of(batch, self).clone()
        chosen = random.uniform() < self.probability
        factors = np.stack([random.uniform(1 - r, 1 + r) for r in self.ranges], axis=1)
        turns = 2 * np.pi * random.uniform(-self.hue, self.hue)
        for i in np.flatnonzero(chosen).tolist():
            values = clips[i].flatten(1).float()
            mean = np.array(LUMA) @ values.mean(1, dtype=torch.float64).numpy()
            light, contrast, colour = factors[i].tolist()
            matrix, shift = colour_map(light, contrast, colour, float(turns[i]), float(mean))
            values = torch.from_numpy(matrix).float() @ values + torch.from_numpy(shift).float()[:, None]
            clips[i] = values.round_().clamp_(0, 255).to(torch.uint8).view_as(clips[i])
        return {**batch, "video": clips}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        for key in ("brightness", "contrast", "saturation"):
            if not 0 <= cfg[key] <= 1:
                yield key, "must lie in [0, 1]"
        if not 0 <= cfg["hue"] <= 0.5:
            yield "hue", "must lie in [0, 0.5] of a turn"
        yield from _probability_faults(cfg)


def colour_map(
    brightness: float, contrast: float, saturation: float, turn: float, mean: float
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (3, 3) and shift (3,) of a change of colours; ``mean`` is the mean grey before it, ``turn`` in radians."""
    grey = np.tile(np.array(LUMA), (3, 1))
    colours = saturation * np.eye(3) + (1 - saturation) * grey
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    hue = np.linalg.inv(_YIQ) @ rotation @ _YIQ
    both = hue @ colours  # leaves grey as it is, and so the shift of the contrast
    return brightness * contrast * both, both @ np.full(3, brightness * (1 - contrast) * mean)


@TRANSFORMS.register_module()
class ClipGrey(Transform):
    """Takes the colour out of clips.

    Args:
        probability: share of clips that turn grey.
    """

    def __init__(self, probability: float = 0.2) -> None:
        self.probability = probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        clips = clips_of(batch, self).clone()
        weights = torch.from_numpy(np.array(LUMA)).float().view(3, 1, 1, 1)
        for i in np.flatnonzero(random.uniform() < self.probability).tolist():
            clips[i] = (clips[i] * weights).sum(0).round_().to(torch.uint8)
        return {**batch, "video": clips}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from _probability_faults(cfg)


@TRANSFORMS.register_module()
class ClipBlur(Transform):
    """Blurs the frames of clips with a Gaussian.

    Args:
        sigma: range of its standard deviation in pixels, drawn uniformly.
        probability: share of clips that are blurred.
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), probability: float = 0.5) -> None:
        self.sigma, self.probability = (float(sigma[0]), float(sigma[1])), probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        import cv2

        clips = clips_of(batch, self).clone()
        chosen, sigmas = random.uniform() < self.probability, random.uniform(*self.sigma)
        for i in np.flatnonzero(chosen).tolist():
            for frame in clips[i].unbind(1):
                pixels = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
                blurred = cv2.GaussianBlur(pixels, (0, 0), float(sigmas[i]))
                frame.copy_(torch.from_numpy(blurred).permute(2, 0, 1))
        return {**batch, "video": clips}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not 0 < cfg["sigma"][0] <= cfg["sigma"][1]:
            yield "sigma", "must be a rising pair of positive numbers"
        yield from _probability_faults(cfg)


@TRANSFORMS.register_module()
class ClipViews(Transform):
    """Several views of every clip, each by transforms of its own, such as a weak and a strong one for a teacher and its
    student ("CDFSL-V: Cross-Domain Few-Shot Learning for Videos", Samarasinghe et al., 2023).

    ``views`` is a list of tensors (B, 3, T, H, W); ``video`` becomes the first of them.

    Args:
        views: for each view the transforms that make it, as configs or instances.
    """

    def __init__(self, views: Sequence[Sequence[Transform | dict[str, Any]]]) -> None:
        self.views = [
            Compose([t if isinstance(t, Transform) else TRANSFORMS.build(dict(t)) for t in view]) for view in views
        ]

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch with ``views``."""
        streams, count = random.streams(len(self.views)), len(random)
        views = [
            transform(dict(batch), streams.rows(np.arange(number * count, (number + 1) * count)))["video"]
            for number, transform in enumerate(self.views)
        ]
        return {**batch, "views": views, "video": views[0]}

    @classmethod
    def image_sizes(cls, cfg: Mapping[str, Any]) -> None:
        """Every view has transforms of its own: who knows."""

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not cfg["views"]:
            yield "views", "needs at least one view"


def _probability_faults(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if not 0 <= cfg["probability"] <= 1:
        yield "probability", "must lie in [0, 1]"
