"""Metrics of the task models, safe under any number of processes and any padding of the last batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from perception.errors import DataError
from perception.evaluation.calibration import expected_calibration_error, negative_log_likelihood
from perception.registry import METRICS


def topk_accuracy(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Fraction of rows whose label is among the ``k`` highest scores.

    Args:
        scores: ``(n, C)``, higher is likelier. Equal scores are ranked by the lower class index.
        labels: ``(n,)`` int in [0, C).
        k: how many guesses each row has.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    rank = (scores > own).sum(1) + ((scores == own) & before).sum(1)
    return float((rank < k).mean())


def merge_views(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the mean softmax of the rows of every group.

    Args:
        logits: ``(n, C)``.
        labels: ``(n,)``, equal within a group.
        groups: ``(n,)``.

    Returns:
        ``(g, C)`` and ``(g,)``, in the order of the groups' numbers.
    """
    _, first, places, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(groups):
        return logits[first], labels[first]
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    sums = np.zeros((len(first), logits.shape[1]))
    np.add.at(sums, places, probabilities)
    return np.log(np.maximum(sums / counts[:, None], 1e-300)), labels[first]


class ClassificationMetric(BaseMetric):
    """Collects the ``logits`` and ``label`` of every labelled sample exactly once.

    Samplers may pad the last batches of distributed runs with repeated samples; those are recognised by their
    ``index`` and counted once. A graph of many nodes counts as many rows.

    Samples of one ``group``, such as clips of one video, count as one: their probabilities are averaged. Metrics with
    intervals also get the ``cluster`` of each, such as the camera or the patient, where the data set tells it.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, torch.Tensor]]) -> None:
        """Keep what is needed of the predictions of one batch."""
        for sample in data_samples:
            if "label" not in sample:
                raise DataError(f"{type(self).__name__} needs labels, the data set gives none")
            known = sample["label"] >= 0
            kept = {key: sample[key][known].cpu().numpy() for key in ("logits", "label")}
            for key in ("index", "group", "cluster"):
                if key in sample:
                    kept[key] = sample[key].to(known.device)[known].cpu().numpy()
            self.results.append(kept)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics of the collected parts of all processes, without their prefix.

        Raises:
            DataError: no sample has a label.
        """
        if not sum(len(part["label"]) for part in results):
            raise DataError(f"{type(self).__name__} saw no labelled sample: nothing can be measured")
        logits = np.concatenate([part["logits"] for part in results])
        labels = np.concatenate([part["label"] for part in results])
        clusters = _joined(results, "cluster")
        index, groups = _joined(results, "index"), _joined(results, "group")
        if index is not None:
            _, first = np.unique(index, return_index=True)
            logits, labels = logits[first], labels[first]
            clusters = None if clusters is None else clusters[first]
            if groups is not None:
                logits, labels = merge_views(logits, labels, groups[first])
                clusters = None if clusters is None else clusters[np.unique(groups[first], return_index=True)[1]]
        return self.measure_clusters(logits, labels, clusters)

    def measure_clusters(self, logits: np.ndarray, labels: np.ndarray, clusters: np.ndarray | None) -> dict[str, float]:
        """As ``measure``, for metrics that want the clusters (n,) of the samples."""
        return self.measure(logits, labels)

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Values by name from ``logits (n, C)`` and ``labels (n,)``."""
        raise NotImplementedError


def _joined(results: Sequence[dict[str, np.ndarray]], key: str) -> np.ndarray | None:
    """One array of what all parts have, else None."""
    return np.concatenate([part[key] for part in results]) if all(key in part for part in results) else None


@METRICS.register_module()
class Accuracy(ClassificationMetric):
    """Top-k accuracy as a fraction: ``accuracy/top1``, ``accuracy/top5``, ...

    Args:
        topk: one k or several.
        prefix: first part of the names.
    """

    default_prefix = "accuracy"

    def __init__(self, topk: int | Sequence[int] = 1, prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config."""
        ks = [cfg["topk"]] if isinstance(cfg["topk"], int) else list(cfg["topk"])
        if not ks or any(not isinstance(k, int) or k < 1 for k in ks):
            yield "topk", "needs whole numbers of at least 1"

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Accuracy for every k."""
        return {f"top{k}": topk_accuracy(logits, labels, k) for k in self.topk}


@METRICS.register_module()
class Calibration(ClassificationMetric):
    """How far to trust the probabilities: ``calibration/nll`` in nats and ``calibration/ece``.

    Args:
        bins: number of confidence intervals of the expected calibration error.
        prefix: first part of the names.
    """

    default_prefix = "calibration"

    def __init__(self, bins: int = 15, prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self.bins = bins

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Negative log-likelihood and expected calibration error."""
        probabilities, truth = torch.from_numpy(logits).double().softmax(1), torch.from_numpy(labels)
        return {
            "nll": negative_log_likelihood(probabilities, truth),
            "ece": expected_calibration_error(probabilities, truth, self.bins),
        }
