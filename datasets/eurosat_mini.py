"""EuroSAT RGB in small: 1,000 Sentinel-2 tiles of 64 x 64 pixels in ten land-cover classes, held in memory."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import data_root
from perception.datasets.images import ArrayImages, check_split, decode_image, missing_files
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.image_resize import resize

AREA, INDEX_FILE = "remote_sensing/eurosat_rgb_1000", "index.csv"
HINT = "It must hold index.csv and images/<class>/*.jpg; the complete data set is read by EuroSAT."
COLUMNS = ("path", "label", "class_name", "split", "sha256")
MEAN, STD = (0.34526, 0.38081, 0.41008), (0.20229, 0.13864, 0.11738)  # of the 600 training tiles, in units of 255


@DATASETS.register_module()
class EuroSATMini(ArrayImages):
    """100 tiles of each class of EuroSAT ("EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land
    Cover Classification", Helber et al., 2019): red, green and blue are the bands B04, B03 and B02 of Sentinel-2.

    The splits are those of ``index.csv``, not published ones: 600 training, 100 validation and 300 test tiles.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: the tiles of ``train`` without labels.
        per_class: only so many tiles of every class, for fine-tuning on few labels.
        split_seed: which ones.
        size: height and width to which the tiles are resized; ``None`` keeps 64 x 64.
        interpolation: how, see ``ImagePreprocess``.
        verify: compare every file with its checksum.
        root: folder of ``index.csv``; ``None`` is ``$PERCEPTION_DATA/remote_sensing/eurosat_rgb_1000``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        bands: names of the channels.
        names: path of every tile below ``root``.
    """

    SPLITS = ("pretrain", "train", "val", "test")
    bands: ClassVar[tuple[str, ...]] = ("B04", "B03", "B02")

    def __init__(
        self,
        split: str = "train",
        per_class: int | None = None,
        split_seed: int = 0,
        size: int | None = None,
        interpolation: str = "bicubic",
        verify: bool = True,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        folder = data_root(root, AREA, HINT)
        rows, classes = read_index(folder / INDEX_FILE)
        wanted = "train" if split == "pretrain" else split
        rows = [row for row in rows if row["split"] == wanted]
        if not rows:
            raise DataError(f"{str(folder / INDEX_FILE)!r} has no rows of split {wanted!r}")
        if per_class is not None:
            rows = draw(rows, per_class, split_seed)
        images = np.stack([read_tile(folder, row, verify) for row in rows])
        if size is not None:
            images = resize(torch.from_numpy(images), (size, size), interpolation).numpy()
        labels = None if split == "pretrain" else np.array([int(row["label"]) for row in rows], dtype=np.int64)
        super().__init__(images, labels, classes, transforms, seed)
        self.split = split
        self.names = [row["path"] for row in rows]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, missing folder or index, a size below one pixel."""
        check_split(cfg["split"], cls.SPLITS)
        if isinstance(cfg["size"], int) and cfg["size"] < 1:
            yield "size", "must be a positive number of pixels"
        if cfg["per_class"] is not None and cfg["per_class"] < 1:
            yield "per_class", "must be at least 1, or None for all tiles"
        if cfg["split_seed"] < 0:
            yield "split_seed", "must not be negative"
        yield from missing_files(cfg, data_root(cfg["root"], AREA, HINT), (INDEX_FILE,))


def read_index(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of ``index.csv`` and the class names in label order.

    Raises:
        DataError: no such file, a column that is missing, a label that is no number or does not fit its class name.
    """
    if not path.is_file():
        raise DataError(f"file {str(path)!r} does not exist. {HINT}")
    with open(path, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{str(path)!r} lacks the columns {', '.join(missing)}")
        rows = list(reader)
    classes = sorted({row["class_name"] for row in rows})
    for line, row in enumerate(rows, start=2):
        if row["label"] != str(classes.index(row["class_name"])):
            text = f"label {row['label']!r} of class {row['class_name']!r} is not {classes.index(row['class_name'])}"
            raise DataError(f"{str(path)!r}, line {line}: {text}, its place among the sorted class names")
    return rows, classes


def draw(rows: list[dict[str, str]], per_class: int, seed: int) -> list[dict[str, str]]:
    """``per_class`` rows of every class, in the order of ``rows``; fewer rows of one ``seed`` are among the more.

    Raises:
        DataError: a class has fewer.
    """
    labels = np.array([int(row["label"]) for row in rows])
    kept: list[int] = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) < per_class:
            name = rows[own[0]]["class_name"]
            raise DataError(f"EuroSATMini: per_class = {per_class}, but class {name!r} has {len(own)} tiles")
        kept += np.random.default_rng([seed, label]).permutation(own)[:per_class].tolist()
    return [rows[place] for place in sorted(kept)]


def read_tile(folder: Path, row: dict[str, str], verify: bool) -> np.ndarray:
    """Tile of one row of the index, uint8 (3, H, W).

    Raises:
        DataError: the file is missing, damaged, or not the one that the checksum was taken of.
    """
    path = folder / row["path"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{str(path)!r}, listed in {INDEX_FILE}, cannot be read: {error.strerror}") from error
    if verify and hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError(f"{str(path)!r} is not the file that {INDEX_FILE} lists: its sha256 differs")
    return decode_image(data, str(path))
