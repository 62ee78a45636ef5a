"""Several views of every image, large and small, for self-distillation on scenes seen from above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError, not_among
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.colour import luma, turn_hue
from perception.transforms.image_augment import RandomResizedCrop
from perception.transforms.image_resize import INTERPOLATIONS, resize
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


@TRANSFORMS.register_module()
class MultiCrop(Transform):
    """Global and local crops ("Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", Caron et
    al., 2020), each a random window, scaled, mirrored and turned by a right angle: nadir images have no upper side.

    ``views`` is a list of tensors in the dtype of the images: first the global ones (B, C, size, size), then the local
    ones (B, C, local_size, local_size). ``image`` becomes the first global view, ``global_views`` their number. Images
    may be a list of different sizes.

    Args:
        size: height and width of a global view, in pixels.
        local_size: height and width of a local view; for a ViT a multiple of the patch.
        global_views: number of global views.
        local_views: number of local views.
        scale: range of a global window's share of the image's area; SILC's and DINO's default.
        local_scale: that of a local window.
        ratio: range of a window's width over its height.
        interpolation: see ``RandomResizedCrop``.
        flip: mirror half of the views.
        turn: turn views by 0, 90, 180 or 270 degrees with equal probability.
        brightness: values are multiplied by a factor from [1 - b, 1 + b].
        contrast: distances from the view's mean likewise.
        saturation: distances from grey likewise; for images of three bands, red, green and blue.
        jitter_probability: share of the views that get these three and the turn of the hue.
        band_shift: to every band of every view a number of its own from [-s, s] is added, in the unit of the values:
            haze and light move bands by different amounts, and what is learnt should not hang on their exact balance.
        hue: colours are turned by a share from [-h, h] of a full turn, in HSV; for red, green and blue.
        grayscale: share of the views that are turned grey, whether they are changed otherwise or not; likewise.

    Colours change in the order saturation, contrast, brightness, hue, bands, grey; whole numbers are rounded once, at
    the end. ``hue`` and ``grayscale`` draw after all others: with or without them, the rest of a view is the same.
    The outcome for a sample is a function of (seed, epoch, index), and so independent of its batch.
    """

    def __init__(
        self,
        size: int = 224,
        local_size: int = 96,
        global_views: int = 2,
        local_views: int = 8,
        scale: Sequence[float] = (0.4, 1.0),
        local_scale: Sequence[float] = (0.05, 0.4),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
        flip: bool = True,
        turn: bool = True,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        jitter_probability: float = 0.8,
        band_shift: float = 0.0,
        hue: float = 0.0,
        grayscale: float = 0.0,
    ) -> None:
        self.crops = (
            (global_views, RandomResizedCrop(size, scale, ratio, interpolation)),
            (local_views, RandomResizedCrop(local_size, local_scale, ratio, interpolation)),
        )
        self.flip = flip
        self.turn = turn
        self.jitter = (float(brightness), float(contrast), float(saturation))
        self.jitter_probability = jitter_probability
        self.band_shift = float(band_shift)
        self.hue = float(hue)
        self.grayscale = float(grayscale)
        coloured = {"saturation": saturation, "hue": hue, "grayscale": grayscale}
        self._needs_rgb = next((name for name, value in coloured.items() if value), None)

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch with ``views``."""
        images = batch["image"]
        if isinstance(images, Tensor):  # pixels of a window lie together then, which doubles the speed of scaling
            images = images.contiguous(memory_format=torch.channels_last)
        views: list[Tensor] = []
        for count, crop in self.crops:
            if count:
                views += self._views(images, count, crop, random.streams(count))
        return {**batch, "views": views, "image": views[0], "global_views": self.crops[0][0]}

    def _views(self, images: Any, count: int, crop: RandomResizedCrop, random: SampleRandom) -> list[Tensor]:
        """``count`` views (B, C, S, S) of all images; random numbers are drawn for all of them at once."""
        total = len(images)
        heights = np.fromiter((image.shape[-2] for image in images), dtype=np.int64, count=total)
        widths = np.fromiter((image.shape[-1] for image in images), dtype=np.int64, count=total)
        windows = crop.windows(np.tile(heights, count), np.tile(widths, count), random).tolist()
        # Windows differ in size, so each is scaled by its own call: 15 microseconds at 64 pixels, against 40 for
        # batched matrix products that would do all of them at once.
        cut = [
            resize(images[i % total][:, top : top + rows, left : left + columns], crop.size, crop.interpolation)
            for i, (top, left, rows, columns) in enumerate(windows)
        ]
        whole = torch.stack(cut)  # (count * B, C, S, S)
        if self.flip or self.turn:
            whole = self._oriented(whole, random)
        views = list(whole.chunk(count))
        if not any(self.jitter) and not self.band_shift and not self.hue and not self.grayscale:
            return views
        bands = views[0].shape[1]
        if self._needs_rgb and bands != 3:
            name = f"MultiCrop.{self._needs_rgb}"
            raise DataError(f"{name} is for red, green and blue; the images have {bands} bands")
        changed = random.uniform() < self.jitter_probability
        parts = (
            self._jitter_factors(changed, random),
            self._band_shifts(random, bands),
            self._hue_turns(changed, random),
            self._turned_grey(random),
        )
        return [self._jittered(*part) for part in zip(views, *(part.chunk(count) for part in parts), strict=True)]

    def _oriented(self, views: Tensor, random: SampleRandom) -> Tensor:
        """Mirror and turn (n, C, S, S): all views with the same of the eight orientations together."""
        turns = random.integers(0, 4) if self.turn else np.zeros(len(views), dtype=np.int64)
        mirrored = random.uniform() < 0.5 if self.flip else np.zeros(len(views), dtype=bool)
        array = views.numpy()  # turning is a view in numpy, and its copies are four times as fast as torch's
        out = np.empty_like(array, order="C")
        codes = turns * 2 + mirrored
        for code in np.unique(codes).tolist():
            chosen = np.flatnonzero(codes == code)
            part = array[chosen]
            out[chosen] = np.rot90(part[..., ::-1] if code % 2 else part, code // 2, axes=(2, 3))
        return torch.from_numpy(out)

    def _jitter_factors(self, changed: np.ndarray, random: SampleRandom) -> Tensor:
        """(n, 3) float32 factors of brightness, contrast and saturation; 1 but for the views that are ``changed``."""
        factors = [np.where(changed, random.uniform(1 - j, 1 + j), 1.0) for j in self.jitter]
        return torch.from_numpy(np.stack(factors, axis=1)).float()

    def _band_shifts(self, random: SampleRandom, bands: int) -> Tensor:
        """(n, bands) float32, what is added to every band."""
        shifts = [random.uniform(-self.band_shift, self.band_shift) for _ in range(bands if self.band_shift else 0)]
        return torch.from_numpy(np.stack(shifts, axis=1)).float() if shifts else torch.zeros(len(random), bands)

    def _hue_turns(self, changed: np.ndarray, random: SampleRandom) -> Tensor:
        """(n,) float32 shares of a turn; 0 but for the views that are ``changed``."""
        turns = np.where(changed, random.uniform(-self.hue, self.hue), 0.0) if self.hue else np.zeros(len(random))
        return torch.from_numpy(turns).float()

    def _turned_grey(self, random: SampleRandom) -> Tensor:
        """(n,) bool, the views that lose their colour."""
        return torch.from_numpy(random.uniform() < self.grayscale if self.grayscale else np.zeros(len(random), bool))

    def _jittered(self, views: Tensor, factors: Tensor, shifts: Tensor, turns: Tensor, grey: Tensor) -> Tensor:
        """(n, C, S, S) with colours changed. All but hue and grey is one affine map a view."""
        light, contrast, colour = factors[:, :, None, None, None].unbind(dim=1)  # (n, 1, 1, 1)
        limits = None if views.is_floating_point() else torch.iinfo(views.dtype)
        values = views.float()
        # Rows of whole numbers add up exactly in float32, and rows in float64: in whatever order, so in any batch.
        mean = (values.sum(dim=-1).double().sum(dim=(1, 2)) / values[0].numel()).float()[:, None, None, None]
        if self.jitter[2]:
            grey_part = luma(values).mul_(1 - colour)
            values = values.mul_(colour).add_(grey_part)
        values = values.sub_(mean).mul_(contrast).add_(mean).mul_(light)
        if self.hue:
            turned = turns.nonzero()[:, 0]
            part = values[turned]
            # What was pushed out of the range has no hue of its own any more.
            values[turned] = turn_hue(part if limits is None else part.clamp_(limits.min, limits.max), turns[turned])
        if self.band_shift:
            values = values.add_(shifts[:, :, None, None])
        if self.grayscale:
            part = values[grey]
            values[grey] = luma(part if limits is None else part.clamp_(limits.min, limits.max)).expand_as(part)
        if limits is None:
            return values.to(views.dtype)
        return values.round_().clamp_(limits.min, limits.max).to(views.dtype)

    @classmethod
    def image_sizes(cls, cfg: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Those of the global views, then of the local ones."""
        sizes = {"size": (cfg["size"], cfg["size"])}
        return {**sizes, "local_size": (cfg["local_size"],) * 2} if cfg["local_views"] else sizes

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        for key, least in (("size", 1), ("local_size", 1), ("global_views", 1), ("local_views", 0)):
            if not isinstance(cfg[key], int) or cfg[key] < least:
                yield key, f"must be a whole number of at least {least}"
        for key in ("scale", "local_scale"):
            low, high = cfg[key]
            if not 0 < low <= high <= 1:
                yield key, "must be a rising pair in (0, 1]"
        low, high = cfg["ratio"]
        if not 0 < low <= high:
            yield "ratio", "must be a rising pair of positive numbers"
        if cfg["interpolation"] not in INTERPOLATIONS:
            yield "interpolation", not_among(cfg["interpolation"], INTERPOLATIONS)
        for key in ("brightness", "contrast", "saturation", "jitter_probability", "grayscale"):
            if not 0 <= cfg[key] <= 1:
                yield key, "must lie in [0, 1]"
        if cfg["band_shift"] < 0:
            yield "band_shift", "must not be negative"
        if not 0 <= cfg["hue"] <= 0.5:
            yield "hue", "must lie in [0, 0.5] of a turn"
