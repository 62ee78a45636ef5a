"""Audio files (wav, flac, ogg and what else libsndfile reads), read in part when they are asked for.

Policy: channels are averaged; other sample rates are resampled; a file is refused if it is missing, not audio, cut off,
empty, shorter than the least length, not finite, or silent (no sample beyond 0.0001 of full scale).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.datasets.audio_clips import resample
from perception.errors import DataError

SILENCE = 1e-4
_UNKNOWN = 0x7FFFF000  # sizes from here on stand in headers of streams, which did not know theirs


@dataclass(frozen=True)
class AudioRecord:
    """A clip: a file, or a part of it.

    Attributes:
        path: the file.
        start: in seconds.
        end: in seconds; None is the end of the file.
    """

    path: Path
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        part = "" if self.start == 0 and self.end is None else f" from {self.start:g} s to {self.end or 'its end'}"
        return f"audio {str(self.path)!r}{part}"


class BadAudioError(DataError):
    """A file that cannot be used; ``kind`` is one or two words for counting."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def audio_header(path: Path) -> tuple[int, int]:
    """Sample rate in hertz and frames of a file, without reading it.

    Raises:
        BadAudioError: it is missing, not audio, empty, or a wav file that ends before its header says.
    """
    import soundfile

    if not path.is_file():
        raise BadAudioError("missing", f"audio {str(path)!r} does not exist")
    if not path.stat().st_size:
        raise BadAudioError("empty", f"audio {str(path)!r} is a file of no bytes")
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise BadAudioError("damaged", f"audio {str(path)!r} cannot be read: {error}") from error
    # libsndfile takes what is left of a wav file for the whole; only its log tells.
    told = re.search(r"^data *: (\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE)
    if told and int(told[2]) < int(told[1]) < _UNKNOWN:
        text = f"audio {str(path)!r} is cut off: {told[2]} of the {told[1]} bytes that its header says are there"
        raise BadAudioError("cut off", text)
    if info.frames < 1:
        raise BadAudioError("empty", f"audio {str(path)!r} is empty")
    return int(info.samplerate), int(info.frames)


def clip_frames(record: AudioRecord, rate: int, frames: int, min_seconds: float) -> tuple[int, int]:
    """First frame and number of frames of a clip in its file.

    Raises:
        BadAudioError: the part does not lie in the file, or is shorter than ``min_seconds``.
    """
    first = round(record.start * rate)
    last = frames if record.end is None else round(record.end * rate)
    if not 0 <= first < last <= frames:
        raise BadAudioError("outside", f"{record}: the file has {frames / rate:.3f} s")
    if last - first < min_seconds * rate:
        raise BadAudioError("too short", f"{record} has {(last - first) / rate:.3f} s, less than {min_seconds:g} s")
    return first, last - first


def read_audio(
    record: AudioRecord, sample_rate: int, first: int = 0, count: int | None = None, may_be_silent: bool = False
) -> np.ndarray:
    """A clip, or frames ``first`` to ``first + count`` of its file, (S,) float32 in [-1, 1], mono at ``sample_rate``.

    Args:
        record: the clip.
        sample_rate: to which it is resampled, in hertz.
        first: frame of the file.
        count: frames of the file; None reads what the record says, and ``first`` is not looked at.
        may_be_silent: for windows of a longer clip.

    Raises:
        BadAudioError: see the policy above.
    """
    import soundfile

    if count is None:
        first, count = clip_frames(record, *audio_header(record.path), 0.0)
    elif not record.path.is_file():
        raise BadAudioError("missing", f"{record} does not exist")
    try:
        with soundfile.SoundFile(str(record.path)) as file:
            rate = file.samplerate
            file.seek(first)
            values = file.read(count, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise BadAudioError("damaged", f"{record} cannot be read: {error}") from error
    if len(values) < count:
        raise BadAudioError("cut off", f"{record} is cut off: {len(values)} of {count} frames are there")
    mono = values.mean(axis=1, dtype=np.float32) if values.shape[1] > 1 else values[:, 0]
    peak = np.abs(mono).max()
    if not np.isfinite(peak):  # one sample that is not finite makes it so
        raise BadAudioError("not finite", f"{record} holds numbers that are not finite")
    if not may_be_silent and peak <= SILENCE:
        raise BadAudioError("silent", f"{record} is silent: no sample beyond {SILENCE:g} of full scale")
    if peak > 1 and rate == sample_rate:
        mono = np.clip(mono, -1.0, 1.0)
    return resample(np.ascontiguousarray(mono), rate, sample_rate)  # which clips what it changes


def usable(
    records: Sequence[AudioRecord], on_error: str, min_seconds: float, owner: str
) -> tuple[list[int], np.ndarray, dict[str, str]]:
    """Which records can be used, and where they lie.

    Args:
        records: the clips.
        on_error: ``raise`` looks at every header and stops at faults; ``skip`` reads every clip once and leaves out
            those that fail, with a report of their number by reason.
        min_seconds: shortest clip.
        owner: who reports.

    Returns:
        Positions of usable records; (m, 3) int64 sample rate, first frame and number of frames of each; reason by clip
        of those left out.

    Raises:
        DataError: faults with ``raise``, or nothing is left.
    """
    good: list[int] = []
    places: list[tuple[int, int, int]] = []
    faults: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    header = _remembered(audio_header)
    for position, record in enumerate(records):
        try:
            rate, frames = header(record.path)
            first, count = clip_frames(record, rate, frames, min_seconds)
            if on_error == "skip":
                read_audio(record, rate, first, count)
        except BadAudioError as error:
            faults[str(record)] = str(error)
            kinds[error.kind] += 1
            continue
        good.append(position)
        places.append((rate, first, count))
    if faults or not records:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        listed = "; ".join(list(faults.values())[:3])
        if on_error == "raise" and faults:
            text = f"{len(faults)} of {len(records)} clips cannot be used ({counts}): {listed}"
            raise DataError(f"{owner}: {text}. on_error='skip' leaves them out")
        if not good:
            raise DataError(f"{owner}: none of {len(records)} clips can be used ({counts}): {listed}")
        text = f"left out {len(faults)} of {len(records)} clips ({counts}): {listed}"
        print_log(f"{owner}: {text}", logger="current", level=30)  # logging.WARNING
    return good, np.array(places, dtype=np.int64), faults


def _remembered(header: Callable[[Path], tuple[int, int]]) -> Callable[[Path], tuple[int, int]]:
    """``header``, asked once for neighbouring clips of one file: long recordings have hundreds."""
    last: list[tuple[Path, tuple[int, int]]] = []

    def ask(path: Path) -> tuple[int, int]:
        if not last or last[0][0] != path:
            last[:] = [(path, header(path))]
        return last[0][1]

    return ask


def samples_at(frames: np.ndarray, rate: np.ndarray, sample_rate: int) -> np.ndarray:
    """Samples (n,) int64 that ``frames`` of files of ``rate`` have at ``sample_rate``."""
    exact = frames * sample_rate // rate
    return np.where(rate == sample_rate, frames, np.maximum(exact, 1))
