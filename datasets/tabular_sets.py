"""What the small sets of tables with images share: where they lie, and whether their files are the published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from perception.datasets.base import data_root
from perception.datasets.images import check_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_images import TableImages
from perception.datasets.table_rows import only_faults
from perception.errors import DataError
from perception.signatures import at_least
from perception.transforms.base import Transform

AREA = "tabular_image"


def tabular_folder(root: str | None, name: str, files: Mapping[str, str]) -> Path:
    """Folder of the set ``name``: ``root``, or ``$PERCEPTION_DATA/tabular_image/<name>``.

    Args:
        root: the folder itself, or None.
        name: of the set.
        files: SHA-256 in hexadecimal of every file that it must hold.

    Raises:
        DataError: the folder or a file is not there, or a file is damaged or another one.
    """
    folder = data_root(root, f"{AREA}/{name}", f"It must hold {' and '.join(files)}.")
    for file, expected in files.items():
        path = folder / file
        if not path.is_file():
            raise DataError(f"{file} is not in {str(folder)!r}")
        with open(path, "rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != expected:
            raise DataError(f"{str(path)!r} differs from its SHA-256 checksum: damaged, or another file")
    return folder


def folder_faults(root: str | None, name: str, files: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Faults of a config about the files of a set; their contents are not read."""
    folder = data_root(root, f"{AREA}/{name}", f"It must hold {' and '.join(files)}.")
    for file in files:
        if not (folder / file).is_file():
            yield "root", f"{file} is not in {folder}"


class PublishedTable(TableImages):
    """A set of ``table.csv`` and packed images with fixed splits. A subclass states the class attributes.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: ``train`` and ``val`` without labels.
        size: height and width in pixels.
        missing: cells and images taken away, ``dict(strategy=..., rate=...)`` of ``Masker`` or ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        root: folder of the files; None is ``$PERCEPTION_DATA/tabular_image/<NAME>``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        NAME: of the folder.
        FILES: SHA-256 of the table and of the images, in that order.
        OPTIONS: arguments of ``TableImages``: ``id``, ``label``, ``columns`` and others.
    """

    SPLITS = ("pretrain", "train", "val", "test")
    NAME: ClassVar[str]
    FILES: ClassVar[Mapping[str, str]]
    OPTIONS: ClassVar[Mapping[str, Any]]

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        self.folder = tabular_folder(root, self.NAME, self.FILES)
        table, images = self.FILES
        pretrain = split == "pretrain"
        super().__init__(
            str(self.folder / table),
            images=str(self.folder / images),
            labels=not pretrain,
            split=("train", "val") if pretrain else split,
            size=size,
            missing=missing,
            only=only,
            transforms=transforms,
            seed=seed,
            **self.options(),
        )

    def options(self) -> dict[str, Any]:
        """Arguments of ``TableImages`` besides those of the constructor."""
        return dict(self.OPTIONS)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split, choices that are none, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        yield from at_least(cfg, 1, "size")
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])
        yield from folder_faults(cfg["root"], cls.NAME, cls.FILES)
