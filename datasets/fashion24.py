"""Product photos with a few facts about each, in 24 kinds of articles: the main small set of tables with images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from perception.datasets.images import check_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_images import TableImages
from perception.datasets.table_rows import only_faults
from perception.datasets.tabular_sets import folder_faults, tabular_folder
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform

FILES = {
    "table.csv": "f6c64d41720c6e2e08b22ac806c66c2ebb2cd46192d0f2e90e352cb924c6f9f6",
    "images_64.npz": "3481dadbb80946cdb01635af58563bd735ec6e7f1fff1ae03cc2461988bbdf1d",
}
COLUMNS = {
    "gender": "categorical",
    "baseColour": "categorical",
    "season": "categorical",
    "usage": "categorical",
    "year": "continuous",
}


@DATASETS.register_module()
class Fashion24(TableImages):
    """4,721 products of 24 article types: a photo of 64 x 64 pixels, gender, colour, season, usage and year.

    From the public "Fashion Product Images" catalogue. The columns that give the label away (masterCategory,
    subCategory, articleType) are no inputs. Fixed splits: 2,833 train, 708 val, 1,180 test.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: ``train`` and ``val`` without labels.
        size: height and width in pixels.
        missing: cells and images taken away, ``dict(strategy=..., rate=...)`` of ``Masker`` or ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        root: folder of the files; None is ``$PERCEPTION_DATA/tabular_image/fashion24``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("pretrain", "train", "val", "test")

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        folder = tabular_folder(root, "fashion24", FILES)
        super().__init__(
            str(folder / "table.csv"),
            images=str(folder / "images_64.npz"),
            id="id",
            label="articleType",
            labels=split != "pretrain",
            columns=COLUMNS,
            split=("train", "val") if split == "pretrain" else split,
            size=size,
            missing=missing,
            only=only,
            transforms=transforms,
            seed=seed,
        )

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split, choices that are none, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        yield from at_least(cfg, 1, "size")
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])
        yield from folder_faults(cfg["root"], "fashion24", FILES)
