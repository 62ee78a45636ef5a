"""Metrics of models that predict a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from perception.errors import DataError
from perception.registry import METRICS


@METRICS.register_module()
class RegressionError(BaseMetric):
    """``regression/mse``, ``rmse``, ``mae``, in the unit of the labels, and ``r2``, the share of variance explained.

    Every labelled sample counts once, whatever the padding of distributed runs.

    Args:
        prefix: first part of the names.
    """

    default_prefix = "regression"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, torch.Tensor]]) -> None:
        """Keep the predictions of one batch."""
        for sample in data_samples:
            if "label" not in sample:
                raise DataError("RegressionError needs labels, the data set gives none")
            kept = {key: sample[key].cpu().double().numpy() for key in ("prediction", "label")}
            if "index" in sample:
                kept["index"] = sample["index"].cpu().numpy()
            self.results.append(kept)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics of the collected parts of all processes, without their prefix.

        Raises:
            DataError: no sample has a label.
        """
        told, labels = (np.concatenate([part[key] for part in results]) for key in ("prediction", "label"))
        if all("index" in part for part in results):
            _, first = np.unique(np.concatenate([part["index"] for part in results]), return_index=True)
            told, labels = told[first], labels[first]
        known = ~np.isnan(labels)
        if not known.any():
            raise DataError("RegressionError saw no labelled sample: nothing can be measured")
        return regression_figures(told[known], labels[known])


def regression_figures(told: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``mse``, ``rmse``, ``mae`` and ``r2`` of predictions (n,) of labels (n,); ``r2`` is 0 if all labels are equal."""
    errors = told - labels
    mse, spread = float(np.mean(errors**2)), float(np.var(labels))
    r2 = 1.0 - mse / spread if spread > 0 else 0.0
    return {"mse": mse, "rmse": mse**0.5, "mae": float(np.mean(np.abs(errors))), "r2": r2}
