"""The rate falls in a straight line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perception.engine.schedulers import RunSchedule
from perception.registry import PARAM_SCHEDULERS
from perception.signatures import at_least


@PARAM_SCHEDULERS.register_module()
class LinearDecay(RunSchedule):
    r"""Linear warm-up from 0, then a straight line down to ``min_lr`` at the end of the run.

    With t the position, w the warm-up and T the run's length: :math:`lr = base \cdot t / w` for t < w, else
    :math:`lr = min + (base - min) \cdot (T - t) / (T - w)`; the default schedule of transformers' trainer.

    Args:
        optimizer: optimiser or its wrapper.
        total_steps: steps of the run; the runner fills it in.
        epoch_length: steps of an epoch; the runner fills it in.
        warmup_steps: length of the warm-up.
        min_lr: rate at the end.
        by_step: change the rate every step; else once per epoch, and the warm-up counts epochs.
    """

    def __init__(
        self,
        optimizer: Any,
        total_steps: int = 1,
        epoch_length: int = 1,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        by_step: bool = True,
    ) -> None:
        self.warmup, self.min_lr = float(warmup_steps), min_lr
        super().__init__(optimizer, total_steps, epoch_length, by_step)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Nothing negative."""
        yield from at_least(cfg, 0, "warmup_steps", "min_lr")

    def value(self, base: float, scale: float, position: int) -> float:
        """See the formula of the class."""
        if position < self.warmup:
            return base * position / self.warmup
        left = max(0.0, (self.total - position) / max(self.total - self.warmup, 1e-9))
        low = scale * self.min_lr
        return low + (base - low) * left
