"""One-class anomaly detection on frozen features: how close is a sample to anything normal?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.evaluation.knn import neighbours
from perception.evaluation.protocol import EvaluationError, Outcome, Protocol, Splits, as_list, positive
from perception.evaluation.ranking import auroc
from perception.evaluation.stats import mean_std
from perception.registry import PROTOCOLS


def normality(train: Tensor, queries: Tensor, chunk: int = 1024) -> Tensor:
    """Largest cosine similarity of every query ``(m, F)`` to the training rows ``(n, F)``: ``(m,)``."""
    return neighbours(train, queries, 1, "cosine", chunk)[0][:, 0]


@PROTOCOLS.register_module()
class Anomaly(Protocol):
    """Mean AUROC over the classes, each in turn being the normal one.

    The bank holds the training rows of the normal class alone; the score of a test sample is its largest cosine
    similarity to them; normal samples are the positives.

    Args:
        normal: classes to take in turn; ``None`` takes all.
        chunk: queries compared at once.
    """

    def __init__(self, normal: int | Sequence[int] | None = None, chunk: int = 1024) -> None:
        self.normal, self.chunk = as_list(normal), chunk

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive chunk."""
        yield from positive(cfg, "chunk")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Mean AUROC on the test split, per class among the extras."""
        train, test = data.need("train", "Anomaly"), data.need("test", "Anomaly")
        labels = test.y.cpu().numpy()
        classes = self.normal or [int(c) for c in torch.unique(test.y)]
        values = []
        for normal in classes:
            bank = train.x[train.y == normal]
            inside = int(np.count_nonzero(labels == normal))
            if len(bank) == 0 or inside in (0, len(labels)):
                raise EvaluationError(
                    f"Anomaly: class {normal} has {len(bank)} training rows and {inside} of {len(labels)} test rows"
                )
            values.append(auroc(normality(bank, test.x, self.chunk).cpu().numpy(), labels == normal))
        extras = {"per_class": dict(zip(map(str, classes), values, strict=True)), "class_std": mean_std(values)[1]}
        return [Outcome("auroc", mean_std(values)[0], len(test), {}, extras, proportion=False)]
