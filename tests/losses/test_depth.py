"""Depth targets and BEVDepth's loss, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from perception.losses.depth import depth_bins, depth_loss, nearest_depths

# Camera at the origin of the LiDAR frame, looking along +y; focal length 100, centre of a 64 x 96 image.
LIDAR2CAM = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])[None, None]
CAM2IMG = torch.tensor([[100.0, 0, 48, 0], [0, 100, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[None, None]


def test_the_nearest_point_of_every_feature_counts():
    points = torch.tensor(
        [
            [0.0, 10.0, 0.0, 1.0],  # (48, 32): row 2, column 3 of features of 16 pixels
            [0.5, 8.0, -0.5, 1.0],  # (54.25, 38.25): the same feature, nearer
            [-2.0, 5.0, 1.0, 1.0],  # (8, 12): row 0, column 0
            [0.0, -4.0, 0.0, 1.0],  # behind
            [9.0, 10.0, 0.0, 1.0],  # u = 138: outside
        ]
    )
    depth = nearest_depths([points, points[:0]], LIDAR2CAM.repeat(2, 1, 1, 1), CAM2IMG.repeat(2, 1, 1, 1), (64, 96), 16)
    assert depth.shape == (2, 1, 4, 6) and not depth[1].isfinite().any()
    assert depth[0].isfinite().nonzero().tolist() == [[0, 0, 0], [0, 2, 3]]
    assert depth[0, 0, 2, 3] == 8 and depth[0, 0, 0, 0] == 5


def test_augmentation_moves_the_depths_with_the_pixels():
    points = torch.tensor([[-2.0, 5.0, 1.0]])
    flipped = torch.diag(torch.tensor([-1.0, 1, 1, 1]))[None, None]
    flipped[..., 0, 3] = 96  # u -> 96 - u: 8 becomes 88
    raised = torch.eye(4)[None]
    raised[:, 2, 3] = 3.0
    depth = nearest_depths([points + torch.tensor([0, 0, 3.0])], LIDAR2CAM, CAM2IMG, (64, 96), 16, flipped, raised)
    assert depth.isfinite().nonzero().tolist() == [[0, 0, 0, 5]] and depth[0, 0, 0, 5] == pytest.approx(5)


def test_bins():
    depth = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.3, 59.6, 59.8, 60.0, math.inf])
    bounds = (1.0, 60.0, 0.5)  # 1.0, 1.5, ..., 59.5
    assert depth_bins(depth, bounds).tolist() == [-1, 0, 0, 0, 1, 117, -1, -1, -1]
    assert depth_bins(depth, bounds, "floor").tolist() == [-1, -1, 0, 0, 0, 117, 117, -1, -1]


def test_loss_by_hand():
    alpha = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.4, 0.3, 0.3]]).T.view(1, 1, 3, 1, 3).requires_grad_()
    target = torch.tensor([0, 1, -1]).view(1, 1, 1, 3)
    expected = -(math.log(0.7) + math.log(0.8) + math.log(0.9) + math.log(0.5) + 2 * math.log(0.75)) / 2
    loss = depth_loss(alpha, target)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert alpha.grad[..., 2].abs().sum() == 0 and alpha.grad[..., :2].abs().min() > 0


def test_nothing_to_teach_is_zero_with_a_graph():
    alpha = torch.full((1, 2, 3, 2, 2), 1 / 3, requires_grad=True)
    loss = depth_loss(alpha, torch.full((1, 2, 2, 2), -1))
    loss.backward()
    assert loss == 0 and not alpha.grad.any()


def test_certain_and_wrong_stays_finite():
    alpha = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1).requires_grad_()
    loss = depth_loss(alpha, torch.ones(1, 1, 1, 1, dtype=torch.long))
    loss.backward()
    assert loss.isfinite() and alpha.grad.isfinite().all()
