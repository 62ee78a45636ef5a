"""TreeSatAI: tree genera of forests in Lower Saxony on aerial, Sentinel-1 and Sentinel-2 images, several a sample."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset, data_root
from perception.datasets.caption_records import POLICIES, first_names
from perception.datasets.downloads import RemoteFile
from perception.datasets.downloads import verify as verify_sum
from perception.datasets.multispectral import read_tiff
from perception.datasets.scene_labels import check_choice, choose_bands, label_sums, read_names, report_left_out, warn
from perception.errors import ConfigError, DataError, Fault
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.image_resize import resize
from perception.transforms.preprocess import Batch

AREA = "remote_sensing/treesatai"
HOME = "https://zenodo.org/records/6780578"
LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
HINT = f"It must hold labels/, train_filenames.lst, test_filenames.lst and s2/, s1/ or aerial/, unpacked from {HOME}."
LISTS = {
    split: RemoteFile(f"{split}_filenames.lst", f"{HOME}/files/{split}_filenames.lst", f"md5:{md5}")
    for split, md5 in (
        ("train", "a1a0148e8120b0268f76d2e98a68436f"),
        ("test", "2166903d947f0025f61e342da466f917"),
    )
}
BANDS = {  # in the order of the files
    "s2": ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09"),
    "s1": ("VV", "VH", "VV/VH"),
    "aerial": ("nir", "green", "blue", "red"),
}
RGB = {"s2": ("B04", "B03", "B02"), "aerial": ("red", "green", "blue")}
PIXELS = {"s2": {"60m": 6, "200m": 20}, "s1": {"60m": 6, "200m": 20}, "aerial": {"60m": 304}}
CLASSES = (
    "Abies",
    "Acer",
    "Alnus",
    "Betula",
    "Cleared",
    "Fagus",
    "Fraxinus",
    "Larix",
    "Picea",
    "Pinus",
    "Populus",
    "Prunus",
    "Pseudotsuga",
    "Quercus",
    "Tilia",
)


@DATASETS.register_module()
class TreeSatAI(Dataset):
    """TreeSatAI ("TreeSatAI Benchmark Archive: a multi-sensor, multi-label dataset for tree species classification in
    remote sensing", Ahlswede et al., 2023): 50,381 places, the shares of 14 tree genera and of cleared area each.

    Images are read when they are asked for, in the type of the files: uint16 for Sentinel-2 (reflectance times 10,000),
    float32 for Sentinel-1, uint8 for the aerial images. The labels are those of the inner 60 m, also for 200 m images.

    Args:
        split: ``train`` (90 %) or ``test``, the published lists.
        sensor: ``s2``, ``s1`` or ``aerial``.
        patch: ``60m`` (6 pixels at 10 m, 304 of the aerial images) or ``200m`` (20 pixels; not aerial).
        bands: ``all`` in the order of the files, which for Sentinel-2 ends in B12, B01, B09; ``rgb``; or names.
        threshold: a genus counts as present where its share is above; the paper's experiments take 0.07.
        size: height and width that images are brought to by nearest neighbour, as the benchmark reads them; ``None``
            takes only images of the official size.
        missing: ``error``, or ``drop`` for listed samples without image or labels; they are counted and named.
        verify: compare the list of the split with its published MD5.
        root: folder of the files; ``None`` is ``$PERCEPTION_DATA/remote_sensing/treesatai``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        bands: names of the channels in order.
        names: file name of every sample.
        shares: (n, 15) float64, the area that every genus takes.
        labels: (n, 15) uint8 in {0, 1}; a row may be all zero under a high threshold.
        left_out: per reason the names of the samples that were left out.
    """

    modality: ClassVar[str] = "image"
    classes = CLASSES

    def __init__(
        self,
        split: str = "train",
        sensor: str = "s2",
        patch: str = "200m",
        bands: str | Sequence[str] = "all",
        threshold: float = 0.0,
        size: int | None = None,
        missing: str = "error",
        verify: bool = False,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        self.bands = check_options(split, sensor, patch, bands, threshold, size, missing)
        self.split, self.sensor, self.size = split, sensor, size
        self._places = [BANDS[sensor].index(band) for band in self.bands]
        self._pixels = PIXELS[sensor][patch]
        folder = find_folder(root, split, sensor, patch)
        self.folder = folder / sensor / patch
        if verify:
            verify_sum(folder / LISTS[split].name, LISTS[split])
        source = f"{LISTS[split].name} of {str(folder)!r}"
        pairs = read_shares(folder / LABELS)
        listed = read_names(folder / LISTS[split].name)
        there = set(os.listdir(self.folder))
        dropped = {
            f"without image in {sensor}/{patch}": [name for name in listed if name not in there],
            "without labels": [name for name in listed if name in there and name not in pairs],
        }
        self.left_out = {reason: names for reason, names in dropped.items() if names}
        if self.left_out and missing == "error":
            found = "; ".join(f"{len(names)} {why}: {first_names(names)}" for why, names in self.left_out.items())
            raise DataError(
                f"{source} lists {len(listed)} samples, of them {found}. Set missing='drop' to go on without"
            )
        report_left_out(source, self.left_out, len(listed))
        absent = list(pairs.keys() - there - set(listed))
        if absent:
            text = f"{LABELS} of {str(folder)!r} names {len(absent)} images that are not in {sensor}/{patch}"
            warn(f"{text}, none of them listed in {split}: {first_names(sorted(absent))}")
        self.names = [name for name in listed if name in there and name in pairs]
        if not self.names:
            raise DataError(f"{source}: no sample is left to use")
        sources = [f"{name!r} of {LABELS}" for name in self.names]
        self.shares = label_sums([pairs[name] for name in self.names], CLASSES, sources)
        self.labels = (self.shares > threshold).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, H, W), ``label`` (n, 15) float32 in {0, 1}, ``index`` (n,) and the bands in ``meta``.

        Raises:
            DataError: an image is damaged or has other bands or another size than it should, naming it.
        """
        images = [self._read(self.names[index]) for index in indices]
        if len(types := {str(image.dtype) for image in images}) > 1:
            raise DataError(f"{str(self.folder)!r} holds images of several types: {', '.join(sorted(types))}")
        return {
            "image": torch.stack(images),
            "label": torch.from_numpy(self.labels[indices]).float(),
            "index": torch.from_numpy(indices),
            "meta": {"bands": self.bands},
        }

    def _read(self, name: str) -> torch.Tensor:
        path = self.folder / name
        image = torch.from_numpy(read_tiff(path, len(BANDS[self.sensor]))[self._places])
        if self.size is not None:
            return resize(image, (self.size, self.size), "nearest")
        if image.shape[1:] != (self._pixels, self._pixels):
            raise DataError(
                f"image {str(path)!r} has {tuple(image.shape[1:])} pixels, expected {(self._pixels, self._pixels)}: "
                "set size= to bring all images to one"
            )
        return image

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown choices, a threshold that no share passes, missing folders or files."""
        check_options(*(cfg[key] for key in ("split", "sensor", "patch", "bands", "threshold", "size", "missing")))
        find_folder(*(cfg[key] for key in ("root", "split", "sensor", "patch")))
        return ()


def check_options(
    split: str, sensor: str, patch: str, bands: str | Sequence[str], threshold: float, size: int | None, missing: str
) -> tuple[str, ...]:
    """Names of the bands wanted.

    Raises:
        ConfigError: an unknown choice, with the nearest valid one, or a number out of range.
    """
    check_choice("split", split, tuple(LISTS), "a split")
    check_choice("sensor", sensor, tuple(BANDS), "a sensor")
    check_choice("patch", patch, tuple(PIXELS[sensor]), f"an extent of {sensor} images")
    check_choice("missing", missing, POLICIES, "a policy")
    faults = []
    if not 0 <= threshold < 1:
        faults.append(Fault("threshold", threshold, "must lie in [0, 1): a genus counts where its share is above"))
    if size is not None and size < 1:
        faults.append(Fault("size", size, "must be a positive number of pixels, or None for the official size"))
    if faults:
        raise ConfigError(faults, "TreeSatAI")
    sets = {"all": BANDS[sensor]} | ({"rgb": RGB[sensor]} if sensor in RGB else {})
    return choose_bands(bands, sets, BANDS[sensor], f"TreeSatAI's {sensor}")


def find_folder(root: str | None, split: str, sensor: str, patch: str) -> Path:
    """The root folder, with all that a split needs.

    Raises:
        DataError: what is missing, and the archive it comes in.
    """
    folder = data_root(root, AREA, HINT)
    for name in (LABELS, LISTS[split].name):
        if not (folder / name).is_file():
            raise DataError(f"{name} is not in {str(folder)!r}. {HINT}")
    if not (folder / sensor / patch).is_dir():
        archive = f"the zip files aerial_60m_*, into {sensor}/{patch}" if sensor == "aerial" else f"{sensor}.zip"
        raise DataError(f"{sensor}/{patch} is not in {str(folder)!r}: unpack {archive}. {HINT}")
    return folder


def read_shares(path: Path) -> Mapping[str, list[tuple[str, float]]]:
    """Genera and their shares by file name.

    Raises:
        DataError: the file is no JSON of ``{file: [[genus, share], ...]}`` with shares from 0 to 1.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            found = json.load(handle)
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{str(path)!r} must hold file names with lists of [genus, share]")
    for name, pairs in found.items():
        if not isinstance(pairs, list) or not all(map(_is_share, pairs)):
            raise DataError(f"{str(path)!r}: {name!r} has {pairs!r}, expected a list of [genus, share from 0 to 1]")
    return found


def _is_share(pair: Any) -> bool:
    """Whether this is a genus and its share; sums of areas may end a little above 1."""
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        return False
    share = pair[1]
    return isinstance(share, (int, float)) and math.isfinite(share) and 0 <= share <= 1 + 1e-6
