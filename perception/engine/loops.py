"""The train loop that can go on from any step, and the loops of validation and test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from perception.engine.data import build_dataloader, shut_down_workers
from perception.engine.distributed import gather
from perception.engine.sampler import ResumableSampler
from perception.errors import ConfigError, Fault
from perception.registry import LOOPS
from perception.signatures import at_least


@LOOPS.register_module()
class TrainLoop(BaseLoop):
    """Trains for a number of epochs or of steps; one of the two is given, the other follows from the loader.

    A step is one batch per process; with gradient accumulation several steps make one update. Beside mmengine's hook
    moments there is ``after_step``, called when ``runner.iter`` steps are complete with all that belongs to them (the
    end of the epoch and validation included). Saving and stopping happen there, so that a checkpoint never lies in
    the middle of something.

    Args:
        runner: the runner.
        dataloader: loader or its config.
        max_epochs: length in epochs.
        max_iters: length in steps.
        val_interval: validation every so many epochs (with ``max_epochs``) or steps (with ``max_iters``). ``None``:
            after every epoch, or at the end only. It always runs at the end.
        val_begin: no validation before this epoch (or step).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict[str, Any],
        max_epochs: int | None = None,
        max_iters: int | None = None,
        val_interval: int | None = None,
        val_begin: int = 1,
    ) -> None:
        if (max_epochs is None) == (max_iters is None):
            raise ConfigError(
                [Fault("train_cfg", {"max_epochs": max_epochs, "max_iters": max_iters}, "give one of the two")]
            )
        super().__init__(runner, build_dataloader(dataloader, seed=runner.seed, training=True))
        self.epoch_length = len(self.dataloader)
        if self.epoch_length == 0:
            raise ConfigError(
                [
                    Fault(
                        "train_dataloader.batch_size",
                        self.dataloader.batch_size,
                        f"with drop_last no batch is left of the {len(self.dataloader.dataset)} samples",
                    )
                ]
            )
        self.by_epoch = max_epochs is not None
        self._max_iters: int = max_epochs * self.epoch_length if max_epochs is not None else int(max_iters or 0)
        self._max_epochs = -(-self._max_iters // self.epoch_length)
        self.val_interval = val_interval or (1 if self.by_epoch else self._max_iters)
        self.val_begin = val_begin
        self._iter = 0
        self.stop_training = False
        self.data_seconds = 0.0
        self.step_seconds = 0.0

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """One length, and numbers that are at least 1."""
        if (cfg.get("max_epochs") is None) == (cfg.get("max_iters") is None):
            yield "max_epochs", "give one of max_epochs and max_iters"
        yield from at_least(cfg, 1, "max_epochs", "max_iters", "val_interval")

    @property
    def max_epochs(self) -> int:
        """Epochs of the run, the last one counted even if it ends early."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Steps of the run."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """Epochs that are complete."""
        return self._iter // self.epoch_length

    @property
    def iter(self) -> int:
        """Steps that are complete."""
        return self._iter

    def go_to(self, step: int) -> None:
        """Continue after ``step`` steps."""
        self._iter = step

    def run(self) -> nn.Module:
        """Train until the length is reached or somebody sets ``stop_training``."""
        self.runner.call_hook("before_train")
        try:
            while self._iter < self._max_iters and not self.stop_training:
                self._run_epoch()
        finally:
            shut_down_workers(self.dataloader)
        self.runner.call_hook("after_train")
        return self.runner.model

    def _batches(self, done: int) -> Any:
        """Iterator over the batches of the current epoch from the ``done``-th on."""
        sampler = self.dataloader.sampler
        if isinstance(sampler, ResumableSampler):
            sampler.set_epoch(self.epoch, start=done * self.dataloader.batch_size)
            return iter(self.dataloader)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)
        batches = iter(self.dataloader)
        for _ in range(done):  # samplers that cannot start in the middle: draw and drop what was seen
            next(batches)
        return batches

    def _run_epoch(self) -> None:
        runner = self.runner
        done = self._iter % self.epoch_length
        runner.call_hook("before_train_epoch")
        runner.model.train()
        batches = self._batches(done)
        try:
            for index in range(done, self.epoch_length):
                began = time.perf_counter()
                batch = next(batches)
                self.data_seconds = time.perf_counter() - began
                self._run_step(index, batch, began)
                if self._iter % self.epoch_length == 0:
                    runner.call_hook("after_train_epoch")
                if self._validation_is_due():
                    runner.val_loop.run()
                    runner.model.train()
                runner.call_hook("after_step")
                if self._iter >= self._max_iters or self.stop_training:
                    break
        finally:
            if not self.dataloader.persistent_workers:
                shut_down_workers(self.dataloader, batches)

    def _run_step(self, index: int, batch: Any, began: float) -> None:
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=index, data_batch=batch)
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        # Detached at once: a logged loss that keeps its graph keeps every activation of the step.
        outputs = {name: value.detach() if torch.is_tensor(value) else value for name, value in outputs.items()}
        self.step_seconds = time.perf_counter() - began
        runner.call_hook("after_train_iter", batch_idx=index, data_batch=batch, outputs=outputs)
        self._iter += 1

    def _validation_is_due(self) -> bool:
        if self.runner.val_loop is None:
            return False
        if self._iter >= self._max_iters:
            return True
        done, rest = divmod(self._iter, self.epoch_length) if self.by_epoch else (self._iter, 0)
        return rest == 0 and done >= self.val_begin and done % self.val_interval == 0


class EvaluationLoop(BaseLoop):
    """Runs the model's ``predict`` over a loader, and the metrics over what it gives.

    A batch's predictions go to ``metric.process(data_batch, predictions)`` as the model gave them. With several ranks
    each takes its share of the samples, none twice, and all results are gathered before the metrics are computed.
    """

    stage = "val"

    def __init__(
        self, runner: Any, dataloader: DataLoader | dict[str, Any], evaluator: Evaluator | dict | list
    ) -> None:
        super().__init__(runner, build_dataloader(dataloader, seed=runner.seed, training=False))
        self.evaluator = runner.build_evaluator(evaluator)
        self.evaluator.dataset_meta = {"classes": tuple(getattr(self.dataloader.dataset, "classes", ()))}

    @torch.no_grad()
    def run(self) -> dict[str, float]:
        """Metrics by name, the same on every rank."""
        runner, stage = self.runner, self.stage
        runner.call_hook(f"before_{stage}")
        runner.call_hook(f"before_{stage}_epoch")
        runner.model.eval()
        step = getattr(runner.model, f"{stage}_step")
        iterator = iter(self.dataloader)
        try:
            for index, batch in enumerate(iterator):
                runner.call_hook(f"before_{stage}_iter", batch_idx=index, data_batch=batch)
                outputs = step(batch)
                for metric in self.evaluator.metrics:
                    metric.process(batch, outputs)
                runner.call_hook(f"after_{stage}_iter", batch_idx=index, data_batch=batch, outputs=outputs)
        finally:
            if not self.dataloader.persistent_workers:
                shut_down_workers(self.dataloader, iterator)
        metrics: dict[str, float] = {}
        for metric in self.evaluator.metrics:
            metrics.update(_compute(metric))
        runner.metrics[stage] = metrics
        runner.call_hook(f"after_{stage}_epoch", metrics=metrics)
        runner.call_hook(f"after_{stage}")
        return metrics


def _compute(metric: Any) -> dict[str, float]:
    """Metric of the results of all ranks. mmengine's own gathering cuts them to the number of samples, which is wrong
    where a result is a whole batch or the ranks differ in length.
    """
    results = list(itertools.chain.from_iterable(gather(metric.results)))
    metric.results.clear()
    values = metric.compute_metrics(results)
    return {f"{metric.prefix}/{name}" if metric.prefix else name: value for name, value in values.items()}


@LOOPS.register_module()
class ValLoop(EvaluationLoop):
    """Validation during training."""

    stage = "val"


@LOOPS.register_module()
class TestLoop(EvaluationLoop):
    """The final test."""

    __test__ = False  # not a pytest class
    stage = "test"
