"""Leaves of 99 species: silhouettes and measured margins, shapes and textures, with unlabelled rows to pre-train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perception.datasets.base import load_arrays
from perception.datasets.caption_records import read_json
from perception.datasets.images import check_labels, check_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_images import packed_images
from perception.datasets.table_rows import TableData, TableRows, only_faults, take_away
from perception.datasets.tabular_sets import folder_faults, tabular_folder
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform
from perception.transforms.table_columns import Column

FILES = {
    "leaf99.npz": "1abd414dfd1977a29dc8d30a4154b12e7fd060142ba2905d319ef16bb4d60759",
    "meta.json": "2e7eef7a4cd55e40829500a12c66f68ef14cc6c44795180ff531a6808d14e11b",
}
GROUPS = ("margin", "shape", "texture")


@DATASETS.register_module()
class Leaf99(TableRows):
    """1,584 silhouettes of 64 x 64 pixels, one grey band, and up to 192 continuous columns ("Plant Leaf Classification
    Using Probabilistic Integration of Shape, Texture and Margin Features", Mallah et al., 2013).

    All columns together nearly solve it; the default 16 make both sides incomplete. Fixed splits: 6 train, 1 val and
    3 test leaves of every species; 594 rows have no label.

    Args:
        split: ``train``, ``val``, ``test``, ``unlabelled``, or ``pretrain``: ``train``, ``val`` and ``unlabelled``
            without labels.
        margin: number of the first columns of the 64 about the margin.
        shape: likewise about the shape.
        texture: likewise about the texture.
        size: height and width in pixels.
        missing: cells and images taken away, ``dict(strategy=..., rate=...)`` of ``Masker`` or ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        root: folder of the files; None is ``$PERCEPTION_DATA/tabular_image/leaf99``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        rows: (n,) number of every row in the file.
    """

    SPLITS = ("pretrain", "train", "val", "test", "unlabelled")

    def __init__(
        self,
        split: str = "train",
        margin: int = 16,
        shape: int = 0,
        texture: int = 0,
        size: int = 64,
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        folder = tabular_folder(root, "leaf99", FILES)
        meta = read_json(folder / "meta.json", ("classes", "columns"))
        arrays = load_arrays(folder / "leaf99.npz", ("image", "table", "label", "split"))
        wanted = {
            f"{name}{i}" for name, n in zip(GROUPS, (margin, shape, texture), strict=True) for i in range(1, n + 1)
        }
        places = [place for place, name in enumerate(meta["columns"]) if name in wanted]
        columns = tuple(Column(meta["columns"][place]) for place in places)
        parts = arrays["split"].astype(str)
        labels = check_labels(arrays["label"], len(parts), len(meta["classes"]), "leaf99.npz")
        classes = tuple(map(str, meta["classes"]))
        cells = arrays["table"][:, places].astype(np.float32)
        data = TableData(cells, ~np.isfinite(cells), columns, labels, classes)
        union = ("train", "val", "unlabelled") if split == "pretrain" else (split,)
        rows = np.flatnonzero(np.isin(parts, union))
        cells_gone = image_gone = None
        if missing is not None:
            cells_gone, image_gone = take_away(data, parts, rows, missing)
        if split in ("pretrain", "unlabelled"):
            data = replace(data, labels=None)
        pixels = None if only == "table" else packed_images(arrays, rows, "leaf99.npz", size)
        super().__init__(data.take(rows, split), pixels, image_gone, cells_gone, only, transforms, seed)
        self.rows = rows

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split, numbers of columns, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        for key in GROUPS:
            if not 0 <= cfg[key] <= 64:
                yield key, "must lie in 0 to 64"
        if not any(cfg[key] for key in GROUPS):
            yield "margin", "leaves the table without a column"
        yield from at_least(cfg, 1, "size")
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])
        yield from folder_faults(cfg["root"], "leaf99", FILES)
