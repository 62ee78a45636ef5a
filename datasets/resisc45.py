"""NWPU-RESISC45 in its official layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from perception.datasets.downloads import RemoteFile
from perception.datasets.images import decode_image
from perception.datasets.scene_images import ClassFolders, SceneImages
from perception.registry import DATASETS
from perception.transforms.base import Transform

_MIRROR = "https://hf.co/datasets/isaaccorley/resisc45/resolve/883edc0eee77b2c84225472f10f126e3ed83fa6e"
LAYOUT = ClassFolders(
    ("NWPU-RESISC45",),
    (".jpg", ".jpeg"),
    RemoteFile("NWPU-RESISC45.zip", f"{_MIRROR}/NWPU-RESISC45.zip", "md5:75206b2e16446591afa88e2628744886"),
)
_NAMES = (
    "airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland cloud "
    "commercial_area dense_residential desert forest freeway golf_course ground_track_field harbor industrial_area "
    "intersection island lake meadow medium_residential mobile_home_park mountain overpass palace parking_lot railway "
    "railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg sparse_residential stadium "
    "storage_tank tennis_court terrace thermal_power_station wetland"
)
CLASSES = tuple(_NAMES.split())


@DATASETS.register_module()
class RESISC45(SceneImages):
    """31,500 images of 256 x 256 pixels, 0.2 to 30 m a pixel, in 45 classes of 700 ("Remote Sensing Image Scene
    Classification: Benchmark and State of the Art", Cheng et al., 2017).

    ``root`` holds ``NWPU-RESISC45/<class>/<class>_NNN.jpg``, or it is that folder itself. The images are also those of
    NWPU-Captions: after training on its captions this is no test of unseen images.

    Args:
        root: the folder; ``None`` is ``$PERCEPTION_DATA/remote_sensing/resisc45``.
        split: ``train``, ``val``, ``test``, ``all``, or ``pretrain``: the images of ``train`` without labels.
        size: height and width to which the images are resized; ``None`` keeps 256 x 256.
        interpolation: how, see ``ImagePreprocess``.
        partition: ``torchgeo``: the lists ``resisc45-train.txt``, ``-val.txt`` and ``-test.txt`` in ``root`` (18,900,
            6,300 and 6,300 images), which the benchmarks use. ``drawn``: ours, of the same sizes, a fixed draw of 60,
            20 and 20 % of every class. ``None`` takes ``torchgeo`` where its lists are there, else ``drawn``, and says
            so.
        partial: accept a copy that lacks images; what is missing is counted and reported. Otherwise it is an error.
        download: fetch and unpack the archive (430 MB) and the lists where they are missing. Their checksums are
            verified.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    AREA = "remote_sensing/resisc45"
    COUNTS: ClassVar[dict[str, int]] = dict.fromkeys(CLASSES, 700)
    LISTS: ClassVar[dict[str, tuple[RemoteFile, RemoteFile, RemoteFile]]] = {
        "torchgeo": (
            RemoteFile("resisc45-train.txt", f"{_MIRROR}/resisc45-train.txt", "md5:b5a4c05a37de15e4ca886696a85c403e"),
            RemoteFile("resisc45-val.txt", f"{_MIRROR}/resisc45-val.txt", "md5:a0770cee4c5ca20b8c32bbd61e114805"),
            RemoteFile("resisc45-test.txt", f"{_MIRROR}/resisc45-test.txt", "md5:3dda9e4988b47eb1de9f07993653eb08"),
        )
    }

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        size: int | None = None,
        interpolation: str = "bicubic",
        partition: str | None = None,
        partial: bool = False,
        download: bool = False,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        options = {"root": root, "split": split, "size": size, "interpolation": interpolation}
        options |= {"partition": partition, "partial": partial, "download": download}
        super().__init__(LAYOUT, ("red", "green", "blue"), decode_image, options, transforms, seed)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown choices, missing folders, images or lists."""
        yield from cls.config_faults(LAYOUT, cfg)
