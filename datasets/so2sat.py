"""So2Sat LCZ42: local climate zones of cities on Sentinel-1 and Sentinel-2 patches, read row by row from HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset, data_root
from perception.datasets.downloads import RemoteFile
from perception.datasets.downloads import verify as verify_sum
from perception.datasets.scene_labels import check_choice, choose_bands, one_hot_labels
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch

AREA = "remote_sensing/so2sat"
HINT = (
    "Version 2 is published as mediaTUM 1483140 (training.h5, validation.h5, testing.h5), version 3 as "
    "mediaTUM 1613658 (training.h5 and testing.h5 in each of random, block and culture_10)."
)
PIXELS = 32
S1_BANDS = tuple(f"S1_B{number}" for number in range(1, 9))
S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SENSORS = {"sen1": S1_BANDS, "sen2": S2_BANDS}
BAND_SETS = {"s2": S2_BANDS, "s1": S1_BANDS, "all": (*S1_BANDS, *S2_BANDS), "rgb": ("B04", "B03", "B02")}
CLASSES = (
    "compact high-rise",
    "compact mid-rise",
    "compact low-rise",
    "open high-rise",
    "open mid-rise",
    "open low-rise",
    "lightweight low-rise",
    "large low-rise",
    "sparsely built",
    "heavy industry",
    "dense trees",
    "scattered trees",
    "bush or scrub",
    "low plants",
    "bare rock or paved",
    "bare soil or sand",
    "water",
)
PAGES = {"2": "https://mediatum.ub.tum.de/1483140", "3": "https://mediatum.ub.tum.de/1613658"}
# By version and split: the file below the root and its published MD5.
FILES = {
    "2": {
        "train": ("training.h5", "702bc6a9368ebff4542d791e53469244"),
        "val": ("validation.h5", "71cfa6795de3e22207229d06d6f8775d"),
        "test": ("testing.h5", "e81426102b488623a723beab52b31a8a"),
    },
    "3_random": {
        "train": ("random/training.h5", "94e2e2e667b406c2adf61e113b42204e"),
        "test": ("random/testing.h5", "1e15c425585ce816342d1cd779d453d8"),
    },
    "3_block": {
        "train": ("block/training.h5", "a91d6150e8b059dac86105853f377a11"),
        "test": ("block/testing.h5", "6414af1ec33ace417e879f9c88066d47"),
    },
    "3_culture_10": {
        "train": ("culture_10/training.h5", "702bc6a9368ebff4542d791e53469244"),
        "test": ("culture_10/testing.h5", "58335ce34ca3a18424e19da84f2832fc"),
    },
}


@DATASETS.register_module()
class So2Sat(Dataset):
    """So2Sat LCZ42 ("So2Sat LCZ42: A Benchmark Data Set for the Classification of Global Local Climate Zones", Zhu et
    al., 2020): patches of 32 x 32 pixels at 10 m in 17 local climate zones. Needs the package h5py.

    Sentinel-2 values are reflectances between 0 and about 2.8, already divided by 10,000: the benchmark's ``divide`` is
    ``--divisor 1``. They have ten bands, without B01, B09 and B10. The eight of Sentinel-1 are: 1, 2 real and imaginary
    part of unfiltered VH, 3, 4 the same of VV, 5, 6 intensity of VH and VV after the refined Lee filter, 7, 8 real and
    imaginary part of the off-diagonal element of the filtered covariance matrix.

    Rows are read when they are asked for: a file has tens of gigabytes. Every process opens it by itself.

    Args:
        split: ``train``, ``test``, or in version 2 ``val``.
        version: ``2`` (train: 42 cities; val and test: the western and eastern halves of ten others), ``3_random``,
            ``3_block`` (random or by place within every city) or ``3_culture_10`` (ten cities for testing). Figures of
            ``3_random`` are far higher, as training and test patches are neighbours.
        bands: ``s2``, ``s1``, ``all`` (Sentinel-1 first), ``rgb``, or names such as ``B04`` and ``S1_B5``.
        verify: compare the file with its published MD5, which reads all of it.
        root: folder of the files, those of version 3 in ``random``, ``block`` and ``culture_10``; ``None`` is
            ``$PERCEPTION_DATA/remote_sensing/so2sat``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        bands: names of the channels in order.
        labels: (n,) int64.
    """

    modality: ClassVar[str] = "image"
    classes = CLASSES

    def __init__(
        self,
        split: str = "train",
        version: str = "3_culture_10",
        bands: str | Sequence[str] = "s2",
        verify: bool = False,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        self.split, self.version = split, version
        self.bands = choose_bands(bands, BAND_SETS, BAND_SETS["all"], "So2Sat")
        self._sensors = sensors_of(self.bands)
        found = [band for name in self._sensors for band in SENSORS[name]]
        self._places = [found.index(band) for band in self.bands]
        self.path = find_file(root, version, split)
        if verify:
            name, md5 = FILES[version][split]
            verify_sum(self.path, RemoteFile(name, PAGES[version[0]], f"md5:{md5}"))
        self._handle: Any = None
        self._owner = 0
        with open_h5(self.path) as file:
            check_file(file, self.path, self._sensors)
            label = read_rows(file, self.path, "label", np.arange(len(file["label"])))
        self.labels = one_hot_labels(label, len(CLASSES), f"'label' of {str(self.path)!r}")

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, 32, 32) float32, ``label`` (n,) int64, ``index`` and the bands in ``meta``.

        Raises:
            DataError: a row cannot be read or has a value that is not finite, naming it.
        """
        rows, order = np.unique(indices, return_inverse=True)  # HDF5 reads rising rows, each once
        file = self._file()
        values = np.concatenate([read_rows(file, self.path, name, rows) for name in self._sensors], axis=3)
        values = values[order][..., self._places].transpose(0, 3, 1, 2).astype(np.float32)
        finite = np.isfinite(values).all((1, 2, 3))
        if not finite.all():
            row = int(np.asarray(indices)[~finite].min())
            raise DataError(f"row {row} of {str(self.path)!r} has values that are not finite")
        return {
            "image": torch.from_numpy(np.ascontiguousarray(values)),
            "label": torch.from_numpy(self.labels[indices]),
            "index": torch.from_numpy(indices),
            "meta": {"bands": self.bands},
        }

    def _file(self) -> Any:
        """The open file of this process."""
        if self._owner != os.getpid():
            if self._handle is not None:
                # Inherited over a fork: left open, HDF5 would hand out the parent's descriptor again.
                self._handle.close()
            self._handle, self._owner = open_h5(self.path), os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_owner": 0}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown version, split or bands, a missing file or package, a file of another layout."""
        bands = choose_bands(cfg["bands"], BAND_SETS, BAND_SETS["all"], "So2Sat")
        path = find_file(cfg["root"], cfg["version"], cfg["split"])
        with open_h5(path) as file:
            check_file(file, path, sensors_of(bands))
        return ()


def sensors_of(bands: Sequence[str]) -> list[str]:
    """Arrays of the file that have some of ``bands``."""
    return [name for name, own in SENSORS.items() if set(own) & set(bands)]


def find_file(root: str | None, version: str, split: str) -> Path:
    """The file of a split.

    Raises:
        ConfigError: an unknown version or split.
        DataError: no such folder or file, saying where it comes from.
    """
    check_choice("version", version, tuple(FILES), "a version of So2Sat")
    check_choice("split", split, tuple(FILES[version]), f"a split of version {version}")
    name, _ = FILES[version][split]
    path = data_root(root, AREA, HINT) / name
    if not path.is_file():
        raise DataError(f"{name} is not in {str(path.parents[name.count('/')])!r}. {HINT}")
    return path


def open_h5(path: Path) -> Any:
    """The HDF5 file at ``path``, to read.

    Raises:
        DataError: h5py is not installed, or the file is damaged or of another format.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"reading {path.name} needs the package h5py: pip install h5py") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read as an HDF5 file: {error}") from error


def check_file(file: Any, path: Path, sensors: Sequence[str]) -> None:
    """Refuse a file without the arrays wanted, or with others than the official ones, by its header alone.

    Raises:
        DataError: naming the array.
    """
    missing = [name for name in ("label", *sensors) if not hasattr(file.get(name), "shape")]
    if missing:
        raise DataError(f"{str(path)!r} lacks the arrays {', '.join(missing)}; it holds {', '.join(file) or 'none'}")
    count = file["label"].shape[0]
    expected = {name: (count, PIXELS, PIXELS, len(SENSORS[name])) for name in sensors}
    for name, shape in {"label": (count, len(CLASSES)), **expected}.items():
        if file[name].shape != shape or file[name].dtype.kind not in "iuf":
            found = f"{file[name].dtype} {file[name].shape}"
            raise DataError(f"{name!r} of {str(path)!r} is {found}, expected numbers of shape {shape}")
    if not count:
        raise DataError(f"{str(path)!r} holds no patches")


def read_rows(file: Any, path: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """Rows, rising and each once, of an array of the file at ``path``.

    Raises:
        DataError: they cannot be read.
    """
    # Slices of adjacent rows: h5py reads a list of rows from a chunked file several times slower.
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    try:
        return np.concatenate([file[name][int(run[0]) : int(run[-1]) + 1] for run in runs])
    except (OSError, ValueError) as error:
        raise DataError(f"{name!r} of {str(path)!r}, rows {rows[0]} to {rows[-1]}: {error}") from error
