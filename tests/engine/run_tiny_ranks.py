"""One rank of a run of the tiny model. Arguments: run folder, options as JSON. Writes what the rank ends with."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

import tiny
import torch
from mmengine.hooks import Hook

from perception.engine.api import train
from perception.registry import HOOKS


@HOOKS.register_module()
class Report(Hook):
    """Leaves this rank's weights and metrics in files; slows the run down if asked to."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def after_step(self, runner) -> None:
        time.sleep(self.pause)
        (Path(runner.work_dir) / f"started_{runner.rank}").touch()

    def after_train(self, runner) -> None:
        content = {"weights": dict(runner.bare_model.state_dict()), "metrics": runner.metrics["val"]}
        torch.save(content, Path(runner.work_dir) / f"rank_{runner.rank}.pth")


def main() -> None:
    run_dir, options = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    cfg = tiny.tiny_config(epochs=options.get("epochs", 3))
    cfg["model"].update(dropout=options.get("dropout", 0.0), noise=0.0)
    cfg["train_dataloader"].update(batch_size=options["batch_size"])
    cfg["train_dataloader"]["dataset"]["size"] = 36
    cfg["val_dataloader"] = dict(batch_size=5, dataset=dict(type="TinyVectors", size=21))
    cfg["val_evaluator"] = [dict(type="TinyAccuracy")]
    cfg["val_cfg"] = dict(type="ValLoop")
    cfg["train_cfg"]["val_interval"] = 100
    cfg["default_hooks"]["checkpoint"]["every_steps"] = 1000
    cfg["default_hooks"]["progress"] = None
    cfg["custom_hooks"] = [dict(type="Report", pause=options.get("pause", 0.0))]
    train(cfg, run_dir, 0, resume=options.get("resume", False), launcher="pytorch")


if __name__ == "__main__":
    main()
