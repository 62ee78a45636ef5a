"""Augmentations of padded waveforms: gain, noise, channel, speed, masks in time and frequency, several views of a clip.

Each works on ``audio`` (B, S) and ``audio_length`` (B,) of a RAW batch; padding stays 0. What becomes of a clip is a
function of (seed, epoch, index), up to rounding, whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError, check_arguments
from perception.registry import TRANSFORMS
from perception.signatures import at_least
from perception.transforms.base import Compose, Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


def _clips(batch: Batch, owner: str) -> tuple[Tensor, Tensor]:
    """``audio`` and ``audio_length``."""
    audio, length = batch.get("audio"), batch.get("audio_length")
    if not isinstance(audio, Tensor) or audio.ndim != 2 or not audio.is_floating_point():
        raise DataError(f"{owner} needs 'audio', float32 (B, S); the batch holds {sorted(batch)}")
    return audio, torch.full((len(audio),), audio.shape[1]) if length is None else length


def _real(audio: Tensor, length: Tensor) -> Tensor:
    """(B, S) bool: samples that are no padding."""
    return torch.arange(audio.shape[1]) < length[:, None]


def _chosen(random: SampleRandom, probability: float) -> Tensor:
    """(B, 1) bool: clips that are changed."""
    return torch.from_numpy(random.uniform() < probability)[:, None]


def _decibels(random: SampleRandom, span: tuple[float, float]) -> Tensor:
    """(B, 1) float32 factors of amplitude."""
    return torch.from_numpy(10 ** (random.uniform(*span) / 20)).float()[:, None]


def _bins(rate: int) -> Tensor:
    """(F,) float64: frequencies in hertz of windows of 32 ms."""
    return torch.linspace(0, rate / 2, 2 * (round(0.032 * rate) // 4) + 1, dtype=torch.float64)


def _filtered(audio: Tensor, response: Tensor) -> Tensor:
    """``audio`` (B, S) with the amplitudes at ``_bins`` multiplied by ``response`` (B, F)."""
    window = 2 * (response.shape[1] - 1)
    taper = torch.hann_window(window)
    padded = torch.nn.functional.pad(audio, (0, 2 * window))  # else the longest clip would end in fewer windows
    spectra = torch.stft(padded, window, window // 4, window=taper, pad_mode="constant", return_complex=True)
    return torch.istft(spectra * response[:, :, None], window, window // 4, window=taper, length=audio.shape[1])


def _pair_faults(cfg: dict[str, Any], *keys: str) -> Iterable[tuple[str, str]]:
    for key in keys:
        if len(cfg[key]) != 2 or cfg[key][0] > cfg[key][1]:
            yield key, "must be a rising pair"


def _probability_faults(cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if not 0 <= cfg["probability"] <= 1:
        yield "probability", "must lie in [0, 1]"


@TRANSFORMS.register_module()
class SpeechGain(Transform):
    """Louder or softer by a number of decibels; samples beyond [-1, 1] are cut off, as recorders do.

    Args:
        decibels: range of the gain.
        probability: share of the clips that are changed.
    """

    def __init__(self, decibels: Sequence[float] = (-6.0, 6.0), probability: float = 1.0) -> None:
        check_arguments("SpeechGain", self.check_config, locals())
        self.decibels, self.probability = (float(decibels[0]), float(decibels[1])), probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        audio, _ = _clips(batch, "SpeechGain")
        chosen, factor = _chosen(random, self.probability), _decibels(random, self.decibels)
        return {**batch, "audio": (audio * torch.where(chosen, factor, 1.0)).clamp(-1, 1)}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from _pair_faults(cfg, "decibels")
        yield from _probability_faults(cfg)


@TRANSFORMS.register_module()
class SpeechNoise(Transform):
    """White noise, softer than the clip by a number of decibels (of mean power over its real samples).

    Args:
        snr: range of that number.
        probability: share of the clips that are changed.
    """

    def __init__(self, snr: Sequence[float] = (10.0, 30.0), probability: float = 1.0) -> None:
        check_arguments("SpeechNoise", self.check_config, locals())
        self.snr, self.probability = (float(snr[0]), float(snr[1])), probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch; not cut at [-1, 1], so that the ratio is exact."""
        audio, length = _clips(batch, "SpeechNoise")
        chosen, softer = _chosen(random, self.probability), _decibels(random, (-self.snr[1], -self.snr[0]))
        stream = random.streams(1)
        noise = torch.zeros_like(audio)
        for i in np.flatnonzero(chosen[:, 0].numpy()).tolist():  # as many numbers as the clip has: no padding counts
            count = int(length[i])
            drawn = stream.generator(i).standard_normal(count, dtype=np.float32)
            noise[i, :count] = torch.from_numpy(drawn / np.sqrt(np.mean(drawn**2)))
        real = _real(audio, length)
        power = audio.double().masked_fill(~real, 0).square().sum(1, keepdim=True) / length[:, None]
        return {**batch, "audio": audio + noise * power.sqrt().float() * softer}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from _pair_faults(cfg, "snr")
        yield from _probability_faults(cfg)


@TRANSFORMS.register_module()
class SpeechChannel(Transform):
    """Another microphone: a random smooth response over frequency.

    Where every speaker was recorded once, the recording tells who speaks. The gains in decibels are drawn at
    frequencies that are evenly spaced from 0 to half the sample rate, with straight lines between these; their mean is
    taken off.

    Args:
        decibels: gains are uniform from minus to plus this.
        points: number of those frequencies.
        probability: share of the clips that are changed.
    """

    def __init__(self, decibels: float = 10.0, points: int = 6, probability: float = 1.0) -> None:
        check_arguments("SpeechChannel", self.check_config, locals())
        self.decibels, self.points, self.probability = decibels, points, probability

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        audio, length = _clips(batch, "SpeechChannel")
        if batch.get("sample_rate") is None:
            raise DataError("SpeechChannel needs 'sample_rate' in the batch: its windows are in seconds")
        chosen = _chosen(random, self.probability)
        drawn = [random.uniform(-self.decibels, self.decibels) for _ in range(self.points)]
        gains = torch.from_numpy(np.stack(drawn, axis=1))
        gains = gains - gains.mean(dim=1, keepdim=True)
        count = len(_bins(int(batch["sample_rate"])))
        smooth = torch.nn.functional.interpolate(gains[:, None], size=count, mode="linear", align_corners=True)[:, 0]
        changed = _filtered(audio, (10 ** (smooth / 20)).float()).clamp(-1, 1).masked_fill(~_real(audio, length), 0)
        return {**batch, "audio": torch.where(chosen, changed, audio)}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from at_least(cfg, 0, "decibels")
        yield from at_least(cfg, 2, "points")
        yield from _probability_faults(cfg)


@TRANSFORMS.register_module()
class SpeechSpeed(Transform):
    """Faster or slower by resampling, which moves pitch and formants along ("Audio augmentation for speech
    recognition", Ko et al., 2015).

    Args:
        factors: of which every clip gets one, all equally often; 1.1 makes a clip shorter by 1.1.
    """

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1)) -> None:
        check_arguments("SpeechSpeed", self.check_config, locals())
        self.factors = tuple(float(f) for f in factors)

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch of other lengths."""
        import soxr

        audio, length = _clips(batch, "SpeechSpeed")
        choice = random.integers(0, len(self.factors))
        factor = torch.tensor(self.factors, dtype=torch.float64)[torch.from_numpy(choice)]
        new = (length.double() / factor).round().long().clamp_min(1)
        out = audio.new_zeros(len(audio), int(new.max()))
        for c in np.unique(choice).tolist():
            rows = torch.from_numpy(np.flatnonzero(choice == c))
            part = audio[rows, : int(length[rows].max())]
            if self.factors[c] != 1:  # clips of one factor are the channels of one signal
                part = torch.from_numpy(soxr.resample(part.numpy().T, self.factors[c], 1.0, quality="HQ")).T
            width = min(part.shape[1], out.shape[1])
            out[rows, :width] = part[:, :width].to(out.dtype)
        out = out.masked_fill_(~_real(out, new), 0).clamp_(-1, 1)
        return {**batch, "audio": out, "audio_length": new}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not cfg["factors"] or any(not 0.5 <= f <= 2 for f in cfg["factors"]):
            yield "factors", "must be one or more numbers in 0.5 to 2"


@TRANSFORMS.register_module()
class SpeechMask(Transform):
    """Masks of SpecAugment (Park et al., 2019) on waveforms: stretches of silence, and bands that are stopped.

    The paper masks log-mel spectra; encoders of waveforms take this instead. Bands are cut out of windows of 32 ms,
    hence with edges of about 60 Hz.

    Args:
        time_masks: stretches of each clip.
        time_fraction: the longest, as a share of the clip; each length is uniform from 0.
        frequency_masks: bands of each clip.
        frequency_hertz: the widest band; each width is uniform from 0.
    """

    def __init__(
        self,
        time_masks: int = 2,
        time_fraction: float = 0.1,
        frequency_masks: int = 2,
        frequency_hertz: float = 500.0,
    ) -> None:
        check_arguments("SpeechMask", self.check_config, locals())
        self.time_masks, self.time_fraction = time_masks, time_fraction
        self.frequency_masks, self.frequency_hertz = frequency_masks, frequency_hertz

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        audio, length = _clips(batch, "SpeechMask")
        if self.frequency_masks:
            if batch.get("sample_rate") is None:
                raise DataError("SpeechMask needs 'sample_rate' in the batch: its bands are in hertz")
            audio = self._stopped(audio, int(batch["sample_rate"]), random)
        gone = ~_real(audio, length)
        at = torch.arange(audio.shape[1])
        for _ in range(self.time_masks):
            wide = np.floor(random.uniform() * self.time_fraction * length.numpy())
            first = torch.from_numpy(np.floor(random.uniform() * (length.numpy() - wide + 1)))[:, None]
            gone |= (at >= first) & (at < first + torch.from_numpy(wide)[:, None])
        return {**batch, "audio": audio.masked_fill(gone, 0)}

    def _stopped(self, audio: Tensor, rate: int, random: SampleRandom) -> Tensor:
        hertz = _bins(rate)
        kept = torch.ones(len(audio), len(hertz), dtype=torch.bool)
        for _ in range(self.frequency_masks):
            wide = random.uniform(0, min(self.frequency_hertz, rate / 2))
            low = torch.from_numpy(random.uniform() * (rate / 2 - wide))[:, None]
            kept &= ~((hertz >= low) & (hertz < low + torch.from_numpy(wide)[:, None]))
        return _filtered(audio, kept)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from at_least(cfg, 0, "time_masks", "frequency_masks", "frequency_hertz")
        if not 0 <= cfg["time_fraction"] <= 1:
            yield "time_fraction", "must lie in [0, 1]"


@TRANSFORMS.register_module()
class SpeechViews(Transform):
    """Several views of every clip: random windows, each augmented on its own, for contrast of views.

    ``views`` is a list of (B, W) with ``view_lengths``, a list of (B,): W is ``crop_seconds`` long, shorter clips are
    padded. ``audio`` and ``audio_length`` become the first view, as ``image`` does in ``MultiCrop``.

    Args:
        crop_seconds: length of a view.
        count: number of views.
        transforms: configs or instances applied to each view; afterwards it is cut or padded to W.
    """

    def __init__(
        self, crop_seconds: float, count: int = 2, transforms: Sequence[Transform | dict[str, Any]] = ()
    ) -> None:
        check_arguments("SpeechViews", self.check_config, locals())
        self.crop_seconds, self.count = crop_seconds, count
        self.transform = Compose([t if isinstance(t, Transform) else TRANSFORMS.build(dict(t)) for t in transforms])

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch with ``views`` and ``view_lengths``."""
        audio, length = _clips(batch, "SpeechViews")
        if batch.get("sample_rate") is None:
            raise DataError("SpeechViews needs 'sample_rate' in the batch: crop_seconds is in seconds")
        width = round(self.crop_seconds * int(batch["sample_rate"]))
        streams = random.streams(self.count)
        whole, lengths = audio.repeat(self.count, 1), length.repeat(self.count)
        kept = lengths.clamp_max(width)
        first = torch.from_numpy(np.floor(streams.uniform() * (lengths - kept + 1).numpy()).astype(np.int64))
        cut = torch.nn.functional.pad(whole, (0, width)).gather(1, first[:, None] + torch.arange(width))
        # All views at once: the streams of a clip differ.
        part: Batch = {
            "audio": cut.masked_fill_(~_real(cut, kept), 0),
            "audio_length": kept,
            "sample_rate": batch["sample_rate"],
        }
        part = self.transform(part, streams)
        done = torch.nn.functional.pad(part["audio"], (0, max(width - part["audio"].shape[1], 0)))[:, :width]
        views = list(done.contiguous().chunk(self.count))
        found = list(part["audio_length"].clamp_max(width).chunk(self.count))
        return {**batch, "views": views, "view_lengths": found, "audio": views[0], "audio_length": found[0]}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if not cfg["crop_seconds"] > 0:
            yield "crop_seconds", "must be positive"
        yield from at_least(cfg, 1, "count")
