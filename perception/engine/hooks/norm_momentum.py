"""How fast batch norms forget, for runs of another length than the one they were published with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.hooks import Hook
from torch.nn.modules.batchnorm import _BatchNorm

from perception.engine.console import say
from perception.errors import check_arguments
from perception.registry import HOOKS


@HOOKS.register_module()
class NormMomentum(Hook):
    """Sets the momentum of every batch norm of the model.

    Running statistics of momentum m settle over some 5 / m steps. Published pillar networks have 0.01: after a run of
    a hundred steps what they evaluate with is still mostly what they started from.

    Args:
        momentum: share of a batch's statistics in the running ones.
    """

    priority = "NORMAL"

    def __init__(self, momentum: float = 0.1) -> None:
        check_arguments("custom_hooks.NormMomentum", self.check_config, locals())
        self.momentum = momentum

    def before_train(self, runner: Any) -> None:
        """Set it, in a resumed run again: momentum is no part of a checkpoint."""
        norms = [module for module in runner.bare_model.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.momentum = self.momentum
        if not norms:
            say("NormMomentum: the model has no batch norm")

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A momentum above 0, at most 1."""
        if not 0 < cfg["momentum"] <= 1:
            yield "momentum", "must lie in (0, 1]"
