"""The Preprocess record of clips: size, frames and how they were taken, normalisation."""

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
from perception.transforms.image_preprocess import IMAGENET_MEAN, IMAGENET_STD, VIEWS, fit
from perception.transforms.image_resize import INTERPOLATIONS, resize
from perception.transforms.preprocess import Batch, Preprocess

LAYOUTS = ("cthw", "tchw")
STILL = "still"
# What a backbone may be used with otherwise than it was trained: it resamples its positions, or never looks.
_FREE = ("size", "frames", "stride", "fps", "layout", "resize")


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class VideoPreprocess(Preprocess):
    """``(value / 255 - mean) / std`` of RGB clips, and which frames of a film make a clip.

    With ``motion_only`` every pixel then loses its mean over the clip, and what stands still is 0.

    Attributes:
        size: (height, width) that the backbone sees; one number is a square.
        frames: frames T of a clip.
        stride: frames from one to the next, counted in the film, or in the ``fps`` that it is brought to.
        fps: frames a second that ``stride`` counts in; ``None`` takes films as they are.
        mean: per channel, of values in [0, 1].
        std: likewise.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, the latter two antialiased, or ``bilinear-corners``.
        crop_fraction: ``prepare`` scales frames until ``size / crop_fraction`` is covered and cuts the centre out.
        layout: order of the axes of the RAW clips that are given: ``cthw`` for (B, 3, T, H, W), as all data sets here
            give them, ``tchw`` for (B, T, 3, H, W), as transformers' video processors do. Normalised clips are always
            (B, 3, T, H, W).
        resize: bring clips of another size to ``size``, in float32 after the normalisation. Without it they are an
            error, since data sets bring clips to size.
        motion_only: leave the still part of every clip out, for fixed cameras whose scenes differ more than what
            happens there. It lies in ``still`` (B, 3, 1, H, W) beside ``video``, for baselines and pictures.
    """

    size: int | Sequence[int]
    frames: int = 16
    stride: int = 4
    fps: float | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_fraction: float = 1.0
    layout: str = "cthw"
    resize: bool = False
    motion_only: bool = False

    modality: ClassVar[str] = "video"

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(int(s) for s in self.size)
        object.__setattr__(self, "size", size)
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
        """Normalise ``video`` (B, 3, T, H, W) and ``views``, a list of such, of any size each, to float32.

        Either may be absent. ``video`` is often the first view: then it is so afterwards, too, and computed once.

        A batch of images alone, ``image`` uint8 (B, 3, H, W), becomes one of clips that stand still, every image
        repeated ``frames`` times: so video encoders are judged on images.

        Raises:
            DataError: no clips, or another dtype or shape than the record's; another size of ``video``.
        """
        views, clips = batch.get(VIEWS), batch.get(self.modality)
        if views is None:
            ordered = self._repeated(batch.get("image")) if clips is None else self._ordered(clips)
            whole = self._normalised(self._sized(self._typed(ordered)), fit_size=True)
            return {**batch, **self._parted(whole)}
        cooked = [self._normalised(self._typed(self._ordered(view))) for view in views]
        moving = [self._parted(view)[self.modality] for view in cooked]
        if clips is None:
            return {**batch, VIEWS: moving}
        place = next((i for i, view in enumerate(views) if view is clips), None)
        whole = self._sized(self._typed(self._ordered(clips)))
        if place is None or self.resize:
            return {**batch, VIEWS: moving, **self._parted(self._normalised(whole, fit_size=True))}
        return {**batch, VIEWS: moving, **self._parted(cooked[place]), self.modality: moving[place]}

    def _parted(self, clips: Tensor) -> Batch:
        """Normalised clips (B, 3, T, H, W) as they are, or the moving and the still part of them."""
        if not self.motion_only:
            return {self.modality: clips}
        still = clips.mean(dim=2, keepdim=True)
        return {self.modality: clips - still, STILL: still}

    def _repeated(self, images: Any) -> Any:
        """Images (B, 3, H, W) as clips; anything else as it is, for whoever names what is wrong with it."""
        if not isinstance(images, Tensor) or images.ndim != 4:
            return images
        return images[:, :, None].expand(-1, -1, self.frames, -1, -1)

    def _ordered(self, clips: Any) -> Any:
        """Clips in the layout of the record as (B, 3, T, H, W)."""
        if isinstance(clips, (Tensor, np.ndarray)) and clips.ndim == 5 and self.layout == "tchw":
            return torch.as_tensor(clips).transpose(1, 2)
        return clips

    def _typed(self, clips: Any) -> Tensor:
        if isinstance(clips, np.ndarray):
            clips = torch.from_numpy(clips)
        if not isinstance(clips, Tensor):
            raise DataError(f"a batch for a video backbone needs a tensor 'video', not {type(clips).__name__}")
        if clips.dtype != torch.uint8:
            raise DataError(
                f"raw clips must be uint8 with values 0 to 255, not {clips.dtype}: normalisation belongs to the "
                "Preprocess record, not to the data set"
            )
        if clips.ndim != 5 or clips.shape[1] != len(self.mean):
            axes = "(B, 3, T, H, W)" if self.layout == "cthw" else "(B, T, 3, H, W), layout 'tchw'"
            raise DataError(f"clips of shape {tuple(clips.shape)} do not fit {axes}, read as (B, 3, T, H, W)")
        return clips

    def _sized(self, clips: Tensor) -> Tensor:
        if not self.resize and tuple(clips.shape[-2:]) != self.shape:
            raise DataError(
                f"clips of {tuple(clips.shape[-2:])} pixels, but the Preprocess record says {self.size}: give the data "
                "set size=, pass films through VideoPreprocess.prepare, or set resize=True in the record"
            )
        return clips

    def _normalised(self, clips: Tensor, fit_size: bool = False) -> Tensor:
        scale, shift = _affine(self.mean, self.std, clips.device)
        values = clips.to(torch.float32).mul_(scale).add_(shift)
        if not fit_size or tuple(values.shape[-2:]) == self.shape:
            return values
        frames = values.transpose(1, 2)
        small = resize(frames.flatten(0, 1), self.shape, self.interpolation)
        return small.unflatten(0, frames.shape[:2]).transpose(1, 2).contiguous()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """``mean`` and ``std`` as float64 tensors (3,)."""
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64)
        return mean, std

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's, but another size, number and choice of frames is allowed: see ``_FREE``.

        A record written before ``motion_only`` existed has its default.
        """
        super().require_same({"motion_only": False, **other, **{key: getattr(self, key) for key in _FREE}}, source)

    def denormalize(self, clips: Tensor) -> Tensor:
        """Normalised float (B, C, T, H, W) -> uint8."""
        scale, shift = _affine(self.mean, self.std, clips.device)
        return ((clips.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def prepare(self, film: np.ndarray) -> np.ndarray:
        """The clip in the middle of one film of a user's: (N, H, W, 3) uint8 -> (3, frames, height, width) uint8.

        Every ``stride``-th frame around the centre; where the film is too short, the last reachable frame is repeated.
        Another ``fps`` than the record's is the caller's to change.

        Raises:
            DataError: another dtype or shape.
        """
        array = np.asarray(film)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != len(self.mean) or 0 in array.shape:
            raise DataError(f"a film of {array.dtype} {array.shape} does not fit uint8 (frames, H, W, 3)")
        start = max((len(array) - (self.frames - 1) * self.stride - 1) // 2, 0)
        chosen = np.arange(start, len(array), self.stride)[: self.frames]
        chosen = np.pad(chosen, (0, self.frames - len(chosen)), mode="edge")
        needed, place = np.unique(chosen, return_inverse=True)
        frames = (torch.from_numpy(array[i]).permute(2, 0, 1) for i in needed)
        small = torch.stack([fit(frame, self.shape, self.interpolation, self.crop_fraction) for frame in frames])
        return small[place].transpose(0, 1).contiguous().numpy()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a record that would stop it from being used."""
        for key in ("mean", "std"):
            if len(cfg[key]) != 3:
                yield key, "must have one value for each of red, green and blue"
        if any(s <= 0 for s in cfg["std"]):
            yield "std", "must be positive"
        if any(not 0 <= m <= 1 for m in cfg["mean"]):
            yield "mean", "must lie in [0, 1]: it is taken after division by 255"
        size = cfg["size"]
        if (isinstance(size, int) and size < 1) or (not isinstance(size, int) and (len(size) != 2 or min(size) < 1)):
            yield "size", "must be a positive number of pixels or a pair (height, width)"
        for key in ("frames", "stride"):
            if not isinstance(cfg[key], int) or cfg[key] < 1:
                yield key, "must be a whole number of at least 1"
        if cfg["fps"] is not None and not cfg["fps"] > 0:
            yield "fps", "must be positive, or None for films as they are"
        if cfg["interpolation"] not in INTERPOLATIONS:
            yield "interpolation", f"must be one of {', '.join(INTERPOLATIONS)}"
        if not 0 < cfg["crop_fraction"] <= 1:
            yield "crop_fraction", "must lie in (0, 1]"
        if cfg["layout"] not in LAYOUTS:
            yield "layout", f"must be one of {', '.join(LAYOUTS)}"


@lru_cache(maxsize=32)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift (C, 1, 1, 1) such that ``raw * scale + shift`` is normalised."""
    scale = 1.0 / (np.asarray(std) * 255.0)
    shift = -np.asarray(mean) / np.asarray(std)
    both = torch.tensor(np.stack([scale, shift]), dtype=torch.float32, device=device)
    return both[0].view(-1, 1, 1, 1), both[1].view(-1, 1, 1, 1)
