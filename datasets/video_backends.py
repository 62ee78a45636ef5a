"""Readers of video files in this process: decord, OpenCV, and torchcodec where it is installed.

They take the word of a file's header until ``verify`` has decoded its end. A damaged file can keep them busy for ever
or crash them: ``video_decode`` runs them in a process of its own. Nothing here imports torch unless torchcodec does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from perception.errors import DataError, not_among

BACKENDS = ("decord", "opencv", "torchcodec")
_PACKAGES = {"decord": "decord", "opencv": "cv2", "torchcodec": "torchcodec"}


@dataclass(frozen=True)
class VideoInfo:
    """What a file truly holds.

    Attributes:
        frames: number of frames that can be decoded.
        reported: number of frames that the header promises; another number than ``frames`` means damage.
        fps: frames a second on average, 0 where nobody knows.
        height: of a frame as it is shown, after the rotation that the file asks for.
        width: likewise.
        backend: the reader that gives them.
    """

    frames: int
    reported: int
    fps: float
    height: int
    width: int
    backend: str


@dataclass(frozen=True)
class Place:
    """Where a video lies that is packed in a shard.

    Attributes:
        shard: the tar.
        offset: first byte of the video in it.
        size: bytes of the video.
    """

    shard: Path
    offset: int
    size: int


class Reader(Protocol):
    """One open file."""

    def verify(self) -> VideoInfo:
        """Decode the end of the file, so that the number of frames is known and not believed.

        Raises:
            DataError: there is no frame, or not as many as promised and this reader cannot tell how many.
        """

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 RGB at rising ``indices`` without repetition.

        Raises:
            DataError: one of them cannot be decoded.
        """


def available(backend: str) -> bool:
    """Whether the package of a reader is installed."""
    return find_spec(_PACKAGES[backend]) is not None


def open_reader(backend: str, path: str) -> Reader:
    """Open a file.

    Raises:
        DataError: no such reader, or it finds no video in the file.
    """
    readers: dict[str, Any] = {"decord": DecordReader, "opencv": OpenCVReader, "torchcodec": TorchCodecReader}
    if backend not in readers:
        raise DataError(f"backend {backend!r} is {not_among(backend, BACKENDS)}")
    return readers[backend](path)


class DecordReader:
    """decord with one thread; it seeks, so frames before the wanted ones cost little."""

    def __init__(self, path: str) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (decord.DECORDError, IndexError)
        try:
            self._video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise DataError(_first_line(error)) from error

    def verify(self) -> VideoInfo:
        """See ``Reader``; decodes the last frame."""
        count = len(self._video)
        if count < 1:
            raise DataError("no frame")
        try:
            height, width = self._video[count - 1].shape[:2]
            fps = float(self._video.get_avg_fps())
        except self._errors as error:
            raise DataError(f"{count} frames promised, but the last cannot be decoded: {_first_line(error)}") from error
        return VideoInfo(count, count, fps, height, width, "decord")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See ``Reader``."""
        try:
            return self._video.get_batch(indices.tolist()).asnumpy()
        except self._errors as error:
            raise DataError(f"a frame cannot be decoded: {_first_line(error)}") from error


class OpenCVReader:
    """OpenCV with one thread; it goes through a file from its start, since its seeking does not hit the frame."""

    def __init__(self, path: str) -> None:
        import cv2

        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._cv2, self._path = cv2, path
        self._restart()

    def _restart(self) -> None:
        cv2 = self._cv2
        self._capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise DataError("no video stream that OpenCV knows")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self._next = 0

    def verify(self) -> VideoInfo:
        """See ``Reader``; decodes the whole file, for its own frame count is an estimate."""
        cv2, capture = self._cv2, self._capture
        reported, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS))
        there, frame = capture.read()
        if not there:
            raise DataError("not one frame can be decoded")
        count = 1
        while capture.grab():
            count += 1
        self._restart()
        height, width = frame.shape[:2]
        return VideoInfo(count, reported if reported > 0 else count, fps, height, width, "opencv")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See ``Reader``."""
        if indices[0] < self._next:
            self._restart()
        frames = []
        for wanted in indices.tolist():
            while self._next <= wanted:
                if not self._capture.grab():
                    raise DataError(f"frame {self._next} cannot be decoded")
                self._next += 1
            there, frame = self._capture.retrieve()
            if not there:
                raise DataError(f"frame {wanted} cannot be decoded")
            frames.append(self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB))
        return np.stack(frames)


class TorchCodecReader:
    """torchcodec with one thread and exact seeking; rotation is as the installed version has it."""

    def __init__(self, path: str) -> None:
        from torchcodec.decoders import VideoDecoder

        try:
            self._video = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise DataError(_first_line(error)) from error

    def verify(self) -> VideoInfo:
        """See ``Reader``; exact seeking has scanned the file, the last frame is decoded."""
        told = self._video.metadata
        count = len(self._video)
        if count < 1:
            raise DataError("no frame")
        height, width = self.read(np.array([count - 1])).shape[1:3]
        reported = told.num_frames_from_header or count
        return VideoInfo(count, int(reported), float(told.average_fps or 0.0), height, width, "torchcodec")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See ``Reader``."""
        try:
            frames = self._video.get_frames_at(indices.tolist()).data
        except (RuntimeError, IndexError, ValueError) as error:
            raise DataError(f"a frame cannot be decoded: {_first_line(error)}") from error
        return np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())


def _first_line(error: Exception) -> str:
    """An error of C++ without its stack, times and places in source files."""
    lines = re.sub(r"\[\d+:\d+:\d+\] \S+:\d+: ", "", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
