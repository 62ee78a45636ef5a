"""Scene classification in its official layout: a folder of image files for each class, and lists of the splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset, data_root
from perception.datasets.caption_records import first_names
from perception.datasets.downloads import RemoteFile, extract, fetch_file
from perception.datasets.image_files import FileBytes, LazyImages
from perception.datasets.images import check_split, stratified_split
from perception.datasets.scene_labels import warn
from perception.errors import ConfigError, DataError, Fault, nearest
from perception.transforms.base import Transform
from perception.transforms.image_resize import INTERPOLATIONS
from perception.transforms.preprocess import Batch

PARTS = ("train", "val", "test")
DRAWN = "drawn"
SHARES = (0.6, 0.2)  # of train and val, as in the published lists
DRAW_SEED = 0


@dataclass(frozen=True)
class ClassFolders:
    """Where the images of a data set lie.

    Attributes:
        places: folders below the root, any one of which holds the class folders. The root itself may, too.
        suffixes: of the image files, in small letters.
        archive: the published archive.
    """

    places: tuple[str, ...]
    suffixes: tuple[str, ...]
    archive: RemoteFile


class SceneImages(Dataset):
    """Base of scene data sets of one label per image; images are read when they are asked for.

    Batches hold ``image``, ``index``, ``meta`` with the names of the ``bands`` and the ``partition``, and ``label``.

    Attributes:
        bands: names of the channels.
        partition: where the split comes from: the name of published lists, ``drawn``, or ``all``.
        names: path of every image below the class folders.
        labels: (n,) int64.
        left_out: names in the lists that a partial copy lacks.
    """

    modality: ClassVar[str] = "image"
    SPLITS: ClassVar[tuple[str, ...]] = ("pretrain", *PARTS, "all")
    AREA: ClassVar[str]
    COUNTS: ClassVar[Mapping[str, int]]
    """Published number of images by class name, in label order."""
    LISTS: ClassVar[Mapping[str, tuple[RemoteFile, RemoteFile, RemoteFile]]]
    """Published lists of train, val and test by name of the partition; the first is the usual one."""

    def __init__(
        self,
        layout: ClassFolders,
        bands: Sequence[str],
        decode: Callable[..., np.ndarray],
        options: Mapping[str, Any],
        transforms: Sequence[Transform | dict[str, Any]],
        seed: int,
    ) -> None:
        """Find the images of a split.

        Args:
            layout: where they lie.
            bands: names of the channels that ``decode`` gives.
            decode: see ``LazyImages``.
            options: ``root``, ``split``, ``size``, ``interpolation``, ``partition``, ``partial`` and ``download`` as
                the data sets' docstrings say.
            transforms: see ``Dataset``.
            seed: see ``Dataset``.
        """
        super().__init__(transforms, seed)
        self.check_options(options)
        root = self.find_root(layout, options)
        folder = self.class_root(root, layout)
        files, labels = self.scan(folder, layout.suffixes, options["partial"])
        rows, self.partition, self.left_out = self.rows_of(root, files, labels, options)
        self.split, self.bands, self.classes = options["split"], tuple(bands), tuple(self.COUNTS)
        self.names, self.labels = [files[row].relative_to(folder).as_posix() for row in rows], labels[rows]
        source = FileBytes([files[row] for row in rows])
        self.images = LazyImages(source, options["size"], options["interpolation"], decode)

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, H, W), or a list of (C, H, W) where sizes differ; ``index``, ``meta`` and ``label``."""
        batch: Batch = {"image": self.images.read(indices), "index": torch.from_numpy(indices)}
        batch["meta"] = {"bands": self.bands, "partition": self.partition}
        if self.split != "pretrain":
            batch["label"] = torch.from_numpy(self.labels[indices])
        return batch

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse unknown choices.

        Raises:
            ConfigError: with the nearest valid ones.
        """
        check_split(options["split"], cls.SPLITS)
        faults = []
        partitions = (*cls.LISTS, DRAWN)
        for key, choices in (("partition", (None, *partitions)), ("interpolation", INTERPOLATIONS)):
            if options[key] not in choices:
                names = [str(choice) for choice in choices]
                near = nearest(str(options[key]), names)
                faults.append(Fault(key, options[key], f"must be one of {', '.join(names)}", near))
        size = options["size"]
        if size is not None and (not isinstance(size, int) or size < 1):
            faults.append(Fault("size", size, "must be a positive number of pixels, or None"))
        if faults:
            raise ConfigError(faults, cls.__name__)

    @classmethod
    def find_root(cls, layout: ClassFolders, options: Mapping[str, Any]) -> Path:
        """The folder of the data set, after a download where that is asked for."""
        home = f"Unpack {layout.archive.url} there, or set download=True."
        if not options["download"]:
            return data_root(options["root"], cls.AREA, f"It must hold {layout.places[0]}. {home}")
        if options["root"] is not None:
            root = Path(options["root"]).expanduser()
        elif "PERCEPTION_DATA" in os.environ:
            root = Path(os.environ["PERCEPTION_DATA"]).expanduser() / cls.AREA
        else:
            raise DataError(f"{cls.__name__}: set root= or the variable PERCEPTION_DATA to say where downloads go")
        if cls._place(root, layout) is None:
            extract(fetch_file(layout.archive, root), root)
        if options["partition"] != DRAWN:
            for source in cls.LISTS[options["partition"] or next(iter(cls.LISTS))]:
                fetch_file(source, root)
        return root

    @classmethod
    def class_root(cls, root: Path, layout: ClassFolders) -> Path:
        """The folder of the class folders.

        Raises:
            DataError: there is none; an archive that nobody has unpacked is named.
        """
        found = cls._place(root, layout)
        if found is not None:
            return found
        packed = root / layout.archive.name
        hint = f"; {packed.name} is there but not unpacked: download=True checks and unpacks it" * packed.is_file()
        places = " or ".join(f"{place}/<class>" for place in layout.places)
        raise DataError(f"{cls.__name__}: {str(root)!r} has no folder {places}{hint}. See {layout.archive.url}")

    @classmethod
    def _place(cls, root: Path, layout: ClassFolders) -> Path | None:
        for place in layout.places:
            if (root / place).is_dir():
                return root / place
        return root if any((root / name).is_dir() for name in cls.COUNTS) else None

    @classmethod
    def scan(cls, folder: Path, suffixes: Sequence[str], partial: bool) -> tuple[list[Path], np.ndarray]:
        """Image files in the order of class and name, and their labels, after a comparison with the published counts.

        Raises:
            DataError: a folder that is no class; another number of images than published, unless ``partial`` and there
                are fewer; no image at all.
        """
        name = cls.__name__
        found: dict[str, list[Path]] = {}
        for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if path.name not in cls.COUNTS:
                near = nearest(path.name, cls.COUNTS, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"{name}: folder {str(path)!r} is none of the {len(cls.COUNTS)} classes{hint}")
            inside = (p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
            found[path.name] = sorted(inside)
        counts = {key: len(found.get(key, ())) for key in cls.COUNTS}
        total, published = sum(counts.values()), sum(cls.COUNTS.values())
        if total == 0:
            raise DataError(f"{name}: {str(folder)!r} holds no image ({', '.join(suffixes)}) in folders of its classes")
        odd = [f"{key} {counts[key]:,} of {count:,}" for key, count in cls.COUNTS.items() if counts[key] != count]
        text = f"{name}: {str(folder)!r} holds {total:,} of {published:,} images ({first_names(odd)})"
        if any(counts[key] > count for key, count in cls.COUNTS.items()):
            raise DataError(f"{text}, more than were published: something else lies among them")
        if odd and not partial:
            raise DataError(f"{text}: complete the copy, or set partial=True to use what is there")
        if odd:
            warn(f"{text}: figures do not compare with published ones")
        files = [path for key in cls.COUNTS for path in found.get(key, ())]
        return files, np.repeat(np.arange(len(counts)), list(counts.values()))

    @classmethod
    def rows_of(
        cls, root: Path, files: Sequence[Path], labels: np.ndarray, options: Mapping[str, Any]
    ) -> tuple[np.ndarray, str, list[str]]:
        """Rows of a split among ``files``, the partition that it is of, and names in its lists that are not there."""
        split, wanted, partial = options["split"], options["partition"], options["partial"]
        if split == "all":
            return np.arange(len(files)), "all", []
        place = PARTS.index("train" if split == "pretrain" else split)
        usual = next(iter(cls.LISTS))
        if wanted is None and not any((root / source.name).is_file() for source in cls.LISTS[usual]):
            text = f"{cls.__name__}: {str(root)!r} has no lists {cls.LISTS[usual][0].name}, ...: the splits are drawn"
            warn(f"{text} by a fixed seed, 60, 20 and 20 % of every class, and are not the published ones")
            wanted = DRAWN
        left_out: list[str] = []
        if wanted == DRAWN:
            parts = stratified_split(labels, SHARES, DRAW_SEED)
        else:
            lists = [root / source.name for source in cls.LISTS[wanted or usual]]
            parts, left_out = read_lists(lists, files, partial)
            for path, part, share in zip(lists, parts, (*SHARES, 1 - sum(SHARES)), strict=True):
                if not partial and len(part) != round(share * len(files)):
                    text = f"names {len(part):,} images, {round(share * len(files)):,} were published"
                    raise DataError(f"{cls.__name__}: {str(path)!r} {text}")
        if not len(parts[place]):
            raise DataError(f"{cls.__name__}: split {split!r} of {str(root)!r} is empty")
        return parts[place], wanted or usual, left_out

    @classmethod
    def config_faults(cls, layout: ClassFolders, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults (key, message) that can be seen without reading an image; downloads nothing."""
        cls.check_options(cfg)
        if cfg["download"]:
            return
        try:
            root = cls.find_root(layout, cfg)
            files, labels = cls.scan(cls.class_root(root, layout), layout.suffixes, cfg["partial"])
        except DataError as error:
            yield "root", str(error)
            return
        try:
            cls.rows_of(root, files, labels, cfg)
        except DataError as error:
            yield "partition", str(error)


def read_lists(paths: Sequence[Path], files: Sequence[Path], partial: bool) -> tuple[list[np.ndarray], list[str]]:
    """Rows of every list among ``files``, sorted, and the names that are not there.

    A list has a file name per line. Names are compared without folder and suffix: EuroSAT's lists say ``.jpg`` for the
    multispectral ``.tif`` files.

    Raises:
        DataError: a list is missing or no text; it names a file that is not there, unless ``partial``; a name comes
            twice, in one list or in two.
    """
    places = {path.stem: row for row, path in enumerate(files)}
    seen: dict[str, str] = {}
    parts, left_out = [], []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"list {str(path)!r} cannot be read: {getattr(error, 'strerror', 0) or error}") from error
        rows = []
        for number, line in enumerate(lines, start=1):
            stem = Path(line.strip()).stem
            if not stem:
                continue
            where = f"{path.name}, line {number}"
            if stem in seen:
                raise DataError(f"{str(path)!r}, line {number}: {line.strip()!r} is also in {seen[stem]}")
            seen[stem] = where
            if stem in places:
                rows.append(places[stem])
            elif partial:
                left_out.append(line.strip())
            else:
                raise DataError(f"{str(path)!r}, line {number}: there is no image {line.strip()!r}")
        parts.append(np.sort(np.array(rows, dtype=np.int64)))
    if left_out:
        text = f"{paths[0].name}, ...: {len(left_out):,} of {len(seen):,} images that the lists name are not there"
        warn(f"{text} and are left out: {first_names(left_out)}")
    unused = [path.name for stem, path in zip(places, files, strict=True) if stem not in seen]
    if unused:
        warn(f"{paths[0].name}, ...: {len(unused):,} of {len(files):,} images are in no list: {first_names(unused)}")
    return parts, left_out
