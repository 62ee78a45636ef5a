"""Graph classification by an RBF-SVM in nested cross-validation, as the graph SSL literature reports it.

Outer: ``StratifiedKFold(10, shuffle, seed 0)``. Inner, on the outer training part: 5 stratified folds over C, then a
refit with the best. ``SVC(kernel='rbf', gamma='scale', random_state=42)``; micro-F1, which is the accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from perception.evaluation.protocol import EvaluationError, Outcome, Protocol, Splits, positive
from perception.evaluation.stats import mean_std
from perception.registry import PROTOCOLS


def squared_distances(x: np.ndarray) -> np.ndarray:
    """``(n, n)`` squared Euclidean distances of the rows of ``x`` ``(n, F)``, float64."""
    x = x - x.mean(0)  # distances are the same, cancellation is less
    norms = np.einsum("ij,ij->i", x, x)
    distances = norms[:, None] + norms[None, :] - 2 * (x @ x.T)
    np.fill_diagonal(distances, 0)
    return np.maximum(distances, 0)


class KernelSVM:
    """SVC with an RBF kernel that is cut out of one matrix of distances.

    The distances are the same in all folds and for all C; only ``gamma = 1 / (F * variance of the training part)``
    changes. Filling kernels from the matrix is what makes nested cross-validation take seconds.

    Args:
        x: ``(n, F)`` features.
        y: ``(n,)`` class ids.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y)
        self.distances = squared_distances(self.x)

    def accuracies(self, train: np.ndarray, test: np.ndarray, costs: Sequence[float]) -> list[float]:
        """Accuracy on the rows ``test`` after training on the rows ``train``, for each C."""
        from sklearn.svm import SVC

        variance = self.x[train].var()
        gamma = 1.0 / (self.x.shape[1] * variance) if variance > 0 else 1.0
        fit = np.exp(-gamma * self.distances[np.ix_(train, train)])
        ask = np.exp(-gamma * self.distances[np.ix_(test, train)])
        found = []
        for cost in costs:
            machine = SVC(C=cost, kernel="precomputed", random_state=42).fit(fit, self.y[train])
            found.append(float((machine.predict(ask) == self.y[test]).mean()))
        return found


@PROTOCOLS.register_module()
class SVMCrossValidation(Protocol):
    """Mean micro-F1 over the outer folds. Every C is chosen inside the outer training part.

    Args:
        costs: candidates for C.
        folds: outer folds.
        inner_folds: folds of the choice of C.
        fold_seed: seed of the outer shuffle; the papers keep 0 for all model seeds.
    """

    needs = ("all",)

    def __init__(
        self,
        costs: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
        folds: int = 10,
        inner_folds: int = 5,
        fold_seed: int = 0,
    ) -> None:
        self.costs = list(costs)
        self.folds, self.inner_folds, self.fold_seed = folds, inner_folds, fold_seed

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive C, at least two folds."""
        yield from positive(cfg, "costs")
        for key in ("folds", "inner_folds"):
            if isinstance(cfg.get(key), int) and cfg[key] < 2:
                yield key, f"needs at least 2, got {cfg[key]}"

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Mean over the folds, with the deviation over folds among the extras."""
        from sklearn.model_selection import StratifiedKFold

        every = data.need("all", "SVMCrossValidation")
        x, y = every.x.cpu().numpy(), every.y.cpu().numpy()
        smallest = int(np.bincount(y)[np.unique(y)].min())
        if smallest < self.folds:
            raise EvaluationError(f"SVM: the smallest class has {smallest} samples, fewer than {self.folds} folds")
        svm = KernelSVM(x, y)
        scores, chosen = [], []
        for train, test in StratifiedKFold(self.folds, shuffle=True, random_state=self.fold_seed).split(x, y):
            inner = [
                svm.accuracies(train[fit], train[held], self.costs)
                for fit, held in StratifiedKFold(self.inner_folds).split(x[train], y[train])
            ]
            # Rounded as sums of equal counts may differ in the last bit; the first of equal means wins.
            cost = self.costs[int(np.argmax(np.mean(inner, axis=0).round(12)))]
            scores.append(svm.accuracies(train, test, [cost])[0])
            chosen.append(cost)
        mean, std = mean_std(scores)
        extras = {"fold_std": std, "folds": scores}
        settings = {
            "costs": self.costs,
            "folds": self.folds,
            "inner_folds": self.inner_folds,
            "fold_seed": self.fold_seed,
        }
        return [Outcome("micro_f1", mean, len(y), {"C": chosen}, extras, settings)]
