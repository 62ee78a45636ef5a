"""Linear probe of samples with several labels: one L2-regularised logistic regression for every label, by L-BFGS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.evaluation.linear_lbfgs import LogisticRegression
from perception.evaluation.multi_label import multi_label_figures
from perception.evaluation.protocol import Outcome, Protocol, Splits, positive
from perception.registry import PROTOCOLS


class LabelRegression(LogisticRegression):
    """Independent logistic regressions of L labels with one penalty, fitted together.

    The objective is the sum over labels of ``mean cross-entropy + penalty * ||w||^2``.

    Args:
        x: ``(n, F)`` features.
        y: ``(n, L)`` labels, 0 and 1.
        **settings: see ``LogisticRegression``.
    """

    def __init__(self, x: Tensor, y: Tensor, **settings: Any) -> None:
        super().__init__(x, y, y.shape[1], **settings)
        self.steepness = 1 / 4  # the slope of a sigmoid at 0

    def _loss(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean over samples of the cross-entropy summed over labels, and its gradients, float64."""
        loss = torch.zeros((), dtype=torch.float64, device=weight.device)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        narrow = weight.to(self.dtype)
        for x, y in zip(self.x.split(self.chunk), self.y.split(self.chunk), strict=True):
            logits = (x @ narrow.T).double() + bias
            loss += F.binary_cross_entropy_with_logits(logits, y.double(), reduction="sum")
            slope = logits.sigmoid() - y
            grad_weight += (slope.to(self.dtype).T @ x).double()
            grad_bias += slope.sum(0)
        n = len(self.y)
        return loss / n, grad_weight / n, grad_bias / n


@PROTOCOLS.register_module()
class MultiLabelLBFGS(Protocol):
    """Micro-averaged average precision of logistic regression, where a sample can have any number of labels.

    A label is predicted where its probability is above one half; F1 and the other averages are extras.

    Args:
        C: inverse strength of the penalty as scikit-learn writes it: ``penalty = 1 / (2 C n)`` with n training rows.
        max_iter: L-BFGS iterations.
        standardise: shift and scale every column by the statistics of the training split.
    """

    def __init__(self, C: float = 0.316, max_iter: int = 1000, standardise: bool = True) -> None:
        self.C, self.max_iter, self.standardise = C, max_iter, standardise

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive numbers."""
        yield from positive(cfg, "C", "max_iter")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """The figure on the test split."""
        train, test = (data.need(split, "MultiLabelLBFGS", multi_label=True) for split in ("train", "test"))
        model = LabelRegression(train.x, train.y, max_iter=self.max_iter, standardise=self.standardise)
        scores = model.fit(1 / (2 * self.C * len(train))).logits(test.x)
        figure = multi_label_figures(scores, scores > 0, test.y)
        settings = {"C": self.C, "standardise": self.standardise}
        value = figure.pop("ap_micro")
        return [Outcome("ap_micro", value, len(test), extras=figure, settings=settings, proportion=False)]
