"""Packing caption data sets and videos into tar shards for ``PairShards``, ``VideoShards`` and the webdataset tools."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.captions import CaptionedImages
from perception.datasets.image_files import LazyImages
from perception.datasets.pair_shards import describe_shards
from perception.datasets.shard_index import IMAGE_SUFFIXES, read_index
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VIDEO_SUFFIXES
from perception.datasets.video_table import VideoTable
from perception.errors import DataError, not_among

FORMATS = ("copy", "png", "jpg")
BLOCK = 64  # images decoded together
Sample = list[tuple[str, bytes]]  # suffix and content of its files


def write_shards(
    dataset: CaptionedImages,
    folder: str | Path,
    per_shard: int = 1000,
    image_format: str = "png",
    quality: int = 95,
    prefix: str = "pairs",
) -> list[Path]:
    """Pack a caption data set, without its transforms, and index it. The same data gives the same bytes.

    A sample is its image and a json of its captions, file name and class. A shard appears under its name when it is
    whole, so that a packing that was cut off leaves no half shard.

    Args:
        dataset: the data set.
        folder: of the shards; it is made.
        per_shard: samples in a shard.
        image_format: ``png`` (no loss) or ``jpg`` write what the data set gives; ``copy`` takes the bytes of its image
            files as they are, which needs a data set that reads files lazily at ``size=None``.
        quality: of ``jpg``, 1 to 100.
        prefix: of the shards' names.

    Returns:
        The shards.

    Raises:
        DataError: shards that are there already, texts without images, or a format that the data set does not allow.
    """
    if image_format not in FORMATS:
        raise DataError(f"image_format = {image_format!r}: {not_among(image_format, FORMATS)}")
    if dataset.images is None:
        raise DataError(f"{type(dataset).__name__} has texts alone: there is no image to pack")
    media = _copies(dataset) if image_format == "copy" else _encoded(dataset, image_format, quality)
    samples = ([file, ("json", _text(dataset, index))] for index, file in enumerate(media))
    shards = _pack(Path(folder).expanduser(), samples, len(dataset), per_shard, prefix)
    describe_shards(shards[0].parent, dataset.sources, dataset.classes, len(dataset))
    return shards


def write_video_shards(
    dataset: VideoFiles, folder: str | Path, per_shard: int = 1000, prefix: str = "videos"
) -> list[Path]:
    """Pack the files of a video data set as they are, and index them. The same data gives the same bytes.

    A sample is a video and a json of its name, its class and, where the data set takes a part of it, its frames. What
    the data set has left out is left out here, so ``on_error='skip'`` packs nothing that cannot be read.

    Args:
        dataset: ``VideoFolder``, ``VideoManifest`` or another data set of files.
        folder: of the shards; it is made.
        per_shard: videos in a shard.
        prefix: of the shards' names.

    Returns:
        The shards.

    Raises:
        DataError: shards that are there already, folders of frames, or a data set with more than labels.
    """
    records, kind = dataset.records, type(dataset).__name__
    if isinstance(dataset, VideoTable):
        raise DataError("VideoTable has groups and texts, which shards of videos do not keep: pack a VideoManifest")
    if any(record.place is not None for record in records):
        raise DataError(f"{kind} is packed already")
    for record in records:
        if record.path.is_dir():
            raise DataError(f"{str(record.path)!r} is a folder of frames: make a video of it, shards hold files")
        if record.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise DataError(f"{str(record.path)!r} has none of the suffixes {', '.join(VIDEO_SUFFIXES)}")
    root = os.path.commonpath([record.path.parent.absolute() for record in records])

    def samples() -> Iterator[Sample]:
        for record in records:
            content: dict[str, Any] = {"filename": os.path.relpath(record.path.absolute(), root)}
            if dataset.classes and record.label >= 0:
                content["label"] = dataset.classes[record.label]
            if record.first or record.count is not None:
                content |= {"first": record.first, "count": -1 if record.count is None else record.count}
            try:
                data = record.path.read_bytes()
            except OSError as error:
                raise DataError(f"video {str(record.path)!r} cannot be read: {error.strerror}") from error
            yield [(record.path.suffix.lower()[1:], data), ("json", json.dumps(content, ensure_ascii=False).encode())]

    shards = _pack(Path(folder).expanduser(), samples(), len(records), per_shard, prefix)
    describe_shards(shards[0].parent, (), dataset.classes, len(records))
    return shards


def _pack(folder: Path, samples: Iterator[Sample], count: int, per_shard: int, prefix: str) -> list[Path]:
    """Write ``count`` samples; a shard appears under its name when it is whole."""
    if per_shard < 1:
        raise DataError("per_shard must be positive")
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(folder.glob(f"{prefix}-*.tar"))
    if there:
        raise DataError(f"{str(folder)!r} holds {there[0].name} already: choose an empty folder or another prefix")
    shards = []
    for start in range(0, count, per_shard):
        shard = folder / f"{prefix}-{start // per_shard:06d}.tar"
        temporary = folder / f".{shard.name}.tmp"
        with tarfile.open(temporary, "w") as archive:
            for index in range(start, min(start + per_shard, count)):
                for suffix, data in next(samples):
                    _add(archive, f"{index:09d}.{suffix}", data)
        os.replace(temporary, shard)
        read_index(shard)
        shards.append(shard)
    return shards


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner and no time: the same data gives the same bytes
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _text(dataset: CaptionedImages, index: int) -> bytes:
    label = int(dataset.labels[index])
    content = {
        "filename": dataset.names[index],
        "captions": [list(pair) for pair in dataset.captions[index]],
        **({"label": dataset.classes[label]} if label >= 0 else {}),
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _copies(dataset: CaptionedImages) -> Iterator[tuple[str, bytes]]:
    images = dataset.images
    if not isinstance(images, LazyImages) or images.size is not None:
        raise DataError("image_format='copy' needs a data set that reads image files, with size=None")
    for index, name in enumerate(dataset.names):
        suffix = Path(name).suffix.lower().lstrip(".")
        if suffix not in IMAGE_SUFFIXES:
            raise DataError(f"image_format='copy': {name!r} has none of the suffixes {', '.join(IMAGE_SUFFIXES)}")
        yield suffix, images.source.read(index)


def _encoded(dataset: CaptionedImages, image_format: str, quality: int) -> Iterator[tuple[str, bytes]]:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if image_format == "jpg" else []
    for start in range(0, len(dataset), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(dataset)))
        for image in dataset.fetch(rows)["image"]:
            pixels = np.ascontiguousarray(image.numpy().transpose(1, 2, 0)[..., ::-1])
            yield image_format, cv2.imencode(f".{image_format}", pixels, options)[1].tobytes()
