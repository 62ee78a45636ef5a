"""Houses in four photos and five facts, with their price: regression, or its quartile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from perception.datasets.images import check_split
from perception.datasets.missingness import missing_faults
from perception.datasets.table_images import TableImages
from perception.datasets.table_rows import only_faults
from perception.datasets.tabular_sets import folder_faults, tabular_folder
from perception.errors import ConfigError, Fault, not_among
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform

FILES = {
    "table.csv": "e4dc37730f9744c3ea75722baef0b751f5f555156b5e169391a99e7f486bf39f",
    "images_montage_128.npz": "04fe8117ec572419dccbee2ef32051da8ac4c359f4c0fc0c3cc4108a5adbb0ec",
}
COLUMNS = {"zipcode": "categorical", "bedrooms": "continuous", "bathrooms": "continuous", "area": "continuous"}
LABELS = ("price_quartile", "price")


@DATASETS.register_module()
class Houses535(TableImages):
    """535 houses ("House price estimation from visual and textual features", Ahmed and Moustafa, 2016): frontal view,
    bedroom, bathroom and kitchen in one image of 128 x 128 pixels, zip code, bedrooms, bathrooms and area.

    Fixed splits: 321 train, 80 val, 134 test. Zip codes of the test split that no training row has are missing cells
    for a record that was fitted to the training rows.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: ``train`` and ``val`` without labels.
        label: ``price_quartile``, 4 classes, or ``price`` in US dollars, a number.
        size: height and width in pixels.
        missing: cells and images taken away, ``dict(strategy=..., rate=...)`` of ``Masker`` or ``dict(file=...)``.
        only: ``table`` or ``image`` leaves the other out; None gives both.
        root: folder of the files; None is ``$PERCEPTION_DATA/tabular_image/houses535``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("pretrain", "train", "val", "test")

    def __init__(
        self,
        split: str = "train",
        label: str = "price_quartile",
        size: int = 128,
        missing: Mapping[str, Any] | None = None,
        only: str | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        if label not in LABELS:
            raise ConfigError([Fault("label", label, not_among(label, LABELS))])
        folder = tabular_folder(root, "houses535", FILES)
        super().__init__(
            str(folder / "table.csv"),
            images=str(folder / "images_montage_128.npz"),
            id="house",
            label=label,
            labels=split != "pretrain",
            target="number" if label == "price" else "class",
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
        """Faults of a config: an unknown split or label, choices that are none, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        if cfg["label"] not in LABELS:
            yield "label", not_among(cfg["label"], LABELS)
        yield from at_least(cfg, 1, "size")
        yield from only_faults(cfg["only"])
        yield from missing_faults(cfg["missing"])
        yield from folder_faults(cfg["root"], "houses535", FILES)
