"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from perception.engine.console import say
from perception.errors import CheckpointError, ConfigError, Fault
from perception.registry import HOOKS


@HOOKS.register_module()
class EMAHook(Hook):
    """Keeps averaged weights, uses them in validation, test and final evaluation, and saves them as ``ema``.

    After every update: average = d * average + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) after n
    updates where ``warmup`` is set. All floating-point parameters and buffers are averaged.

    Args:
        decay: the d of a long run.
        warmup: forget the random start quickly.
    """

    priority = "ABOVE_NORMAL"

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError([Fault("EMAHook.decay", decay, "lies outside [0, 1)")])
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.averaged = False
        self.live: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A decay in [0, 1)."""
        if isinstance(cfg.get("decay"), (int, float)) and not 0.0 <= cfg["decay"] < 1.0:
            yield "decay", f"lies outside [0, 1): {cfg['decay']}"

    def before_train(self, runner: Any) -> None:
        """Start from the weights as they are, unless a checkpoint gave an average."""
        if not self.average:
            self._attach(runner)

    def _attach(self, runner: Any) -> None:
        # The tensors of state_dict share the memory of the parameters.
        self.live = {k: v for k, v in runner.bare_model.state_dict().items() if v.is_floating_point()}
        self.average = {k: v.clone() for k, v in self.live.items()}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Follow the weights if they have changed."""
        if not runner.optim_wrapper.at_boundary():
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), 1.0 - decay)

    def use_average(self, runner: Any) -> None:
        """Swap the average into the model."""
        if not self.averaged and self.average:
            self._swap()

    def use_live(self, runner: Any) -> None:
        """Swap it back."""
        if self.averaged:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        self.averaged = not self.averaged
        for name, live in self.live.items():
            kept = live.clone()
            live.copy_(self.average[name])
            self.average[name].copy_(kept)

    def before_val_epoch(self, runner: Any) -> None:
        """Validate the average."""
        self.use_average(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Train on from the live weights."""
        self.use_live(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the average to the checkpoint."""
        checkpoint["ema"] = dict(self.average)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take the average from the checkpoint."""
        self._attach(runner)
        if "ema" not in checkpoint:
            say("the checkpoint has no averaged weights: the average starts from its live ones")
            return
        if set(checkpoint["ema"]) != set(self.average):
            raise CheckpointError("the averaged weights of the checkpoint are those of another model")
        for name, value in checkpoint["ema"].items():
            self.average[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Number of updates; the weights have their own place in the checkpoint."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.updates = state["updates"]
