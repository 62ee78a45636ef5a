"""A user's own videos: folders of classes, or a list of paths and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.image_folder import find_folder
from perception.datasets.images import stratified_split
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoRecord
from perception.datasets.video_lists import read_manifest
from perception.errors import DataError, nearest
from perception.registry import DATASETS


@DATASETS.register_module()
class VideoFolder(VideoFiles):
    """Videos below a folder. A video is a file, or a folder of images that are its frames in the order of their names.

    With sub-folders, their sorted names are the classes (``root/wave/1.mp4``, ``root/wave/1/img_00001.jpg``); a flat
    folder of files is unlabelled.

    Args:
        root: the folder.
        split: see ``ImageFolder``.
        clip: how clips are cut: see ``VideoFiles``.
    """

    def __init__(self, root: str, split: str | None = None, **clip: Any) -> None:
        folder = find_folder(root, split)
        records, classes = scan(folder)
        if split is not None and folder == Path(root).expanduser():
            parts = stratified_split(np.array([record.label for record in records]), (0.7, 0.15), seed=0)
            records = [records[i] for i in parts[("train", "val", "test").index(split)]]
            if not records:
                raise DataError(f"split {split!r} of {str(folder)!r} is empty: there are too few videos to share out")
        super().__init__(records, classes, **clip)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: no such folder, nothing in it, clips that cannot be."""
        yield from cls.clip_faults(cfg)
        try:
            scan(find_folder(cfg["root"], cfg["split"]))
        except DataError as error:
            yield "root", str(error)


@DATASETS.register_module()
class VideoManifest(VideoFiles):
    """Videos of a list.

    A list with a header is a csv file with a column ``path``, ``file`` or ``video``, one ``label`` if there are labels,
    and perhaps ``split``. Without a header a line is ``path``, ``path label``, ``path frames label`` or ``path first
    last label`` (frames counted from 1, for folders of images), divided by commas, tabs or blanks. Between blanks,
    whole numbers at the end are never part of the path, and labels are such numbers.

    Args:
        path: the list.
        root: folder that its paths start from, by default that of the list.
        split: take the rows of the column ``split`` that say so.
        classes: class names in label order. By default names in the list are sorted, numbers are their own names.
        first_label: number of the first class in the list, 0 or 1.
        clip: how clips are cut: see ``VideoFiles``.
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        split: str | None = None,
        classes: Sequence[str] = (),
        first_label: int = 0,
        **clip: Any,
    ) -> None:
        super().__init__(*read_manifest(Path(path), root, split, classes, first_label), **clip)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: no such list, labels or splits that cannot be, clips that cannot be."""
        yield from cls.clip_faults(cfg)
        if cfg["first_label"] not in (0, 1):
            yield "first_label", "must be 0 or 1"
            return
        try:
            read_manifest(Path(cfg["path"]), cfg["root"], cfg["split"], cfg["classes"], cfg["first_label"])
        except DataError as error:
            yield "path", str(error)


def scan(folder: Path) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """Videos and class names below a folder, sorted.

    Raises:
        DataError: no video, or videos beside class folders.
    """
    flat = [VideoRecord(path) for path in _files(folder)]
    inside = {path.name: videos_in(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    classes = tuple(name for name, found in inside.items() if found)
    if not flat and not classes:
        near = nearest("mp4", {path.suffix[1:] for path in folder.rglob("*") if path.is_file()}, 1)
        hint = f"; it has .{near[0]} files" if near else ""
        raise DataError(
            f"folder {str(folder)!r} holds no video ({', '.join(VIDEO_SUFFIXES)}, or folders of images){hint}"
        )
    if flat and classes:
        raise DataError(
            f"folder {str(folder)!r} holds both videos ({flat[0].path.name}, ...) and class folders ({classes[0]}, ...)"
            ": move one of them"
        )
    if flat:
        return flat, ()
    return [VideoRecord(path, label) for label, name in enumerate(classes) for path in inside[name]], classes


def videos_in(folder: Path) -> list[Path]:
    """Files of videos and folders of frames below a folder, sorted."""
    found = _files(folder)
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        pictures = any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())
        found += [path] if pictures else videos_in(path)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file() and p.name[0] != "."
    )
