"""Tables of one's own, with or without images: one block of config says which column is what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.datasets.base import load_arrays
from perception.datasets.captions import ImageSource
from perception.datasets.image_files import FileBytes, LazyImages, area_fit
from perception.datasets.images import decode_image, decode_packed
from perception.datasets.missingness import missing_faults
from perception.datasets.table_files import MISSING_VALUES, RawTable, infer_kinds, read_table, schema_text, table_data
from perception.datasets.table_rows import TableRows, only_faults, take_away
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.registry import DATASETS
from perception.transforms.base import Transform

TARGETS = ("class", "number")
ON_MISSING_IMAGE = ("error", "drop", "blank")
ON_MISSING_LABEL = ("error", "drop", "keep")


@DATASETS.register_module()
class TableImages(TableRows):
    """Rows of a ``.csv``, ``.tsv``, ``.parquet`` or ``.npz`` file or a DataFrame, each with an image file if wanted.

    What is left out or blanked is counted in the log. Whatever a cell, label, id or image is wrong with names the file,
    the row (counted from 0) and the column.

    Args:
        file: the table; see ``read_table``.
        image: column with the paths of image files. With ``images='<file>.npz'``, or a ``.npz`` table that holds the
            array ``image``, leave it out: image i is that of row i.
        images: folder that the paths start from, by default that of the table; or a ``.npz`` with ``image`` uint8
            (n, H, W) or (n, H, W, 3), or with JPEG or PNG bytes, ``data`` and ``offset`` (n + 1,).
        id: column that must hold another value in every row.
        label: column to predict. None: there are no labels.
        target: ``class``, or ``number`` for regression.
        classes: names of the classes in label order; None takes all values of the column, in order.
        columns: kind of every column that the model sees: ``continuous``, ``categorical`` or ``ignore``. None infers
            them from all rows and prints them in a form that can be pasted here and edited.
        split: the value, or several, of ``split_column`` whose rows are taken; None takes all rows.
        split_column: column with the names of the splits; strategies of ``missing`` that learn do so from ``train``.
        size: height and width of the images in pixels. None: they are all of one size, or transforms see to it.
        grey: read images as one grey band.
        keep: decode all images once and hold them in memory; else they are read when they are asked for, by ``size``.
        missing_values: texts that stand for a missing cell.
        separator: between the cells of a ``.csv``.
        on_missing_image: rows whose image is not named or not there are an ``error``, are left out (``drop``), or have
            a ``blank`` one and ``image_missing`` set.
        on_missing_label: rows without a label are an ``error``, are left out (``drop``), or are kept unlabelled
            (``keep``: -1, or NaN for a number).
        labels: give the labels; without, as for pre-training, only ``missing`` may look at them.
        missing: what is taken away besides, ``dict(strategy=..., rate=...)`` of ``Masker``, or ``dict(file=...)``.
        only: see ``TableRows``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        rows: (n,) number of every row in the file.
        ids: (n,) texts of the column ``id``; empty without.
        kinds: kind of every column that the model sees.
    """

    def __init__(
        self,
        file: Any,
        image: str | None = None,
        images: str | None = None,
        id: str | None = None,
        label: str | None = None,
        target: str = "class",
        classes: Sequence[str] | None = None,
        columns: Mapping[str, str] | None = None,
        split: str | Sequence[str] | None = None,
        split_column: str = "split",
        size: int | None = None,
        grey: bool = False,
        keep: bool = True,
        missing_values: Sequence[str] = MISSING_VALUES,
        separator: str = ",",
        on_missing_image: str = "error",
        on_missing_label: str = "error",
        labels: bool = True,
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        faults = [Fault(key, given.get(key.split(".")[0]), text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "TableImages")
        table = read_table(file, separator, missing_values)
        taken = [name for name in (image, id, label, None if split is None else split_column) if name is not None]
        self.kinds = dict(columns) if columns is not None else infer_kinds(table, [*taken, split_column])
        if columns is None:
            text = f"{table.source}: kinds of columns were inferred; look at them and paste them into the config\n"
            print_log(text + schema_text(table, self.kinds), logger="current")
        own = [name for name in taken if self.kinds.get(name, "ignore") != "ignore"]
        if own:
            raise ConfigError([Fault("columns", own[0], "is the image, id, label or split of the rows, not an input")])
        data = table_data(table, self.kinds, label, target, classes)
        parts, rows = _rows_of(table, split, split_column)
        names = _ids(table, id)
        if labels:
            rows = _labelled(table, data.labels, rows, label, on_missing_label)
        folder = Path(file).expanduser().parent if isinstance(file, (str, Path)) else Path()
        pixels: np.ndarray | ImageSource | None = None
        gone = np.zeros(len(table), dtype=bool)
        if only != "table":
            source = _Images(table, image, images, folder, size, grey)
            gone = source.missing(rows, on_missing_image)
            if on_missing_image == "drop" and gone.any():
                rows = rows[~gone[rows]]
            pixels = source.read(rows, gone, keep)
        if not len(rows):
            raise DataError(f"{table.source}: no row is left")
        cells_gone, image_gone = None, gone[rows]
        if missing is not None:
            cells_gone, taken_away = take_away(data, parts, rows, missing)
            image_gone = image_gone | taken_away
        if not labels:
            data = replace(data, labels=None)
        told = split if isinstance(split, str) else "+".join(split or ["all"])
        super().__init__(data.take(rows, told), pixels, image_gone, cells_gone, only, transforms, seed)
        self.rows = rows
        self.ids = tuple(names[rows].tolist()) if names is not None else ()

    @classmethod
    def _faults(cls, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if cfg["target"] not in TARGETS:
            yield "target", not_among(cfg["target"], TARGETS)
        if cfg["on_missing_image"] not in ON_MISSING_IMAGE:
            yield "on_missing_image", not_among(cfg["on_missing_image"], ON_MISSING_IMAGE)
        if cfg["on_missing_label"] not in ON_MISSING_LABEL:
            yield "on_missing_label", not_among(cfg["on_missing_label"], ON_MISSING_LABEL)
        if cfg["size"] is not None and cfg["size"] < 1:
            yield "size", "must be positive"
        if cfg["size"] is None and cfg["image"] is not None:
            yield "size", "image files need a size in pixels"
        if cfg["target"] == "number" and cfg["classes"] is not None:
            yield "classes", "is for target='class'"
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown choices, a table that is not there."""
        yield from cls._faults(cfg)
        if isinstance(cfg["file"], str) and not Path(cfg["file"]).expanduser().is_file():
            yield "file", "does not exist"


def _rows_of(table: RawTable, split: str | Sequence[str] | None, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Name of the split of every row, and the rows wanted."""
    if split is None:
        return np.full(len(table), "all"), np.arange(len(table))
    parts = table.texts(column, "split_column").astype(str)
    wanted = [split] if isinstance(split, str) else list(split)
    known = np.unique(parts).tolist()
    wrong = [name for name in wanted if name not in known]
    if wrong:
        raise ConfigError([Fault("split", wrong[0], f"{not_among(wrong[0], known)} (column {column!r})")])
    return parts, np.flatnonzero(np.isin(parts, wanted))


def _ids(table: RawTable, column: str | None) -> np.ndarray | None:
    if column is None:
        return None
    names = table.texts(column, "id")
    holes = np.flatnonzero(table.missing[column])
    if len(holes):
        raise DataError(f"{table.source}, row {holes[0]}, column {column!r}: the id is missing")
    found, first, counts = np.unique(names.astype(str), return_index=True, return_counts=True)
    if len(found) < len(names):
        twice = int(np.argmax(counts > 1))
        again = next(row for row in np.flatnonzero(names == found[twice]).tolist() if row != first[twice])
        raise DataError(
            f"{table.source}, row {again}, column {column!r}: id {str(found[twice])!r} is already that of row "
            f"{first[twice]} ({int((counts > 1).sum())} ids occur more than once)"
        )
    return names


def _labelled(
    table: RawTable, labels: np.ndarray | None, rows: np.ndarray, column: str | None, policy: str
) -> np.ndarray:
    """The rows that stay, by what is to happen to those without a label."""
    if labels is None:
        return rows
    without = np.isnan(labels[rows]) if labels.dtype.kind == "f" else labels[rows] < 0
    if not without.any():
        return rows
    count, first = int(without.sum()), int(rows[np.argmax(without)])
    if policy == "error":
        raise DataError(
            f"{table.source}, row {first}, column {column!r}: the label is missing ({count} of {len(rows)} rows have "
            "none); on_missing_label='drop' leaves them out, 'keep' keeps them unlabelled"
        )
    what = "left out" if policy == "drop" else "kept unlabelled"
    print_log(f"{table.source}: {what} {count} of {len(rows)} rows without a label", logger="current", level=30)
    return rows[~without] if policy == "drop" else rows


class _Images:
    """Where the images of a table come from, by row."""

    def __init__(
        self,
        table: RawTable,
        column: str | None,
        images: str | None,
        folder: Path,
        size: int | None,
        grey: bool,
    ) -> None:
        self.table, self.column, self.size, self.grey = table, column, size, grey
        self.packed: dict[str, np.ndarray] | None = None
        self.paths: list[Path] = []
        self.place = folder if images is None else Path(images).expanduser()
        if images is not None and self.place.suffix.lower() == ".npz":
            self.packed = load_arrays(self.place)
        elif column is None and {"image", "data"} & set(table.arrays):
            self.packed, self.place = table.arrays, Path(table.source)
        elif column is not None:
            self.paths = [self.place / name for name in table.texts(column, "image")]
        if self.packed is not None:
            self._check_packed()

    @property
    def some(self) -> bool:
        """Whether there are images at all."""
        return self.packed is not None or bool(self.paths)

    def _check_packed(self) -> None:
        assert self.packed is not None
        if "image" in self.packed:
            count = len(self.packed["image"])
            if self.packed["image"].dtype != np.uint8 or self.packed["image"].ndim not in (3, 4):
                shape = self.packed["image"].shape
                raise DataError(f"{self.place}: 'image' must be uint8 (n, H, W) or (n, H, W, C), not {shape}")
        elif {"data", "offset"} <= set(self.packed):
            count = len(self.packed["offset"]) - 1
        else:
            raise DataError(f"{self.place} holds neither 'image' nor 'data' and 'offset', only {sorted(self.packed)}")
        if count != len(self.table):
            raise DataError(f"{self.place} holds {count} images, but {self.table.source} has {len(self.table)} rows")

    def missing(self, rows: np.ndarray, policy: str) -> np.ndarray:
        """(all rows,) bool, True where one of ``rows`` has no image."""
        gone = np.zeros(len(self.table), dtype=bool)
        if self.column is None or not self.paths:
            return gone
        unnamed = self.table.missing[self.column]
        gone[rows] = [bool(unnamed[row]) or not self.paths[row].is_file() for row in rows.tolist()]
        if not gone.any():
            return gone
        first, count = int(np.argmax(gone)), int(gone.sum())
        if policy == "error":
            what = "no image is named" if unnamed[first] else f"no file {str(self.paths[first])!r}"
            raise DataError(
                f"{self.table.source}, row {first}, column {self.column!r}: {what} ({count} of {len(rows)} rows lack "
                "their image); on_missing_image='drop' leaves them out, 'blank' keeps them without"
            )
        text = f"{self.table.source}: {'left out' if policy == 'drop' else 'blanked'} {count} of {len(rows)} rows"
        print_log(f"{text} without an image", logger="current", level=30)
        return gone

    def read(self, rows: np.ndarray, gone: np.ndarray, keep: bool) -> np.ndarray | ImageSource | None:
        """Images of ``rows``: (n, C, H, W) uint8, or with ``keep=False`` of files what reads them."""
        if not self.some:
            return None
        if self.packed is not None:
            return packed_images(self.packed, rows, str(self.place), self.size, self.grey)
        files = FileBytes([self.paths[row] for row in rows.tolist()])
        lazy = _FilesOrBlank(files, gone[rows], self.size or 1, self.grey)
        return lazy.load() if keep else lazy


class _FilesOrBlank(LazyImages):
    """Image files, and black images where there is none."""

    def __init__(self, source: FileBytes, gone: np.ndarray, size: int, grey: bool) -> None:
        super().__init__(source, size, decode=partial(decode_image, grey=grey))
        self.gone, self.bands, self.side = gone, 1 if grey else 3, size

    def one(self, index: int) -> np.ndarray:
        """The image at ``index``: (C, size, size) uint8."""
        return np.zeros((self.bands, self.side, self.side), np.uint8) if self.gone[index] else super().one(index)


def packed_images(
    arrays: Mapping[str, np.ndarray], rows: np.ndarray, source: str, size: int | None, grey: bool = False
) -> np.ndarray:
    """Images (n, C, H, W) uint8 of ``rows`` out of ``image`` (all, H, W[, C]), or of ``data`` and ``offset``."""
    if "image" not in arrays:
        return fit_all(decode_packed(arrays["data"], arrays["offset"], rows, source, grey), size)
    found = arrays["image"][rows]
    return fit_all(found[:, None] if found.ndim == 3 else np.ascontiguousarray(found.transpose(0, 3, 1, 2)), size)


def fit_all(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 (n, C, H, W) -> (n, C, size, size) by ``area_fit``; None leaves them as they are."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    fitted = [area_fit(image.transpose(1, 2, 0), size) for image in images]
    return np.ascontiguousarray(np.stack(fitted).transpose(0, 3, 1, 2))
