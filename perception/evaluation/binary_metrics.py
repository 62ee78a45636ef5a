"""Metrics of a task with one class that matters: AUROC with an interval over groups, and counts at the threshold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from perception.errors import DataError, check_arguments
from perception.evaluation.bootstrap import RESAMPLES, bootstrap_auroc
from perception.evaluation.metrics import ClassificationMetric
from perception.evaluation.ranking import auroc
from perception.registry import METRICS
from perception.signatures import at_least


def class_scores(logits: np.ndarray, positive: int = 1) -> np.ndarray:
    """Softmax probability (n,) float64 of the class ``positive`` from ``logits (n, C)``."""
    return torch.from_numpy(logits).double().softmax(1)[:, positive].numpy()


class _OneClass(ClassificationMetric):
    """Base of the metrics of one class against the rest.

    Args:
        positive: number of the class that counts as positive.
        prefix: first part of the names.
    """

    def __init__(self, positive: int = 1, prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self.positive = positive

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A class that can be."""
        yield from at_least(cfg, 0, "positive")

    def truth(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(n,) bool.

        Raises:
            DataError: there is no such class, or all samples are on one side.
        """
        if self.positive >= logits.shape[1]:
            raise DataError(f"{type(self).__name__}.positive = {self.positive}: there are {logits.shape[1]} classes")
        truth = labels == self.positive
        if truth.all() or not truth.any():
            side = "all" if truth.any() else "none"
            raise DataError(
                f"{type(self).__name__}: {side} of {len(truth)} samples {'are' if truth.any() else 'is'} of class "
                f"{self.positive}, so there is nothing to tell apart: evaluate on data with both"
            )
        return truth


@METRICS.register_module()
class AUROC(_OneClass):
    """Area under the ROC curve of a class's probability: ``auroc/value``, ties counting one half.

    ``auroc/low`` and ``auroc/high`` are the ends of a 95 % bootstrap interval over ``auroc/groups`` groups, the
    ``cluster`` of the samples where the data set tells it, else the samples themselves. With a single group, or where
    too many resamples hold one class alone, there is no interval, and a warning says so.

    Args:
        positive: number of the class that counts as positive.
        resamples: of the bootstrap; 0 gives no interval.
        prefix: first part of the names.

    Raises:
        DataError: one of the classes is absent; there is no NaN.
    """

    default_prefix = "auroc"

    def __init__(self, positive: int = 1, resamples: int = RESAMPLES, prefix: str | None = None) -> None:
        check_arguments("AUROC", self.check_config, locals())
        super().__init__(positive, prefix)
        self.resamples = resamples

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A class and a number of resamples that can be."""
        yield from super().check_config(cfg)
        yield from at_least(cfg, 0, "resamples")

    def measure_clusters(self, logits: np.ndarray, labels: np.ndarray, clusters: np.ndarray | None) -> dict[str, float]:
        """Value and interval."""
        truth = self.truth(logits, labels)
        scores = class_scores(logits, self.positive)
        found = {"value": _asked(auroc, scores, truth), "n": float(len(truth))}
        if not self.resamples:
            return found
        groups = len(truth) if clusters is None else len(np.unique(clusters))
        try:
            if groups < 2:
                raise ValueError("all samples are of one group")
            interval = bootstrap_auroc(scores, truth, clusters, self.resamples)
        except ValueError as error:
            print_log(f"AUROC has no interval: {error}", logger="current", level=30)  # logging.WARNING
            return found
        return {**found, "low": interval.low, "high": interval.high, "groups": float(groups)}


@METRICS.register_module()
class BinaryScores(_OneClass):
    """Accuracy, precision, recall and F1 of the likeliest class, and the table of confusion.

    ``binary/accuracy``, ``binary/precision``, ``binary/recall``, ``binary/f1``; ``binary/tp``, ``fp``, ``fn`` and
    ``tn`` are counts. Precision is 0 where nothing is predicted positive. Copies of test samples would change all of
    these, so each counts once.

    Args:
        positive: number of the class that counts as positive.
        prefix: first part of the names.
    """

    default_prefix = "binary"

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Shares and counts."""
        truth, told = self.truth(logits, labels), logits.argmax(1) == self.positive
        hits, false, missed = (int(m.sum()) for m in (told & truth, told & ~truth, ~told & truth))
        return {
            "accuracy": float((told == truth).mean()),
            "precision": hits / max(hits + false, 1),
            "recall": hits / (hits + missed),
            "f1": 2 * hits / (2 * hits + false + missed),
            "tp": float(hits),
            "fp": float(false),
            "fn": float(missed),
            "tn": float((~told & ~truth).sum()),
            "n": float(len(truth)),
        }


def _asked(figure: Any, *values: np.ndarray) -> float:
    try:
        return float(figure(*values))
    except ValueError as error:
        raise DataError(f"AUROC: {error}") from error
