"""The embedded default of tables with images: noisy digits beside noisy measurements of their strokes, no download."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from perception.datasets.digits import SPLIT_SEED, load_digits_uint8
from perception.datasets.images import check_split, stratified_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_rows import TableData, TableRows, only_faults, take_away
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.table_columns import Column

MEAN, STD = (0.3718,), (0.3710,)  # of all noisy pixels, in units of 255
HOLES = 0.15
_IMAGE_NOISE = 110.0  # standard deviation, of values from 0 to 255
_TABLE_NOISE = 0.5  # standard deviation, in those of the measurements
_CONFUSED = 0.15  # share of the categorical cells that hold a random category
_LOOPS, _SLANTS, _WEIGHTS = ("none", "one", "two"), ("left", "upright", "right"), ("light", "medium", "heavy")
COLUMNS = (
    Column("loops", "categorical", _LOOPS),
    Column("slant", "categorical", _SLANTS),
    Column("weight", "categorical", _WEIGHTS),
    Column("centre_x"),
    Column("centre_y"),
    Column("width"),
    Column("height"),
    Column("top_ink"),
    Column("left_ink"),
    Column("middle_ink"),
)


@DATASETS.register_module()
class DigitsTable(TableRows):
    """scikit-learn's 1,797 digits of 8 x 8 pixels under heavy noise, each with ten noisy measurements of its strokes.

    Image and table each tell part of the digit, together more. Three columns are categorical (loops, slant, weight),
    seven continuous, in pixels or shares of the ink; of every column 15 % of the cells are missing. The noise is fixed
    (``numpy.random.default_rng(0)``), the splits are those of ``Digits``.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: ``train`` and ``val`` without labels.
        missing: cells and images taken away besides, ``dict(strategy=..., rate=...)`` of ``Masker``, or
            ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("pretrain", "train", "val", "test")

    def __init__(
        self,
        split: str = "pretrain",
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        images, data = noisy_digits()
        assert data.labels is not None
        found = stratified_split(data.labels, (0.6, 0.15), SPLIT_SEED)
        parts = np.empty(len(data), dtype="<U5")
        for name, rows in zip(("train", "val", "test"), found, strict=True):
            parts[rows] = name
        rows = np.flatnonzero(np.isin(parts, ("train", "val") if split == "pretrain" else (split,)))
        cells_gone = image_gone = None
        if missing is not None:
            cells_gone, image_gone = take_away(data, parts, rows, missing)
        if split == "pretrain":
            data = replace(data, labels=None)
        super().__init__(data.take(rows, split), images[rows], image_gone, cells_gone, only, transforms, seed)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split, choices that are none."""
        check_split(cfg["split"], cls.SPLITS)
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])


@lru_cache(maxsize=1)
def noisy_digits() -> tuple[np.ndarray, TableData]:
    """Images (1797, 1, 8, 8) uint8 and their table."""
    images, labels = load_digits_uint8()
    random = np.random.default_rng(0)
    noisy = images + random.normal(0, _IMAGE_NOISE, images.shape)
    codes, values = measure(images[:, 0] / 255.0)
    confused = random.random(codes.shape) < _CONFUSED
    codes = np.where(confused, random.integers(0, 3, codes.shape), codes)
    values = values + random.normal(0, _TABLE_NOISE, values.shape) * values.std(0)
    table = np.concatenate([codes, values], axis=1).astype(np.float32)
    missing = random.random(table.shape) < HOLES
    data = TableData(table, missing, COLUMNS, labels, tuple(str(d) for d in range(10)))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), data


def measure(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measurements of digits (n, 8, 8) with ink from 0 to 1.

    Returns:
        (n, 3) int64 codes of loops, slant and weight, and (n, 7) float64: centre of the ink in pixels (x, y), its
        standard deviation in x and y, its share in the upper half, in the left half and in the two middle columns.
    """
    from scipy.ndimage import label

    total = ink.sum((1, 2))
    y, x = np.mgrid[: ink.shape[1], : ink.shape[2]].astype(np.float64)
    centre_x, centre_y = (ink * x).sum((1, 2)) / total, (ink * y).sum((1, 2)) / total
    dx, dy = x - centre_x[:, None, None], y - centre_y[:, None, None]
    width, height = np.sqrt((ink * dx**2).sum((1, 2)) / total), np.sqrt((ink * dy**2).sum((1, 2)) / total)
    lean = -(ink * dx * dy).sum((1, 2)) / total / np.maximum(width * height, 1e-9)
    # A loop is a region without ink that does not touch the border.
    padded = np.pad(ink < 0.35, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    loops = np.array([min(label(paper)[1] - 1, 2) for paper in padded])
    codes = [loops, np.digitize(lean, (0.05, 0.3)), np.digitize(total, np.quantile(total, (1 / 3, 2 / 3)))]
    half = ink.shape[1] // 2
    shares = [ink[:, :half].sum((1, 2)), ink[:, :, :half].sum((1, 2)), ink[:, :, half - 1 : half + 1].sum((1, 2))]
    values = [centre_x, centre_y, width, height, *(share / total for share in shares)]
    return np.stack(codes, axis=1).astype(np.int64), np.stack(values, axis=1)
