"""Mixup and CutMix of a RAW batch, with soft labels for the classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from perception.errors import DataError
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.image_augment import pixel_field
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


@TRANSFORMS.register_module()
class Mix(Transform):
    """Mixup ("mixup: Beyond Empirical Risk Minimization", 2018) or CutMix (2019), one of the two for each batch.

    Sample i is mixed with sample n - 1 - i: ``x = lam * x_i + (1 - lam) * x_j`` with ``lam ~ Beta(alpha, alpha)``, or a
    box of area ``1 - lam`` of x_j is pasted into x_i. Labels become ``lam * onehot(y_i) + (1 - lam) * onehot(y_j)``,
    with the true area of the clipped box. Mixing before normalisation equals mixing after it, since that is affine;
    mixed uint8 images are rounded.

    The draw follows from (seed, epoch, first sample of the batch), so it is repeated exactly when a run is resumed.

    Args:
        num_classes: number of classes C of the soft labels.
        mixup: alpha of mixup, 0 = never.
        cutmix: alpha of CutMix, 0 = never.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix where both are on.

    Shapes: ``image (n, ch, H, W)`` or ``video (n, ch, T, H, W)``, ``label (n,)`` int64 -> the same shape and dtype,
    ``label (n, C)`` float32. The box of CutMix is the same in all frames of a clip.
    """

    def __init__(
        self,
        num_classes: int,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
    ) -> None:
        self.num_classes = num_classes
        self.mixup = mixup
        self.cutmix = cutmix
        self.prob = prob
        self.switch_prob = switch_prob

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config."""
        for key in ("mixup", "cutmix"):
            if cfg[key] < 0:
                yield key, "must not be negative"
        if not cfg["mixup"] and not cfg["cutmix"]:
            yield "mixup", "is 0 as cutmix is: nothing would be mixed"
        for key in ("prob", "switch_prob"):
            if not 0 <= cfg[key] <= 1:
                yield key, "must lie in [0, 1]"

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch with mixed images and soft labels."""
        images, labels = batch[pixel_field(batch)], batch["label"]
        if bool(((labels < 0) | (labels >= self.num_classes)).any()):
            wrong = sorted({int(v) for v in labels if not 0 <= v < self.num_classes})
            raise DataError(f"Mix needs labels in 0..{self.num_classes - 1}, the batch holds {wrong[:5]}")
        own = functional.one_hot(labels, self.num_classes).float()
        generator = np.random.default_rng(int(random.bits()[0]))
        mixed, share = images, 1.0
        if generator.random() < self.prob:
            cut = self.cutmix > 0 and (self.mixup == 0 or generator.random() < self.switch_prob)
            alpha = self.cutmix if cut else self.mixup
            share = float(generator.beta(alpha, alpha))
            mixed, share = cut_mix(images, share, generator) if cut else (mix_up(images, share), share)
        return {**batch, pixel_field(batch): mixed, "label": share * own + (1 - share) * own.flip(0)}


def mix_up(images: Tensor, share: float) -> Tensor:
    """``share * x_i + (1 - share) * x_{n-1-i}``; integer images are rounded. ``(n, ch, H, W)``."""
    mixed = share * images.float() + (1 - share) * images.flip(0).float()
    return mixed if images.is_floating_point() else mixed.round().to(images.dtype)


def cut_mix(images: Tensor, share: float, generator: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of about ``1 - share`` of the area from sample n - 1 - i; returns the images and the share kept."""
    height, width = images.shape[-2:]
    side = np.sqrt(1 - share)
    rows, columns = int(height * side), int(width * side)
    row, column = int(generator.integers(height)), int(generator.integers(width))
    top, bottom = np.clip([row - rows // 2, row - rows // 2 + rows], 0, height).tolist()
    left, right = np.clip([column - columns // 2, column - columns // 2 + columns], 0, width).tolist()
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
