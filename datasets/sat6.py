"""SAT-6: small aerial tiles of red, green, blue and near infrared in six land-cover classes, held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.base import data_root
from perception.datasets.images import ArrayImages, check_split
from perception.datasets.scene_labels import choose_bands, one_hot_labels
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch

AREA = "remote_sensing/sat6"
MAT = "sat-6-full.mat"
HINT = (
    f"It must hold {MAT} of DeepSat (Louisiana State University), or X_train_sat6.csv, y_train_sat6.csv, "
    "X_test_sat6.csv and y_test_sat6.csv; Kaggle's crawford/deepsat-sat6 has both."
)
PIXELS = 28
BANDS = ("red", "green", "blue", "nir")
BAND_SETS = {"rgbn": BANDS, "rgb": BANDS[:3]}
CLASSES = ("building", "barren land", "trees", "grassland", "road", "water")
MEAN = (0.4405, 0.4497, 0.4478, 0.4201)  # of the training split in units of 255, as the benchmark publishes them
STD = (0.2147, 0.1878, 0.1456, 0.3007)


@DATASETS.register_module()
class SAT6(ArrayImages):
    """SAT-6 ("DeepSat: A Learning Framework for Satellite Imagery", Basu et al., 2015): 324,000 training and
    81,000 test tiles of 28 x 28 pixels at 1 m.

    The official file is MATLAB's version 5 format with ``train_x`` (28, 28, 4, n), ``train_y`` (6, n) and the same for
    ``test``. Where only the CSV files are there, they are read instead: one tile a row, by pixel rows, columns and
    bands. The training split takes 1 GB of memory, and about a minute to read from CSV.

    Args:
        split: ``train`` or ``test``.
        bands: ``rgbn``, ``rgb``, or names out of red, green, blue and nir.
        root: folder of the files; ``None`` is ``$PERCEPTION_DATA/remote_sensing/sat6``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        bands: names of the channels in order.
    """

    SPLITS = ("train", "test")

    def __init__(
        self,
        split: str = "train",
        bands: str | Sequence[str] = "rgbn",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        self.split, self.bands = split, choose_bands(bands, BAND_SETS, BANDS, "SAT-6")
        files = find_files(root, split)
        images, rows, source = read_mat(files[0], split) if len(files) == 1 else read_csv(files)
        if self.bands != BANDS:
            images = images[:, [BANDS.index(band) for band in self.bands]]
        labels = one_hot_labels(rows, len(CLASSES), source)
        if len(labels) != len(images):
            raise DataError(f"{source} has {len(labels)} rows for {len(images)} tiles")
        super().__init__(images, labels, CLASSES, transforms, seed)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, 28, 28) uint8, ``label`` (n,), ``index`` (n,) and the bands in ``meta``."""
        batch = super().fetch(indices)
        # The tiles in memory are views of the file's order of axes, and rows of them would keep it.
        return {**batch, "image": batch["image"].contiguous(), "meta": {"bands": self.bands}}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split or bands, missing folder or files."""
        check_split(cfg["split"], cls.SPLITS)
        choose_bands(cfg["bands"], BAND_SETS, BANDS, "SAT-6")
        find_files(cfg["root"], cfg["split"])
        return ()


def find_files(root: str | None, split: str) -> tuple[Path, ...]:
    """The MATLAB file, or the CSV files of images and of labels.

    Raises:
        DataError: neither is there, saying where they come from.
    """
    folder = data_root(root, AREA, HINT)
    if (folder / MAT).is_file():
        return (folder / MAT,)
    files = tuple(folder / f"{part}_{split}_sat6.csv" for part in ("X", "y"))
    if not all(path.is_file() for path in files):
        raise DataError(f"neither {MAT} nor {' and '.join(path.name for path in files)} is in {str(folder)!r}. {HINT}")
    return files


def read_mat(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Images (n, 4, 28, 28) uint8, a view, one-hot rows (n, 6) and their name.

    Raises:
        DataError: the file is damaged, of another version of the format, or lacks an array.
    """
    from scipy.io import loadmat

    names = [f"{split}_x", f"{split}_y"]
    try:
        found = loadmat(path, variable_names=names)
    except NotImplementedError as error:  # what scipy says to HDF5
        raise DataError(f"{str(path)!r} is a MATLAB 7.3 file; the official one is of version 5") from error
    except Exception as error:  # zlib, struct, value and OS errors: all mean a damaged file
        raise DataError(f"{str(path)!r} cannot be read as a MATLAB file: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{str(path)!r} lacks the arrays {', '.join(missing)}")
    images, rows = (found[name] for name in names)
    if images.ndim != 4 or images.shape[:3] != (PIXELS, PIXELS, len(BANDS)) or images.dtype != np.uint8:
        text = f"expected uint8 ({PIXELS}, {PIXELS}, {len(BANDS)}, n)"
        raise DataError(f"{names[0]!r} of {str(path)!r} is {images.dtype} {images.shape}, {text}")
    return images.transpose(3, 2, 0, 1), rows.T, f"{names[1]!r} of {str(path)!r}"


def read_csv(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, str]:
    """As ``read_mat``, of the files of images and of labels.

    Raises:
        DataError: a value that is no whole number from 0 to 255, or a wrong number of columns.
    """
    images, rows = (_table(path) for path in files)
    columns = PIXELS * PIXELS * len(BANDS)
    if images.shape[1:] != (columns,):
        raise DataError(f"{str(files[0])!r} has {images.shape[1]} columns, expected {columns}: 28 x 28 x 4")
    return images.reshape(-1, PIXELS, PIXELS, len(BANDS)).transpose(0, 3, 1, 2), rows, repr(str(files[1]))


def _table(path: Path) -> np.ndarray:
    try:
        table = np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2)
    except (ValueError, OSError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table of numbers from 0 to 255: {error}") from error
    if not table.size:
        raise DataError(f"{str(path)!r} is empty")
    return table
