"""Telling the model where the run stands."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from perception.registry import HOOKS


@HOOKS.register_module()
class PretextHook(Hook):
    """Calls ``fit_to``, ``before_training``, ``before_step(step, total_steps)``, ``after_step()`` of models with them.

    ``fit_to(dataset)`` takes from the training set what is fitted to data, not learnt by steps, such as how rare the
    words of texts are; it is kept in buffers, and a model that has been fitted leaves it as it is. What only the loss
    needs, such as weights of classes, is taken anew from the set that is trained on.

    ``step`` counts from 0. With gradient accumulation ``after_step`` follows updates, not batches: a teacher averages
    weights that have moved.
    """

    priority = "HIGH"

    def before_train(self, runner: Any) -> None:
        """Statistics of the training set, and lengths."""
        if hasattr(runner.bare_model, "fit_to"):
            runner.bare_model.fit_to(runner.train_dataloader.dataset)
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
