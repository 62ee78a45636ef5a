"""A small camera branch, and cameras for it."""

from __future__ import annotations

import numpy as np
import torch

from perception.geometry.augmentation import lidar_matrix

IMAGE = dict(type="ConvNet", widths=[8, 12, 16], strides=[4, 2, 2], out_indices=[1, 2])
SMALL = dict(
    image_backbone=IMAGE,
    image_size=(64, 96),
    point_range=(-16.0, -16.0, -5.0, 16.0, 16.0, 5.0),
    cell=(1.0, 1.0),
    depth=(1.0, 20.0, 1.0),
    context_channels=6,
    neck_channels=16,
    out_channels=10,
)


def raw_batch(batch=2, cameras=3, seed=0):
    """Cameras around the origin that look outwards over the ground."""
    random = np.random.default_rng(seed)
    axes = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # LiDAR (y forward) -> camera
    turns = [lidar_matrix(rotation=2 * np.pi * n / cameras) for n in range(cameras)]
    lidar2cam = np.stack([axes @ turn for turn in turns])
    lidar2cam[:, :3, 3] = (0.13, 0.07, -0.21)  # no point on an edge of cells
    cam2img = np.array([[60.0, 0, 48, 0], [0, 60, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return {
        "cams": torch.from_numpy(random.integers(0, 256, (batch, cameras, 3, 64, 96), dtype=np.uint8)),
        "lidar2cam": torch.from_numpy(lidar2cam).float().expand(batch, -1, -1, -1),
        "cam2img": torch.from_numpy(cam2img).float().expand(batch, cameras, -1, -1),
    }
