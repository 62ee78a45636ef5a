"""Where the frames of a data set's videos come from: files that are decoded, or folders of numbered images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.datasets.images import decode_image
from perception.datasets.video_backends import Place
from perception.datasets.video_decode import VideoDecoder
from perception.datasets.video_sampling import frames_within
from perception.datasets.video_worker import scale_to_cover
from perception.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class VideoRecord:
    """One video of a data set.

    Attributes:
        path: a file, or a folder of frames.
        label: class number, -1 where unknown.
        first: first frame that belongs to it, counted from 0.
        count: number of its frames; ``None`` takes all from ``first`` on.
        place: where it lies if it is packed in a shard; ``path`` is then a name below that of the shard.
    """

    path: Path
    label: int = -1
    first: int = 0
    count: int | None = None
    place: Place | None = None

    @property
    def there(self) -> bool:
        """Whether the file, the folder or the shard exists."""
        return (self.path if self.place is None else self.place.shard).exists()


class VideoFrames:
    """Frames of videos by position, whatever they are stored as.

    Args:
        records: the videos.
        decoder: for those that are files.
        keep: hold the decoded frames of every video in memory once it has been asked for, scaled to ``cover``.
        cover: see ``VideoDecoder.read``.
        first_seconds: nothing later than this is used, by the frame rate of each file; ``None`` uses all.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        decoder: VideoDecoder,
        keep: bool = False,
        cover: tuple[int, int] | None = None,
        first_seconds: float | None = None,
    ) -> None:
        self.records, self.decoder, self.keep, self.cover = list(records), decoder, keep, cover
        self.first_seconds = first_seconds
        self._totals: dict[int, int] = {}
        self._images: dict[int, list[Path]] = {}
        self._kept: dict[int, np.ndarray] = {}

    def total(self, index: int) -> int:
        """Number of frames of the video at ``index`` that are used, verified.

        Raises:
            DataError: it is missing, holds none, or fewer than its record says, or it has no frame rate and
                ``first_seconds`` needs one.
        """
        if index not in self._totals:
            record = self.records[index]
            if record.path.is_dir():
                there, kind, rate = len(self._pictures(index)), "frame folder", 0.0
            else:
                seen = len(self.decoder.repaired)
                info = self.decoder.info(record.path, record.place)
                there, kind, rate = info.frames, "video", info.fps
                if len(self.decoder.repaired) > seen:
                    promised = f"{info.frames} of the {info.reported} frames that its header promises"
                    print_log(f"video {str(record.path)!r} holds {promised}: those are used", "current", level=30)
            end = there if record.count is None else record.first + record.count
            if end > there or end <= record.first:
                asked = f"frames {record.first} to {end - 1} are asked for" if end > record.first else "no frame"
                raise DataError(f"{kind} {str(record.path)!r} has {there} frames: {asked}")
            self._totals[index] = self._first(end - record.first, rate, f"{kind} {str(record.path)!r}")
        return self._totals[index]

    def _first(self, total: int, rate: float, name: str) -> int:
        """Frames of a video of ``total`` that ``first_seconds`` leaves, counted from the first of its record."""
        if self.first_seconds is None:
            return total
        if not (np.isfinite(rate) and rate > 0):
            told = "needs one; first_seconds=None uses all frames"
            raise DataError(f"{name} has no frame rate, and first_seconds={self.first_seconds:g} {told}")
        return int(frames_within(np.array([total]), np.array([rate]), self.first_seconds)[0])

    def read(self, index: int, numbers: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 RGB at ``numbers`` (T,) of the video at ``index``.

        Raises:
            DataError: one of them cannot be read.
        """
        if not self.keep:
            return self._read(index, numbers)
        if index not in self._kept:
            self._kept[index] = self._read(index, np.arange(self.total(index)))
        return self._kept[index][numbers]

    def _read(self, index: int, numbers: np.ndarray) -> np.ndarray:
        record = self.records[index]
        numbers = np.asarray(numbers) + record.first
        if not record.path.is_dir():
            return self.decoder.read(record.path, numbers, self.cover, record.place)
        pictures = self._pictures(index)
        wanted, places = np.unique(numbers, return_inverse=True)
        found = [decode_image(_bytes(pictures[n]), f"frame {str(pictures[n])!r}") for n in wanted.tolist()]
        sizes = Counter(picture.shape for picture in found)
        if len(sizes) > 1:
            raise DataError(f"frame folder {str(record.path)!r} holds frames of different sizes: {sorted(sizes)}")
        frames = np.stack(found).transpose(0, 2, 3, 1)
        return (frames if self.cover is None else scale_to_cover(np.ascontiguousarray(frames), self.cover))[places]

    def _pictures(self, index: int) -> list[Path]:
        """Image files of a frame folder in the order of their names."""
        if index not in self._images:
            folder = self.records[index].path
            found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
            if not found:
                raise DataError(f"frame folder {str(folder)!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
            self._images[index] = found
        return self._images[index]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"frame {str(path)!r} cannot be read: {error.strerror}") from error
