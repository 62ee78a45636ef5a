"""An index beside a tar shard, so that any sample can be read without reading those before it.

A shard is an uncompressed tar in which the files of a sample share their name up to the first dot and follow each
other, as the webdataset tools write them: ``000017.jpg``, ``000017.json`` or ``.txt``, maybe ``.cls``. In the place of
an image there may be a video, which needs no text. The index is
written once beside the shard, under a temporary name that is then renamed, so that several processes may race for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.datasets.base import load_arrays
from perception.datasets.video_frames import VIDEO_SUFFIXES as SUFFIXES_OF_VIDEOS
from perception.errors import DataError
from perception.transforms.captions import Caption

VERSION = 2
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp")
VIDEO_SUFFIXES = tuple(suffix[1:] for suffix in SUFFIXES_OF_VIDEOS)
TEXT_SUFFIXES = ("json", "txt")
# What may be wrong with a sample, as the index notes it.
FINE, NO_IMAGE, NO_TEXT, UNREADABLE, NOT_TEXT, BLANK = range(6)
_ARRAYS = ("version", "stamp", "keys", "names", "labels", "images", "texts", "is_json", "fault", "ranges", "languages")


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of a shard lie.

    Attributes:
        path: the tar.
        keys: (n,) names up to the first dot, in the tar's order.
        names: (n,) file names from the samples' json, else the keys.
        labels: (n,) class names, "" where there is none.
        images: (n, 2) int64 offset and length of the image or video, length 0 where there is none.
        texts: (n, 2) int64 likewise of the text.
        is_json: (n,) bool, whether the text is json.
        fault: (n,) uint8, ``FINE`` or what is wrong; videos without captions have ``NO_TEXT``.
        ranges: (n, 2) int64 first frame and number of frames of a video, from the samples' json; -1 is all of them.
        languages: (k,) languages of the texts in order of first appearance, "" for texts that do not say theirs.
    """

    path: Path
    keys: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    is_json: np.ndarray
    fault: np.ndarray
    ranges: np.ndarray
    languages: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def read_index(shard: Path, folder: Path | None = None) -> ShardIndex:
    """The index of a shard: from its file if that belongs to this very tar, else made anew and written.

    Args:
        shard: the tar.
        folder: where index files lie; None is beside the shard. Where none can be written, the index is made in memory
            each time, which is said once.

    Raises:
        DataError: the shard is missing, compressed, damaged or not a shard.
    """
    file = index_file(shard, folder)
    try:
        status = shard.stat()
    except OSError as error:
        raise DataError(f"shard {str(shard)!r} cannot be read: {error.strerror}") from error
    stamp = np.array([status.st_size, status.st_mtime_ns], dtype=np.int64)
    if file.is_file():
        with contextlib.suppress(DataError):  # a damaged index is no loss: it is made anew
            arrays = load_arrays(file, _ARRAYS)
            if int(arrays["version"]) == VERSION and np.array_equal(arrays["stamp"], stamp):
                fields = {key: arrays[key] for key in _ARRAYS if key not in ("version", "stamp")}
                return ShardIndex(shard, **fields)
    index = scan(shard)
    fields = {key: getattr(index, key) for key in _ARRAYS if key not in ("version", "stamp")}
    try:
        _write(file, {"version": np.array(VERSION), "stamp": stamp, **fields})
    except OSError as error:
        text = f"the index of {shard} cannot be kept as {file} ({error.strerror}): it is made anew in every process"
        print_log(text, logger="current", level=30)  # logging.WARNING
    return index


def index_file(shard: Path, folder: Path | None = None) -> Path:
    """Where the index of a shard lies."""
    return (shard.parent if folder is None else folder) / f"{shard.name}.index.npz"


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def scan(shard: Path) -> ShardIndex:
    """Make the index of a shard by reading its headers and texts.

    Raises:
        DataError: it is no uncompressed tar, is cut off, or holds a sample's files apart from each other.
    """
    samples: dict[str, dict[str, Any]] = {}
    last = None
    with open(shard, "rb") as handle:
        end = os.fstat(handle.fileno()).st_size
        for member in _members(shard):
            if member.offset_data + member.size > end:
                raise DataError(f"shard {str(shard)!r} is cut off in {member.name!r}")
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = (f"{folder}/{stem}" if folder else stem), suffix.lower()
            if key != last and key in samples:
                raise DataError(f"shard {str(shard)!r}: the files of sample {key!r} do not follow each other")
            last = key
            sample = samples.setdefault(key, {})
            kind = "image" if suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) else suffix
            if kind in sample:
                raise DataError(f"shard {str(shard)!r}: sample {key!r} has two files {kind!r}")
            if kind == "image" or kind in (*TEXT_SUFFIXES, "cls"):
                sample[kind] = (member.offset_data, member.size)
            if suffix in VIDEO_SUFFIXES:
                sample["video"] = True
        if not samples:
            raise DataError(f"shard {str(shard)!r} holds no sample")
        languages: dict[str, None] = {}
        rows = [_describe(handle, key, sample, languages) for key, sample in samples.items()]
    keys, names, labels, images, texts, is_json, fault, ranges = zip(*rows, strict=True)
    return ShardIndex(
        shard,
        np.array(keys),
        np.array(names),
        np.array(labels),
        np.array(images, dtype=np.int64),
        np.array(texts, dtype=np.int64),
        np.array(is_json, dtype=bool),
        np.array(fault, dtype=np.uint8),
        np.array(ranges, dtype=np.int64),
        np.array(list(languages), dtype=str),
    )


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as archive:
            yield from (member for member in archive if member.isfile())
            end = archive.offset  # tarfile takes a cut between or in headers for the end
    except tarfile.TarError as error:
        with open(shard, "rb") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
        why = "it is compressed: unpack it to .tar, since samples are read at random places" if packed else str(error)
        raise DataError(f"shard {str(shard)!r} is no readable tar: {why}") from error
    with open(shard, "rb") as handle:
        if _read(handle, (end, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"shard {str(shard)!r} is cut off: the mark of its end is missing")


def _describe(handle: Any, key: str, sample: dict[str, Any], languages: dict[str, None]) -> tuple[Any, ...]:
    """One row of the index; the sample's languages are added to ``languages``."""
    image, is_json = sample.get("image", (0, 0)), "json" in sample
    text = sample.get("json", sample.get("txt", (0, 0)))
    name, label, fault, frames = key, "", FINE, (0, -1)
    if text[1] == 0:
        fault = NO_TEXT
    else:
        try:
            captions, name, label = parse(_read(handle, text), is_json, "", key)
            frames = frame_range(_read(handle, text)) if is_json and "video" in sample else frames
        except ValueError:
            captions, fault = [], UNREADABLE
        if fault == FINE and not captions:
            fault = NO_TEXT
        elif any(not isinstance(words, str) for _, words in captions):
            fault = NOT_TEXT
        elif any(not words.strip() for _, words in captions):
            fault = BLANK
        languages.update(dict.fromkeys(language for language, _ in captions))
    if "cls" in sample:
        label = _read(handle, sample["cls"]).decode("utf-8", errors="replace").strip()
    return key, name, label, image, text, is_json, NO_IMAGE if image[1] == 0 else fault, frames


def _read(handle: Any, place: tuple[int, int]) -> bytes:
    handle.seek(place[0])
    return handle.read(place[1])


def frame_range(data: bytes) -> tuple[int, int]:
    """First frame and number of frames that a sample's json asks for; -1 for all of them.

    Raises:
        ValueError: not whole numbers, or no frames.
    """
    content = json.loads(data)
    first, count = content.get("first", 0), content.get("count", -1)
    if not (isinstance(first, int) and isinstance(count, int) and first >= 0 and (count > 0 or count == -1)):
        raise ValueError("first and count are no range of frames")
    return first, count


def parse(data: bytes, is_json: bool, language: str, key: str) -> tuple[list[Caption], str, str]:
    """Captions, file name and class of a sample's text file.

    A ``.txt`` is one caption. A ``.json`` has ``captions``, texts or (language, text) pairs, or one ``caption`` or
    ``text``; ``filename`` and ``label`` if known.

    Raises:
        ValueError: it is neither UTF-8 nor such json.
    """
    if not is_json:
        return [(language, data.decode("utf-8").strip())], key, ""
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("not an object")
    given = content.get("captions")
    if given is None:
        given = [content[name] for name in ("caption", "text") if name in content][:1]
    if not isinstance(given, list):
        raise ValueError("captions are no list")
    captions = []
    for text in given:
        if isinstance(text, list):
            if len(text) != 2 or not isinstance(text[0], str):
                raise ValueError("a caption is no (language, text)")
            captions.append((text[0], text[1]))
        else:
            captions.append((language, text))
    label = content.get("label")
    return captions, str(content.get("filename", key)), "" if label is None else str(label)
