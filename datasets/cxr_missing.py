"""Chest radiographs with a clinical table that is full of holes: for loaders and missingness, not for diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from perception.datasets.images import check_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_files import MISSING_VALUES, read_table
from perception.datasets.table_images import TableImages
from perception.datasets.table_rows import only_faults
from perception.datasets.tabular_sets import folder_faults, tabular_folder
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform

FILES = {
    "table.csv": "a6a663f04b763f2d7fc4d2892f6bdbc01c42895c8507e25c8dd3b92cc034f472",
    "images_128_gray.npz": "163b0838a680b465b3f6f2686ea36abb3cdda2f6691778101fb23f87d98e1f3f",
}
_YES_NO = "sex survival intubated intubation_present went_icu in_icu needed_supplemental_O2 extubated view"
_NUMBERS = "offset age temperature pO2_saturation leukocyte_count neutrophil_count lymphocyte_count"
COLUMNS = {**dict.fromkeys(_YES_NO.split(), "categorical"), **dict.fromkeys(_NUMBERS.split(), "continuous")}


@DATASETS.register_module()
class CXRMissing(TableImages):
    """269 frontal radiographs, one grey band of 128 x 128 pixels, of 156 patients, and 16 clinical columns of which 0
    to 100 % of the cells are missing by nature.

    Part of the "COVID-19 Image Data Collection" (Cohen et al., 2020); most images are for non-commercial use only, see
    ``license`` in ``table.csv``. The label says whether the finding contains COVID. Split by patient: 166 train, 41
    val, 62 test. ``?`` and ``Not visible`` are missing cells. No diagnostic claim can be made from it.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: ``train`` and ``val`` without labels.
        size: height and width in pixels.
        missing: cells and images taken away besides, ``dict(strategy=..., rate=...)`` of ``Masker``, or
            ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        root: folder of the files; None is ``$PERCEPTION_DATA/tabular_image/cxr_missing``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        groups: (n,) text, the patient of every row.
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
        folder = tabular_folder(root, "cxr_missing", FILES)
        super().__init__(
            str(folder / "table.csv"),
            images=str(folder / "images_128_gray.npz"),
            id="filename",
            label="covid",
            labels=split != "pretrain",
            classes=("0", "1"),
            columns=COLUMNS,
            split=("train", "val") if split == "pretrain" else split,
            size=size,
            grey=True,
            missing_values=(*MISSING_VALUES, "Not visible"),
            missing=missing,
            only=only,
            transforms=transforms,
            seed=seed,
        )
        patients = read_table(folder / "table.csv").texts("patientid", "patient")
        self.groups: np.ndarray = patients[self.rows].astype(str)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split, choices that are none, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        yield from at_least(cfg, 1, "size")
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])
        yield from folder_faults(cfg["root"], "cxr_missing", FILES)
