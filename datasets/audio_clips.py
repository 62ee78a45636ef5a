"""Base of speech data sets: padded batches of mono clips with their true lengths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset
from perception.errors import DataError
from perception.signatures import at_least
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


def resample(audio: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(S,) float32 at ``rate`` hertz -> (round(S sample_rate / rate),) at ``sample_rate``: soxr, HQ, cut to [-1, 1]."""
    if rate == sample_rate:
        return audio
    import soxr

    return np.clip(soxr.resample(audio, rate, sample_rate, quality="HQ"), -1.0, 1.0, dtype=np.float32)


def pad_clips(clips: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips (S_i,) float32 -> (B, S) with zeros at the end, and (B,) int64 lengths."""
    length = np.fromiter((len(clip) for clip in clips), dtype=np.int64, count=len(clips))
    audio = np.zeros((len(clips), int(length.max())), dtype=np.float32)
    for row, clip in zip(audio, clips, strict=True):  # a mask over all samples takes nine times as long
        row[: len(clip)] = clip
    return torch.from_numpy(audio), torch.from_numpy(length)


class AudioClips(Dataset):
    """Mono clips of one sample rate, whole or as random windows.

    A subclass tells how long the clips are and reads parts of them.

    Args:
        sample_rate: of the batches, in hertz.
        labels: (n,) int64 or None.
        classes: class names in label order.
        speakers: (n,) int64 or None.
        speaker_names: names in their order.
        crop_seconds: longer clips are cut to a random window of this length each time they are drawn; None gives whole
            clips, as ``fetch`` always does.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
        join_seconds: drawn clips are followed by random other ones of their speaker (of anyone, where speakers are not
            known) and cut at this length: single words become utterances of many, which objectives that compare
            moments of one clip need. Without labels only, and instead of ``crop_seconds``.

    Attributes:
        lengths: (n,) int64 samples of the clips at ``sample_rate``.
        groups: ``speakers``, for grouped folds.
    """

    modality: ClassVar[str] = "audio"
    lengths: np.ndarray

    def __init__(
        self,
        sample_rate: int,
        labels: np.ndarray | None,
        classes: Sequence[str],
        speakers: np.ndarray | None = None,
        speaker_names: Sequence[str] = (),
        crop_seconds: float | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
        join_seconds: float | None = None,
    ) -> None:
        super().__init__(transforms, seed)
        self.sample_rate, self.crop_seconds, self.join_seconds = sample_rate, crop_seconds, join_seconds
        self.labels = labels
        self.classes = tuple(str(name) for name in classes) if labels is not None else ()
        self.speakers, self.groups = speakers, speakers
        self.speaker_names = tuple(str(name) for name in speaker_names)

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def read(self, indices: np.ndarray, start: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
        """Samples ``start`` to ``start + length`` (n,) of the clips at ``indices``, float32 in [-1, 1]."""

    def fetch(self, indices: np.ndarray) -> Batch:
        """Whole clips: ``audio`` (n, S) float32, ``audio_length`` (n,), ``sample_rate``, ``index``.

        ``label`` and ``speaker`` (n,) int64 where known.
        """
        indices = np.asarray(indices)
        return self._batch(indices, np.zeros(len(indices), dtype=np.int64), self.lengths[indices])

    def draw(self, indices: np.ndarray, random: SampleRandom) -> Batch:
        """As ``fetch``, with random windows of ``crop_seconds``, or joined to ``join_seconds``."""
        if self.join_seconds is not None:
            return self._joined(np.asarray(indices), random, round(self.join_seconds * self.sample_rate))
        if self.crop_seconds is None:
            return self.fetch(indices)
        indices = np.asarray(indices)
        length = np.minimum(self.lengths[indices], round(self.crop_seconds * self.sample_rate))
        start = np.floor(random.uniform() * (self.lengths[indices] - length + 1)).astype(np.int64)
        return self._batch(indices, start, length)

    def _joined(self, indices: np.ndarray, random: SampleRandom, width: int) -> Batch:
        """Clips of ``width`` samples; of a first one that is longer, a random window."""
        random = random.streams(1)  # the batch decides how often it is drawn, which no transform may notice
        start = np.floor(random.uniform() * np.maximum(self.lengths[indices] - width + 1, 1)).astype(np.int64)
        first = np.minimum(self.lengths[indices] - start, width)
        voice = np.zeros(len(self), dtype=np.int64) if self.speakers is None else self.speakers
        order = np.argsort(voice, kind="stable")  # clips of one speaker lie together
        begin, end = (np.searchsorted(voice, voice[indices], side, sorter=order) for side in ("left", "right"))
        parts, starts, takes, rows = [indices], [start], [first], [np.arange(len(indices))]
        left = width - first
        while (left > 0).any():
            chosen = order[begin + np.floor(random.uniform() * (end - begin)).astype(np.int64)]
            need = np.flatnonzero(left > 0)
            length = np.minimum(self.lengths[chosen], left)[need]
            parts, starts, takes, rows = (
                [*parts, chosen[need]],
                [*starts, np.zeros(len(need), dtype=np.int64)],
                [*takes, length],
                [*rows, need],
            )
            left[need] -= length
        pieces = self.read(*(np.concatenate(values) for values in (parts, starts, takes)))
        of = np.concatenate(rows)
        joined = [np.concatenate([pieces[i] for i in np.flatnonzero(of == row)]) for row in range(len(indices))]
        return self._fields(indices, joined)

    def _batch(self, indices: np.ndarray, start: np.ndarray, length: np.ndarray) -> Batch:
        return self._fields(indices, self.read(indices, start, length))

    def _fields(self, indices: np.ndarray, clips: Sequence[np.ndarray]) -> Batch:
        audio, found = pad_clips(clips)
        batch: Batch = {"audio": audio, "audio_length": found, "sample_rate": self.sample_rate}
        batch["index"] = torch.from_numpy(indices)
        for name, values in (("label", self.labels), ("speaker", self.speakers)):
            if values is not None:
                batch[name] = torch.from_numpy(values[indices])
        return batch

    @classmethod
    def clip_faults(cls, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults (key, message) of what all speech data sets take."""
        yield from at_least(cfg, 1000, "sample_rate")
        for key in ("crop_seconds", "join_seconds", "min_seconds", "segment_seconds"):
            if cfg.get(key) is not None and not cfg[key] > 0:
                yield key, "must be positive"
        if cfg.get("join_seconds") is not None:
            if cfg.get("split") != "pretrain":
                yield "join_seconds", "joins clips of several labels: it needs split='pretrain'"
            if cfg.get("crop_seconds") is not None:
                yield "join_seconds", "replaces crop_seconds, which is given too"


class ArrayClips(AudioClips):
    """Clips that lie in memory.

    Args:
        wave: (samples,) float32, all clips end to end.
        offsets: (n + 1,) int64; clip i is ``wave[offsets[i]:offsets[i + 1]]``.
        options: see ``AudioClips``.
    """

    def __init__(self, wave: np.ndarray, offsets: np.ndarray, **options: Any) -> None:
        super().__init__(**options)
        if offsets[0] != 0 or offsets[-1] != len(wave) or (np.diff(offsets) < 1).any():
            raise DataError(f"{type(self).__name__}: offsets do not rise from 0 to the {len(wave)} samples")
        self.wave, self.offsets = wave, offsets
        self.lengths = np.diff(offsets)

    def read(self, indices: np.ndarray, start: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
        """See ``AudioClips``."""
        first = self.offsets[indices] + start
        return [self.wave[a : a + n] for a, n in zip(first.tolist(), length.tolist(), strict=True)]
