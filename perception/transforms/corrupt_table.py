"""Tables with some cells replaced by those of other rows, for another view of a sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from perception.errors import DataError, check_arguments, not_among
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

INTO = ("table_view", "table")


@TRANSFORMS.register_module()
class CorruptTable(Transform):
    """Replaces cells by draws from their column ("SCARF: Self-Supervised Contrastive Learning using Random Feature
    Corruption", Bahri et al., 2022).

    In every sample int(rate F) of the F columns are chosen; each gets the value of a random row, another row for every
    column. Draws come from the observed cells of the data set's rows. Missing cells stay missing, and a column without
    any observed cell is left alone.

    Args:
        rate: share of the columns that are chosen; int() cuts off.
        probability: share of samples that are changed at all.
        into: ``table_view`` adds the outcome to the batch and keeps ``table``; ``table`` replaces it.
    """

    def __init__(self, rate: float = 0.3, probability: float = 1.0, into: str = "table_view") -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.rate, self.probability, self.into = rate, probability, into
        self._values: np.ndarray | None = None
        self._counts: np.ndarray | None = None

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        for key in ("rate", "probability"):
            if not 0 <= cfg[key] <= 1:
                yield key, "must lie in [0, 1]"
        if cfg["into"] not in INTO:
            yield "into", not_among(cfg["into"], INTO)

    def see_table(self, table: np.ndarray, missing: np.ndarray) -> None:
        """Take the columns' distributions from the rows of a data set: cells (n, F) and holes (n, F) bool."""
        order = np.argsort(missing, axis=0, kind="stable")  # observed cells of every column first
        self._values = np.take_along_axis(table, order, axis=0)
        self._counts = (~missing).sum(0)

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch.

        Raises:
            DataError: the batch has no table, or the transform has not been shown the data set's.
        """
        if batch.get("table") is None:
            raise DataError(f"CorruptTable needs 'table'; the batch holds {', '.join(sorted(batch))}")
        if self._values is None or self._counts is None:
            raise DataError(
                "CorruptTable draws from the rows of a data set: give it to the transforms of one with a table"
            )
        table, missing = batch["table"].numpy(), batch["table_missing"].numpy()
        rows, columns = table.shape
        changed = random.uniform() < self.probability
        ranks = random.streams(columns).uniform().reshape(columns, rows).T.argsort(axis=1).argsort(axis=1)
        draws = random.streams(columns).uniform().reshape(columns, rows).T
        source = np.minimum((draws * self._counts).astype(np.int64), np.maximum(self._counts - 1, 0))
        new = np.take_along_axis(self._values, source, axis=0)
        chosen = (ranks < int(self.rate * columns)) & changed[:, None] & ~missing & (self._counts > 0)
        return {**batch, self.into: torch.from_numpy(np.where(chosen, new, table))}
