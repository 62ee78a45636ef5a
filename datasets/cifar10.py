"""The full CIFAR-10 through torchvision, with its own download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from perception.datasets.images import ArrayImages, check_labels, check_split, stratified_split
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import Transform

SPLIT_SEED = 0


class TorchvisionCIFAR(ArrayImages):
    """A CIFAR set as torchvision reads it: the archive is pickled, so its checksums are verified before it is opened.

    Args:
        root: folder that holds, or will hold, the folder of the archive.
        split: one of ``SPLITS``.
        download: fetch the archive where it is missing; its checksum is verified by torchvision.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        TITLE: name in messages.
        READER: name of torchvision's class.
        FOLDER: folder of the unpacked archive.
    """

    TITLE: ClassVar[str]
    READER: ClassVar[str]
    FOLDER: ClassVar[str]
    SPLITS = ("pretrain", "train", "val", "train50000", "test")

    def __init__(
        self,
        root: str,
        split: str = "pretrain",
        download: bool = False,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        import torchvision

        check_split(split, self.SPLITS)
        folder = Path(root).expanduser()
        reader = getattr(torchvision.datasets, self.READER)
        try:
            source = reader(str(folder), train=split != "test", download=download)
        except (RuntimeError, OSError) as error:
            raise DataError(f"{self.TITLE} in {str(folder)!r} cannot be read: {error}. Set download=True.") from error
        images = source.data.transpose(0, 3, 1, 2)
        labels = check_labels(np.asarray(source.targets), len(images), len(source.classes), str(folder))
        rows = np.arange(len(images))
        if split in ("train", "val"):
            train, val = stratified_split(labels, (0.9,), SPLIT_SEED)
            rows = train if split == "train" else val
        chosen = None if split == "pretrain" else labels[rows]
        super().__init__(np.ascontiguousarray(images[rows]), chosen, source.classes, transforms, seed)
        self.split = split

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, files missing and not to be downloaded."""
        check_split(cfg["split"], cls.SPLITS)
        if not cfg["download"] and not (Path(cfg["root"]).expanduser() / cls.FOLDER).is_dir():
            yield "root", f"holds no folder {cls.FOLDER}; set download=True to fetch it"


@DATASETS.register_module()
class CIFAR10(TorchvisionCIFAR):
    """CIFAR-10 ("Learning Multiple Layers of Features from Tiny Images", Krizhevsky, 2009), 32 x 32 RGB.

    CIFAR-10 has no validation set: 5,000 of the 50,000 training images (500 per class, drawn by a fixed seed) are ours.

    Args:
        root: folder that holds, or will hold, ``cifar-10-batches-py``.
        split: ``train`` 45,000, ``val`` 5,000, ``train50000`` both, as published figures are made, ``test`` 10,000, or
            ``pretrain``: ``train`` and ``val`` without labels.
        download: fetch the archive (170 MB) where it is missing; its checksum is verified by torchvision.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    TITLE, READER, FOLDER = "CIFAR-10", "CIFAR10", "cifar-10-batches-py"
