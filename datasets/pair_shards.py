"""Image-text pairs in tar shards, for corpora beyond a folder of files: read at random places, without unpacking."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.datasets.caption_files import option_faults, require
from perception.datasets.caption_records import Record, class_list, first_names, read_exclusions, read_json
from perception.datasets.captions import CaptionedImages
from perception.datasets.image_files import LazyImages
from perception.datasets.shard_index import (
    BLANK,
    NO_IMAGE,
    NO_TEXT,
    NOT_TEXT,
    UNREADABLE,
    ShardIndex,
    parse,
    read_index,
)
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.captions import Caption, apply_text_form

DESCRIPTION = "shards.json"  # beside the shards: what the corpus is
OPEN_FILES = 256  # shards whose file stays open; others are opened for each read
_REASONS = {
    NO_IMAGE: "have no image",
    NO_TEXT: "have no text",
    UNREADABLE: "have a text that is neither UTF-8 nor json as expected",
    NOT_TEXT: "have a caption that is no text",
    BLANK: "have an empty caption",
}


class ShardFiles:
    """Reads bytes at places in shards, from any thread and after a fork.

    Args:
        paths: the shards.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: dict[int, int] = {}
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """``size`` bytes of a shard.

        Raises:
            DataError: it cannot be read, or ends before.
        """
        try:
            handle, kept = self._handle(shard)
            try:
                data = os.pread(handle, size, offset)
            finally:
                if not kept:
                    os.close(handle)
        except OSError as error:
            raise DataError(f"shard {str(self.paths[shard])!r} cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise DataError(f"shard {str(self.paths[shard])!r} has become shorter than its index says")
        return data

    def _handle(self, shard: int) -> tuple[int, bool]:
        with self._lock:
            if self._owner != os.getpid():  # a worker shares the parent's files, and would move them for it on close
                self._open, self._owner = {}, os.getpid()
            if shard in self._open:
                return self._open[shard], True
            handle = os.open(self.paths[shard], os.O_RDONLY)
            if len(self._open) < OPEN_FILES:
                self._open[shard] = handle
                return handle, True
            return handle, False

    def __del__(self) -> None:
        if self._owner == os.getpid():
            for handle in self._open.values():
                os.close(handle)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]


class _Places:
    """Samples of all shards in one numbering."""

    def __init__(self, files: ShardFiles, indices: Sequence[ShardIndex]) -> None:
        self.files = files
        self.shard = np.repeat(np.arange(len(indices)), [len(index) for index in indices])
        self.keys = np.concatenate([index.keys for index in indices])
        self.names = np.concatenate([index.names for index in indices])
        self.labels = np.concatenate([index.labels for index in indices])
        self.images = np.concatenate([index.images for index in indices])
        self.texts = np.concatenate([index.texts for index in indices])
        self.is_json = np.concatenate([index.is_json for index in indices])
        self.fault = np.concatenate([index.fault for index in indices])

    def keep(self, rows: np.ndarray) -> None:
        """Keep the samples ``rows``."""
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray):
                setattr(self, name, values[rows])

    def where(self, index: int) -> str:
        """What messages call a sample."""
        return f"{str(self.keys[index])!r} of shard {str(self.files.paths[self.shard[index]])!r}"


class _ShardImages:
    """Compressed images in shards, see ``ByteSource``."""

    def __init__(self, places: _Places) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places.keys)

    def read(self, index: int) -> bytes:
        """The image file of a sample."""
        offset, size = self.places.images[index].tolist()
        return self.places.files.read(int(self.places.shard[index]), offset, size)

    def describe(self, index: int) -> str:
        """What messages call it."""
        return f"image {self.places.where(index)}"


class ShardCaptions(Sequence[list[Caption]]):
    """Captions in shards, read when they are asked for: millions of them need no memory."""

    def __init__(self, places: _Places, language: str, form: str) -> None:
        self.places, self.language, self.form = places, language, form

    def __len__(self) -> int:
        return len(self.places.keys)

    def __getitem__(self, index: Any) -> Any:
        """(language, text) pairs of a sample, blank texts left out."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        places = self.places
        offset, size = places.texts[index].tolist()
        data = places.files.read(int(places.shard[index]), offset, size)
        try:
            captions, _, _ = parse(data, bool(places.is_json[index]), self.language, "")
        except ValueError as error:
            raise DataError(f"text {places.where(index)} is not what the index saw: {error}") from error
        return [(language, apply_text_form(text, self.form)) for language, text in captions if text.strip()]


@DATASETS.register_module()
class PairShards(CaptionedImages):
    """Pairs in uncompressed tar shards of the webdataset layout (``shard_index``), as ``tools/make_shards.py`` makes.

    Samples are numbered in the order of the sorted shards, so that the sampler deals, shuffles and resumes them like
    those of any data set. Shuffled reading wants disks without a seek time. The first use writes an index beside each
    shard.

    Args:
        shards: a folder of ``.tar`` files, one such file, a pattern (``pairs-*.tar``), or a list of files.
        classes: class names in label order; None takes ``shards.json``'s, else the sorted names that occur.
        language: language of texts that do not say theirs.
        text_form: see ``CaptionFiles``.
        missing: ``error``, or ``drop`` for samples without image.
        empty: ``error``, or ``drop`` for samples without text and for blank captions.
        exclude: keys or file names to leave out, or a text file of them.
        index_dir: folder of the index files; None is beside the shards.
        size: see ``CaptionFiles``.
        interpolation: see ``CaptionFiles``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        left_out: per reason the keys of the samples that were left out.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        classes: Sequence[str] | None = None,
        language: str = "en",
        text_form: str = "as_is",
        missing: str = "error",
        empty: str = "error",
        exclude: str | Sequence[str] | None = None,
        index_dir: str | None = None,
        size: int | None = 224,
        interpolation: str = "bicubic",
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        options = {"text_form": text_form, "missing": missing, "empty": empty}
        require("PairShards", options | {"size": size, "interpolation": interpolation})
        paths = find_shards(shards)
        folder = None if index_dir is None else Path(index_dir).expanduser()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        indices = [read_index(path, folder) for path in paths]
        places = _Places(ShardFiles(paths), indices)
        self.left_out: dict[str, list[str]] = {}
        self._check(places, str(shards), missing, empty, read_exclusions(exclude))
        described = paths[0].parent / DESCRIPTION
        about = read_json(described, ("sources", "classes")) if described.is_file() else {}
        if classes is None and about.get("classes"):
            classes = about["classes"]
        found = [Record("", [], label=label or None) for label in places.labels.tolist()]
        names, labels = class_list(found, classes, str(shards))
        super().__init__(
            LazyImages(_ShardImages(places), size, interpolation),
            ShardCaptions(places, language, text_form),
            places.names.tolist(),
            names,
            np.array(labels, dtype=np.int64),
            about.get("sources", ()),
            transforms,
            seed,
            list(dict.fromkeys(name or language for index in indices for name in index.languages.tolist())),
        )
        self.places = places

    def _check(self, places: _Places, source: str, missing: str, empty: str, exclude: set[str]) -> None:
        keys, counts = np.unique(places.keys, return_counts=True)
        if (counts > 1).any():
            twice = keys[counts > 1].tolist()
            raise DataError(f"{source}: {len(twice)} keys occur in several shards: {first_names(twice)}")
        total = len(places.keys)
        if exclude:
            listed = np.array(sorted(exclude))
            out = np.isin(places.keys, listed) | np.isin(places.names, listed)
            self._drop(places, out, "are excluded")
        policies = {NO_IMAGE: missing, NO_TEXT: empty, BLANK: empty}
        for fault, reason in _REASONS.items():
            out = places.fault == fault
            if not out.any():
                continue
            names = places.keys[out].tolist()
            if policies.get(fault, "error") == "error":
                argument = {NO_IMAGE: "missing", NO_TEXT: "empty", BLANK: "empty"}.get(fault)
                hint = f". Set {argument}='drop' to leave them out." if argument else ""
                raise DataError(f"{source}: {len(names)} of {total} samples {reason}: {first_names(names)}{hint}")
            if fault == BLANK:  # the texts that are not blank stay, as in ShardCaptions
                captions = ShardCaptions(places, "en", "as_is")
                self.left_out[f"{reason} that was dropped"] = names
                out[out] = [not captions[int(row)] for row in np.flatnonzero(out)]
                reason = "have no caption"
            self._drop(places, out, reason)
        for reason, names in self.left_out.items():
            text = f"{source}: {len(names)} of {total} samples {reason}: {first_names(names)}"
            print_log(text, logger="current", level=30)  # logging.WARNING
        if not len(places.keys):
            raise DataError(
                f"{source}: no sample is left to use; left out { ({k: len(v) for k, v in self.left_out.items()}) }"
            )

    def _drop(self, places: _Places, out: np.ndarray, reason: str) -> None:
        if out.any():
            self.left_out[reason] = places.keys[out].tolist()
            places.keep(np.flatnonzero(~out))

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: no shard, unknown choices."""
        yield from option_faults(cfg)
        try:
            find_shards(cfg["shards"])
        except DataError as error:
            yield "shards", str(error)


def find_shards(shards: str | Sequence[str]) -> list[Path]:
    """The shards that a folder, a file, a pattern or a list means, sorted by name.

    Raises:
        DataError: there is none.
    """
    if not isinstance(shards, str):
        found = [Path(path).expanduser() for path in shards]
    else:
        path = Path(shards).expanduser()
        if path.is_dir():
            found = list(path.glob("*.tar"))
        elif any(sign in path.name for sign in "*?["):
            found = list(path.parent.glob(path.name))
        else:
            found = [path]
    absent = [path for path in found if not path.is_file()]
    if absent or not found:
        what = f"{str(absent[0])!r} does not exist" if absent else f"{shards!r} holds no .tar file"
        raise DataError(f"shards: {what}")
    return sorted(found)


def describe_shards(folder: Path, sources: Sequence[str], classes: Sequence[str], count: int) -> None:
    """Write what a corpus is beside its shards."""
    about = {"sources": list(sources), "classes": list(classes), "count": count}
    temporary = folder / f".{DESCRIPTION}.tmp"
    temporary.write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(temporary, folder / DESCRIPTION)
