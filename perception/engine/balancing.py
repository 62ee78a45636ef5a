"""How the losses of several pretexts become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from perception.errors import ConfigError, Fault, nearest
from perception.registry import BALANCERS


class Balancer(ABC):
    """Combines named scalar losses into the one that is minimised.

    A multi-objective solver (such as MGDA) that needs gradients per loss takes them with respect to
    ``shared``, the parameters of the backbone, inside ``__call__``.
    """

    @abstractmethod
    def __call__(self, losses: dict[str, Tensor], shared: list[Tensor]) -> Tensor:
        """Scalar to minimise."""


@BALANCERS.register_module()
class Sum(Balancer):
    """Plain sum."""

    def __call__(self, losses: dict[str, Tensor], shared: list[Tensor]) -> Tensor:
        """Sum of the losses."""
        return sum(losses.values())  # type: ignore[return-value]


@BALANCERS.register_module()
class Weights(Balancer):
    """Fixed weights by loss name; a name without a weight, or a weight without a loss, is an error."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = dict(weights)

    def __call__(self, losses: dict[str, Tensor], shared: list[Tensor]) -> Tensor:
        """Weighted sum of the losses."""
        if set(losses) != set(self.weights):
            wrong = sorted(set(losses) ^ set(self.weights))
            raise ConfigError(
                [
                    Fault(
                        "model.balance",
                        self.weights,
                        f"{name!r} has a weight or a loss, not both",
                        nearest(name, losses),
                    )
                    for name in wrong
                ]
            )
        return sum(self.weights[name] * loss for name, loss in losses.items())  # type: ignore[return-value]


def build_balancer(cfg: str | dict[str, Any]) -> Balancer:
    """``'sum'``, a mapping loss name -> weight, or a config with ``type``."""
    if cfg == "sum":
        return Sum()
    if isinstance(cfg, dict) and "type" in cfg:
        return BALANCERS.build(dict(cfg))
    if isinstance(cfg, dict):
        return Weights(cfg)
    raise ConfigError([Fault("model.balance", cfg, "not 'sum', a mapping of weights or a config with a type")])
