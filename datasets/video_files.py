"""Base of video data sets: clips are cut from files or frame folders when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log

from perception.datasets import video_sampling as sampling_rules
from perception.datasets.base import Dataset
from perception.datasets.video_backends import BACKENDS
from perception.datasets.video_cache import default_cache
from perception.datasets.video_decode import VideoDecoder
from perception.datasets.video_frames import VideoFrames, VideoRecord
from perception.datasets.video_sampling import SAMPLINGS
from perception.errors import DataError, check_arguments, not_among
from perception.signatures import at_least
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


class VideoFiles(Dataset):
    """Clips of videos.

    A sample is one clip, or with ``views`` and ``crops`` one of several clips of a video: sample ``i`` is clip
    ``i % (views * crops)`` of video ``i // (views * crops)``, time first. How frames are chosen is told in
    ``video_sampling``; random choices are a function of (seed, epoch, index).

    Args:
        records: the videos.
        classes: class names in label order, empty without labels.
        frames: T, frames of a clip.
        stride: step between them; of no meaning for ``uniform``, ``uniform_views`` and ``whole``.
        sampling: ``random`` for pre-training, ``dense`` or ``uniform`` for training on labels, ``dense_views`` or
            ``uniform_views`` for tests, the same at every call; ``whole`` spreads T frames evenly over the video.
        views: clips in time of a video, for ``dense_views`` and ``uniform_views``; a single one lies in the middle.
        crops: squares along the longer side for tests, 1 (the middle) or 3.
        first_seconds: clips are cut from this much of a video's start alone: from the frames that are shown before it
            is over, by the mean frame rate of the file. Shorter videos are used whole, as all are with ``None``.
            Folders of frames have no rate and are an error then. Where a list names the frames of a video, it counts
            from the first of them.
        size: height and width of a clip; one number is a square. Frames are scaled until they cover it. ``None`` gives
            frames as they are, in a list where their sizes differ, to a transform that cuts them to size.
        short_side: scale the shorter side to this instead, before ``size`` is cut out or a transform cuts.
        repeats: clips drawn from a video each time it is decoded; a batch holds so many times the samples.
        labels: give the labels. False for pre-training.
        keep: hold every video in memory once it is decoded: for small data sets.
        on_error: ``raise`` stops at a video that cannot be read; ``skip`` verifies every video at construction, leaves
            out those that fail and reports their number and names. What was verified is kept between runs.
        backends: see ``VideoDecoder``.
        timeout: see ``VideoDecoder``.
        guard: see ``VideoDecoder``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        records: the videos that are used.
        targets: (videos,) int64 labels.
        dropped: reason by path of every video that was left out.
    """

    modality: ClassVar[str] = "video"

    def __init__(
        self,
        records: Sequence[VideoRecord],
        classes: Sequence[str],
        /,
        frames: int = 16,
        stride: int = 4,
        sampling: str = "random",
        views: int = 1,
        crops: int = 1,
        first_seconds: float | None = None,
        size: int | Sequence[int] | None = None,
        short_side: int | None = None,
        repeats: int = 1,
        labels: bool = True,
        keep: bool = False,
        on_error: str = "raise",
        backends: Sequence[str] = BACKENDS,
        timeout: float = 30.0,
        guard: bool = True,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_arguments(type(self).__name__, self.clip_faults, locals())
        super().__init__(transforms, seed)
        self.frames, self.stride, self.sampling = frames, stride, sampling
        self.views, self.crops, self.repeats = views, crops, repeats
        self.size = None if size is None else _pair(size)
        cover = self.size if short_side is None else (short_side, short_side)
        decoder = VideoDecoder(backends, timeout, guard, default_cache())
        self.source = VideoFrames(records, decoder, keep, cover, first_seconds)
        self.dropped: dict[str, str] = {}
        self._leave_out(on_error)
        self.records = self.source.records
        self.targets = np.array([record.label for record in self.records], dtype=np.int64)
        self.classes = tuple(classes) if labels else ()
        self.labelled = labels and bool(len(self.targets)) and bool((self.targets >= 0).any())

    def __len__(self) -> int:
        return len(self.records) * self.views * self.crops

    @property
    def names(self) -> list[str]:
        """What messages and tables call the videos."""
        return [record.path.name for record in self.records]

    def fetch(self, indices: np.ndarray) -> Batch:
        """As ``draw``, with the random choices of epoch 0."""
        return self.draw(indices, SampleRandom(self.seed, 0, indices))

    def draw(self, indices: np.ndarray, random: SampleRandom) -> Batch:
        """Clips at ``indices`` (n,).

        Returns:
            ``video`` uint8 (n, 3, T, H, W), or a list of (3, T, H, W) where sizes differ; ``index``, ``video_index``
            and ``view`` (n,), ``frame_index`` (n, T) int64, and ``label`` (n,) where known.

        Raises:
            DataError: a video cannot be read, naming it.
        """
        indices = np.asarray(indices)
        video, view = np.divmod(indices, self.views * self.crops)
        when, where = np.divmod(view, self.crops)
        numbers = self._numbers(video, when, random)
        clips: list[np.ndarray] = [np.empty(0)] * len(indices)
        for index in np.unique(video):
            rows = np.flatnonzero(video == index)
            wanted, places = np.unique(numbers[rows], return_inverse=True)
            frames = self.source.read(int(index), wanted)  # once, however many clips of it there are
            for row, own in zip(rows.tolist(), places.reshape(len(rows), -1), strict=True):
                chosen = frames if len(own) == len(wanted) and (np.diff(own) > 0).all() else frames[own]
                clips[row] = self._cut(chosen, int(where[row]))
        batch: Batch = {"video": _stacked(clips), "index": torch.from_numpy(indices)}
        batch |= {"video_index": torch.from_numpy(video), "view": torch.from_numpy(view)}
        batch |= {"frame_index": torch.from_numpy(numbers), "meta": {"sampling": self.sampling}}
        if self.labelled:
            batch["label"] = torch.from_numpy(self.targets[video])
        return batch

    def _numbers(self, video: np.ndarray, view: np.ndarray, random: SampleRandom) -> np.ndarray:
        """Frame numbers (n, T)."""
        different, places = np.unique(video, return_inverse=True)
        totals = np.array([self.source.total(int(index)) for index in different], dtype=np.int64)[places]
        if self.sampling == "random":
            return sampling_rules.random_frames(totals, self.frames, self.stride, random.uniform())
        if self.sampling == "dense":
            return sampling_rules.dense_frames(totals, self.frames, self.stride, random.uniform())
        if self.sampling == "uniform":
            draws = np.stack([random.uniform() for _ in range(self.frames)], axis=1)
            return sampling_rules.uniform_frames(totals, self.frames, draws)
        if self.sampling == "whole":
            return sampling_rules.whole_frames(totals, self.frames)
        if self.sampling == "dense_views":
            return sampling_rules.dense_view_frames(totals, self.frames, self.stride, view, self.views)
        return sampling_rules.uniform_view_frames(totals, self.frames, view, self.views)

    def _cut(self, frames: np.ndarray, where: int) -> np.ndarray:
        """Frames (T, H, W, 3) -> (T, h, w, 3): the middle, or the square at place ``where`` along the longer side."""
        if self.size is None:
            return frames
        rows, columns = self.size
        height, width = frames.shape[1:3]
        top, left = (height - rows) // 2, (width - columns) // 2
        if self.crops > 1:
            if width >= height:
                left = int(sampling_rules.crop_offsets(width, columns, self.crops)[where])
            else:
                top = int(sampling_rules.crop_offsets(height, rows, self.crops)[where])
        return frames[:, top : top + rows, left : left + columns]

    def _leave_out(self, on_error: str) -> None:
        """Look for every video, or verify them all; name those that will not do."""
        records = self.source.records
        if not records:
            raise DataError(f"{type(self).__name__}: there is no video")
        faults: dict[str, str] = {}
        good = []
        for index, record in enumerate(records):
            reason = None if record.there else "does not exist"
            # A folder of frames has no rate, which is seen without reading it.
            rateless = self.source.first_seconds is not None and record.path.is_dir()
            if reason is None and (on_error == "skip" or rateless):
                try:
                    self.source.total(index)
                except DataError as error:
                    reason = str(error)
            if reason is None:
                good.append(index)
            else:
                faults[str(record.path)] = reason
        if faults:
            first = "; ".join(f"{path}: {reason}" for path, reason in list(faults.items())[:3])
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            if on_error == "raise":
                text = f"{len(faults)} of {len(records)} videos cannot be used: {first}{more}"
                raise DataError(f"{type(self).__name__}: {text}. on_error='skip' leaves them out")
            if not good:
                raise DataError(f"{type(self).__name__}: none of {len(records)} videos can be used: {first}{more}")
            text = f"left out {len(faults)} of {len(records)} videos: {first}{more}"
            print_log(f"{type(self).__name__}: {text}", logger="current", level=30)  # logging.WARNING
            old = self.source
            self.source = VideoFrames([records[i] for i in good], old.decoder, old.keep, old.cover, old.first_seconds)
        self.dropped = faults

    @classmethod
    def clip_faults(cls, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults (key, message) of what all video data sets take."""
        yield from at_least(cfg, 1, "frames", "stride", "views", "repeats")
        if cfg["sampling"] not in SAMPLINGS:
            yield "sampling", not_among(cfg["sampling"], SAMPLINGS)
        elif SAMPLINGS[cfg["sampling"]] and cfg["views"] * cfg["crops"] > 1:
            yield "views" if cfg["views"] > 1 else "crops", "is for tests: set sampling to dense_views or uniform_views"
        elif not SAMPLINGS[cfg["sampling"]] and cfg["repeats"] > 1:
            yield "repeats", f"would give the same clip again: sampling={cfg['sampling']!r} draws nothing"
        elif cfg["views"] > {"uniform_views": 2, "whole": 1}.get(cfg["sampling"], cfg["views"]):
            most = "1 or 2" if cfg["sampling"] == "uniform_views" else "1"
            yield "views", f"must be {most} with sampling={cfg['sampling']!r}"
        if cfg["crops"] not in (1, 3):
            yield "crops", "must be 1 or 3"
        size, short = cfg["size"], cfg["short_side"]
        if size is not None and ((not isinstance(size, int) and len(size) != 2) or min(_pair(size)) < 1):
            yield "size", "must be a positive number of pixels or a pair (height, width)"
        elif cfg["crops"] == 3 and (size is None or len(set(_pair(size))) > 1):
            yield "size", "must be a square with crops=3"
        elif short is not None and short < (1 if size is None else max(_pair(size))):
            yield "short_side", "must be positive and not less than size"
        if cfg["on_error"] not in ("raise", "skip"):
            yield "on_error", not_among(cfg["on_error"], ("raise", "skip"))
        for name in cfg["backends"]:
            if name not in BACKENDS:
                yield "backends", f"{name!r} is {not_among(name, BACKENDS)}"
        if not cfg["backends"]:
            yield "backends", "needs at least one"
        if not cfg["timeout"] > 0:
            yield "timeout", "must be positive"
        if cfg["first_seconds"] is not None and not 0 < cfg["first_seconds"] < float("inf"):
            yield "first_seconds", "must be a positive number of seconds, or None for whole videos"


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _stacked(clips: Sequence[np.ndarray]) -> Any:
    """Clips (T, H, W, 3) as one tensor (n, 3, T, H, W), or as a list of (3, T, H, W) where their sizes differ."""
    turned = [torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2) for clip in clips]
    if len({tuple(clip.shape) for clip in turned}) > 1:
        return [clip.contiguous() for clip in turned]
    return torch.stack(turned)
