"""The node probes of GraphMAE: one linear layer trained full batch with Adam on the nodes of the training split.

"GraphMAE: Self-Supervised Masked Graph Autoencoders", Hou et al., 2022. Each run gives two figures: ``final``, the test
accuracy after the last epoch, which is the value here, and ``early_stopping``, the test accuracy at the LAST epoch that
reaches the best validation accuracy. Where a node has several labels, binary cross-entropy takes the place of the
cross-entropy and micro-F1 that of the accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from perception.evaluation.linear_sgd import RECIPES, build_head
from perception.evaluation.protocol import Outcome, Protocol, Splits, accuracy, micro_f1, positive
from perception.registry import PROTOCOLS


@PROTOCOLS.register_module()
class LinearAdam(Protocol):
    """Accuracy of a linear layer with torch's own initialisation, no feature normalisation.

    Args:
        lr: learning rate.
        weight_decay: L2 penalty, as ``torch.optim.Adam`` applies it.
        epochs: full-batch steps.
    """

    metric = "accuracy"
    multi_label = False

    def __init__(self, lr: float = 0.01, weight_decay: float = 1e-4, epochs: int = 300) -> None:
        self.lr, self.weight_decay, self.epochs = lr, weight_decay, epochs

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive numbers."""
        yield from positive(cfg, "lr", "epochs")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Final figure on the test split, with the early-stopping figure if there is a validation split."""
        name = type(self).__name__
        train, test = (data.need(split, name, self.multi_label) for split in ("train", "test"))
        val = data.need("val", name, self.multi_label) if data.val is not None and len(data.val) else None
        generator = torch.Generator().manual_seed(seed)
        head = build_head(RECIPES["small"], train.x.shape[1], self.outputs(data), generator).to(train.x.device)
        optimiser = torch.optim.Adam(head.parameters(), self.lr, weight_decay=self.weight_decay)
        best, best_epoch, stopped = -1.0, 0, 0.0
        for epoch in range(1, self.epochs + 1):
            with torch.enable_grad():
                loss = self.loss(head(train.x), train.y)
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
            if val is not None:
                with torch.no_grad():
                    score = self.score(head(val.x), val.y)
                    if score >= best:  # >=: the last of equals, as the paper's code does
                        best, best_epoch, stopped = score, epoch, self.score(head(test.x), test.y)
        with torch.no_grad():
            value = self.score(head(test.x), test.y)
        settings = {"lr": self.lr, "weight_decay": self.weight_decay, "epochs": self.epochs}
        if val is None:
            return [Outcome(self.metric, value, len(test), settings=settings, proportion=not self.multi_label)]
        chosen = {"early_stopping_epoch": best_epoch, f"val_{self.metric}": best}
        extras = {"early_stopping": stopped}
        return [Outcome(self.metric, value, len(test), chosen, extras, settings, proportion=not self.multi_label)]

    def outputs(self, data: Splits) -> int:
        """Width C of the linear layer."""
        return data.classes()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is minimised, of ``logits (n, C)`` and ``labels (n,)``."""
        return nn.functional.cross_entropy(logits, labels)

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """The figure, of ``logits (n, C)`` and ``labels (n,)``."""
        return accuracy(logits.argmax(1), labels)


@PROTOCOLS.register_module()
class MultiLabelAdam(LinearAdam):
    """Micro-F1 of a linear layer on samples with any number of labels each, as PPI's nodes have.

    ``labels (n, C)`` are 0 and 1; a label is predicted where its probability is above one half.

    Args:
        lr: learning rate.
        weight_decay: L2 penalty, as ``torch.optim.Adam`` applies it.
        epochs: full-batch steps.
    """

    metric = "micro_f1"
    multi_label = True

    def __init__(self, lr: float = 0.005, weight_decay: float = 0.0, epochs: int = 2000) -> None:
        super().__init__(lr, weight_decay, epochs)

    def outputs(self, data: Splits) -> int:
        """Number C of labels."""
        return data.need("train", type(self).__name__, multi_label=True).y.shape[1]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of ``logits (n, C)`` and ``labels (n, C)``."""
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """Micro-F1 of ``logits (n, C)`` and ``labels (n, C)``."""
        return micro_f1(logits > 0, labels > 0.5)
