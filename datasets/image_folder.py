"""A user's own images: one line of config."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log

from perception.datasets.base import Dataset
from perception.datasets.images import check_split, decode_image, stratified_split
from perception.errors import DataError, nearest
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.image_preprocess import fit
from perception.transforms.preprocess import Batch

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@DATASETS.register_module()
class ImageFolder(Dataset):
    """Images below a folder, read when they are asked for.

    With sub-folders, their sorted names are the classes (``root/cat/1.jpg``); a flat folder is unlabelled.

    Args:
        root: the folder.
        split: a sub-folder of ``root`` to read instead, such as ``train`` (ImageNet's layout), or, where ``root`` has
            no such sub-folder, one of ``train``, ``val`` and ``test``: 70, 15 and 15 % of every class, drawn by a fixed
            seed. ``None`` takes everything.
        size: height and width to which every image is scaled and centre-cropped; one number is a square. ``None`` gives
            images as they are, in a list, to a transform that cuts them to size.
        crop_fraction: see ``ImagePreprocess``.
        interpolation: see ``ImagePreprocess``.
        grey: read one grey band instead of RGB.
        labels: give the labels of the sub-folders. False for pre-training on them all alike.
        on_error: ``raise`` stops at an image that cannot be read; ``skip`` reads every image once at construction,
            leaves out those that fail and reports their number and names.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        root: str,
        split: str | None = None,
        size: int | Sequence[int] | None = None,
        crop_fraction: float = 1.0,
        interpolation: str = "bicubic",
        grey: bool = False,
        labels: bool = True,
        on_error: str = "raise",
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        check_split(on_error, ("raise", "skip"))
        self.size = None if size is None else ((size, size) if isinstance(size, int) else (int(size[0]), int(size[1])))
        self.crop_fraction, self.interpolation, self.grey = crop_fraction, interpolation, grey
        folder = find_folder(root, split)
        files, targets, classes = scan(folder)
        if split is not None and folder == Path(root).expanduser():
            parts = stratified_split(np.asarray(targets), (0.7, 0.15), seed=0)
            chosen = parts[("train", "val", "test").index(split)]
            files, targets = [files[i] for i in chosen], [targets[i] for i in chosen]
            if not files:
                raise DataError(f"split {split!r} of {str(folder)!r} is empty: there are too few images to share out")
        self.files, self.targets = files, np.asarray(targets, dtype=np.int64)
        self.classes = classes if labels else ()
        self.labelled = labels and bool(classes)
        self.skipped: list[Path] = []
        if on_error == "skip":
            self._leave_out_unreadable(folder)

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` uint8 (n, C, H, W), or a list of (C, H, W) without ``size``; ``index`` and, if known, ``label``."""
        images = [self._read(int(i)) for i in indices]
        batch: Batch = {"image": images if self.size is None else torch.stack(images)}
        batch["index"] = torch.from_numpy(indices)
        if self.labelled:
            batch["label"] = torch.from_numpy(self.targets[indices])
        return batch

    def _read(self, index: int) -> torch.Tensor:
        path = self.files[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"image {str(path)!r} cannot be read: {error.strerror}") from error
        image = torch.from_numpy(decode_image(data, f"image {str(path)!r}", self.grey))
        return image if self.size is None else fit(image, self.size, self.interpolation, self.crop_fraction)

    def _leave_out_unreadable(self, folder: Path) -> None:
        good = []
        for index, path in enumerate(self.files):
            try:
                self._read(index)
            except DataError:
                self.skipped.append(path)
            else:
                good.append(index)
        if not good:
            raise DataError(f"none of the {len(self.files)} images in {str(folder)!r} can be read")
        if self.skipped:
            names = ", ".join(path.name for path in self.skipped[:5])
            more = "" if len(self.skipped) <= 5 else f" and {len(self.skipped) - 5} more"
            text = f"{str(folder)!r}: left out {len(self.skipped)} of {len(self.files)} images: {names}{more}"
            print_log(text, logger="current", level=30)  # logging.WARNING
            self.files = [self.files[i] for i in good]
            self.targets = self.targets[good]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: missing or empty folder, unknown split or policy."""
        if cfg["on_error"] not in ("raise", "skip"):
            yield "on_error", "must be 'raise' or 'skip'"
        if not 0 < cfg["crop_fraction"] <= 1:
            yield "crop_fraction", "must lie in (0, 1]"
        try:
            folder = find_folder(cfg["root"], cfg["split"])
        except DataError as error:
            yield "root", str(error)
            return
        if not any(p.suffix.lower() in EXTENSIONS for p in folder.rglob("*")):  # stops at the first: it may be ImageNet
            yield "root", f"{str(folder)!r} holds no image ({', '.join(EXTENSIONS)})"


def find_folder(root: str, split: str | None) -> Path:
    """``root``, or its sub-folder ``split`` if it has one.

    Raises:
        DataError: no such folder, or a split that is neither a sub-folder nor one of ours.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        parent = folder.parent
        beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        near = nearest(folder.name, beside)
        hint = f"; there is {', '.join(str(parent / name) for name in near)}" if near else ""
        raise DataError(f"folder {str(folder)!r} does not exist{hint}")
    if split is None:
        return folder
    if (folder / split).is_dir():
        return folder / split
    if split not in ("train", "val", "test"):
        beside = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise DataError(
            f"split {split!r} is no sub-folder of {str(folder)!r} (it has {beside[:10]}) nor 'train', 'val' or 'test'"
        )
    return folder


def scan(folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Files, labels (-1 in a flat folder) and class names of a folder, all sorted.

    Raises:
        DataError: no image, or images beside class folders.
    """
    directories = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    flat = images_in(folder, recursive=False)
    by_class = [(d.name, images_in(d, recursive=True)) for d in directories]
    by_class = [(name, files) for name, files in by_class if files]
    if not flat and not by_class:
        raise DataError(f"folder {str(folder)!r} holds no image ({', '.join(EXTENSIONS)})")
    if flat and by_class:
        raise DataError(
            f"folder {str(folder)!r} holds both images ({flat[0].name}, ...) and class folders ({by_class[0][0]}, ...)"
            ": move one of them"
        )
    if flat:
        return flat, [-1] * len(flat), ()
    files = [path for _, paths in by_class for path in paths]
    labels = [label for label, (_, paths) in enumerate(by_class) for _ in paths]
    return files, labels, tuple(name for name, _ in by_class)


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """Image files of a folder in sorted order."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(p for p in found if p.suffix.lower() in EXTENSIONS and p.is_file() and not p.name.startswith("."))
