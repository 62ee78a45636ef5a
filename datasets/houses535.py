"""Houses in four photos and five facts, with their price: regression, or its quartile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from perception.datasets.tabular_sets import PublishedTable
from perception.errors import ConfigError, Fault, not_among
from perception.registry import DATASETS

COLUMNS = {"zipcode": "categorical", "bedrooms": "continuous", "bathrooms": "continuous", "area": "continuous"}
LABELS = ("price_quartile", "price")


@DATASETS.register_module()
class Houses535(PublishedTable):
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

    NAME = "houses535"
    FILES: ClassVar[Mapping[str, str]] = {
        "table.csv": "e4dc37730f9744c3ea75722baef0b751f5f555156b5e169391a99e7f486bf39f",
        "images_montage_128.npz": "04fe8117ec572419dccbee2ef32051da8ac4c359f4c0fc0c3cc4108a5adbb0ec",
    }
    OPTIONS: ClassVar[Mapping[str, Any]] = {"id": "house", "columns": COLUMNS}

    def __init__(self, split: str = "train", label: str = "price_quartile", size: int = 128, **options: Any) -> None:
        if label not in LABELS:
            raise ConfigError([Fault("label", label, not_among(label, LABELS))])
        self.label = label
        super().__init__(split, size, **options)

    def options(self) -> dict[str, Any]:
        """With the label that is asked for."""
        return {**self.OPTIONS, "label": self.label, "target": "number" if self.label == "price" else "class"}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown label, and those of the base."""
        if cfg["label"] not in LABELS:
            yield "label", not_among(cfg["label"], LABELS)
        yield from super().check_config(cfg)
