"""What a run was made with: code, packages, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import perception
from perception.config import config_hash

_PACKAGES = (
    *("torch", "torchvision", "timm", "mmengine-lite", "torch-geometric", "numpy", "scipy", "scikit-learn"),
    *("opencv-python-headless", "albumentations", "transformers", "safetensors"),
)


def describe_environment(cfg: Any, seed: int, world_size: int) -> dict[str, Any]:
    """Plain values for ``environment.json``."""
    return {
        "config_hash": config_hash(cfg),
        "seed": seed,
        "perception": perception.__version__,
        "git": git_state(Path(perception.__file__).resolve().parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "world_size": world_size,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside a checkout or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
