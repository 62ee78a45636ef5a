"""Learning-rate schedules whose length is the run's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from perception.errors import ConfigError, Fault, nearest
from perception.pretext.cdfsl_v import curriculum_weight
from perception.registry import PARAM_SCHEDULERS


class RunSchedule(_ParamScheduler):
    """A schedule that the runner tells how long the run is, so that a config states the length once.

    A subclass gives ``factor(progress)``. Values follow from the position alone, not from the value before.

    Args:
        optimizer: optimiser or its wrapper.
        total_steps: steps of the run; the runner fills it in.
        epoch_length: steps of an epoch; the runner fills it in.
        by_step: follow every step; else the value is set once per epoch, from the number of complete epochs.
    """

    def __init__(self, optimizer: Any, total_steps: int = 1, epoch_length: int = 1, by_step: bool = True) -> None:
        self.total = float(total_steps if by_step else math.ceil(total_steps / epoch_length))
        super().__init__(optimizer, param_name="lr", by_epoch=not by_step)

    def step(self) -> None:
        """Go to the next position. Unlike the base's it does not warn where, with gradients accumulated over several
        steps, the optimiser has not moved yet.
        """
        self._global_step += 1
        self.last_step += 1
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group[self.param_name] = value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the position of ``state_dict`` and no more: length and rates are what the config says now."""
        self.last_step = state_dict["last_step"]
        self._global_step = state_dict["_global_step"]
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group[self.param_name] = value

    def value(self, base: float, scale: float, position: int) -> float:
        """Learning rate of a group with initial rate ``base`` and layer scale ``scale`` at ``position``."""
        raise NotImplementedError

    def _get_value(self) -> list[float]:
        groups = self.optimizer.param_groups
        return [
            self.value(base, group.get("lr_scale", 1.0), self.last_step)
            for base, group in zip(self.base_values, groups, strict=True)
        ]


@PARAM_SCHEDULERS.register_module()
class CosineWarmup(RunSchedule):
    r"""Linear warm-up from 0, then half a cosine down to ``min_lr``.

    With t the position, w the warm-up and T the run's length (steps or epochs):
    :math:`lr = base \cdot t / w` for t < w, else
    :math:`lr = min + (base - min) \cdot (1 + \cos(\pi (t - w) / (T - w))) / 2`.
    The warm-up reaches the base rate at t = w, where the cosine begins. Groups with a ``lr_scale`` (layer-wise decay)
    are scaled as a whole, ``min_lr`` included.

    Args:
        optimizer: optimiser or its wrapper.
        total_steps: steps of the run; the runner fills it in.
        epoch_length: steps of an epoch; the runner fills it in.
        warmup_epochs: length of the warm-up in epochs; fractions are allowed.
        warmup_steps: the same in steps; one of the two.
        min_lr: rate at the end.
        by_step: change the rate every step; else once per epoch.
    """

    def __init__(
        self,
        optimizer: Any,
        total_steps: int = 1,
        epoch_length: int = 1,
        warmup_epochs: float = 0,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        by_step: bool = True,
    ) -> None:
        if warmup_epochs and warmup_steps:
            raise ConfigError([Fault("param_scheduler.warmup_steps", warmup_steps, "warmup_epochs is given already")])
        steps = warmup_epochs * epoch_length + warmup_steps
        self.warmup = float(steps if by_step else steps / epoch_length)
        self.min_lr = min_lr
        super().__init__(optimizer, total_steps, epoch_length, by_step)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """One warm-up, and nothing negative."""
        if cfg.get("warmup_epochs") and cfg.get("warmup_steps"):
            yield "warmup_steps", "warmup_epochs is given already"
        for key in ("warmup_epochs", "warmup_steps", "min_lr"):
            if isinstance(cfg.get(key), (int, float)) and cfg[key] < 0:
                yield key, f"must not be negative, got {cfg[key]}"

    def value(self, base: float, scale: float, position: int) -> float:
        """See the formula of the class."""
        if position < self.warmup:
            return base * position / self.warmup
        # A run cut shorter than its warm-up never gets here; the guard keeps T == w from dividing by 0.
        progress = min(1.0, (position - self.warmup) / max(self.total - self.warmup, 1e-9))
        low = scale * self.min_lr
        return low + (base - low) * 0.5 * (1.0 + math.cos(math.pi * progress))


@PARAM_SCHEDULERS.register_module()
class CurriculumRate(RunSchedule):
    r"""The rates of CDFSL-V (2023): that of the head falls by a curriculum, all others stay as they are.

    With x = position / length of the run, the head's rate is
    :math:`base \cdot (\arctan(-10 (x - 1/2)) / \pi + 1/2)`: 0.937 of it at the start, 0.5 half way, 0.063 at the end.

    Args:
        optimizer: optimiser or its wrapper.
        group: the module whose parameters these are, one of ``separate`` of the constructor ``LayerDecay``.
        total_steps: steps of the run; the runner fills it in.
        epoch_length: steps of an epoch; the runner fills it in.
        by_step: change the rate every step; else once per epoch, as in the paper.
    """

    def __init__(
        self,
        optimizer: Any,
        group: str,
        total_steps: int = 1,
        epoch_length: int = 1,
        by_step: bool = False,
    ) -> None:
        names = [str(g.get("name", "")) for g in optimizer.param_groups]
        self.falling = [name in (group, f"{group}_no_decay") for name in names]
        if not any(self.falling):
            text = f"the optimiser has no such group; it has {', '.join(names)}. See paramwise_cfg.separate"
            raise ConfigError([Fault("param_scheduler.group", group, text, nearest(group, names))])
        super().__init__(optimizer, total_steps, epoch_length, by_step)

    def _get_value(self) -> list[float]:
        factor = 1.0 - curriculum_weight(min(1.0, self.last_step / max(self.total, 1e-9)))
        return [base * (factor if own else 1.0) for base, own in zip(self.base_values, self.falling, strict=True)]
