"""The one model of pre-training: a backbone, pretexts on it, and how their losses are balanced."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.engine.balancing import build_balancer
from perception.pretext.base import Pretext
from perception.pretext.shared import with_memo
from perception.registry import BACKBONES, MODELS, PRETEXTS
from perception.tasks.base import PerceptionModel
from perception.transforms.preprocess import Batch


@MODELS.register_module()
class Pretrainer(PerceptionModel):
    """Trains a backbone with one or more pretexts.

    Args:
        backbone: config or instance of a backbone.
        pretexts: name -> config or instance of a pretext. Adding one is one line of a config.
        balance: ``'sum'``, weights by loss name, or the config of a registered balancer. With one pretext its losses
            keep their names; with several they are called ``<pretext>.<loss>``.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        pretexts: dict[str, Pretext | dict[str, Any]],
        balance: str | dict[str, Any] = "sum",
    ) -> None:
        built = backbone if isinstance(backbone, Backbone) else BACKBONES.build(dict(backbone))
        super().__init__(built.preprocess)
        self.backbone = built
        self.pretexts = nn.ModuleDict()
        for name, cfg in pretexts.items():
            pretext = cfg if isinstance(cfg, Pretext) else PRETEXTS.build(dict(cfg))
            pretext.attach(self.backbone)
            self.pretexts[name] = pretext
        self.balancer = build_balancer(balance)

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """Losses of every pretext on a preprocessed batch, and what the backbone has for the log."""
        losses: dict[str, Tensor] = {}
        batch = with_memo(batch)  # a view that several pretexts look at is encoded once
        for name, pretext in self.pretexts.items():
            for key, value in pretext(self.backbone, batch).items():
                losses[key if len(self.pretexts) == 1 else f"{name}.{key}"] = value
        return {**losses, **self.backbone.log_values()}

    def combine(self, losses: dict[str, Tensor]) -> Tensor:
        """One scalar out of the named losses, by the balancer."""
        return self.balancer(losses, [p for p in self.backbone.parameters() if p.requires_grad])

    def before_training(self, epoch_length: int, total_steps: int) -> None:
        """Tell every pretext how long the run is."""
        for pretext in self.pretexts.values():
            pretext.before_training(epoch_length, total_steps)  # type: ignore[operator]

    def before_step(self, step: int, total_steps: int) -> None:
        """Tell every pretext where the run stands."""
        for pretext in self.pretexts.values():
            pretext.before_step(step, total_steps)  # type: ignore[operator]

    def after_step(self) -> None:
        """Let every pretext follow the backbone."""
        for pretext in self.pretexts.values():
            pretext.after_step(self.backbone)  # type: ignore[operator]

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Pictures of all pretexts on a preprocessed batch."""
        found: dict[str, np.ndarray] = {}
        for name, pretext in self.pretexts.items():
            for key, picture in pretext.pictures(self.backbone, batch).items():  # type: ignore[operator]
                found[key if len(self.pretexts) == 1 else f"{name}.{key}"] = picture
        return found
