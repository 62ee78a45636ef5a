"""Lower the rate when a training figure no longer rises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mmengine.hooks import Hook

from perception.engine.console import say
from perception.engine.distributed import gather
from perception.engine.meter import Window
from perception.errors import ConfigError, Fault, check_arguments, not_among
from perception.registry import HOOKS
from perception.signatures import at_least


@HOOKS.register_module()
class TrainPlateau(Hook):
    """Multiplies all rates when the mean of a training figure over the epoch has not improved for a while.

    It looks at training figures, not at validation: what it does depends on nothing that is held out. It is for runs
    without ``param_scheduler``, which would set the rates again at the next step.

    Args:
        monitor: what the model logs at every step, such as ``accuracy``.
        patience: epochs in a row without improvement after which the rate falls; ``ReduceLROnPlateau`` of torch waits
            for one more.
        factor: what the rates are multiplied by.
        rule: whether ``greater`` or ``less`` is better.
        min_lr: rates never fall below it.
    """

    priority = "NORMAL"

    def __init__(
        self,
        monitor: str = "accuracy",
        patience: int = 2,
        factor: float = 0.5,
        rule: str = "greater",
        min_lr: float = 0.0,
    ) -> None:
        check_arguments("custom_hooks.TrainPlateau", self.check_config, locals())
        self.monitor, self.patience, self.factor, self.min_lr = monitor, patience, factor, min_lr
        self.sign = 1.0 if rule == "greater" else -1.0
        self.best: float | None = None
        self.waited = 0
        self.window = Window()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Patience of at least an epoch, a factor that lowers."""
        yield from at_least(cfg, 1, "patience")
        yield from at_least(cfg, 0, "min_lr")
        if not 0 < cfg["factor"] < 1:
            yield "factor", "must lie in (0, 1)"
        if cfg["rule"] not in ("greater", "less"):
            yield "rule", not_among(cfg["rule"], ("greater", "less"))

    def before_train(self, runner: Any) -> None:
        """Refuse a schedule beside it."""
        if runner.param_schedulers:
            told = "a schedule would set the rates again that TrainPlateau lowers: keep one of the two"
            raise ConfigError([Fault("param_scheduler", type(runner.param_schedulers[0]).__name__, told)])

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the figure of a step."""
        if self.monitor not in (outputs or {}):
            told = not_among(self.monitor, outputs or {})
            raise ConfigError([Fault("custom_hooks.TrainPlateau.monitor", self.monitor, told)])
        self.window.add({self.monitor: outputs[self.monitor]}, 0.0, 0.0)

    def after_train_epoch(self, runner: Any) -> None:
        """Judge the epoch, alike on all ranks."""
        parts = gather(self.window.means()[self.monitor])
        self.window.reset()
        value = sum(parts) / len(parts)
        if math.isfinite(value) and (self.best is None or self.sign * (value - self.best) > 0):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited < self.patience:
            return
        self.waited = 0
        for group in runner.optim_wrapper.param_groups:
            group["lr"] = max(group["lr"] * self.factor, min(self.min_lr, group["lr"]))
        rate = runner.optim_wrapper.param_groups[0]["lr"]
        say(
            f"epoch {runner.epoch}: {self.monitor} of training has not got better than {self.best:.4g}, rate {rate:.3g}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Best value, how long ago it was, and the epoch so far; the rates are the optimiser's."""
        return {"best": self.best, "waited": self.waited, "window": self.window.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.best, self.waited = state["best"], state["waited"]
        self.window.load_state_dict(state["window"])
