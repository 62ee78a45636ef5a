"""How far a run has moved the weights that it started from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from perception.checkpoint import load_checkpoint, save_checkpoint
from perception.engine.console import say
from perception.errors import check_arguments
from perception.registry import HOOKS
from perception.signatures import at_least

START = "start.pth"


@HOOKS.register_module()
class ParameterDistance(Hook):
    """Logs how far the backbone's parameters are from where the run began.

    ``distance/absolute`` is the Euclidean norm of the difference over all parameters, ``distance/relative`` that over
    the norm at the start. Tuning at a tiny rate may change next to nothing, and a figure that is no better than the
    start's is then no wonder. The start lies in ``start.pth`` of the run folder, so that a resumed run measures from
    the same place.

    Args:
        interval: steps between looks; the last step is always looked at.
    """

    priority = "LOW"

    def __init__(self, interval: int = 50) -> None:
        check_arguments("custom_hooks.ParameterDistance", self.check_config, locals())
        self.interval = interval
        self.start: dict[str, Tensor] = {}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive interval."""
        yield from at_least(cfg, 1, "interval")

    def before_train(self, runner: Any) -> None:
        """Remember the start, or read it again in a resumed run."""
        file = Path(runner.work_dir) / START
        if runner.resumed_step:
            self.start = load_checkpoint(file)["parameters"]
            return
        self.start = {n: p.detach().cpu().clone() for n, p in runner.bare_model.backbone.named_parameters()}
        if runner.rank == 0:
            save_checkpoint({"parameters": self.start}, file)

    def after_step(self, runner: Any) -> None:
        """Measure now and then."""
        if runner.iter % self.interval == 0 and runner.iter < runner.max_iters:
            runner.log_scalars(self.measure(runner.bare_model.backbone))

    def after_train(self, runner: Any) -> None:
        """Measure at the end, and say it."""
        found = self.measure(runner.bare_model.backbone)
        runner.log_scalars(found)
        say(f"the backbone has moved by {found['distance/absolute']:.4g}, {found['distance/relative']:.2%} of its norm")

    @torch.no_grad()
    def measure(self, backbone: Any) -> dict[str, float]:
        """Distances of a backbone from the start."""
        moved = norm = 0.0
        for name, parameter in backbone.named_parameters():
            start = self.start[name].to(parameter.device)
            moved += float((parameter - start).double().square().sum())
            norm += float(start.double().square().sum())
        return {"distance/absolute": moved**0.5, "distance/relative": (moved / norm) ** 0.5 if norm else 0.0}
