"""Weighted k-nearest-neighbour classification of frozen features.

"Unsupervised Feature Learning via Non-Parametric Instance Discrimination", Wu et al., 2018. The score of class c is the
sum of ``exp(s_j / T)`` over the k nearest training rows j of that class, with s the cosine similarity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.errors import nearest
from perception.evaluation.protocol import (
    EvaluationError,
    Outcome,
    Protocol,
    Splits,
    accuracy,
    as_list,
    merge,
    positive,
)
from perception.registry import PROTOCOLS

VARIANTS: dict[str, dict[str, Any]] = {
    "solo-learn": {"k": 20, "temperature": 0.07, "distance": "cosine"},
    "lightly": {"k": 200, "temperature": 0.1, "distance": "cosine"},
    "mix-bt": {"k": 200, "temperature": 0.5, "distance": "cosine"},
    "dino": {"k": 20, "temperature": 0.07, "distance": "cosine"},
}
"""What public tables use, by the name of the library. DINO reports k = 20 out of 10, 20, 100, 200."""

DISTANCES = ("cosine", "euclidean")


def neighbours(bank: Tensor, queries: Tensor, k: int, distance: str, chunk: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of ``bank`` for every query, nearest first.

    Args:
        bank: ``(n, F)``.
        queries: ``(m, F)``.
        k: number of neighbours, at most n.
        distance: ``cosine`` or ``euclidean``.
        chunk: queries compared at once; bounds the memory to ``chunk * n`` values.

    Returns:
        Similarity (cosine) or distance (euclidean) ``(m, k)`` and row numbers ``(m, k)``.
    """
    if distance == "cosine":
        bank = torch.nn.functional.normalize(bank, dim=1)
        queries = torch.nn.functional.normalize(queries, dim=1)
    values, rows = [], []
    for part in queries.split(chunk):
        if distance == "cosine":
            value, row = (part @ bank.T).topk(k, dim=1)
        else:
            value, row = torch.cdist(part, bank).topk(k, dim=1, largest=False)
        values.append(value)
        rows.append(row)
    return torch.cat(values), torch.cat(rows)


def vote(values: Tensor, labels: Tensor, classes: int, temperature: float, distance: str) -> Tensor:
    """Class scores ``(m, classes)`` of neighbours.

    Args:
        values: ``(m, k)`` similarity or distance.
        labels: ``(m, k)`` class ids of the neighbours.
        classes: number of classes.
        temperature: T of the cosine weights ``exp(s / T)``; euclidean weights are ``1 / (d + 1e-5)``.
        distance: what ``values`` are.
    """
    values = values.double()
    if distance == "cosine":
        # Subtracting the largest similarity scales all scores of a query alike and keeps exp() finite.
        weights = ((values - values.max(1, keepdim=True).values) / temperature).exp()
    else:
        weights = 1 / (values + 1e-5)
    scores = torch.zeros(len(values), classes, dtype=torch.float64, device=values.device)
    return scores.scatter_add_(1, labels, weights)


def predict(scores: Tensor) -> Tensor:
    """Class with the highest score ``(m,)``; of equal scores the lower class, which argmax alone does not promise."""
    best = scores == scores.max(1, keepdim=True).values
    number = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(best, number, scores.shape[1]).min(1).values


@PROTOCOLS.register_module()
class KNN(Protocol):
    """Accuracy of weighted kNN with the training split as the bank.

    Args:
        k: number of neighbours; of several values the best on the validation split is used.
        temperature: T of the weights; of several values the best on the validation split is used.
        distance: ``cosine`` or ``euclidean``.
        variant: one of ``VARIANTS``, which sets all three as a public library does.
        refit: after the choice, use the training and validation rows together as the bank.
        chunk: queries compared at once.
        allow_large_k: accept k >= 200 on data with fewer than 200 training rows in some class, where most of the
            neighbours of any sample must be of other classes.
    """

    def __init__(
        self,
        k: int | Sequence[int] = 20,
        temperature: float | Sequence[float] = 0.07,
        distance: str = "cosine",
        variant: str | None = None,
        refit: bool = False,
        chunk: int = 1024,
        allow_large_k: bool = False,
    ) -> None:
        chosen = {"k": k, "temperature": temperature, "distance": distance}
        if variant is not None:
            if variant not in VARIANTS:
                raise EvaluationError(f"no kNN variant {variant!r}; there are {', '.join(VARIANTS)}")
            chosen = VARIANTS[variant]
        self.k: list[int] = as_list(chosen["k"])
        self.temperature: list[float] = as_list(chosen["temperature"])
        self.distance = str(chosen["distance"])
        self.refit = refit
        self.chunk = chunk
        self.allow_large_k = allow_large_k

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Values that can be judged without data."""
        yield from positive(cfg, "k", "temperature", "chunk")
        for key, names in (("distance", DISTANCES), ("variant", tuple(VARIANTS))):
            value = cfg.get(key)
            if value is not None and value not in names:
                close = nearest(str(value), names)
                yield key, f"must be one of {', '.join(names)}" + (f"; did you mean {close[0]!r}?" if close else "")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Accuracy on the test split."""
        train, test = data.need("train", "KNN"), data.need("test", "KNN")
        self._check(train.y)
        classes = data.classes()
        candidates = [(k, t) for k in self.k for t in self.temperature]
        chosen: dict[str, Any] = {}
        k, temperature = candidates[0]
        if len(candidates) > 1:
            val = data.need("val", "KNN with several k or temperatures")
            values, rows = neighbours(train.x, val.x, max(self.k), self.distance, self.chunk)
            scores = [
                accuracy(predict(vote(values[:, :k], train.y[rows[:, :k]], classes, t, self.distance)), val.y)
                for k, t in candidates
            ]
            best = max(range(len(scores)), key=scores.__getitem__)
            k, temperature = candidates[best]
            chosen = {"k": k, "temperature": temperature, "val_accuracy": scores[best]}
        bank = merge(train, data.need("val", "KNN with refit")) if self.refit else train
        values, rows = neighbours(bank.x, test.x, k, self.distance, self.chunk)
        predicted = predict(vote(values, bank.y[rows], classes, temperature, self.distance))
        settings = {"k": k, "temperature": temperature, "distance": self.distance, "bank": len(bank)}
        return [Outcome("accuracy", accuracy(predicted, test.y), len(test), chosen, settings=settings)]

    def _check(self, labels: Tensor) -> None:
        n, k = len(labels), max(self.k)
        if k > n:
            raise EvaluationError(f"KNN: k = {k} is larger than the {n} training rows; use k <= {n}")
        counts = torch.bincount(labels)
        smallest = int(counts[counts > 0].min())
        if k >= 200 and smallest < 200 and not self.allow_large_k:
            raise EvaluationError(
                f"KNN: k = {k} on training data whose smallest class has {smallest} rows: most neighbours of its "
                "samples must be wrong. Use k = 20, or allow_large_k=True to see for yourself"
            )
