"""Drawing for ``Pretext.pictures``: rows of tiles, and maps of numbers as colours."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.layers.log_mel import log_mel

# Dark blue through green to yellow: even in lightness, readable for all eyes.
_MAP = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64)


def tile(images: np.ndarray, gap: int = 2, scale_to: int = 64) -> np.ndarray:
    """uint8 (rows, columns, C, H, W) -> one white-ruled picture (H', W', 3); small images are enlarged."""
    rows, columns, channels, height, width = images.shape
    factor = max(1, scale_to // height)
    images = images.repeat(factor, axis=3).repeat(factor, axis=4)
    if channels != 3:  # grey, or the first band of many
        images = images[:, :, :1].repeat(3, axis=2)
    height, width = height * factor + gap, width * factor + gap
    canvas = np.full((rows * height + gap, columns * width + gap, 3), 255, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * height + gap, column * width + gap
            canvas[top : top + height - gap, left : left + width - gap] = images[row, column].transpose(1, 2, 0)
    return canvas


def colour(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Numbers (...) -> uint8 colours (..., 3), from dark blue at ``low`` to yellow at ``high``."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    place = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0) * (len(_MAP) - 1)
    below = np.minimum(place.astype(int), len(_MAP) - 2)
    share = (place - below)[..., None]
    return np.round(_MAP[below] * (1 - share) + _MAP[below + 1] * share).astype(np.uint8)


def three_band(images: np.ndarray) -> np.ndarray:
    """uint8 (..., C, H, W) with C = 3: grey images, and the first band of images of many bands, as grey."""
    return images if images.shape[-3] == 3 else images[..., :1, :, :].repeat(3, axis=-3)


def principal_colours(maps: Tensor) -> np.ndarray:
    """Feature maps (n, D, h, w) -> uint8 (n, 3, h, w): the first three principal components as red, green and blue.

    Positions with similar features get similar colours, over all n images. A component is stretched between its 2nd and
    98th percentile; its sign is that of its largest weight, so that pictures of a run can be compared.
    """
    n, dim, height, width = maps.shape
    rows = maps.detach().double().permute(0, 2, 3, 1).reshape(-1, dim).cpu()
    rows = rows - rows.mean(dim=0)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:3]  # (<= 3, D)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    scores = rows @ (directions * largest.sign()).T
    scores = F.pad(scores, (0, 3 - scores.shape[1]))
    low, high = (torch.quantile(scores, q, dim=0) for q in (0.02, 0.98))
    unit = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).reshape(n, height, width, 3).permute(0, 3, 1, 2).numpy()


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, C, h, w) -> (n, C, *size), smoothly."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


def spectrograms(audio: Tensor, length: Tensor, sample_rate: int, bands: int = 64) -> np.ndarray:
    """Padded waveforms (n, S) with lengths (n,) -> uint8 (n, 3, bands, T): log-mel spectra, high frequencies above.

    Colours go from 80 decibels below the loudest place of a clip up to it; what is no frame of the clip is white.
    """
    spectra, frames = log_mel(audio.cpu(), length.cpu(), sample_rate, bands)
    gone = torch.arange(spectra.shape[1]) >= frames[:, None]
    decibels = spectra.masked_fill(gone[..., None], -torch.inf) * (10 / np.log(10))
    relative = (decibels - decibels.amax((1, 2), keepdim=True)).clamp_min(-80)
    shown = colour(relative.flip(2).transpose(1, 2).numpy(), -80, 0)
    shown[gone[:, None, :].expand(-1, bands, -1).numpy()] = 255
    return shown.transpose(0, 3, 1, 2)
