"""Frames of video files from a process that may hang or die without harm, with frame counts that were verified."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.video_backends import BACKENDS, Place, VideoInfo, available
from perception.datasets.video_cache import VideoCache
from perception.datasets.video_worker import LENGTH, Worker
from perception.errors import DataError, not_among

_CHUNK = 1 << 20
# Opens after which the process is replaced, whatever its libraries may hoard.
_LIFETIME = 5000


class GuardedWorker:
    """A decoding process that is ended, and started anew when it is next needed, if an answer takes too long.

    It has one thread, 60 to 90 MiB of memory, and one open file at a time. It ends with the process that started it.

    Args:
        timeout: seconds for an answer.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._owner, self._asked = 0, 0
        self._end: Any = None

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        """Head and body of the answer.

        Raises:
            DataError: no answer in time, or the process died of the file.
        """
        process = self._started()
        self._asked += 1
        deadline = time.monotonic() + self.timeout
        text = json.dumps(request).encode()
        assert process.stdin is not None
        try:
            process.stdin.write(LENGTH.pack(len(text)) + text)
            process.stdin.flush()
            length = LENGTH.unpack(self._receive(LENGTH.size, deadline))[0]
            head = json.loads(self._receive(length, deadline))
            return head, self._receive(int(np.prod(head["shape"])) if "shape" in head else 0, deadline)
        except (_Late, OSError) as error:
            self.close()
            reason = f"no answer within {self.timeout:g} s" if isinstance(error, _Late) else "the decoder crashed"
            raise DataError(reason) from error

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._owner == os.getpid():
            self._end()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            if self._asked < _LIFETIME:
                return self._process
            self.close()
        # A process that a data loader has forked gets a worker of its own. It must not import from another place.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        environment["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
        command = [sys.executable, "-m", "perception.datasets.video_worker"]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment)
        self._owner, self._asked = os.getpid(), 0
        _widen(self._process.stdout)
        self._end = weakref.finalize(self, _end, self._process, os.getpid())
        return self._process

    def _receive(self, count: int, deadline: float) -> bytearray:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        found = bytearray(count)
        view, place = memoryview(found), 0
        while place < count:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise _Late
            got = os.readv(pipe, [view[place : place + _CHUNK]])
            if got == 0:
                raise BrokenPipeError
            place += got
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"timeout": self.timeout, "_process": None, "_owner": 0, "_asked": 0, "_end": None}


class _Late(Exception):
    pass


def _widen(pipe: Any) -> None:
    """Let a pipe hold 1 MiB where the system can: a clip takes fewer turns then."""
    setting = getattr(fcntl, "F_SETPIPE_SZ", None)
    if setting is not None:
        with contextlib.suppress(OSError):  # over the limit of the user; slower, not wrong
            fcntl.fcntl(pipe, setting, _CHUNK)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if owner != os.getpid():  # a fork has inherited what is not its own
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # a request that was never read
                pipe.close()


def _source(path: Path, place: Place | None) -> dict[str, Any]:
    """What a request calls a file."""
    told = None if place is None else [str(place.shard), place.offset, place.size]
    return {"path": str(path), "place": told}


class VideoDecoder:
    """Decodes frames by number; the first backend that can do a file does it.

    A file is verified when it is first met: its last frame is decoded, or, where that fails, all of them are counted.
    What was found is kept between runs. Of files that hold fewer frames than their header promises only the frames that
    are there are given; ``repaired`` lists them.

    Args:
        backends: readers in order of preference; those that are not installed are passed over.
        timeout: seconds that one reader may take for one answer.
        guard: decode in a process of its own, which is ended if it takes too long. False decodes in this process: for
            files that are known to be sound.
        cache: folder for what was verified; ``None`` keeps it in memory.

    Attributes:
        repaired: what was found of each damaged file of which a part is used, by path.
        failures: number of readers that failed on a file, by path.
    """

    def __init__(
        self,
        backends: Sequence[str] = BACKENDS,
        timeout: float = 30.0,
        guard: bool = True,
        cache: Path | None = None,
    ) -> None:
        unknown = [name for name in backends if name not in BACKENDS]
        if unknown or not backends:
            raise DataError(f"backend {unknown[0]!r} is {not_among(unknown[0], BACKENDS)}" if unknown else "no backend")
        self.backends = tuple(name for name in backends if available(name))
        if not self.backends:
            raise DataError(f"none of the video readers {', '.join(backends)} is installed")
        self.timeout = timeout
        self._worker: GuardedWorker | Worker = GuardedWorker(timeout) if guard else Worker()
        self._cache = VideoCache(cache)
        self.repaired: dict[str, VideoInfo] = {}
        self.failures: dict[str, int] = {}

    def info(self, path: Path, place: Place | None = None) -> VideoInfo:
        """What a file truly holds.

        Args:
            path: the file; of a packed one the name that messages use, which lies below its shard.
            place: where a packed one lies.

        Raises:
            DataError: there is no such file, or no reader gets a frame out of it; says why for each of them.
        """
        if not (path if place is None else place.shard).is_file():
            raise DataError(f"video {str(path)!r} does not exist")
        known = self._cache.get(path, self.backends, place)
        if isinstance(known, DataError):
            raise known
        if known is None:
            known = self._verify(path, place)
        if known.frames < known.reported:
            self.repaired[str(path)] = known
        return known

    def read(
        self, path: Path, indices: np.ndarray, cover: Sequence[int] | None = None, place: Place | None = None
    ) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 RGB, upright, at ``indices`` (T,), in any order and with repetitions.

        Args:
            path: the file.
            indices: frame numbers below ``info(path).frames``.
            cover: height and width that the frames are scaled to cover, aspect kept; (s, s) makes s the shorter side.
            place: see ``info``.

        Raises:
            DataError: a frame cannot be decoded by any reader, or there is none of that number.
        """
        info = self.info(path, place)
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= info.frames:
            raise DataError(f"video {str(path)!r} has frames 0 to {info.frames - 1}, not all of {indices.tolist()}")
        request: dict[str, Any] = {"task": "read", **_source(path, place), "indices": wanted.tolist()}
        request["cover"] = None if cover is None else [int(side) for side in cover]
        others = [name for name in self.backends if name != info.backend]
        reasons = []
        for backend in (info.backend, *others):
            head, body = self._ask({**request, "backend": backend})
            if "error" not in head:
                frames = np.frombuffer(body, dtype=np.uint8).reshape(head["shape"])
                return frames if len(places) == len(wanted) and (np.diff(places) > 0).all() else frames[places]
            reasons.append(f"{backend}: {head['error']}")
            self.failures[str(path)] = self.failures.get(str(path), 0) + 1
        raise DataError(f"video {str(path)!r} cannot be decoded: {'; '.join(reasons)}")

    def close(self) -> None:
        """End the decoding process, if there is one; the next request starts another."""
        if isinstance(self._worker, GuardedWorker):
            self._worker.close()

    def _verify(self, path: Path, place: Place | None) -> VideoInfo:
        reasons, late = [], False
        for backend in self.backends:
            head, _ = self._ask({"task": "verify", **_source(path, place), "backend": backend})
            if "error" not in head:
                info = VideoInfo(**head)
                self._cache.put(path, self.backends, info, place)
                return info
            reasons.append(f"{backend}: {head['error']}")
            late |= head.get("late", False)
            self.failures[str(path)] = self.failures.get(str(path), 0) + 1
        error = DataError(f"video {str(path)!r} cannot be decoded: {'; '.join(reasons)}")
        if not late:  # a machine that was busy is no property of the file
            self._cache.put(path, self.backends, error, place)
        raise error

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        if isinstance(self._worker, Worker):
            return self._worker.answer(request)
        try:
            return self._worker.ask(request)
        except DataError as error:
            return {"error": str(error), "late": True}, b""

    def __getstate__(self) -> dict[str, Any]:
        worker = self._worker if isinstance(self._worker, GuardedWorker) else Worker()
        return {**self.__dict__, "_worker": worker}
