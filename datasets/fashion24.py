"""Product photos with a few facts about each, in 24 kinds of articles: the main small set of tables with images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from perception.datasets.tabular_sets import PublishedTable
from perception.registry import DATASETS

COLUMNS = {
    "gender": "categorical",
    "baseColour": "categorical",
    "season": "categorical",
    "usage": "categorical",
    "year": "continuous",
}


@DATASETS.register_module()
class Fashion24(PublishedTable):
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

    NAME = "fashion24"
    FILES: ClassVar[Mapping[str, str]] = {
        "table.csv": "f6c64d41720c6e2e08b22ac806c66c2ebb2cd46192d0f2e90e352cb924c6f9f6",
        "images_64.npz": "3481dadbb80946cdb01635af58563bd735ec6e7f1fff1ae03cc2461988bbdf1d",
    }
    OPTIONS: ClassVar[Mapping[str, Any]] = {"id": "id", "label": "articleType", "columns": COLUMNS}
