"""Chest radiographs with a clinical table that is full of holes: for loaders and missingness, not for diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perception.datasets.table_files import MISSING_VALUES, read_table
from perception.datasets.tabular_sets import PublishedTable
from perception.registry import DATASETS

_YES_NO = "sex survival intubated intubation_present went_icu in_icu needed_supplemental_O2 extubated view"
_NUMBERS = "offset age temperature pO2_saturation leukocyte_count neutrophil_count lymphocyte_count"
COLUMNS = {**dict.fromkeys(_YES_NO.split(), "categorical"), **dict.fromkeys(_NUMBERS.split(), "continuous")}


@DATASETS.register_module()
class CXRMissing(PublishedTable):
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
    """

    NAME = "cxr_missing"
    FILES: ClassVar[Mapping[str, str]] = {
        "table.csv": "a6a663f04b763f2d7fc4d2892f6bdbc01c42895c8507e25c8dd3b92cc034f472",
        "images_128_gray.npz": "163b0838a680b465b3f6f2686ea36abb3cdda2f6691778101fb23f87d98e1f3f",
    }
    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "id": "filename",
        "label": "covid",
        "classes": ("0", "1"),
        "columns": COLUMNS,
        "grey": True,
        "missing_values": (*MISSING_VALUES, "Not visible"),
    }

    @property
    def groups(self) -> np.ndarray:
        """(n,) text, the patient of every row."""
        patients = read_table(self.folder / "table.csv").texts("patientid", "patient")
        return patients[self.rows].astype(str)
