"""The process in which video files are decoded: requests on standard input, frames on standard output.

A message is four bytes of length, a JSON text of that length and, with frames, their bytes. ``video_decode`` starts
this with ``python -m`` and ends it when it takes too long.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from perception.datasets.video_backends import Reader, open_reader
from perception.errors import DataError

LENGTH = struct.Struct("<I")
_PART = 1 << 20
# Readers want a name: that of an open file in memory, or of a temporary one where there is no such thing.
_IN_MEMORY = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


class Worker:
    """Answers requests and keeps the last file open, since a file's frames are asked for after its length."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._reader: Reader | None = None
        self._unpacked: BinaryIO | None = None

    def answer(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes | memoryview]:
        """Head and body of the answer to a request."""
        try:
            reader = self._open(request["backend"], request["path"], request.get("place"))
            if request["task"] == "verify":
                return asdict(reader.verify()), b""
            frames = np.ascontiguousarray(reader.read(np.asarray(request["indices"], dtype=np.int64)))
            if request["cover"] is not None:
                frames = scale_to_cover(frames, request["cover"])
        except DataError as error:
            self._forget()  # a reader that has failed once may give anything afterwards
            return {"error": str(error)}, b""
        return {"shape": frames.shape}, frames.data

    def _open(self, backend: str, path: str, place: Sequence[Any] | None) -> Reader:
        key = (backend, path, *(place or ()))
        if self._reader is None or self._key != key:
            self._forget()  # the old file is closed first
            if place is not None:
                self._unpacked = unpacked(*place)
                name = f"/proc/self/fd/{self._unpacked.fileno()}" if _IN_MEMORY else self._unpacked.name
            else:
                name = path
            try:
                self._reader = open_reader(backend, name)
            except DataError as error:
                raise DataError(str(error).replace(name, path)) from error
            self._key = key
        return self._reader

    def _forget(self) -> None:
        self._key = self._reader = None
        if self._unpacked is not None:
            self._unpacked.close()
        self._unpacked = None


def unpacked(shard: str, offset: int, size: int) -> BinaryIO:
    """A video that lies in a shard as a file of its own, in memory where the system can; closing it removes it.

    Raises:
        DataError: the shard cannot be read, or ends before.
    """
    copy: Any = open(os.memfd_create("video"), "wb+") if _IN_MEMORY else tempfile.NamedTemporaryFile()  # noqa: SIM115
    try:
        with open(shard, "rb") as packed:
            packed.seek(offset)
            left = size
            while left and (part := packed.read(min(left, _PART))):
                left -= copy.write(part)
        copy.flush()
    except OSError as error:
        copy.close()
        raise DataError(f"shard {shard!r} cannot be read: {error.strerror}") from error
    if left:
        copy.close()
        raise DataError(f"shard {shard!r} has become shorter than its index says")
    return copy


def scale_to_cover(frames: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Frames (n, H, W, 3) uint8 scaled until they just cover ``size`` (height, width), aspect kept.

    Scaling down averages over the area that a pixel covers, scaling up is bilinear.
    """
    import cv2

    height, width = frames.shape[1:3]
    factor = max(size[0] / height, size[1] / width)
    rows, columns = max(round(height * factor), size[0]), max(round(width * factor), size[1])
    if (rows, columns) == (height, width):
        return frames
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (columns, rows), interpolation=method) for frame in frames])


def send(pipe: BinaryIO, head: Mapping[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one message."""
    text = json.dumps(head).encode()
    pipe.write(LENGTH.pack(len(text)) + text)
    pipe.write(body)
    pipe.flush()


def leave_with_parent() -> None:
    """End this process soon after the one that started it, even if a decoder spins."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Answer until standard input ends. What libraries print goes nowhere: it would mix with the frames."""
    leave_with_parent()
    out = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    worker = Worker()
    requests = sys.stdin.buffer
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        text = requests.read(LENGTH.unpack(head)[0])
        send(out, *worker.answer(json.loads(text)))


if __name__ == "__main__":
    main()
