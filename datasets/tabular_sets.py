"""Where the small sets of tables with images lie, and whether their files are the published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from perception.datasets.base import data_root
from perception.errors import DataError

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
