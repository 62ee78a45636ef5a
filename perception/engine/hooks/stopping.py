"""Ending a run early: because it no longer improves, or because the machine is wanted back."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterable
from typing import Any, Literal

import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook

from perception.engine.console import say
from perception.engine.distributed import agree
from perception.engine.hooks.checkpoint import SafeCheckpointHook, require_monitored
from perception.errors import ConfigError, Fault
from perception.registry import HOOKS
from perception.signatures import at_least


@HOOKS.register_module()
class EarlyStopping(Hook):
    """Ends training when a value has not improved for a while.

    Args:
        monitor: a validation metric, or the name of a value that another hook logs.
        patience: how many values in a row may pass without an improvement.
        rule: whether ``greater`` or ``less`` is better.
        min_delta: smallest change that counts as an improvement.
    """

    priority = "LOW"

    def __init__(
        self, monitor: str, patience: int = 10, rule: Literal["greater", "less"] = "greater", min_delta: float = 0.0
    ) -> None:
        if rule not in ("greater", "less"):
            raise ConfigError([Fault("EarlyStopping.rule", rule, "not 'greater' or 'less'")])
        self.monitor = monitor
        self.patience = patience
        self.sign = 1.0 if rule == "greater" else -1.0
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Nothing negative."""
        return at_least(cfg, 0, "patience", "min_delta")

    def before_train(self, runner: Any) -> None:
        """A run that had stopped stays stopped when it is resumed."""
        if self.waited > self.patience:
            runner.train_loop.stop_training = True

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Judge the validation metrics."""
        require_monitored("EarlyStopping.monitor", self.monitor, metrics or {})
        self._judge(runner, metrics or {})

    def on_scalars(self, runner: Any, values: dict[str, float]) -> None:
        """Judge what other hooks log."""
        self._judge(runner, values)

    def _judge(self, runner: Any, values: dict[str, float]) -> None:
        if self.monitor not in values:
            return
        value = float(values[self.monitor])
        better = self.best is None or self.sign * (value - self.best) > self.min_delta
        if math.isfinite(value) and better:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            say(f"stopping early: {self.monitor} has not got better than {self.best} in {self.waited} looks")
            runner.train_loop.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """Best value and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.best, self.waited = state["best"], state["waited"]


@HOOKS.register_module()
class SigtermHook(Hook):
    """On SIGTERM or Ctrl-C: finish the step, save, leave with 128 + the signal's number (143, 130).

    A second signal ends the process at once. With several ranks a signal to any of them stops all, at the same step.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Take over the signals; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def after_step(self, runner: Any) -> None:
        """Save and leave, once no update is half done."""
        if not runner.optim_wrapper.at_boundary() or not self._asked(runner):
            return
        savers = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        for saver in savers:
            saver.save(runner)
        number = self.received or signal.SIGTERM
        saved = f"saved {runner.last_checkpoint()}" if savers else "nothing saved: the config has no checkpoint hook"
        say(f"{signal.Signals(number).name}: stopped after step {runner.iter}, {saved}. Go on with --resume.")
        raise SystemExit(128 + number)

    def _asked(self, runner: Any) -> bool:
        if get_dist_info()[1] == 1:
            return self.received is not None
        # On GPUs the question makes all ranks wait for their queues: ask it less often.
        often = not torch.cuda.is_available() or runner.iter % 10 == 0
        return often and agree(self.received is not None)

    def close(self, runner: Any) -> None:
        """Give the signals back."""
        self._restore()
