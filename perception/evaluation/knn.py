"""Weighted k-nearest-neighbour classification of frozen features.

"Unsupervised Feature Learning via Non-Parametric Instance Discrimination", Wu et al., 2018. The score of class c is the
sum of ``exp(s_j / T)`` over the k nearest training rows j of that class, with s the cosine similarity. Other
conventions are one vote for each neighbour, and euclidean distances. Where a sample can have several labels, each label
is voted on by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.errors import not_among
from perception.evaluation.linear_lbfgs import Standardise
from perception.evaluation.multi_label import micro_ap, multi_label_figures
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
    "solo-learn": {"k": 20, "temperature": 0.07, "distance": "cosine", "votes": "weighted"},
    "lightly": {"k": 200, "temperature": 0.1, "distance": "cosine", "votes": "weighted"},
    "mix-bt": {"k": 200, "temperature": 0.5, "distance": "cosine", "votes": "weighted"},
    "dino": {"k": 20, "temperature": 0.07, "distance": "cosine", "votes": "weighted"},
    "resize-benchmark": {"k": 5, "temperature": 1.0, "distance": "euclidean", "votes": "uniform"},
}
"""What public tables use, by the name of the library or paper. DINO reports k = 20 out of 10, 20, 100, 200;
``resize-benchmark`` is "Revisiting pre-trained remote sensing model benchmarks" (Corley et al., 2024)."""

DISTANCES = ("cosine", "euclidean")
VOTES = ("weighted", "uniform")
_BANK_ROWS = 65536  # compared at once in float64


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
        value, row = (part @ bank.T).topk(k, dim=1) if distance == "cosine" else _nearest(bank, part, k)
        values.append(value)
        rows.append(row)
    return torch.cat(values), torch.cat(rows)


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Euclidean distances ``(m, k)`` and rows ``(m, k)``, in float64.

    Features that vary little around a large mean lose in float32 what tells them apart.
    """
    queries = queries.double()
    value = torch.empty(len(queries), 0, dtype=torch.float64, device=queries.device)
    row = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), _BANK_ROWS):
        found = torch.cdist(queries, bank[start : start + _BANK_ROWS].double())
        best, place = found.topk(min(k, found.shape[1]), dim=1, largest=False)
        value, order = torch.cat([value, best], 1).topk(min(k, value.shape[1] + best.shape[1]), dim=1, largest=False)
        row = torch.cat([row, place + start], 1).gather(1, order)
    return value, row


def vote(
    values: Tensor, labels: Tensor, classes: int, temperature: float, distance: str, votes: str = "weighted"
) -> Tensor:
    """Scores of neighbours: of classes ``(m, classes)``, or of several labels ``(m, L)`` the share of votes for each.

    Args:
        values: ``(m, k)`` similarity or distance.
        labels: class ids of the neighbours ``(m, k)``, or their labels ``(m, k, L)``, 0 and 1.
        classes: number of classes.
        temperature: T of the cosine weights ``exp(s / T)``; euclidean weights are ``1 / (d + 1e-5)``.
        distance: what ``values`` are.
        votes: ``weighted`` or ``uniform``, one vote for each neighbour.
    """
    values = values.double()
    if votes == "uniform":
        weights = torch.ones_like(values)
    elif distance == "cosine":
        # Subtracting the largest similarity scales all scores of a query alike and keeps exp() finite.
        weights = ((values - values.max(1, keepdim=True).values) / temperature).exp()
    else:
        weights = 1 / (values + 1e-5)
    if labels.ndim == 3:
        return torch.einsum("mk,mkl->ml", weights, labels.double()) / weights.sum(1, keepdim=True)
    scores = torch.zeros(len(values), classes, dtype=torch.float64, device=values.device)
    return scores.scatter_add_(1, labels, weights)


def predict(scores: Tensor) -> Tensor:
    """Class with the highest score ``(m,)``; of equal scores the lower class, which argmax alone does not promise."""
    best = scores == scores.max(1, keepdim=True).values
    number = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(best, number, scores.shape[1]).min(1).values


@PROTOCOLS.register_module()
class KNN(Protocol):
    """Accuracy of kNN with the training split as the bank.

    Where a sample can have several labels, the figure is the micro-averaged average precision of the shares of votes;
    a label is predicted where it has more than half of them, and F1 and the other averages are extras.

    Args:
        k: number of neighbours; of several values the best on the validation split is used.
        temperature: T of the weights; of several values the best on the validation split is used.
        distance: ``cosine`` or ``euclidean``.
        votes: ``weighted`` by similarity, or ``uniform``. Equal scores go to the lower class.
        standardise: shift and scale every feature by its mean and deviation over the bank.
        variant: one of ``VARIANTS``, which sets the first four as a public library or table does.
        refit: after the choice, use the training and validation rows together as the bank.
        chunk: queries compared at once.
        allow_large_k: accept k >= 200 on data with fewer than 200 training rows in some class, where most of the
            neighbours of any sample must be of other classes.
    """

    chosen_on_val = ("k", "temperature")

    def __init__(
        self,
        k: int | Sequence[int] = 20,
        temperature: float | Sequence[float] = 0.07,
        distance: str = "cosine",
        votes: str = "weighted",
        standardise: bool = False,
        variant: str | None = None,
        refit: bool = False,
        chunk: int = 1024,
        allow_large_k: bool = False,
    ) -> None:
        chosen = {"k": k, "temperature": temperature, "distance": distance, "votes": votes}
        if variant is not None:
            if variant not in VARIANTS:
                raise EvaluationError(f"no kNN variant {variant!r}; there are {', '.join(VARIANTS)}")
            chosen = VARIANTS[variant]
        self.k: list[int] = as_list(chosen["k"])
        self.temperature: list[float] = as_list(chosen["temperature"])
        self.distance, self.votes = str(chosen["distance"]), str(chosen["votes"])
        self.standardise = standardise
        self.refit = refit
        self.chunk = chunk
        self.allow_large_k = allow_large_k

    @classmethod
    def splits_needed(cls, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """See ``AnyProtocol``; a variant stands in place of the values."""
        return super().splits_needed({**cfg, **VARIANTS.get(str(cfg.get("variant")), {})})

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Values that can be judged without data."""
        yield from positive(cfg, "k", "temperature", "chunk")
        for key, names in (("distance", DISTANCES), ("votes", VOTES), ("variant", tuple(VARIANTS))):
            value = cfg.get(key)
            if value is not None and value not in names:
                yield key, not_among(value, names)

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """The figure on the test split."""
        several = data.train is not None and data.train.y.ndim == 2
        train, test = data.need("train", "KNN", several), data.need("test", "KNN", several)
        self._check(train.y)
        classes = 0 if several else data.classes()
        candidates = [(k, t) for k in self.k for t in self.temperature]
        chosen: dict[str, Any] = {}
        k, temperature = candidates[0]
        metric = "ap_micro" if several else "accuracy"
        if len(candidates) > 1:
            val = data.need("val", "KNN with several k or temperatures", several)
            values, rows = self._neighbours(train.x, val.x, max(self.k))
            figures = []
            for k, t in candidates:
                scores = vote(values[:, :k], train.y[rows[:, :k]], classes, t, self.distance, self.votes)
                figures.append(micro_ap(scores, val.y) if several else accuracy(predict(scores), val.y))
            best = max(range(len(figures)), key=figures.__getitem__)
            k, temperature = candidates[best]
            chosen = {"k": k, "temperature": temperature, f"val_{metric}": figures[best]}
        bank = merge(train, data.need("val", "KNN with refit", several)) if self.refit else train
        values, rows = self._neighbours(bank.x, test.x, k)
        scores = vote(values, bank.y[rows], classes, temperature, self.distance, self.votes)
        settings = {"k": k, "distance": self.distance, "votes": self.votes, "bank": len(bank)}
        settings |= {"standardise": True} if self.standardise else {}
        settings |= {"temperature": temperature} if (self.votes, self.distance) == ("weighted", "cosine") else {}
        if not several:
            return [Outcome(metric, accuracy(predict(scores), test.y), len(test), chosen, settings=settings)]
        figure = multi_label_figures(scores, scores > 0.5, test.y)
        return [Outcome(metric, figure.pop(metric), len(test), chosen, figure, settings, proportion=False)]

    def _neighbours(self, bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self.standardise:
            scale = Standardise.of(bank)
            bank, queries = scale(bank), scale(queries)
        return neighbours(bank, queries, k, self.distance, self.chunk)

    def _check(self, labels: Tensor) -> None:
        n, k = len(labels), max(self.k)
        if k > n:
            raise EvaluationError(f"KNN: k = {k} is larger than the {n} training rows; use k <= {n}")
        counts = torch.bincount(labels) if labels.ndim == 1 else (labels > 0.5).sum(0)
        smallest = int(counts[counts > 0].min()) if (counts > 0).any() else 0
        if k >= 200 and smallest < 200 and not self.allow_large_k:
            raise EvaluationError(
                f"KNN: k = {k} on training data whose smallest class has {smallest} rows: most neighbours of its "
                "samples must be wrong. Use k = 20, or allow_large_k=True to see for yourself"
            )
