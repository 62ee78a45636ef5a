"""Configs and folders that tests of bad input spoil."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

IMAGES = "image/mae_vit-tiny_digits"
TUNING = "image/finetune_vit-tiny_digits"
GRAPH = "graph/graphmae_gat_digits"
TOWERS = "remote_sensing/clip_tiny_land-cover"
FRAMES = "driving/centerpoint_pillars_kitti-frames"
POINTS = "driving/prc_pillars_scenes"
FUSION = "driving/finetune_fusion_scenes"
CLIPS = "video/videomae_vit-tiny_moving-digits"
TUNING_CLIPS = "video/finetune_vit-tiny_moving-digits"
SPEECH = "speech/wav2vec2_tiny_varieties"
TUNING_SPEECH = "speech/finetune_wav2vec2-tiny_varieties"
SHORT = ["train_cfg.max_epochs=1"]


def train(config: str, *overrides: str) -> list[str]:
    """Arguments of a short training."""
    return ["train", config, "--out", "run", "--set", *SHORT, *overrides]


def folder_of_images(root: Path, count: int = 12) -> Path:
    random = np.random.default_rng(0)
    for i in range(count):
        path = root / f"{'ab'[i % 2]}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    return root


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))
