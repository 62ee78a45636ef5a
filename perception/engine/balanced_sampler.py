"""Classes in equal numbers, for training on labels of which some are rare."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from perception.datasets.balance import balanced_order, class_members, labels_of
from perception.engine.sampler import ResumableSampler
from perception.errors import DataError
from perception.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class BalancedSampler(ResumableSampler):
    """Every epoch has as many samples of each class as the largest class has.

    Samples of the largest class come once, those of the others are drawn with replacement, anew in every epoch; the
    order is shuffled. It is a function of (seed, epoch). It is refused in validation and test, where copies would make
    every figure but the AUROC wrong, and every interval too narrow.

    Args:
        dataset: has ``targets`` or ``labels``, (n,) class numbers; unlabelled samples (below 0) are left out.
        seed: the same on all ranks.

    Raises:
        DataError: there are no such labels, or a single class.
    """

    training_only: ClassVar[bool] = True

    def __init__(self, dataset: Any, seed: int | None = 0) -> None:
        super().__init__(dataset, shuffle=True, seed=seed, uneven="pad")
        self.members = class_members(labels_of(dataset))
        if len(self.members) < 2:
            raise DataError(f"BalancedSampler: {type(dataset).__name__} has labels of {len(self.members)} classes")
        self.size = max(map(len, self.members)) * len(self.members)

    def order(self, epoch: int) -> np.ndarray:
        """(size,) int64 positions of an epoch."""
        return balanced_order(self.members, np.random.default_rng([self.seed, epoch]))
