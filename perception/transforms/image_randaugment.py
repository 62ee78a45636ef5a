"""RandAugment ("RandAugment: Practical Automated Data Augmentation", Cubuk et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from perception.errors import DataError
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.image_augment import pixel_field, stacked
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

MAX_MAGNITUDE = 10.0
_FILL = (124, 116, 104)  # ImageNet's mean colour
Picture = Image.Image
Operation = Callable[[Picture, float, float], Picture]


def _enhance(kind: Callable[[Picture], Any]) -> Operation:
    return lambda image, level, sign: kind(image).enhance(1.0 + 0.9 * level * sign)


def _affine(matrix: Callable[[Picture, float], tuple[float, ...]]) -> Operation:
    def apply(image: Picture, level: float, sign: float) -> Picture:
        coefficients = matrix(image, level * sign)
        return image.transform(
            image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=_FILL
        )

    return apply


def _rotate(image: Picture, level: float, sign: float) -> Picture:
    return image.rotate(30.0 * level * sign, Image.Resampling.BICUBIC, fillcolor=_FILL)


def _solarize_add(image: Picture, level: float, sign: float) -> Picture:
    add = min(128, int(110 * level))
    return image.point([min(255, v + add) if v < 128 else v for v in range(256)] * 3)


# Every operation gets stronger with its level in [0, 1]; those with a direction take a random sign.
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "invert": lambda image, level, sign: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": lambda image, level, sign: ImageOps.posterize(image, max(1, 4 - int(4 * level))),
    "solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - int(256 * level)),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda image, v: (1, 0.3 * v, 0, 0, 1, 0)),
    "shear_y": _affine(lambda image, v: (1, 0, 0, 0.3 * v, 1, 0)),
    "translate_x": _affine(lambda image, v: (1, 0, 0.45 * v * image.size[0], 0, 1, 0)),
    "translate_y": _affine(lambda image, v: (1, 0, 0, 0, 1, 0.45 * v * image.size[1])),
}


@TRANSFORMS.register_module()
class RandAugment(Transform):
    """``num_ops`` operations drawn with replacement, each applied with probability ``probability``.

    Of clips (``video``) all frames go through the same operations at the same strength.

    Args:
        magnitude: mean strength from 0 to 10; strengths and their meaning follow the "increasing" set that MAE's
            fine-tuning uses (``rand-m9-mstd0.5-inc1``).
        magnitude_std: standard deviation of the strength.
        num_ops: operations per image.
        probability: probability of each.
    """

    def __init__(
        self, magnitude: float = 9.0, magnitude_std: float = 0.5, num_ops: int = 2, probability: float = 0.5
    ) -> None:
        self.magnitude = magnitude
        self.magnitude_std = magnitude_std
        self.num_ops = num_ops
        self.probability = probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch of RGB images or clips -> RAW batch."""
        images = stacked(batch, self)
        if images.shape[1] != 3:
            raise DataError(f"RandAugment works on RGB images, not on {images.shape[1]} bands")
        seeds = random.bits()
        out = [self._one(image, np.random.default_rng(int(s))) for image, s in zip(images, seeds, strict=True)]
        return {**batch, pixel_field(batch): torch.from_numpy(np.stack(out))}

    def _one(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        frames = image.transpose(1, 2, 3, 0) if image.ndim == 4 else image.transpose(1, 2, 0)[None]
        pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
        names = list(OPERATIONS)
        for choice in generator.integers(len(names), size=self.num_ops):
            if generator.random() >= self.probability:
                continue
            strength = generator.normal(self.magnitude, self.magnitude_std)
            level = float(np.clip(strength, 0.0, MAX_MAGNITUDE)) / MAX_MAGNITUDE
            sign = 1.0 if generator.random() < 0.5 else -1.0
            pictures = [OPERATIONS[names[choice]](picture, level, sign) for picture in pictures]
        out = np.stack([np.asarray(picture) for picture in pictures]).transpose(3, 0, 1, 2)
        return out if image.ndim == 4 else out[:, 0]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not 0 <= cfg["magnitude"] <= MAX_MAGNITUDE:
            yield "magnitude", f"must lie in [0, {MAX_MAGNITUDE:g}]"
        if not 0 <= cfg["probability"] <= 1:
            yield "probability", "must lie in [0, 1]"
        if cfg["num_ops"] < 1:
            yield "num_ops", "must be at least 1"
