"""Log-mel spectra of padded waveforms, and what they are over a whole clip: the free baseline of speech."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def mel_filters(sample_rate: int, window: int, bands: int = 40) -> Tensor:
    """Triangular filters (window // 2 + 1, bands) float32 on power spectra of ``window`` samples.

    Their corners are equally spaced in mel, ``2595 log10(1 + f / 700)`` ("A comparison of parametric representations
    for monosyllabic word recognition", Davis and Mermelstein, 1980; the formula is O'Shaughnessy's, 1987), from 0 to
    half the sample rate; every peak is 1.
    """
    top = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    corners = 700.0 * (10.0 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595.0) - 1.0)
    hertz = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


def log_mel(
    audio: Tensor,
    length: Tensor | None = None,
    sample_rate: int = 16000,
    bands: int = 40,
    window_seconds: float = 0.032,
    hop_seconds: float = 0.010,
    floor: float = 1e-10,
) -> tuple[Tensor, Tensor]:
    """Natural logarithm of the power in mel bands.

    A frame counts as soon as its whole window lies in the clip, so that padding changes nothing; a clip shorter than a
    window is one frame, filled up with zeros.

    Args:
        audio: (B, S) float waveforms, padded at the end.
        length: (B,) samples that are real; None takes all S.
        sample_rate: in hertz.
        bands: number of mel bands.
        window_seconds: length of a Hann window.
        hop_seconds: from one window to the next.
        floor: added to the power before the logarithm.

    Returns:
        (B, T, bands) float32, and (B,) int64 frames that are real.
    """
    window, hop = round(window_seconds * sample_rate), round(hop_seconds * sample_rate)
    if audio.shape[1] < window:
        audio = torch.nn.functional.pad(audio, (0, window - audio.shape[1]))
    if length is None:
        length = torch.full((len(audio),), audio.shape[1], dtype=torch.int64, device=audio.device)
    frames = torch.div(length - window, hop, rounding_mode="floor").clamp_min(0) + 1
    taper = torch.hann_window(window, device=audio.device)
    power = torch.fft.rfft(audio.float().unfold(1, window, hop) * taper).abs().square()
    return torch.log(power @ mel_filters(sample_rate, window, bands).to(audio.device) + floor), frames


def mean_and_deviation(spectra: Tensor, frames: Tensor) -> Tensor:
    """Mean and standard deviation (divided by the number) over real frames: (B, T, F), (B,) -> (B, 2 F)."""
    real = (torch.arange(spectra.shape[1], device=spectra.device) < frames[:, None])[..., None]
    values = spectra.double().masked_fill(~real, 0)
    count = frames[:, None].double()
    mean = values.sum(1) / count
    spread = ((values - mean[:, None]).masked_fill(~real, 0).square().sum(1) / count).sqrt()
    return torch.cat([mean, spread], dim=1).to(spectra.dtype)


def segment_means(spectra: Tensor, frames: Tensor, segments: int = 8) -> Tensor:
    """Means over equal parts of the real frames: (B, T, F), (B,) -> (B, segments F).

    Part i goes from frame ``floor(i n / segments)`` to the next part's first; a clip of fewer frames than parts repeats
    frames.
    """
    cuts = torch.arange(segments + 1, device=frames.device) * frames[:, None] // segments  # (B, segments + 1)
    start = torch.minimum(cuts[:, :-1], frames[:, None] - 1)
    end = torch.maximum(cuts[:, 1:], start + 1)
    total = torch.nn.functional.pad(spectra.double().cumsum(1), (0, 0, 1, 0))  # sums of the first t frames
    width = spectra.shape[2]

    def sums(at: Tensor) -> Tensor:
        return total.gather(1, at[..., None].expand(-1, -1, width))

    return ((sums(end) - sums(start)) / (end - start)[..., None]).flatten(1).to(spectra.dtype)
