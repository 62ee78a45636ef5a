"""Verified facts about video files, kept between runs: counting the frames of a file means decoding it.

One text file for every folder or shard of videos, a JSON record a line, to which processes may append at the same
time. A record holds for the size and the time of change that a file had; the last one counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from perception.datasets.video_backends import Place, VideoInfo
from perception.errors import DataError

_FIELDS = {field.name for field in fields(VideoInfo)}


def default_cache() -> Path:
    """``$PERCEPTION_CACHE/videos``, else ``perception/videos`` in the user's cache folder."""
    if "PERCEPTION_CACHE" in os.environ:
        return Path(os.environ["PERCEPTION_CACHE"]).expanduser() / "videos"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "perception" / "videos"


class VideoCache:
    """What is known of files.

    Args:
        folder: where the records lie; ``None`` keeps them in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        self._read: set[str] = set()

    def get(self, path: Path, backends: tuple[str, ...], place: Place | None = None) -> VideoInfo | DataError | None:
        """What was found before: the facts, the error, or None if the file is new, changed, or was read otherwise.

        An error holds for those who tried the same ``backends``, facts for those who would have used their backend.
        """
        parent = _parent(path, place)
        if str(parent) not in self._read:
            self._load(str(parent))
        record = self._known.get(str(path))
        if record is None or record["stamp"] != _stamp(path, place) or record["backends"] != list(backends):
            return None
        if "error" in record:
            return DataError(record["error"])
        return VideoInfo(**{key: record[key] for key in _FIELDS})

    def put(
        self, path: Path, backends: tuple[str, ...], found: VideoInfo | DataError, place: Place | None = None
    ) -> None:
        """Remember what was found."""
        told = {"error": str(found)} if isinstance(found, DataError) else asdict(found)
        parent = _parent(path, place)
        name = str(path.relative_to(parent))
        record = {"name": name, "stamp": _stamp(path, place), "backends": list(backends), **told}
        self._known[str(path)] = record
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._file(str(parent)), "ab", buffering=0) as file:
                file.write(json.dumps(record).encode() + b"\n")  # one write: appends of processes do not mix
        except OSError as error:
            text = f"frame counts are not kept: {str(self.folder)!r} cannot be written ({error.strerror})"
            print_log(f"{text}; PERCEPTION_CACHE names another folder", logger="current", level=30)  # logging.WARNING
            self.folder = None

    def _file(self, parent: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(parent.encode()).hexdigest()[:24]}.jsonl"

    def _load(self, parent: str) -> None:
        self._read.add(parent)
        if self.folder is None or not self._file(parent).is_file():
            return
        for line in self._file(parent).read_bytes().splitlines():
            try:
                record = json.loads(line)
                complete = record.keys() >= {"name", "stamp", "backends"}
                complete &= "error" in record or record.keys() >= _FIELDS
            except (ValueError, AttributeError):
                continue  # cut off by a full disk: the file is verified again
            if complete:
                self._known[str(Path(parent) / record["name"])] = record


def _parent(path: Path, place: Place | None) -> Path:
    return path.parent if place is None else place.shard


def _stamp(path: Path, place: Place | None) -> list[int]:
    if place is None:
        status = path.stat()
        return [status.st_size, status.st_mtime_ns]
    return [place.size, place.shard.stat().st_mtime_ns, place.offset]
