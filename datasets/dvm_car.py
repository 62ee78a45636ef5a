"""DVM-Car as the public code of TIP lays it out: an advert a row, with a photo and seventeen columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.base import data_root
from perception.datasets.image_files import FileBytes, LazyImages
from perception.datasets.images import check_labels, check_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_rows import TableData, TableRows, only_faults, take_away
from perception.datasets.tabular_sets import AREA
from perception.errors import DataError
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform
from perception.transforms.table_columns import Column

NAME = "dvm_car"
HINT = (
    "DVM-Car: images and tables from https://deepvisualmarketing.github.io, put together by the notebook of TIP's "
    "public code; see the class's documentation for the files."
)
SUFFIXES = (".json", ".txt", ".npy")
CLASSES = 286


@DATASETS.register_module()
class DVMCar(TableRows):
    """Photos and facts of used cars ("DVM-CAR: A Large-Scale Automotive Dataset for Visual Marketing Research and
    Applications", Huang et al., 2022), 286 models, in the layout of TIP's public code.

    A folder with, for every split,

    * ``table``: a CSV without a header, a row an image, codes from 0 and numbers; an empty cell or ``nan`` is missing;
    * ``lengths``: a whole number for every column, the number of codes of a categorical one, 1 of a continuous one;
    * ``paths``: the image files, relative to the folder or absolute; ``labels``: whole numbers.

    The last three are ``.json`` (a list), ``.txt`` (a line each) or ``.npy``. The public code writes pickles (``.pt``),
    which could run code and are not read: convert each once, where you trust it, with
    ``json.dump([str(x) for x in torch.load(file, weights_only=True)], open(new, "w"))``, numbers by ``int(x)``.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: ``train`` without labels, as the paper pre-trains.
        size: height and width in pixels to which photos are brought.
        table: name of the table, ``{split}`` standing for the split.
        lengths: name of the list of lengths, without its suffix.
        paths: likewise of the image files.
        labels: likewise of the labels.
        columns: names of the columns in order; None calls them ``categorical_0`` ... and ``continuous_0`` ...
        classes: number of classes.
        keep: hold all photos in memory, 3.5 GB of the training split at 128 pixels; else they are read when asked for.
        missing: cells and images taken away, ``dict(strategy=..., rate=...)`` of ``Masker`` or ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        root: the folder; None is ``$PERCEPTION_DATA/tabular_image/dvm_car``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("pretrain", "train", "val", "test")

    def __init__(
        self,
        split: str = "train",
        size: int = 128,
        table: str = "dvm_features_{split}_noOH_all_views_physical_jittered_50_reordered.csv",
        lengths: str = "tabular_lengths_all_views_physical_reordered",
        paths: str = "{split}_paths_all_views",
        labels: str = "labels_model_all_{split}_all_views",
        columns: Sequence[str] | None = None,
        classes: int = CLASSES,
        keep: bool = False,
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        folder = data_root(root, f"{AREA}/{NAME}", HINT)
        part = "train" if split == "pretrain" else split
        sizes = [int(value) for value in _list(folder, lengths)]
        schema = _columns(sizes, columns)

        def read(name: str) -> TableData:
            cells = _cells(folder / table.format(split=name), schema)
            found = np.array([int(value) for value in _list(folder, labels.format(split=name))], dtype=np.int64)
            found = check_labels(found, len(cells), classes, labels.format(split=name))
            missing_cells = np.isnan(cells)
            names = tuple(str(number) for number in range(classes))
            return TableData(np.where(missing_cells, 0, cells), missing_cells, schema, found, names, name)

        data = read(part)
        cells_gone = image_gone = None
        if missing is not None:
            every = [data] if part == "train" else [read("train"), data]
            whole, parts = _joined(every)
            rows = np.flatnonzero(parts == part)
            cells_gone, image_gone = take_away(whole, parts, rows, missing)
        if split == "pretrain":
            data = TableData(data.table, data.table_missing, schema, None, data.classes, split)
        pixels = None
        if only != "table":
            files = [folder / name for name in _list(folder, paths.format(split=part))]
            if len(files) != len(data):
                raise DataError(f"{len(files)} image files, but {len(data)} rows in {table.format(split=part)!r}")
            lazy = LazyImages(FileBytes(files), size)
            pixels = lazy.load() if keep else lazy
        super().__init__(data, pixels, image_gone, cells_gone, only, transforms, seed)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split, choices that are none, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        yield from at_least(cfg, 1, "size", "classes")
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])
        folder = data_root(cfg["root"], f"{AREA}/{NAME}", HINT)
        part = "train" if cfg["split"] == "pretrain" else cfg["split"]
        name = cfg["table"].format(split=part)
        if not (folder / name).is_file():
            yield "table", f"{name} is not in {folder}"
        for key in ("lengths", "paths", "labels"):
            try:
                _list_file(folder, cfg[key].format(split=part))
            except DataError as error:
                yield key, str(error)


def _list_file(folder: Path, name: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    if (folder / f"{name}.pt").is_file():
        raise DataError(f"{name}.pt in {str(folder)!r} is a pickle, which is not read: convert it, see DVMCar")
    raise DataError(f"{name}{{{','.join(SUFFIXES)}}} is not in {str(folder)!r}")


def _list(folder: Path, name: str) -> list[Any]:
    path = _list_file(folder, name)
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).tolist()
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(found, list):
        raise DataError(f"{str(path)!r} holds no list")
    return found


def _columns(sizes: Sequence[int], names: Sequence[str] | None) -> tuple[Column, ...]:
    if names is not None and len(names) != len(sizes):
        raise DataError(f"{len(names)} names for {len(sizes)} columns")
    counts = {True: 0, False: 0}
    columns = []
    for place, size in enumerate(sizes):
        categorical = size != 1
        kind = "categorical" if categorical else "continuous"
        name = names[place] if names is not None else f"{kind}_{counts[categorical]}"
        counts[categorical] += 1
        columns.append(Column(name, kind, tuple(map(str, range(size))) if categorical else ()))
    return tuple(columns)


def _cells(path: Path, columns: Sequence[Column]) -> np.ndarray:
    """(n, F) float32, NaN where missing, of a CSV without a header."""
    import pandas

    try:
        frame = pandas.read_csv(path, header=None, dtype=np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"table {str(path)!r} cannot be read as numbers: {error}") from error
    cells = frame.to_numpy(dtype=np.float32)
    if cells.shape[1] != len(columns):
        raise DataError(f"table {str(path)!r} has {cells.shape[1]} columns, but there are {len(columns)} lengths")
    for place, column in enumerate(columns):
        if column.categorical:
            codes = cells[:, place]
            known = ~np.isnan(codes)
            wrong = np.flatnonzero(known & ((codes < 0) | (codes >= column.size) | (codes != np.floor(codes))))
            if len(wrong):
                raise DataError(
                    f"table {str(path)!r}, row {wrong[0]}, column {column.name!r}: {codes[wrong[0]]:g} is no code from "
                    f"0 to {column.size - 1}"
                )
    return cells


def _joined(parts: Sequence[TableData]) -> tuple[TableData, np.ndarray]:
    names = np.concatenate([np.full(len(part), part.split) for part in parts])
    table, missing = (np.concatenate([getattr(p, key) for p in parts]) for key in ("table", "table_missing"))
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    return TableData(table, missing, parts[0].table_columns, labels, parts[0].classes), names
