"""The node probe of GraphMAE: one linear layer trained full batch with Adam on the nodes of the training split.

"GraphMAE: Self-Supervised Masked Graph Autoencoders", Hou et al., 2022. Each run gives two figures: ``final``, the test
accuracy after the last epoch, which is the value here, and ``early_stopping``, the test accuracy at the LAST epoch that
reaches the best validation accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from perception.evaluation.linear_sgd import RECIPES, build_head
from perception.evaluation.protocol import Outcome, Protocol, Splits, accuracy, positive
from perception.registry import PROTOCOLS


@PROTOCOLS.register_module()
class LinearAdam(Protocol):
    """Accuracy of a linear layer with torch's own initialisation, no feature normalisation.

    Args:
        lr: learning rate.
        weight_decay: L2 penalty, as ``torch.optim.Adam`` applies it.
        epochs: full-batch steps.
    """

    def __init__(self, lr: float = 0.01, weight_decay: float = 1e-4, epochs: int = 300) -> None:
        self.lr, self.weight_decay, self.epochs = lr, weight_decay, epochs

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive numbers."""
        yield from positive(cfg, "lr", "epochs")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Final accuracy on the test split, with the early-stopping figure if there is a validation split."""
        train, test = data.need("train", "LinearAdam"), data.need("test", "LinearAdam")
        val = data.val if data.val is not None and len(data.val) else None
        generator = torch.Generator().manual_seed(seed)
        head = build_head(RECIPES["small"], train.x.shape[1], data.classes(), generator).to(train.x.device)
        optimiser = torch.optim.Adam(head.parameters(), self.lr, weight_decay=self.weight_decay)
        best, best_epoch, stopped = -1.0, 0, 0.0
        for epoch in range(1, self.epochs + 1):
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(head(train.x), train.y)
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
            if val is not None:
                with torch.no_grad():
                    score = accuracy(head(val.x).argmax(1), val.y)
                    if score >= best:  # >=: the last of equals, as the paper's code does
                        best, best_epoch, stopped = score, epoch, accuracy(head(test.x).argmax(1), test.y)
        with torch.no_grad():
            value = accuracy(head(test.x).argmax(1), test.y)
        settings = {"lr": self.lr, "weight_decay": self.weight_decay, "epochs": self.epochs}
        if val is None:
            return [Outcome("accuracy", value, len(test), settings=settings)]
        chosen = {"early_stopping_epoch": best_epoch, "val_accuracy": best}
        return [Outcome("accuracy", value, len(test), chosen, {"early_stopping": stopped}, settings)]
