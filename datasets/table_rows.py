"""What tabular data sets share: rows of cells in memory, each with or without an image and a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset
from perception.datasets.captions import ImageSource
from perception.datasets.missingness import Masker, StoredMasks, build_masker
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.table_columns import Column, as_columns

ONLY = ("table", "image")


@dataclass(frozen=True)
class TableData:
    """Rows as read from a file.

    Attributes:
        table: (n, F) float32: units of a continuous column, codes of a categorical one, anything where missing.
        table_missing: (n, F) bool.
        table_columns: F columns.
        labels: (n,) int64, -1 for none, or float32 to predict a number, NaN for none; None without labels.
        classes: class names in label order.
        split: name of the split that the rows are of, "" for several.
    """

    table: np.ndarray
    table_missing: np.ndarray
    table_columns: tuple[Column, ...]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    split: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.table), len(self.table_columns))
        if self.table.shape != shape or self.table_missing.shape != shape:
            shapes = f"{self.table.shape} and {self.table_missing.shape}"
            raise DataError(f"cells and holes of shapes {shapes} do not fit {len(self.table_columns)} columns")

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: np.ndarray, split: str = "") -> TableData:
        """The given rows, in that order."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, table=self.table[rows], table_missing=self.table_missing[rows], labels=labels, split=split)


def take_away(
    data: TableData, parts: np.ndarray, rows: np.ndarray, missing: Mapping[str, Any] | Masker | StoredMasks
) -> tuple[np.ndarray, np.ndarray]:
    """What ``missing`` takes away from ``rows`` of a table: cells (n, F) bool and images (n,) bool.

    Every split is masked as a whole and with random numbers of its own, so that a row loses the same cells in whatever
    union of splits it is used.

    Args:
        data: all rows of all splits.
        parts: (all,) name of the split of every row.
        rows: (n,) the rows wanted.
        missing: a masker, or its config.
    """
    masker = build_masker(missing)
    train = np.flatnonzero(parts == "train")
    if not len(train) and isinstance(masker, Masker):
        if masker.strategy in ("MIFM", "LIFM", "MAR", "MNAR"):
            text = f"{masker.strategy} learns from training rows, of which this file has none: store the masks first"
            raise ConfigError([Fault("missing", masker.strategy, text)])
        train = rows
    masker.fit(data.take(train, "train"))
    cells, images = np.zeros(data.table.shape, dtype=bool), np.zeros(len(data), dtype=bool)
    for part in np.unique(parts[rows]).tolist():
        members = np.flatnonzero(parts == part)
        split = data.take(members, part)
        cells[members], images[members] = masker.mask(split), masker.image_mask(split)
    return cells[rows], images[rows]


class TableRows(Dataset):
    """Rows of a table in memory, with their images.

    Args:
        data: cells, holes, columns, labels.
        images: uint8 (n, C, H, W), a source that reads them when they are asked for, or None.
        image_missing: (n,) bool, rows without an image; their pixels are 0. None: there is one for every row.
        cells_gone: (n, F) bool, cells taken away beside those that are missing by nature.
        only: ``table`` or ``image`` leaves the other out of every batch; None gives both.
        transforms: see ``Dataset``. Those that need the columns' distributions, such as ``CorruptTable``, are shown
            the table.
        seed: see ``Dataset``.

    Attributes:
        table: (n, F) float32, 0 in missing cells.
        table_missing: (n, F) bool.
        table_columns: F columns.
        labels: as in ``TableData``.
        split: name of the split.
    """

    modality: ClassVar[str] = "tabular_image"

    def __init__(
        self,
        data: TableData,
        images: np.ndarray | ImageSource | None = None,
        image_missing: np.ndarray | None = None,
        cells_gone: np.ndarray | None = None,
        only: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        for key, text in only_faults(only):
            raise ConfigError([Fault(key, only, text)])
        if only == "image" and images is None:
            raise ConfigError([Fault("only", only, "this data set has no images")])
        self.table_columns = as_columns(data.table_columns)
        self.table_missing = data.table_missing if cells_gone is None else data.table_missing | cells_gone
        self.table = np.where(self.table_missing, np.float32(0), data.table).astype(np.float32)
        if not np.isfinite(self.table).all():
            row, place = np.argwhere(~np.isfinite(self.table))[0].tolist()
            raise DataError(f"row {row}, column {self.table_columns[place].name!r}: {self.table[row, place]}")
        self.labels = data.labels
        self.classes = data.classes
        self.split = data.split
        self.only = only
        self.images = images if only != "table" else None
        if self.images is not None and len(self.images) != len(self.table):
            raise DataError(f"{len(self.images)} images for a table of {len(self.table)} rows")
        self.image_missing = image_missing if image_missing is not None and image_missing.any() else None
        if self.image_missing is not None and isinstance(self.images, np.ndarray):
            self.images = self.images.copy()
            self.images[self.image_missing] = 0
        for transform in self.transform.transforms:
            see = getattr(transform, "see_table", None)
            if see is not None:
                see(self.table, self.table_missing)

    def __len__(self) -> int:
        return len(self.table)

    def fetch(self, indices: np.ndarray) -> Batch:
        """RAW batch: ``table`` (n, F) float32, ``table_missing`` (n, F) bool, ``table_columns``, ``index`` (n,).

        With images ``image`` (n, C, H, W) uint8, and ``image_missing`` (n,) bool where any row has none. With labels
        ``label`` (n,), int64 of a class or float32.
        """
        batch: Batch = {"index": torch.from_numpy(indices)}
        if self.only != "image":
            batch["table"] = torch.from_numpy(self.table[indices])
            batch["table_missing"] = torch.from_numpy(self.table_missing[indices])
            batch["table_columns"] = self.table_columns
        if isinstance(self.images, np.ndarray):
            batch["image"] = torch.from_numpy(self.images[indices])
        elif self.images is not None:
            batch["image"] = self.images.read(indices)
        if self.images is not None and self.image_missing is not None:
            batch["image_missing"] = torch.from_numpy(self.image_missing[indices])
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[indices])
        return batch


def only_faults(only: str | None) -> list[tuple[str, str]]:
    """Faults of the argument ``only``."""
    return [] if only is None or only in ONLY else [("only", f"{not_among(only, ONLY)}, and None for both")]
