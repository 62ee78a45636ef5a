"""Small real image sets of ``$PERCEPTION_DATA/image_small``: a CIFAR-10 subset and a Fashion-MNIST sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from perception.datasets.base import data_root, load_arrays
from perception.datasets.images import (
    ArrayImages,
    check_labels,
    check_rows,
    check_split,
    decode_packed,
    missing_files,
    stratified_split,
)
from perception.errors import ConfigError, DataError, Fault
from perception.registry import DATASETS
from perception.transforms.base import Transform

AREA = "image_small"
HINT = (
    "It must hold cifar10_train20000.npz, cifar10_test4000.npz, fashion_mnist_900.npz and splits.npz; "
    "without them use CIFAR10 (downloads) or Digits (embedded)."
)
TRAIN_FILE, TEST_FILE = "cifar10_train20000.npz", "cifar10_test4000.npz"
FASHION_FILE, SPLITS_FILE = "fashion_mnist_900.npz", "splits.npz"
LOWSHOT_COUNTS, LOWSHOT_SEEDS = (5, 25, 50), (0, 1, 2)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


@DATASETS.register_module()
class CIFARSmall(ArrayImages):
    """24,000 images of CIFAR-10 ("Learning Multiple Layers of Features from Tiny Images", Krizhevsky, 2009).

    They are 32 x 32 RGB and JPEG copies, so figures differ slightly from those on the original files.

    Args:
        split: ``pretrain`` all 20,000 training images without labels; ``train`` 4,500 and ``val`` 500 labelled ones
            of the first 5,000; ``train5000`` both together; ``test`` the first 1,000 test images; ``test4000`` all of
            them; ``lowshot`` a few images per class out of ``train``.
        per_class: images per class of ``lowshot``: 5, 25 or 50.
        split_seed: which of the three draws of ``lowshot``: 0, 1 or 2.
        root: folder of the files; ``None`` is ``$PERCEPTION_DATA/image_small``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("pretrain", "train", "val", "train5000", "test", "test4000", "lowshot")

    def __init__(
        self,
        split: str = "pretrain",
        per_class: int | None = None,
        split_seed: int = 0,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        faults = [
            Fault(key, {"split": split, "per_class": per_class, "split_seed": split_seed}[key], text)
            for key, text in self._split_faults(split, per_class, split_seed)
        ]
        if faults:
            raise ConfigError(faults, "CIFARSmall")
        folder = data_root(root, AREA, HINT)
        path = folder / (TEST_FILE if split.startswith("test") else TRAIN_FILE)
        arrays = load_arrays(path, ("jpeg_bytes", "offsets", "labels", "classes"))
        total = len(arrays["offsets"]) - 1
        labels = check_labels(arrays["labels"], total, len(arrays["classes"]), str(path))
        rows = np.arange({"test": 1000, "train5000": 5000}.get(split, total))
        if split in ("train", "val", "lowshot"):
            name = {"train": "cifar_fit_idx", "val": "cifar_val_idx"}.get(
                split, f"cifar_lowshot_{per_class}_seed{split_seed}"
            )
            rows = load_arrays(folder / SPLITS_FILE, (name,))[name]
        rows = check_rows(rows, total, str(path))
        images = decode_packed(arrays["jpeg_bytes"], arrays["offsets"], rows, str(path))
        chosen = None if split == "pretrain" else labels[rows]
        super().__init__(images, chosen, arrays["classes"].tolist(), transforms, seed)
        self.split = split

    @classmethod
    def _split_faults(cls, split: str, per_class: int | None, split_seed: int) -> Iterable[tuple[str, str]]:
        check_split(split, cls.SPLITS)
        if split == "lowshot" and per_class not in LOWSHOT_COUNTS:
            yield "per_class", f"must be one of {LOWSHOT_COUNTS} for split='lowshot'"
        if split != "lowshot" and per_class is not None:
            yield "per_class", f"has no meaning for split={split!r}, only for 'lowshot'"
        if split_seed not in LOWSHOT_SEEDS:
            yield "split_seed", f"must be one of {LOWSHOT_SEEDS}"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, missing folder or files."""
        yield from cls._split_faults(cfg["split"], cfg["per_class"], cfg["split_seed"])
        folder = data_root(cfg["root"], AREA, HINT)
        file = TEST_FILE if cfg["split"].startswith("test") else TRAIN_FILE
        yield from missing_files(cfg, folder, (file, SPLITS_FILE))


@DATASETS.register_module()
class FashionMNIST900(ArrayImages):
    """900 images of Fashion-MNIST (Xiao et al., 2017), 28 x 28 grey, 90 per class.

    Whether a tile comes from the original training or test set is unknown: use it as a set of its own only.

    Args:
        split: ``train`` 450 and ``val`` 150 images of the list's 600 training rows (stratified, fixed); ``test`` 300;
            ``all`` 900.
        root: folder of the files; ``None`` is ``$PERCEPTION_DATA/image_small``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("train", "val", "test", "all")

    def __init__(
        self,
        split: str = "train",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        folder = data_root(root, AREA, HINT)
        arrays = load_arrays(folder / FASHION_FILE, ("images", "labels", "classes"))
        images, source = arrays["images"], str(folder / FASHION_FILE)
        if images.ndim != 3 or images.dtype != np.uint8:
            raise DataError(f"{source} has images of {images.dtype} {images.shape}, not uint8 (n, 28, 28)")
        labels = check_labels(arrays["labels"], len(images), len(arrays["classes"]), source)
        rows = np.arange(len(images))
        if split != "all":
            lists = load_arrays(folder / SPLITS_FILE, ("fashion_train_idx", "fashion_test_idx"))
            rows = check_rows(
                lists["fashion_test_idx" if split == "test" else "fashion_train_idx"], len(images), source
            )
            if split != "test":
                train, val = stratified_split(labels[rows], (0.75,), seed=0)
                rows = rows[train if split == "train" else val]
        super().__init__(images[rows][:, None], labels[rows], arrays["classes"].tolist(), transforms, seed)
        self.split = split

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, missing folder or files."""
        check_split(cfg["split"], cls.SPLITS)
        yield from missing_files(cfg, data_root(cfg["root"], AREA, HINT), (FASHION_FILE, SPLITS_FILE))
