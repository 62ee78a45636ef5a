"""The Preprocess record of images: resizing on the host, normalisation on the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perception.errors import ConfigError, DataError, Fault
from perception.registry import PREPROCESSES
from perception.transforms.image_resize import INTERPOLATIONS, resize
from perception.transforms.preprocess import Batch, Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """``(value / value_scale - mean) / std`` of uint8 images, and how an image of any size gets to ``size``.

    Attributes:
        size: (height, width) that the backbone sees; one number is a square.
        bands: names of the channels in order.
        mean: per band, after division by ``value_scale``.
        std: likewise.
        value_scale: largest raw value.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, the latter two antialiased.
        crop_fraction: ``prepare`` scales an image until ``size / crop_fraction`` is covered and cuts the centre out;
            0.875 is the 256-to-224 test crop of ImageNet.
    """

    size: int | Sequence[int]
    bands: tuple[str, ...] = ("red", "green", "blue")
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    value_scale: float = 255.0
    interpolation: str = "bicubic"
    crop_fraction: float = 1.0

    modality: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(int(s) for s in self.size)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "bands", tuple(self.bands))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        faults = [
            Fault(f"model.backbone.preprocess.{key}", getattr(self, key), text)
            for key, text in self.check_config({k: getattr(self, k) for k in self.field_names()})
        ]
        if faults:
            raise ConfigError(faults)

    @property
    def shape(self) -> tuple[int, int]:
        """``size`` as (height, width)."""
        rows, columns = self.size  # type: ignore[misc]  # a pair since __post_init__
        return rows, columns

    def __call__(self, batch: Batch) -> Batch:
        """Normalise ``batch['image']``, uint8 (B, C, H, W), to float32 on its device.

        Raises:
            DataError: another dtype, number of bands or size than the record's.
        """
        images = self._checked(batch.get(self.modality))
        scale, shift = _affine(self.mean, self.std, self.value_scale, images.device)
        return {**batch, self.modality: images.to(torch.float32).mul_(scale).add_(shift)}

    def _checked(self, images: Any) -> Tensor:
        if isinstance(images, (list, tuple)):
            raise DataError(
                f"images of {len({tuple(i.shape[-2:]) for i in images})} different sizes: give the data set size=, or "
                "end its transforms with one that cuts to a fixed size, such as RandomResizedCrop"
            )
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(images)
        if not isinstance(images, Tensor):
            raise DataError(f"a batch for an image backbone needs a tensor 'image', not {type(images).__name__}")
        if images.dtype != torch.uint8:
            raise DataError(
                f"raw images must be uint8 with values 0 to {self.value_scale:g}, not {images.dtype}: "
                "normalisation belongs to the Preprocess record, not to the data set"
            )
        if images.ndim != 4 or images.shape[1] != len(self.bands):
            raise DataError(
                f"images of shape {tuple(images.shape)} do not fit (B, {len(self.bands)}, H, W), bands {self.bands}"
            )
        if tuple(images.shape[-2:]) != self.shape:
            raise DataError(
                f"images of {tuple(images.shape[-2:])} pixels, but the Preprocess record says {self.size}: "
                "give the data set size=, or pass single images through ImagePreprocess.prepare"
            )
        return images

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's, but another ``size`` is allowed: image backbones resample their positions to it."""
        super().require_same({**other, "size": self.size}, source)

    def denormalize(self, images: Tensor) -> Tensor:
        """Normalised float (B, C, H, W) -> uint8 (B, C, H, W)."""
        scale, shift = _affine(self.mean, self.std, self.value_scale, images.device)
        return ((images.float() - shift) / scale).round().clamp(0, self.value_scale).to(torch.uint8)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image of a user's, uint8 (H, W, C) or (H, W) of any size -> uint8 (C, height, width) as ``size`` says.

        Raises:
            DataError: another dtype or number of channels than the record's.
        """
        array = np.asarray(image)
        if array.dtype != np.uint8:
            raise DataError(f"an image must be uint8 with values 0 to {self.value_scale:g}, not {array.dtype}")
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3 or array.shape[2] != len(self.bands) or 0 in array.shape:
            raise DataError(
                f"an image of shape {np.shape(image)} does not fit (H, W, {len(self.bands)}) of the bands {self.bands}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
        return fit(pixels, self.shape, self.interpolation, self.crop_fraction).contiguous().numpy()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a record that would stop it from being used."""
        bands = len(cfg["bands"])
        for key in ("mean", "std"):
            if len(cfg[key]) != bands:
                yield key, f"must have one value for each of the {bands} bands"
        if any(s <= 0 for s in cfg["std"]):
            yield "std", "must be positive"
        if cfg["value_scale"] <= 0:
            yield "value_scale", "must be positive"
        elif any(not 0 <= m <= 1 for m in cfg["mean"]):
            yield "mean", f"must lie in [0, 1]: it is taken after division by value_scale = {cfg['value_scale']:g}"
        size = cfg["size"]
        if (isinstance(size, int) and size < 1) or (not isinstance(size, int) and (len(size) != 2 or min(size) < 1)):
            yield "size", "must be a positive number of pixels or a pair (height, width)"
        if cfg["interpolation"] not in INTERPOLATIONS:
            yield "interpolation", f"must be one of {', '.join(INTERPOLATIONS)}"
        if not 0 < cfg["crop_fraction"] <= 1:
            yield "crop_fraction", "must lie in (0, 1]"


def fit(image: Tensor, size: Sequence[int], interpolation: str = "bicubic", crop_fraction: float = 1.0) -> Tensor:
    """Scale uint8 (C, H, W) until it covers ``size / crop_fraction``, aspect kept, and cut ``size`` at the centre."""
    height, width = image.shape[-2:]
    rows, columns = size
    factor = max(rows / height, columns / width) / crop_fraction
    scaled = (max(round(height * factor), rows), max(round(width * factor), columns))
    image = resize(image, scaled, interpolation)
    top, left = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    return image[:, top : top + rows, left : left + columns]


@lru_cache(maxsize=32)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], value_scale: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift (1, C, 1, 1) such that ``raw * scale + shift`` is normalised."""
    scale = 1.0 / (np.asarray(std) * value_scale)
    shift = -np.asarray(mean) / np.asarray(std)
    shape = (1, -1, 1, 1)
    return (
        torch.tensor(scale.reshape(shape), dtype=torch.float32, device=device),
        torch.tensor(shift.reshape(shape), dtype=torch.float32, device=device),
    )
