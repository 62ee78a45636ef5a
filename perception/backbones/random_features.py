"""Encoders that nothing trains: statistics of the channels and random convolutions, the floor of every table.

"Random convolutional features" (RCF) are those of MOSAIKS ("A generalizable and accessible approach to machine
learning with global satellite imagery", Rolf et al., 2021) as the benchmark "Revisiting pre-trained remote sensing
model benchmarks: resizing and normalization matters" (Corley et al., 2024) computes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess

_CHUNK_VALUES = 2**23  # of a map of responses that is held at once: 32 MiB
_SMALLEST_NORM = 1e-8  # patches below it are flat


@BACKBONES.register_module()
class ImageStatistics(Backbone):
    """Mean, standard deviation (unbiased), maximum and minimum of every channel: D = 4C, in that order.

    The deviation of a single pixel is 0.

    Args:
        in_channels: channels C.
        preprocess: Preprocess record.
    """

    modality: ClassVar[str] = "image"
    strides = (1,)

    def __init__(self, in_channels: int = 3, preprocess: Preprocess | dict[str, Any] | None = None) -> None:
        _require(self, in_channels=in_channels)
        super().__init__(preprocess or _default_record(in_channels))
        self.in_channels = in_channels
        self.embed_dims = 4 * in_channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The image itself (B, C, H, W)."""
        return (x,)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """(B, C, H, W) -> (B, 4C)."""
        pixels = batch[self.modality].flatten(2)
        deviation = pixels.std(2, correction=min(1, pixels.shape[2] - 1))
        return torch.cat([pixels.mean(2), deviation, pixels.amax(2), pixels.amin(2)], dim=1)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        return _count_faults(cfg, "in_channels")


@BACKBONES.register_module()
class RCF(Backbone):
    """Random convolution, both signs of the response, mean over all places.

    With D/2 filters W ~ N(0, 1) and a fixed bias b, ``u = conv(x, W) + b`` without padding and the feature is
    ``[mean relu(u), mean relu(-u)]``. The filters are drawn from torch's generator, as a network's weights are, and
    are a buffer: nothing trains them.

    Args:
        features: width D, even.
        kernel_size: height and width of a filter.
        bias: b of every filter.
        in_channels: channels C.
        preprocess: Preprocess record.
    """

    modality: ClassVar[str] = "image"
    strides = (1,)
    weight: Tensor

    def __init__(
        self,
        features: int = 512,
        kernel_size: int = 3,
        bias: float = -1.0,
        in_channels: int = 3,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        _require(self, features=features, kernel_size=kernel_size, in_channels=in_channels)
        super().__init__(preprocess or _default_record(in_channels))
        self.embed_dims, self.kernel_size, self.bias, self.in_channels = features, kernel_size, bias, in_channels
        self.register_buffer("weight", self.first_weight(features // 2, in_channels, kernel_size))

    def first_weight(self, count: int, channels: int, size: int) -> Tensor:
        """Filters (count, C, k, k) at the beginning."""
        return torch.randn(count, channels, size, size)

    def responses(self, x: Tensor) -> Tensor:
        """Responses u = conv(x, W) + b: (B, C, H, W) -> (B, D/2, H - k + 1, W - k + 1)."""
        if min(x.shape[-2:]) < self.kernel_size:
            size = f"{x.shape[-2]} x {x.shape[-1]}"
            raise DataError(f"images of {size} pixels are smaller than the filters of {self.kernel_size} pixels")
        bias = torch.full((len(self.weight),), self.bias, dtype=x.dtype, device=x.device)
        return F.conv2d(x, self.weight.to(x.dtype), bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map of both signs (B, D, H - k + 1, W - k + 1)."""
        u = self.responses(x)
        return (torch.cat([u.relu(), (-u).relu()], dim=1),)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """(B, C, H, W) -> (B, D), a few images at a time: the maps of a whole batch would fill the memory."""
        images = batch[self.modality]
        count = max(1, _CHUNK_VALUES // (len(self.weight) * images[0, 0].numel()))
        pooled = []
        for part in images.split(count):
            u = self.responses(part).flatten(2)
            pooled.append(torch.cat([u.relu().mean(2), (-u).relu_().mean(2)], dim=1))
        return torch.cat(pooled)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from _count_faults(cfg, "features", "kernel_size", "in_channels")
        if isinstance(cfg.get("features"), int) and cfg["features"] % 2:
            yield "features", "must be even: every filter gives two"


@BACKBONES.register_module()
class MOSAIKS(RCF):
    """RCF whose filters are patches of training images, ZCA-whitened ("empirical"). ``fit`` draws them.

    Every patch is flattened, centred by its own mean and scaled to unit length (flat ones stay); with
    ``S = P^T P / n = V diag(e) V^T`` and ``Z = V diag((e + zca_bias)^-1/2) V^T`` the filters are ``P Z Z^T``. Whitening
    twice is the reference's: responses are inner products of whitened patches.

    Args:
        features: see ``RCF``; half as many patches are drawn.
        kernel_size: see ``RCF``.
        bias: see ``RCF``.
        in_channels: see ``RCF``.
        zca_bias: added to the eigenvalues.
        preprocess: Preprocess record; patches are drawn from preprocessed images.
    """

    fitted: Tensor

    def __init__(
        self,
        features: int = 512,
        kernel_size: int = 3,
        bias: float = -1.0,
        in_channels: int = 3,
        zca_bias: float = 1e-3,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        _require(self, features=features, kernel_size=kernel_size, in_channels=in_channels, zca_bias=zca_bias)
        super().__init__(features, kernel_size, bias, in_channels, preprocess)
        self.zca_bias = zca_bias
        self.register_buffer("fitted", torch.tensor(False))

    def first_weight(self, count: int, channels: int, size: int) -> Tensor:
        """Zeros: there are no filters before ``fit``."""
        return torch.zeros(count, channels, size, size)

    def responses(self, x: Tensor) -> Tensor:
        """As RCF's.

        Raises:
            DataError: ``fit`` has not been called, and no fitted weights were loaded.
        """
        if not self.fitted:
            raise DataError("MOSAIKS has no filters yet: call fit(dataset, seed) with the training images")
        return super().responses(x)

    @torch.no_grad()
    def fit(self, dataset: Any, seed: int = 0) -> MOSAIKS:
        """Draw the filters from a data set; only the images that patches come from are read.

        Args:
            dataset: gives whole RAW batches with ``image``.
            seed: image, row and column of one patch after the other are uniform numbers of numpy's generator of this
                seed, as in the reference.
        """
        count, size = len(self.weight), self.kernel_size
        height, width = self.preprocess(dataset.__getitems__([0]))[self.modality].shape[-2:]
        if min(height, width) <= size:
            raise DataError(f"images of {height} x {width} pixels are too small to draw filters of {size} pixels from")
        # The last place of a row or column is never drawn: neither does the reference.
        limits = np.tile([len(dataset), height - size, width - size], (count, 1))
        chosen, top, left = torch.from_numpy(np.random.default_rng(seed).integers(0, limits)).unbind(1)
        kept, place = chosen.unique(return_inverse=True)
        images = self.preprocess(dataset.__getitems__(kept.tolist()))[self.modality]
        rows = (top[:, None] + torch.arange(size))[:, None, :, None]
        columns = (left[:, None] + torch.arange(size))[:, None, None, :]
        channels = torch.arange(images.shape[1])[None, :, None, None]
        patches = images[place[:, None, None, None], channels, rows, columns]
        filters = zca_filters(patches.flatten(1), self.zca_bias).view(self.weight.shape)
        self.weight.copy_(filters)
        self.fitted.fill_(True)
        return self

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from super().check_config(cfg)
        # Patches without their mean leave one direction of S empty, so without a bias Z would not exist.
        if not cfg.get("zca_bias", 1) > 0:
            yield "zca_bias", "must be positive"


def unit_patches(patches: Tensor) -> Tensor:
    """Patches (n, d) centred by their own mean, of unit length, float64; flat ones keep their length."""
    patches = patches.double()
    patches = patches - patches.mean(1, keepdim=True)
    norms = patches.norm(dim=1, keepdim=True)
    return patches / torch.where(norms < _SMALLEST_NORM, 1.0, norms)


def zca_matrix(patches: Tensor, bias: float = 1e-3) -> Tensor:
    """Whitening matrix Z (d, d) of unit patches (n, d), symmetric: ``P Z`` has covariance I for ``bias = 0``."""
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return (vectors * (values.clamp_min(0) + bias).rsqrt()) @ vectors.T


def zca_filters(patches: Tensor, bias: float = 1e-3) -> Tensor:
    """Filters ``P Z Z^T`` (n, d), float32, of raw patches (n, d)."""
    patches = unit_patches(patches)
    whiten = zca_matrix(patches, bias)
    return (patches @ whiten @ whiten.T).float()


def _default_record(channels: int) -> dict[str, Any]:
    """Values divided by 255, images as large as they come at 64 pixels."""
    bands = ("red", "green", "blue") if channels == 3 else tuple(f"band-{i}" for i in range(channels))
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    return {"type": "ImagePreprocess", "size": 64, "bands": bands, "mean": zeros, "std": ones}


def _count_faults(cfg: dict[str, Any], *keys: str) -> Iterable[tuple[str, str]]:
    for key in keys:
        if not isinstance(cfg[key], (int, np.integer)) or cfg[key] < 1:
            yield key, "must be a whole number of at least 1"


def _require(backbone: Any, **values: Any) -> None:
    faults = [Fault(f"model.backbone.{key}", values[key], text) for key, text in backbone.check_config(values)]
    if faults:
        raise ConfigError(faults)
