"""The Preprocess record of speech: sample rate, normalisation of utterances, longest clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception.errors import ConfigError, DataError, Fault, not_among
from perception.layers.log_mel import log_mel, mean_and_deviation, segment_means
from perception.registry import PREPROCESSES
from perception.transforms.image_preprocess import VIEWS
from perception.transforms.preprocess import Batch, Preprocess

NORMALIZATIONS = ("none", "utterance")
VIEW_LENGTHS = "view_lengths"
CUT = "cut_samples"
_EPS = 1e-7  # of transformers' feature extractor of wav2vec 2.0


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class SpeechPreprocess(Preprocess):
    """Mono waveforms of one sample rate, as they are or with mean 0 and variance 1 over the samples that are real.

    Attributes:
        sample_rate: in hertz; data of another rate is refused, since it would change every frame's length silently.
        normalize: ``none`` (wav2vec 2.0 BASE) or ``utterance``: (x - mean) / sqrt(variance + 1e-7) over the real
            samples (LARGE, XLS-R); padding stays 0.
        max_seconds: longer clips lose their end; ``cut_samples`` (B,) int64 counts what was cut. None cuts nothing.
    """

    sample_rate: int = 16000
    normalize: str = "none"
    max_seconds: float | None = None

    modality: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        faults = [
            Fault(f"model.backbone.preprocess.{key}", getattr(self, key), text)
            for key, text in self.check_config({k: getattr(self, k) for k in self.field_names()})
        ]
        if faults:
            raise ConfigError(faults)

    def __call__(self, batch: Batch) -> Batch:
        """Normalise ``audio`` (B, S) with ``audio_length`` (B,), and ``views``, a list of such, with ``view_lengths``.

        Either may be absent; lengths that are absent mean that all samples are real. The result has both lengths. Where
        ``audio`` is a view, as two-view transforms give it, it is computed once.

        Raises:
            DataError: neither audio nor views, another sample rate, or fields that do not fit together.
        """
        rate = batch.get("sample_rate")
        if rate is not None and int(rate) != self.sample_rate:
            raise DataError(
                f"audio of {int(rate)} Hz, but the Preprocess record says {self.sample_rate} Hz: give the data set "
                f"sample_rate={self.sample_rate}, which resamples it"
            )
        audio, views = batch.get("audio"), batch.get(VIEWS)
        if audio is None and views is None:
            raise DataError(f"a batch for a speech backbone needs 'audio'; it holds {sorted(batch)}")
        out = dict(batch)
        cooked: list[tuple[Tensor, Tensor, Tensor]] = []
        if views is not None:
            lengths = batch.get(VIEW_LENGTHS) or [None] * len(views)
            if len(lengths) != len(views):
                raise DataError(f"{VIEW_LENGTHS!r} has {len(lengths)} entries for {len(views)} views")
            cooked = [self._clips(v, n, f"view {i}") for i, (v, n) in enumerate(zip(views, lengths, strict=True))]
            out[VIEWS] = [clips for clips, _, _ in cooked]
            out[VIEW_LENGTHS] = [length for _, length, _ in cooked]
        if audio is not None:
            place = next((i for i, view in enumerate(views or ()) if view is audio), None)
            done = cooked[place] if place is not None else self._clips(audio, batch.get("audio_length"), "audio")
            out["audio"], out["audio_length"], cut = done
            if self.max_seconds is not None:
                out[CUT] = cut
        return out

    def _clips(self, audio: Any, length: Any, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised clips (B, S), their lengths (B,) and the samples (B,) that were cut off."""
        audio = torch.as_tensor(audio)
        if audio.ndim != 2 or not audio.is_floating_point() or 0 in audio.shape:
            raise DataError(
                f"{name!r} must be mono waveforms (B, S), float32 in [-1, 1], not {audio.dtype} {tuple(audio.shape)}"
            )
        if length is None:
            length = torch.full((len(audio),), audio.shape[1], dtype=torch.int64, device=audio.device)
        length = torch.as_tensor(length, device=audio.device)
        if length.shape != (len(audio),) or length.is_floating_point():
            raise DataError(
                f"the lengths of {name!r} must be whole numbers ({len(audio)},), "
                f"not {length.dtype} {tuple(length.shape)}"
            )
        if bool((length < 1).any()) or bool((length > audio.shape[1]).any()):
            found = (int(length.min()), int(length.max()))
            raise DataError(f"the lengths of {name!r} must lie in 1 to {audio.shape[1]}, not {found[0]} to {found[1]}")
        most = audio.shape[1] if self.max_seconds is None else round(self.max_seconds * self.sample_rate)
        kept = length.clamp_max(most).long()
        clips, cut = audio[:, :most].float(), length - kept
        real = torch.arange(clips.shape[1], device=clips.device) < kept[:, None]
        if self.normalize == "none":
            return clips.masked_fill(~real, 0), kept, cut
        values = clips.double().masked_fill(~real, 0)  # a constant offset would cost float32 its digits
        count = kept[:, None].double()
        centred = (values - values.sum(1, keepdim=True) / count).masked_fill_(~real, 0)
        variance = centred.square().sum(1, keepdim=True) / count
        return (centred / (variance + _EPS).sqrt()).float(), kept, cut

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Features without training of a preprocessed batch: log-mel spectra of 40 bands, 32 ms windows every 10 ms.

        ``raw`` (B, 80): mean and standard deviation over time; ``segments`` (B, 320): means of eight equal parts.
        """
        spectra, frames = log_mel(batch["audio"], batch.get("audio_length"), self.sample_rate)
        return {"raw": mean_and_deviation(spectra, frames), "segments": segment_means(spectra, frames)}

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's, but clips may be cut at another length."""
        super().require_same({**other, "max_seconds": self.max_seconds}, source)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a record that would stop it from being used."""
        rate = cfg["sample_rate"]
        if not isinstance(rate, int) or rate < 1000:
            yield "sample_rate", "must be a whole number of hertz, at least 1000"
        if cfg["normalize"] not in NORMALIZATIONS:
            yield "normalize", not_among(cfg["normalize"], NORMALIZATIONS)
        if cfg["max_seconds"] is not None and not cfg["max_seconds"] > 0:
            yield "max_seconds", "must be positive, or None to cut nothing"
