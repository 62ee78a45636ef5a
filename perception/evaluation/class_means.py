"""Metrics in which every class weighs the same, however many samples it has."""

from __future__ import annotations

import numpy as np

from perception.evaluation.metrics import ClassificationMetric
from perception.registry import METRICS


@METRICS.register_module()
class MacroF1(ClassificationMetric):
    """``f1/macro``, the mean F1 of the classes that occur, and ``f1/balanced_accuracy``, the mean recall.

    Args:
        prefix: first part of the names.
    """

    default_prefix = "f1"

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Both figures of the likeliest class, as fractions."""
        from sklearn.metrics import f1_score

        predicted = logits.argmax(1)
        recalls = [float((predicted[labels == number] == number).mean()) for number in np.unique(labels)]
        macro = float(f1_score(labels, predicted, average="macro", zero_division=0))
        return {"macro": macro, "balanced_accuracy": float(np.mean(recalls))}
