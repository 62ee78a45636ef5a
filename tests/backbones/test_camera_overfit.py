"""A small camera network on the real six-camera frame: it learns where boxes stand, and needs the calibration."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from perception.backbones.lift_splat import LiftSplat
from perception.geometry.augmentation import lidar_matrix
from perception.geometry.boxes import points_in_boxes, transform_boxes
from perception.registry import DATASETS

STEPS, SIZE = 150, (128, 352)


def frame():
    root = os.environ.get("PERCEPTION_DATA")
    if not root or not (Path(root) / "bev" / "nuscenes_frame" / "frame.json").is_file():
        pytest.skip("needs PERCEPTION_DATA with bev/nuscenes_frame")
    return DATASETS.build(dict(type="NuScenesFrame", image_size=SIZE))[0]


def occupancy(boxes, grid):
    """(Ny, Nx) 1 where the centre of a cell lies in a box, seen from above."""
    flat = boxes.clone()
    flat[:, 2], flat[:, 5] = 0.0, 1.0
    centres = functional.pad(grid.centres().flatten(0, 1), (0, 1))
    return points_in_boxes(centres, flat).any(1).float().view(grid.shape)


def iou(logits, truth):
    found, truth = logits > 0, truth > 0.5
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.slow
def test_it_overfits_the_frame_and_needs_the_true_extrinsics():
    torch.manual_seed(0)
    raw = frame()
    net = LiftSplat(
        image_backbone=dict(type="TimmModel", name="resnet18", out_indices=(3, 4)),
        image_size=SIZE,
        point_range=(-50.0, -50.0, -10.0, 50.0, 50.0, 10.0),
        cell=(1.0, 1.0),
        depth=(4.0, 45.0, 1.0),
        context_channels=32,
        neck_channels=64,
        encoder="none",
        cached_rigs=8,
    )
    head = nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 1, 1),
    )
    # As it is and mirrored, so that only what follows the calibration fits both.
    flips = [torch.from_numpy(lidar_matrix(flip_x=x, flip_y=y)).float() for x in (False, True) for y in (False, True)]
    truths = [occupancy(transform_boxes(raw["boxes"][0], flip), net.grid) for flip in flips]
    batch = net.preprocess(raw)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    for step in range(STEPS):
        which = step % len(flips)
        logits = head(net.bev({**batch, "lidar_aug": flips[which][None]}))[0, 0]
        weight = torch.tensor(2.13)  # LSS's for vehicles
        loss = functional.binary_cross_entropy_with_logits(logits, truths[which], pos_weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval(), head.eval()
    turned = batch["lidar2cam"].clone()
    turned[:, 1] = turned[:, 1] @ torch.from_numpy(lidar_matrix(rotation=np.deg2rad(30))).float()
    scores = {}
    with torch.no_grad():
        for name, lidar2cam in (("true", batch["lidar2cam"]), ("turned", turned)):
            scores[name] = [
                iou(head(net.bev({**batch, "lidar2cam": lidar2cam, "lidar_aug": flip[None]}))[0, 0], truth)
                for flip, truth in zip(flips, truths, strict=True)
            ]
    assert min(scores["true"]) > 0.8, scores
    assert max(scores["turned"]) < min(scores["true"]) - 0.1, scores
