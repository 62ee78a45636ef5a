"""BigEarthNet 1.0: Sentinel-2 patches of ten European countries with several land-cover labels each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset, data_root
from perception.datasets.bigearthnet_classes import CLASSES_19, CLASSES_43, FROM_43_TO_19
from perception.datasets.caption_records import POLICIES, first_names
from perception.datasets.downloads import RemoteFile
from perception.datasets.downloads import verify as verify_sum
from perception.datasets.multispectral import read_tiff
from perception.datasets.scene_labels import check_choice, choose_bands, label_sums, read_names, report_left_out
from perception.errors import ConfigError, DataError, Fault
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.image_resize import resize
from perception.transforms.preprocess import Batch

AREA, FOLDER = "remote_sensing/bigearthnet", "BigEarthNet-v1.0"
PIXELS = 120
# Pixels of a band's files, in the order of the wavelengths; there is no B10.
BANDS = {
    "B01": 20,
    "B02": 120,
    "B03": 120,
    "B04": 120,
    "B05": 60,
    "B06": 60,
    "B07": 60,
    "B08": 120,
    "B8A": 60,
    "B09": 20,
    "B11": 60,
    "B12": 60,
}
BAND_SETS = {"all": tuple(BANDS), "rgb": ("B04", "B03", "B02"), "10m": ("B02", "B03", "B04", "B08")}
INTERPOLATIONS = ("bilinear", "nearest")
ARCHIVE = "https://zenodo.org/records/12687186/files/BigEarthNet-S2-v1.0.tar.gz"
SPLITS_HOME = "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models/-/raw/master/splits"
# Published lists: patch of Sentinel-2, patch of Sentinel-1.
LISTS = {
    split: RemoteFile(f"{split}.csv", f"{SPLITS_HOME}/{split}.csv", f"md5:{md5}")
    for split, md5 in (
        ("train", "623e501b38ab7b12fe44f0083c00986d"),
        ("val", "22efe8ed9cbd71fa10742ff7df2b7978"),
        ("test", "697fb90677e30571b9ac7699b7e5b432"),
    )
}
HINT = f"It must hold {FOLDER}/ of {ARCHIVE}, and train.csv, val.csv and test.csv of {SPLITS_HOME}."
THREADS = 16  # files of labels read at once: most of the time is waiting for the disk


@DATASETS.register_module()
class BigEarthNet(Dataset):
    """BigEarthNet ("BigEarthNet: A Large-Scale Benchmark Archive for Remote Sensing Image Understanding", Sumbul et
    al., 2019), version 1.0: 590,326 patches of 1.2 km, 12 bands of reflectance times 10,000.

    The files of a patch have 120, 60 or 20 pixels a side. All bands are given with 120, in uint16: where a band is
    coarser, ``bilinear`` takes the four nearest pixels with half-pixel centres and repeats the edge, rounded, as the
    reader of the resize-and-normalise benchmark does (which rounds halves up, not to even); ``nearest`` repeats pixels.

    Images are read when they are asked for. The labels of a split, one small file a patch, are read at the start.
    Version 2, with its labels in a Parquet table, is not read.

    Args:
        split: ``train`` (269,695), ``val`` (123,723) or ``test`` (125,866) of the published lists, which leave snow and
            clouds out; None takes every patch of the folder.
        num_classes: 43 labels of CORINE Land Cover, or the 19 that were made of them ("BigEarthNet-MM", Sumbul et al.,
            2021). Patches without any of the 19 are left out, counted and named; 57 of all are without.
        bands: ``all`` (B01 to B12, B8A after B08), ``rgb``, ``10m``, or names.
        interpolation: ``bilinear`` or ``nearest``, see above.
        exclude: lists of patches to leave out, below ``root``: the published ``patches_with_seasonal_snow.csv`` and
            ``patches_with_cloud_and_shadow.csv``.
        missing: ``error``, or ``drop`` for listed patches that are not there; they are counted and named.
        verify: compare the list of the split with its published MD5.
        root: folder of ``BigEarthNet-v1.0`` and of the lists, also as ``bigearthnet-train.csv`` or
            ``splits/train.csv``; ``None`` is ``$PERCEPTION_DATA/remote_sensing/bigearthnet``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        bands: names of the channels in order.
        names: of the patches.
        labels: (n, 19 or 43) uint8 in {0, 1}.
        left_out: per reason the names of the patches that were left out.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        split: str | None = "train",
        num_classes: int = 19,
        bands: str | Sequence[str] = "all",
        interpolation: str = "bilinear",
        exclude: Sequence[str] = (),
        missing: str = "error",
        verify: bool = False,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        self.bands = check_options(split, num_classes, bands, interpolation, missing)
        self.split, self.interpolation = split or "all", interpolation
        self.classes = CLASSES_19 if num_classes == 19 else CLASSES_43
        self.folder, listing, lists = find_files(root, split, exclude)
        if verify and listing is not None and split is not None:
            verify_sum(listing, LISTS[split])
        source = str(listing or self.folder)
        listed = read_names(listing) if listing is not None else patches_in(self.folder)
        excluded = {name for path in lists for name in read_names(path)}
        wanted = [name for name in listed if name not in excluded]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(self._labels_of, wanted))
        absent = [name for name, own in zip(wanted, found, strict=True) if own is None]
        if absent and missing == "error":
            text = f"{len(absent)} of {len(listed)} patches are not in {str(self.folder)!r}: {first_names(absent)}"
            raise DataError(f"{source!r}: {text}. Set missing='drop' to go on without")
        there = [(name, own) for name, own in zip(wanted, found, strict=True) if own is not None]
        sums = label_sums(
            [[(label, 1) for label in own] for _, own in there], CLASSES_43, [f"patch {name!r}" for name, _ in there]
        )
        labels = (sums if num_classes == 43 else sums @ FROM_43_TO_19) > 0
        kept = (labels.sum(1) > 0).tolist()
        dropped = {
            "in a list of exclusions": [name for name in listed if name in excluded],
            "not in the folder": absent,
            f"without any of the {num_classes} labels": [
                name for (name, _), keep in zip(there, kept, strict=True) if not keep
            ],
        }
        self.left_out = {reason: names for reason, names in dropped.items() if names}
        report_left_out(source, self.left_out, len(listed))
        self.names = [name for (name, _), keep in zip(there, kept, strict=True) if keep]
        self.labels = labels[kept].astype(np.uint8)
        if not self.names:
            raise DataError(f"{source!r}: no patch is left to use")

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, 120, 120) uint16, ``label`` (n, L) float32 in {0, 1}, ``index`` and the bands in ``meta``.

        Raises:
            DataError: a band is missing or damaged, of another type or size, naming its file.
        """
        return {
            "image": torch.stack([self._read(self.names[index]) for index in indices]),
            "label": torch.from_numpy(self.labels[indices]).float(),
            "index": torch.from_numpy(indices),
            "meta": {"bands": self.bands},
        }

    def _read(self, name: str) -> torch.Tensor:
        """All bands wanted of a patch, (C, 120, 120)."""
        planes = []
        for band in self.bands:
            path = self.folder / name / f"{name}_{band}.tif"
            plane = read_tiff(path, 1)
            if plane.dtype != np.uint16 or plane.shape[1:] != (BANDS[band], BANDS[band]):
                found = f"{plane.dtype} {plane.shape[1:]}"
                raise DataError(f"image {str(path)!r} is {found}, expected uint16 {(BANDS[band], BANDS[band])}")
            planes.append(resize(torch.from_numpy(plane), (PIXELS, PIXELS), self.interpolation))
        return torch.cat(planes)

    def _labels_of(self, name: str) -> list[str] | None:
        """Names of the labels of a patch; None if there is no such patch.

        Raises:
            DataError: the file is not as it should be.
        """
        path = self.folder / name / f"{name}_labels_metadata.json"
        try:
            labels = json.loads(path.read_bytes())["labels"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{str(path)!r} is no readable JSON with 'labels': {error!r}") from error
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise DataError(f"{str(path)!r}: 'labels' is {labels!r}, expected a list of names")
        return labels

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown choices, missing folder or lists."""
        check_options(*(cfg[key] for key in ("split", "num_classes", "bands", "interpolation", "missing")))
        find_files(cfg["root"], cfg["split"], cfg["exclude"])
        return ()


def check_options(
    split: str | None, num_classes: int, bands: str | Sequence[str], interpolation: str, missing: str
) -> tuple[str, ...]:
    """Names of the bands wanted.

    Raises:
        ConfigError: an unknown choice, with the nearest valid one.
    """
    check_choice("split", split, (*LISTS, None), "a split")
    check_choice("num_classes", num_classes, (19, 43), "a number of labels")
    check_choice("interpolation", interpolation, INTERPOLATIONS, "an interpolation")
    check_choice("missing", missing, POLICIES, "a policy")
    return choose_bands(bands, BAND_SETS, tuple(BANDS), "BigEarthNet")


def find_files(root: str | None, split: str | None, exclude: Sequence[str]) -> tuple[Path, Path | None, list[Path]]:
    """The folder of the patches, the list of the split, if it has one, and the lists of exclusions.

    Raises:
        ConfigError: ``exclude`` is one name, not several.
        DataError: something is not there, saying where it comes from.
    """
    if isinstance(exclude, str):
        raise ConfigError([Fault("exclude", exclude, "must be a list of file names")])
    base = data_root(root, AREA, HINT)
    if not (base / FOLDER).is_dir():
        raise DataError(f"the folder {FOLDER} is not in {str(base)!r}. {HINT}")
    lists = [base / name for name in exclude]
    absent = [path.name for path in lists if not path.is_file()]
    if absent:
        raise DataError(f"the list {absent[0]} is not in {str(base)!r}; https://bigearth.net publishes it")
    if split is None:
        return base / FOLDER, None, lists
    places = (f"{split}.csv", f"bigearthnet-{split}.csv", f"splits/{split}.csv")
    found = [base / place for place in places if (base / place).is_file()]
    if not found:
        raise DataError(f"none of {', '.join(places)} is in {str(base)!r}. {HINT}")
    return base / FOLDER, found[0], lists


def patches_in(folder: Path) -> list[str]:
    """Names of all patches, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
