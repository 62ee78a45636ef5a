"""The embedded default: scikit-learn's handwritten digits, no download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from perception.datasets.images import ArrayImages, check_split, stratified_split
from perception.registry import DATASETS
from perception.transforms.base import Transform

MEAN, STD = (0.3053,), (0.3760,)  # of all pixels, in units of 255
SPLIT_SEED = 0


@DATASETS.register_module()
class Digits(ArrayImages):
    """1,797 grey digits of 8 x 8 pixels (Alpaydin and Kaynak, UCI, 1998), scaled from 0..16 to 0..255.

    The split is fixed: within every class the rows are shuffled by ``numpy.random.default_rng(0)``, 60 % train, 15 %
    val, 25 % test.

    Args:
        split: ``train``, ``val``, ``test``, or ``pretrain``: the images of ``train`` and ``val`` without labels.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("pretrain", "train", "val", "test")

    def __init__(
        self, split: str = "pretrain", transforms: Sequence[Transform | dict[str, Any]] = (), seed: int = 0
    ) -> None:
        check_split(split, self.SPLITS)
        images, labels = load_digits_uint8()
        train, val, test = stratified_split(labels, (0.6, 0.15), SPLIT_SEED)
        rows = {"train": train, "val": val, "test": test, "pretrain": np.union1d(train, val)}[split]
        chosen = None if split == "pretrain" else labels[rows]
        super().__init__(images[rows], chosen, [str(d) for d in range(10)], transforms, seed)
        self.split = split

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: an unknown split."""
        check_split(cfg["split"], cls.SPLITS)
        return ()


@lru_cache(maxsize=1)
def load_digits_uint8() -> tuple[np.ndarray, np.ndarray]:
    """All digits: (1797, 1, 8, 8) uint8 and (1797,) int64."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return images, bunch.target.astype(np.int64)
