"""Stopping a run whose numbers are no longer numbers, before they reach a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from mmengine.hooks import Hook

from perception.errors import TrainingError
from perception.registry import HOOKS
from perception.signatures import at_least


@HOOKS.register_module()
class NonFiniteGuard(Hook):
    """Raises a ``TrainingError`` on NaN or infinity in a loss or in the gradients.

    On a CPU every step is checked, and the update with bad gradients never happens. On a GPU looking at a value means
    waiting for it, so flags gather there and are read every ``interval`` steps. No checkpoint is written without a
    check of the flags, of all parameters and of all buffers.

    Args:
        interval: steps between looks on a GPU.
    """

    priority = "VERY_HIGH"

    def __init__(self, interval: int = 20) -> None:
        self.interval = interval
        self._bad: torch.Tensor | None = None
        self._looked_at = 0

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive interval."""
        return at_least(cfg, 1, "interval")

    def before_train(self, runner: Any) -> None:
        """Tell the optimiser wrapper what its parameters are called."""
        if hasattr(runner.optim_wrapper, "parameter_names"):
            runner.optim_wrapper.parameter_names = {id(p): n for n, p in runner.bare_model.named_parameters()}
        self._looked_at = runner.iter

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check this step's losses and gradients."""
        tensors = [v.reshape(()).float() for v in (outputs or {}).values() if torch.is_tensor(v) and v.numel() == 1]
        if not tensors:
            return
        bad = ~torch.isfinite(torch.stack(tensors)).all()
        gradients = getattr(runner.optim_wrapper, "nonfinite_gradients", None)
        if gradients is not None:
            bad = bad | gradients
        self._bad = bad if self._bad is None else self._bad | bad
        step = runner.iter + 1
        if bad.device.type == "cpu" or step - self._looked_at >= self.interval:
            self._look(runner, step, outputs)

    def _look(self, runner: Any, step: int, outputs: dict[str, Any]) -> None:
        since, self._looked_at = self._looked_at, step
        if self._bad is None or not bool(self._bad):
            return
        losses = {name: float(value) for name, value in outputs.items()}
        wrong = [name for name, value in losses.items() if not abs(value) < float("inf")]
        where = f"step {step}" if step - since <= 1 else f"one of the steps {since + 1} to {step}"
        if wrong:
            what = f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not finite"
        else:
            names = getattr(runner.optim_wrapper, "bad_parameters", [])
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            what = f"the gradients{' of ' + shown if names else ''} are not finite"
        values = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        self._stop(runner, f"{where}: {what} (losses: {values})")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """A poisoned state is never saved."""
        if self._bad is not None and bool(self._bad):
            self._stop(runner, f"step {runner.iter}: a loss or gradient since step {self._looked_at} is not finite")
        wrong = [
            name
            for name, value in checkpoint["state_dict"].items()
            if torch.is_tensor(value) and value.is_floating_point() and not bool(torch.isfinite(value).all())
        ]
        # Some buffers hold an infinity on purpose (masks); they held it at the start too.
        wrong = [name for name in wrong if name not in self._infinite_from_start]
        if wrong:
            self._stop(runner, f"step {runner.iter}: not finite: {', '.join(wrong[:5])}")

    def before_run(self, runner: Any) -> None:
        """Remember what was not finite from the start."""
        self._infinite_from_start = {
            name for name, value in runner.bare_model.named_buffers() if not bool(torch.isfinite(value).all())
        }

    def _stop(self, runner: Any, what: str) -> NoReturn:
        last = runner.last_checkpoint()
        saved = f"The last good checkpoint is {last}." if last else "There is no checkpoint yet."
        raise TrainingError(
            f"training stopped at {what}. {saved} A lower learning rate, a longer warm-up, optim_wrapper.clip_grad or "
            "dtype='float32' are the usual cures; resuming without a change meets the same numbers."
        )
