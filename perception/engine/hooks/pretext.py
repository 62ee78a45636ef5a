"""Telling the model where the run stands."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from perception.registry import HOOKS


@HOOKS.register_module()
class PretextHook(Hook):
    """Calls ``before_training``, ``before_step(step, total_steps)`` and ``after_step()`` of models that have them.

    ``step`` counts from 0. With gradient accumulation ``after_step`` follows updates, not batches: a teacher averages
    weights that have moved.
    """

    priority = "HIGH"

    def before_train(self, runner: Any) -> None:
        """Lengths."""
        if hasattr(runner.bare_model, "before_training"):
            runner.bare_model.before_training(runner.train_loop.epoch_length, runner.max_iters)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Schedules."""
        model = runner.bare_model
        if hasattr(model, "before_step"):
            model.before_step(runner.iter, runner.max_iters)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Teachers."""
        model = runner.bare_model
        if hasattr(model, "after_step") and runner.optim_wrapper.at_boundary():
            model.after_step()
