"""EuroSAT in its official layouts: RGB JPEG files and Sentinel-2 GeoTIFF files of 13 bands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial as bind
from typing import Any, ClassVar

import numpy as np

from perception.datasets.downloads import RemoteFile
from perception.datasets.images import decode_image
from perception.datasets.multispectral import band_places, decode_tiff
from perception.datasets.scene_images import ClassFolders, SceneImages
from perception.datasets.scene_labels import choose_bands
from perception.registry import DATASETS
from perception.transforms.base import Transform

_MIRROR = "https://hf.co/datasets/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c"
# In the order of the files: B8A comes last, not after B08.
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
RGB = ClassFolders(
    ("EuroSAT_RGB", "2750"),
    (".jpg", ".jpeg"),
    RemoteFile(
        "EuroSAT_RGB.zip",
        "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
        "md5:f46e308c4d50d4bf32fedad2d3d62f3b",
    ),
)
MSI = ClassFolders(
    ("EuroSAT_MS", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"),
    (".tif", ".tiff"),
    RemoteFile("EuroSATallBands.zip", f"{_MIRROR}/EuroSATallBands.zip", "md5:5ac12b3b2557aa56e1826e981e8e200e"),
)


def _lists(stem: str, *digests: str) -> tuple[RemoteFile, RemoteFile, RemoteFile]:
    names = [f"{stem}-{part}.txt" for part in ("train", "val", "test")]
    train, val, test = (
        RemoteFile(name, f"{_MIRROR}/{name}", f"md5:{md5}") for name, md5 in zip(names, digests, strict=True)
    )
    return train, val, test


@DATASETS.register_module()
class EuroSAT(SceneImages):
    """27,000 Sentinel-2 tiles of 64 x 64 pixels in ten land-cover classes ("EuroSAT: A Novel Dataset and Deep Learning
    Benchmark for Land Use and Land Cover Classification", Helber et al., 2019).

    ``root`` holds ``EuroSAT_RGB/<class>/*.jpg`` or ``2750/<class>/*.jpg`` for ``bands='rgb'``, and
    ``EuroSAT_MS/<class>/*.tif`` or ``ds/images/remote_sensing/otherDatasets/sentinel_2/tif/<class>/*.tif`` for the
    others; or it is one of these folders itself.

    Args:
        root: the folder; ``None`` is ``$PERCEPTION_DATA/remote_sensing/eurosat``.
        split: ``train``, ``val``, ``test``, ``all``, or ``pretrain``: the tiles of ``train`` without labels.
        bands: ``rgb`` reads the JPEG files, uint8. ``msi`` reads all 13 bands of the GeoTIFF files, uint16 reflectance
            times 10,000, in their order: B01 to B12, then B8A. A list of names such as ``["B04", "B03", "B02"]`` or
            ``["red", "nir"]`` reads these bands of the GeoTIFF files, in the order of the list.
        size: height and width to which the tiles are resized; ``None`` keeps 64 x 64.
        interpolation: how, see ``ImagePreprocess``.
        partition: ``torchgeo``: the lists ``eurosat-train.txt``, ``-val.txt`` and ``-test.txt`` in ``root`` (16,200,
            5,400 and 5,400 tiles), which the benchmarks use. ``spatial``: ``eurosat-spatial-*.txt``, split by
            longitude. ``drawn``: ours, of the same sizes, a fixed draw of 60, 20 and 20 % of every class. ``None``
            takes ``torchgeo`` where its lists are there, else ``drawn``, and says so.
        partial: accept a copy that lacks images; what is missing is counted and reported. Otherwise it is an error.
        download: fetch and unpack the archive (95 MB, or 2 GB of all bands) and the lists where they are missing.
            Their checksums are verified.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    AREA = "remote_sensing/eurosat"
    COUNTS: ClassVar[dict[str, int]] = {
        "AnnualCrop": 3000,
        "Forest": 3000,
        "HerbaceousVegetation": 3000,
        "Highway": 2500,
        "Industrial": 2500,
        "Pasture": 2000,
        "PermanentCrop": 2500,
        "Residential": 3000,
        "River": 2500,
        "SeaLake": 3000,
    }
    LISTS: ClassVar[dict[str, tuple[RemoteFile, RemoteFile, RemoteFile]]] = {
        "torchgeo": _lists(
            "eurosat",
            "908f142e73d6acdf3f482c5e80d851b1",
            "95de90f2aa998f70a3b2416bfe0687b4",
            "7ae5ab94471417b6e315763121e67c5f",
        ),
        "spatial": _lists(
            "eurosat-spatial",
            "7be3254be39f23ce4d4d144290c93292",
            "acf392290050bb3df790dc8fc0ebf193",
            "5ec1733f9c16116bf0aa2d921fc613ef",
        ),
    }
    BAND_SETS: ClassVar[dict[str, tuple[str, ...]]] = {"rgb": ("B04", "B03", "B02"), "msi": BANDS}

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        bands: str | Sequence[str] = "rgb",
        size: int | None = None,
        interpolation: str = "bicubic",
        partition: str | None = None,
        partial: bool = False,
        download: bool = False,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        names = choose_bands(bands, self.BAND_SETS, BANDS, "EuroSAT")
        decode: Callable[..., np.ndarray] = decode_image
        if bands != "rgb":
            decode = bind(read_bands, places=band_places(names, BANDS, "EuroSAT"))
        options = {"root": root, "split": split, "size": size, "interpolation": interpolation}
        options |= {"partition": partition, "partial": partial, "download": download}
        super().__init__(self.layout(bands), names, decode, options, transforms, seed)

    @staticmethod
    def layout(bands: str | Sequence[str]) -> ClassFolders:
        """Where the files of these bands lie."""
        return RGB if bands == "rgb" else MSI

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown bands and choices, missing folders, images or lists."""
        choose_bands(cfg["bands"], cls.BAND_SETS, BANDS, "EuroSAT")
        yield from cls.config_faults(cls.layout(cfg["bands"]), cfg)


def read_bands(data: bytes, source: str, places: Sequence[int]) -> np.ndarray:
    """The bands at ``places`` of a GeoTIFF file of EuroSAT: (C, H, W) uint16."""
    return decode_tiff(data, len(BANDS), source, ("uint16",))[list(places)]
