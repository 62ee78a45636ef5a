"""Trains in a process of its own, so that tests can kill it. Arguments: run folder, options as JSON.

Without ``config`` it is the tiny model; with it a shipped config, changed by ``overrides``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

import tiny
import torch
from mmengine.hooks import Hook

from perception.config import load_config
from perception.engine.api import train
from perception.errors import PerceptionError
from perception.registry import HOOKS


@HOOKS.register_module()
class Announce(Hook):
    """Tells the parent process that steps are being made."""

    def after_step(self, runner) -> None:
        print(f"STEP {runner.iter}", flush=True)


def main() -> int:
    run_dir, options = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    if "config" in options:
        cfg = load_config(options["config"], options.get("overrides", []))
        cfg.train_cfg.pop("max_iters", None)
        cfg.train_cfg.max_epochs = options["epochs"]
        cfg.train_dataloader.num_workers = options.get("workers", 2)
    else:
        cfg = tiny.tiny_config(epochs=options["epochs"], workers=options.get("workers", 2))
        cfg["model"]["ballast"] = options.get("ballast", 0)
    cfg["default_hooks"]["checkpoint"]["every_steps"] = options.get("every_steps", 1)
    cfg["optim_wrapper"]["accumulative_counts"] = options.get("accumulative_counts", 1)
    cfg["train_dataloader"].update(options.get("dataloader", {}))
    cfg["custom_hooks"] = [dict(type="Announce"), *options.get("hooks", [])]
    try:
        train(cfg, run_dir, options.get("seed", 0), options.get("resume", False), options.get("launcher", "none"))
    except PerceptionError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
