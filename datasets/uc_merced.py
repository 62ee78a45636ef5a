"""UC Merced Land Use in its official layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial as bind
from typing import Any, ClassVar

from perception.datasets.caption_corpora import UCM_CLASSES
from perception.datasets.downloads import RemoteFile
from perception.datasets.multispectral import decode_tiff
from perception.datasets.scene_images import ClassFolders, SceneImages
from perception.registry import DATASETS
from perception.transforms.base import Transform

_MIRROR = "https://hf.co/datasets/torchgeo/ucmerced/resolve/7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a"
LAYOUT = ClassFolders(
    ("UCMerced_LandUse/Images",),
    (".tif", ".tiff"),
    RemoteFile("UCMerced_LandUse.zip", f"{_MIRROR}/UCMerced_LandUse.zip", "md5:5b7ec56793786b6dc8a908e8854ac0e4"),
)


@DATASETS.register_module()
class UCMerced(SceneImages):
    """2,100 aerial images, a foot a pixel, in 21 classes of 100 ("Bag-of-visual-words and spatial extensions for
    land-use classification", Yang and Newsam, 2010).

    ``root`` holds ``UCMerced_LandUse/Images/<class>/<class>NN.tif``, or it is the folder of the classes itself.

    Args:
        root: the folder; ``None`` is ``$PERCEPTION_DATA/remote_sensing/ucmerced``.
        split: ``train``, ``val``, ``test``, ``all``, or ``pretrain``: the images of ``train`` without labels.
        size: a few images are not 256 x 256: all are scaled until they cover a square of so many pixels, whose centre
            is cut out. ``None`` leaves them as they are, in a list where their sizes differ.
        interpolation: how, see ``ImagePreprocess``.
        partition: ``torchgeo``: the lists ``uc_merced-train.txt``, ``-val.txt`` and ``-test.txt`` in ``root`` (1,260,
            420 and 420 images), which the benchmarks use. ``drawn``: ours, of the same sizes, a fixed draw of 60, 20
            and 20 % of every class. ``None`` takes ``torchgeo`` where its lists are there, else ``drawn``, and says so.
        partial: accept a copy that lacks images; what is missing is counted and reported. Otherwise it is an error.
        download: fetch and unpack the archive (330 MB) and the lists where they are missing. Their checksums are
            verified.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    AREA = "remote_sensing/ucmerced"
    COUNTS: ClassVar[dict[str, int]] = dict.fromkeys(UCM_CLASSES, 100)
    LISTS: ClassVar[dict[str, tuple[RemoteFile, RemoteFile, RemoteFile]]] = {
        "torchgeo": (
            RemoteFile("uc_merced-train.txt", f"{_MIRROR}/uc_merced-train.txt", "md5:f2fb12eb2210cfb53f93f063a35ff374"),
            RemoteFile("uc_merced-val.txt", f"{_MIRROR}/uc_merced-val.txt", "md5:11ecabfc52782e5ea6a9c7c0d263aca0"),
            RemoteFile("uc_merced-test.txt", f"{_MIRROR}/uc_merced-test.txt", "md5:046aff88472d8fc07c4678d03749e28d"),
        )
    }

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        size: int | None = 256,
        interpolation: str = "bilinear",
        partition: str | None = None,
        partial: bool = False,
        download: bool = False,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        options = {"root": root, "split": split, "size": size, "interpolation": interpolation}
        options |= {"partition": partition, "partial": partial, "download": download}
        decode = bind(decode_tiff, bands=3, dtypes=("uint8",))
        super().__init__(LAYOUT, ("red", "green", "blue"), decode, options, transforms, seed)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown choices, missing folders, images or lists."""
        yield from cls.config_faults(LAYOUT, cfg)
