"""Saving so that a kill at any moment leaves a checkpoint that loads."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mmengine.dist import get_dist_info
from mmengine.hooks import Hook

from perception.checkpoint import POINTER, list_checkpoints, write_text
from perception.engine.distributed import agree
from perception.errors import ConfigError, Fault, TrainingError, nearest
from perception.registry import HOOKS


def require_monitored(place: str, name: str, metrics: Mapping[str, float]) -> None:
    """Raise if ``name`` was meant to be one of the validation ``metrics`` and is none.

    What other hooks log has names such as ``probe/knn`` and is not known beforehand.
    """
    groups = {metric.split("/")[0] for metric in metrics}
    if name not in metrics and ("/" not in name or nearest(name.split("/")[0], groups)):
        near = nearest(name, metrics)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TrainingError(f"{place} = {name!r}: validation gives {sorted(metrics)}{hint}")


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Writes ``checkpoints/step_<n>.pth``.

    The new file is written under a temporary name, flushed and renamed; then ``last_checkpoint`` is replaced in the
    same way; only then older files go. Saves wait for the end of an update where gradients are being accumulated.

    Args:
        every_epochs: save after every so many epochs.
        every_steps: save after every so many steps.
        every_seconds: save when so much time has passed since the last save. Any of the three may be combined; the
            end of training is always saved.
        max_keep_ckpts: how many of the latest to keep; -1 keeps all.
        save_best: name of a validation metric or logged scalar; its best value's weights go to ``best.pth``.
        rule: whether ``greater`` or ``less`` is better.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        max_keep_ckpts: int = 1,
        save_best: str | None = None,
        rule: Literal["greater", "less"] = "greater",
    ) -> None:
        if rule not in ("greater", "less"):
            raise ConfigError([Fault("default_hooks.checkpoint.rule", rule, "not 'greater' or 'less'")])
        if max_keep_ckpts == 0:
            raise ConfigError([Fault("default_hooks.checkpoint.max_keep_ckpts", 0, "at least one checkpoint is kept")])
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.max_keep_ckpts = max_keep_ckpts
        self.save_best = save_best
        self.sign = 1.0 if rule == "greater" else -1.0
        self.best: float | None = None
        self._best_is_new = False
        self._due = False
        self._saved_step = -1
        self._saved_at = time.monotonic()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive intervals, and something kept."""
        for key in ("every_epochs", "every_steps", "every_seconds"):
            if isinstance(cfg.get(key), (int, float)) and cfg[key] <= 0:
                yield key, f"must be positive, got {cfg[key]}"
        if cfg.get("max_keep_ckpts") == 0:
            yield "max_keep_ckpts", "at least one checkpoint is kept; -1 keeps all"

    def before_train(self, runner: Any) -> None:
        """Clear up what a killed save has left, and start the clock."""
        if runner.rank == 0 and runner.checkpoint_folder.is_dir():
            for leftover in runner.checkpoint_folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        self._saved_step = runner.iter if runner.resumed_step else -1
        self._saved_at = time.monotonic()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Look for a new best."""
        if self.save_best:
            require_monitored("default_hooks.checkpoint.save_best", self.save_best, metrics or {})
        self._compare(metrics or {})

    def on_scalars(self, runner: Any, values: dict[str, float]) -> None:
        """Look for a new best among what other hooks log."""
        self._compare(values)

    def _compare(self, values: dict[str, float]) -> None:
        value = values.get(self.save_best) if self.save_best else None
        if value is None or not math.isfinite(value):
            return
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = float(value)
            self._best_is_new = True

    def after_step(self, runner: Any) -> None:
        """Save if it is time and no update is half done."""
        self._due = self._due or self._is_due(runner)
        if not runner.optim_wrapper.at_boundary():
            return
        if self._best_is_new:
            runner.save(runner.checkpoint_folder / "best.pth")
            self._best_is_new = False
        if self._due:
            self.save(runner)

    def _is_due(self, runner: Any) -> bool:
        step, epoch_length = runner.iter, runner.train_loop.epoch_length
        if self.every_steps and step % self.every_steps == 0:
            return True
        if self.every_epochs and step % (self.every_epochs * epoch_length) == 0:
            return True
        if self.every_seconds is None:
            return False
        late = time.monotonic() - self._saved_at >= self.every_seconds
        # Clocks differ between ranks, and saving takes all of them: ask every tenth step.
        return late if get_dist_info()[1] == 1 else step % 10 == 0 and agree(late)

    def after_train(self, runner: Any) -> None:
        """Save the end."""
        self.save(runner)

    def save(self, runner: Any) -> None:
        """Write, point to it, prune."""
        self._due = False
        step = runner.iter
        if step == self._saved_step:
            return
        path = runner.checkpoint_folder / f"step_{step:08d}.pth"
        runner.save(path)
        self._saved_step = step
        self._saved_at = time.monotonic()
        if runner.rank != 0:
            return
        write_text(runner.checkpoint_folder / POINTER, path.name + "\n")
        if self.max_keep_ckpts > 0:
            older = [p for p in list_checkpoints(runner.checkpoint_folder) if p.name <= path.name]
            for old in older[self.max_keep_ckpts :]:
                old.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.best = state["best"]
