"""The command of docs/scaling.md, on two processes and the embedded digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perception.checkpoint import find_checkpoint, load_checkpoint
from perception.config import list_configs

CONFIG = "image/mae_vit-tiny_digits"


@pytest.mark.skipif(CONFIG not in list_configs(), reason=f"the config {CONFIG} is not shipped")
def test_torchrun_trains_on_two_processes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "perception",
    ]
    command += ["train", CONFIG, "--launcher", "pytorch", "--out", str(tmp_path / "run")]
    command += ["--set", "train_cfg.max_epochs=1", "train_dataloader.num_workers=0", "evaluation=None"]
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    run = tmp_path / "run" / "seed_0"
    assert json.loads((run / "summary.json").read_text())["world_size"] == 2
    assert len(load_checkpoint(find_checkpoint(run))["rng"]) == 2
