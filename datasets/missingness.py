"""Cells taken away from tables by exact recipes, so that methods can be compared at one rate of missing cells.

Random values, random features, the most and the least important features first are those of "TIP: Tabular-Image
Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from perception.datasets.base import load_arrays
from perception.errors import DataError, check_arguments, not_among
from perception.transforms.table_columns import Column

STRATEGIES = ("RVM", "RFM", "MIFM", "LIFM", "MCAR", "MAR", "MNAR", "whole-table", "whole-image", "natural")
REFERENCE_SEEDS = {"train": 2021, "val": 2022, "test": 2023}
REFERENCE_SEED = 2022
TREES = 100
_SLOPE = 2.0  # of the logistic function of MAR, per standard deviation of the column that it depends on
_rankings: dict[tuple[str, int], np.ndarray] = {}


class TableSplit(Protocol):
    """Rows of one split; data sets with tables are such."""

    @property
    def table(self) -> np.ndarray:
        """(M, N) float32 raw cells."""

    @property
    def table_missing(self) -> np.ndarray:
        """(M, N) bool, what is missing by nature."""

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """N columns."""

    @property
    def labels(self) -> np.ndarray | None:
        """(M,) int64 or float32; -1 and NaN stand for none."""

    @property
    def split(self) -> str:
        """Name of the split."""


class Masker:
    """Says which cells are taken away: ``Masker(strategy, rate, seed).fit(train).mask(split)``.

    A mask depends on the strategy, the rate, the seed and the table alone, never on the run's seed: all methods and all
    runs get the same one. Labels are never touched. What is missing by nature stays so, whatever the mask says.

    ============= =====================================================================================
    ``RVM``       int(M N rate) of the M x N cells of a split, anywhere
    ``RFM``       int(N rate) columns, the same in every split
    ``MIFM``      the int(N rate) columns that matter most to a random forest on the training rows
    ``LIFM``      those that matter least
    ``MCAR``      every cell with probability ``rate``
    ``MAR``       every cell with a probability that rises with one other column, ``driver``, which is kept; on the
                  training rows it is ``rate`` on average
    ``MNAR``      of every column the int(M rate) largest values; of a categorical one the rarest categories
    whole-table   all cells of int(M rate) rows
    whole-image   no cell; the images of int(M rate) rows (``image_mask``)
    ``natural``   nothing: what is missing by nature
    ============= =====================================================================================

    Args:
        strategy: one of these.
        rate: share from 0 to 1 that is taken away. int() cuts off: 0.1 of 17 columns is 1.
        seed: base from which every split's seed is derived. ``None`` takes those of the reference code: 2021, 2022 and
            2023 for ``RVM`` on train, val and test, 2022 for ``RFM`` and the forest.
        driver: name of the column that ``MAR`` depends on; ``None`` is the column with the fewest holes in the training
            rows, the first of equals, continuous ones before categorical ones.
    """

    def __init__(self, strategy: str, rate: float = 0.0, seed: int | None = None, driver: str | None = None) -> None:
        check_arguments("missing", self.check_config, locals())
        self.strategy, self.rate, self.seed, self.driver = strategy, float(rate), seed, driver
        self._train: TableSplit | None = None
        self._order: np.ndarray | None = None
        self._mar: tuple[int, float, float, float] | None = None
        self._rarity: list[np.ndarray] = []

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if cfg["strategy"] not in STRATEGIES:
            yield "strategy", f"is {not_among(cfg['strategy'], STRATEGIES)}"
        rate = cfg.get("rate", 0.0)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            yield "rate", "must be a share from 0 to 1"
        seed = cfg.get("seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            yield "seed", "must be a whole number from 0, or None for the seeds of the reference"
        if cfg.get("driver") is not None and cfg["strategy"] != "MAR":
            yield "driver", "is for the strategy MAR"

    def fit(self, train: TableSplit) -> Masker:
        """Take from the training rows what the strategy needs: a ranking of columns, frequencies, a slope.

        Raises:
            DataError: no labels to rank columns by, or no column that MAR could depend on.
        """
        self._train = train
        if self.strategy in ("MIFM", "LIFM"):
            self._order = importance_order(train, REFERENCE_SEED if self.seed is None else self.seed)
        if self.strategy == "MAR":
            self._mar = self._logistic(train)
        if self.strategy == "MNAR":
            self._rarity = [_rarity(train, j) for j in range(train.table.shape[1])]
        return self

    def mask(self, split: TableSplit, name: str | None = None) -> np.ndarray:
        """(M, N) bool, True where a cell of ``split`` is taken away.

        Args:
            split: rows with the columns of the training rows.
            name: of the split, on which its random numbers depend; ``None`` is ``split.split``.

        Raises:
            DataError: ``fit`` was not called, or the columns are others than those of the training rows.
        """
        if self._train is None:
            raise DataError("the Masker has seen no training rows yet: call fit(train) before mask(split)")
        if [c.name for c in split.table_columns] != [c.name for c in self._train.table_columns]:
            raise DataError("the columns to mask are others than those of the training rows")
        rows, columns = split.table.shape
        name = split.split if name is None else name
        random = self._random(name)
        gone = np.zeros((rows, columns), dtype=bool)
        if self.strategy == "RVM":
            chosen = random.choice(rows * columns, size=int(rows * columns * self.rate), replace=False)
            gone.reshape(-1)[chosen] = True
        elif self.strategy == "RFM":
            shared = np.random.RandomState(REFERENCE_SEED if self.seed is None else self.seed)
            gone[:, shared.choice(columns, size=int(columns * self.rate), replace=False)] = True
        elif self.strategy in ("MIFM", "LIFM"):
            order = self._order if self.strategy == "MIFM" else self._order[::-1]  # type: ignore[index]
            gone[:, order[: int(columns * self.rate)]] = True  # type: ignore[index]
        elif self.strategy == "MCAR":
            gone = random.random_sample((rows, columns)) < self.rate
        elif self.strategy == "MAR":
            gone = self._at_random(split, random)
        elif self.strategy == "MNAR":
            gone = self._by_value(split, random)
        elif self.strategy == "whole-table":
            gone[random.choice(rows, size=int(rows * self.rate), replace=False)] = True
        return gone

    def image_mask(self, split: TableSplit, name: str | None = None) -> np.ndarray:
        """(M,) bool, True where the image of a row is taken away: only ever by ``whole-image``."""
        rows = len(split.table)
        gone = np.zeros(rows, dtype=bool)
        if self.strategy == "whole-image":
            random = self._random(split.split if name is None else name)
            gone[random.choice(rows, size=int(rows * self.rate), replace=False)] = True
        return gone

    def _random(self, split: str) -> np.random.RandomState:
        # RandomState's numbers are the same in every release of numpy, which those of Generator need not be.
        if self.seed is None and split in REFERENCE_SEEDS:
            return np.random.RandomState(REFERENCE_SEEDS[split])
        return np.random.RandomState([self.seed or 0, zlib.crc32(split.encode())])

    def _logistic(self, train: TableSplit) -> tuple[int, float, float, float]:
        """Place, mean and deviation of the column that MAR depends on, and the offset that makes the rate right."""
        names = [column.name for column in train.table_columns]
        if len(names) < 2:
            raise DataError("MAR needs a second column on which it can depend")
        holes = train.table_missing.sum(0)
        if self.driver is not None and self.driver not in names:
            raise DataError(f"MAR: driver {self.driver!r} is {not_among(self.driver, names)}")
        best = min(range(len(names)), key=lambda j: (holes[j], train.table_columns[j].categorical, j))
        place = best if self.driver is None else names.index(self.driver)
        cells = train.table[~train.table_missing[:, place], place].astype(np.float64)
        if not len(cells):
            raise DataError(f"MAR: column {names[place]!r} has no value in the training rows")
        mean, std = float(cells.mean()), float(cells.std()) or 1.0
        if self.rate in (0.0, 1.0):
            return place, mean, std, -np.inf if self.rate == 0.0 else np.inf
        scores = _SLOPE * self._standard(train, place, mean, std)
        low, high = -60.0 - np.abs(scores).max(), 60.0 + np.abs(scores).max()
        for _ in range(200):
            offset = (low + high) / 2
            low, high = (offset, high) if _sigmoid(scores + offset).mean() < self.rate else (low, offset)
        return place, mean, std, offset

    @staticmethod
    def _standard(split: TableSplit, place: int, mean: float, std: float) -> np.ndarray:
        scores = (split.table[:, place].astype(np.float64) - mean) / std
        return np.where(split.table_missing[:, place], 0.0, scores)  # a hole in the driver counts as its mean

    def _at_random(self, split: TableSplit, random: np.random.RandomState) -> np.ndarray:
        assert self._mar is not None
        place, mean, std, offset = self._mar
        chance = _sigmoid(_SLOPE * self._standard(split, place, mean, std) + offset)
        gone = random.random_sample(split.table.shape) < chance[:, None]
        gone[:, place] = False
        return gone

    def _by_value(self, split: TableSplit, random: np.random.RandomState) -> np.ndarray:
        rows, columns = split.table.shape
        gone = np.zeros((rows, columns), dtype=bool)
        for j, column in enumerate(split.table_columns):
            score = split.table[:, j].astype(np.float64)
            if column.categorical:
                train = self._train.table_columns[j].categories  # type: ignore[union-attr]
                rare = dict(zip(train, self._rarity[j], strict=False))
                score = np.array([rare.get(c, np.inf) for c in column.categories] or [0.0])[score.astype(int)]
            score[split.table_missing[:, j]] = -np.inf  # what is missing already comes last
            ties = random.random_sample(rows)
            gone[np.lexsort(np.stack([ties, -score]))[: int(rows * self.rate)], j] = True
        return gone

    def save(self, path: str | Path, splits: Iterable[TableSplit]) -> Path:
        """Write the masks of some splits to a ``.npz``, atomically, with what they were made by and of."""
        arrays: dict[str, np.ndarray] = {
            "strategy": np.array(self.strategy),
            "rate": np.array(self.rate),
            "seed": np.array(-1 if self.seed is None else self.seed),  # -1: those of the reference
        }
        for split in splits:
            arrays["columns"] = np.array([column.name for column in split.table_columns])
            arrays[f"{split.split}_cells"] = self.mask(split)
            arrays[f"{split.split}_images"] = self.image_mask(split)
            arrays[f"{split.split}_checksum"] = np.array(table_checksum(split))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as handle:
                np.savez(handle, **arrays)  # type: ignore[arg-type]
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


class StoredMasks:
    """Masks that ``Masker.save`` wrote, held against the table that they were made for.

    Args:
        file: the ``.npz``.
    """

    def __init__(self, file: str | Path) -> None:
        self.path = Path(file)
        self.arrays = load_arrays(self.path, ("strategy", "rate", "seed", "columns"))

    def fit(self, train: TableSplit) -> StoredMasks:
        """Nothing is left to learn."""
        return self

    def mask(self, split: TableSplit, name: str | None = None) -> np.ndarray:
        """(M, N) bool; see ``Masker``.

        Raises:
            DataError: no masks of this split, or they belong to another table.
        """
        return self._of(split, name, "cells", split.table.shape)

    def image_mask(self, split: TableSplit, name: str | None = None) -> np.ndarray:
        """(M,) bool; see ``Masker``."""
        return self._of(split, name, "images", (len(split.table),))

    def _of(self, split: TableSplit, name: str | None, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        name = split.split if name is None else name
        known = sorted(key.removesuffix("_cells") for key in self.arrays if key.endswith("_cells"))
        if name not in known:
            raise DataError(f"{str(self.path)!r} holds no masks of the split {name!r}, only of {', '.join(known)}")
        if str(self.arrays[f"{name}_checksum"]) != table_checksum(split):
            raise DataError(
                f"{str(self.path)!r}: the masks of {name!r} were made for another table than this one (its SHA-256 "
                "differs): make them again"
            )
        mask = self.arrays[f"{name}_{kind}"]
        if mask.shape != shape or mask.dtype != bool:
            raise DataError(f"{str(self.path)!r}: {name}_{kind} is {mask.dtype} {mask.shape}, not bool {shape}")
        return mask


def build_masker(config: Mapping[str, Any] | Masker | StoredMasks) -> Masker | StoredMasks:
    """From ``dict(strategy=..., rate=..., seed=..., driver=...)``, or ``dict(file=...)`` for stored masks."""
    if not isinstance(config, Mapping):
        return config
    return StoredMasks(config["file"]) if "file" in config else Masker(**config)


def missing_faults(config: Any) -> Iterable[tuple[str, str]]:
    """Faults of the argument ``missing`` of a data set."""
    if config is None or isinstance(config, (Masker, StoredMasks)):
        return
    if not isinstance(config, Mapping):
        yield "missing", "must be a dict(strategy=..., rate=...) or dict(file=...)"
        return
    allowed = ("file",) if "file" in config else ("strategy", "rate", "seed", "driver")
    for key in config:
        if key not in allowed:
            yield f"missing.{key}", f"is {not_among(key, allowed)}"
    if "file" in config:
        if not Path(str(config["file"])).is_file():
            yield "missing.file", "does not exist"
    elif "strategy" not in config:
        yield "missing", f"needs the key 'strategy', one of {', '.join(STRATEGIES)}"
    else:
        for key, text in Masker.check_config(config):
            yield f"missing.{key}", text


def table_checksum(split: TableSplit) -> str:
    """SHA-256 of names, kinds, categories, cells and holes of a split, in hexadecimal."""
    digest = hashlib.sha256()
    for column in split.table_columns:
        digest.update(repr((column.name, column.kind, column.categories)).encode())
    cells = np.where(split.table_missing, np.float32(0), split.table).astype("<f4")
    digest.update(np.ascontiguousarray(cells).tobytes())
    digest.update(np.ascontiguousarray(split.table_missing).tobytes())
    return digest.hexdigest()


def importance_order(train: TableSplit, seed: int = REFERENCE_SEED) -> np.ndarray:
    """(N,) places of the columns, the most important to a random forest first.

    The forest has 100 trees and is otherwise scikit-learn's default; it is fitted to the training rows with a label,
    holes as NaN. It has seen labels: good for a stress test, not for choosing columns to train with.

    Raises:
        DataError: fewer than two rows have a label.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    if train.labels is None:
        raise DataError("columns are ranked by importance to the labels, but the training rows have none")
    regression = np.issubdtype(train.labels.dtype, np.floating)
    known = np.isfinite(train.labels) if regression else train.labels >= 0
    if known.sum() < 2:
        raise DataError(f"columns are ranked by importance to the labels, but {int(known.sum())} rows have one")
    key = (table_checksum(train) + hashlib.sha256(np.ascontiguousarray(train.labels).tobytes()).hexdigest(), seed)
    if key not in _rankings:
        kind = RandomForestRegressor if regression else RandomForestClassifier
        forest = kind(n_estimators=TREES, random_state=seed)
        cells = np.where(train.table_missing, np.nan, train.table)[known]
        importance = forest.fit(cells, train.labels[known]).feature_importances_
        _rankings[key] = np.argsort(-importance, kind="stable")
    return _rankings[key]


def _rarity(train: TableSplit, place: int) -> np.ndarray:
    """(K,) less the share of every category of a column in the training rows: the rarest has the largest value."""
    column = train.table_columns[place]
    cells = train.table[~train.table_missing[:, place], place]
    if not column.categorical:
        return np.zeros(0)
    return -np.bincount(cells.astype(int), minlength=max(len(column.categories), 1)) / max(len(cells), 1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))
