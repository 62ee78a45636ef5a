"""One bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from rich.progress import BarColumn, Progress, TextColumn

from perception.engine.console import console, say
from perception.engine.meter import Window
from perception.registry import HOOKS

_REFRESH_SECONDS = 0.25


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows step, losses, learning rate, steps per second, the share of time spent waiting for data, and time left.

    Args:
        seconds: time between plain lines, where the output is not a terminal.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.window = Window()
        self._bar: Progress | None = None
        self._task: Any = None
        self._shown_at = 0.0
        self._shown_step = 0
        self._rate = 0.0

    def before_train(self, runner: Any) -> None:
        """Start the clock and the bar."""
        self._shown_at = time.monotonic()
        self._shown_step = runner.iter
        if runner.rank == 0 and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[place]}"), BarColumn(), TextColumn("{task.fields[text]}"), console=console
            )
            self._task = self._bar.add_task(
                "", total=runner.max_iters, completed=runner.iter, place="", text="starting"
            )
            self._bar.start()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the step up; show when it is time."""
        if runner.rank != 0:
            return
        loop = runner.train_loop
        self.window.add(outputs or {}, loop.data_seconds, loop.step_seconds)
        step = runner.iter + 1
        now = time.monotonic()
        if now - self._shown_at < (_REFRESH_SECONDS if self._bar else self.seconds) and step != runner.max_iters:
            return
        rate = (step - self._shown_step) / max(now - self._shown_at, 1e-9)
        self._rate = rate if not self._rate or self._bar is None else 0.9 * self._rate + 0.1 * rate
        self._shown_at, self._shown_step = now, step
        epoch = min(step // loop.epoch_length + (step % loop.epoch_length > 0), runner.max_epochs)
        place = f"epoch {epoch}/{runner.max_epochs}"
        if loop.epoch_length > 1:
            place += f" step {step}/{runner.max_iters}"
        text = self._text(runner, step)
        self.window.reset()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, place=place, text=text)
        else:
            say(f"{place}  {text}")

    def _text(self, runner: Any, step: int) -> str:
        means = self.window.means()
        names = list(means) if len(means) != 2 or len(set(means.values())) > 1 else ["loss"]  # total of one loss
        losses = "  ".join(f"{name} {means[name]:.4g}" for name in names if name in means)
        lr = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        left = timedelta(seconds=round((runner.max_iters - step) / max(self._rate, 1e-9)))
        return f"{losses}  lr {lr:.2e}  {self._rate:.3g} steps/s  data {self.window.data_wait():.0%}  left {left}"

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """A line per validation."""
        values = (metrics or {}).items()
        shown = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in values)
        say(f"validation after epoch {runner.epoch} step {runner.iter}: {shown}")

    def close(self, runner: Any) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
