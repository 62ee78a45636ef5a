"""Targets and losses of the centre heatmap, against loops over boxes and cells."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.geometry.grid import BEVGrid
from perception.losses.centre_heatmap import (
    box_l1_loss,
    centre_targets,
    decode_boxes,
    draw_gaussians,
    encode_boxes,
    gaussian_radius,
    heatmap_focal_loss,
)

GRID = BEVGrid(x=(-8.0, 8.0), y=(-4.0, 4.0), z=(-3.0, 1.0), cell=(0.5, 0.25))


def random_boxes(count, seed=0):
    random = np.random.default_rng(seed)
    columns = [
        random.uniform(-7.9, 7.9, count),
        random.uniform(-3.9, 3.9, count),
        random.uniform(-2, 0, count),
        random.uniform(0.5, 5, count),
        random.uniform(0.4, 2, count),
        random.uniform(1, 2, count),
        random.uniform(-math.pi, math.pi, count),
    ]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def reference_radius(height, width, overlap):
    """The card's formula, box by box."""
    b1, c1 = height + width, height * width * (1 - overlap) / (1 + overlap)
    b2, c2 = 2 * (height + width), (1 - overlap) * width * height
    a3, b3, c3 = 4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height
    r1 = (b1 + math.sqrt(b1**2 - 4 * c1)) / 2
    r2 = (b2 + math.sqrt(b2**2 - 16 * c2)) / 2
    r3 = (b3 + math.sqrt(b3**2 - 4 * a3 * c3)) / 2
    return min(r1, r2, r3)


def reference_heatmap(boxes, labels, count, grid=GRID, overlap=0.1):
    """Cell by cell in float64."""
    heatmap = np.zeros((count, *grid.shape))
    for (x, y, _, length, width, *_), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        column, row = math.floor((x - grid.x[0]) / grid.cell[0]), math.floor((y - grid.y[0]) / grid.cell[1])
        radius = max(2, int(reference_radius(length / grid.cell[0], width / grid.cell[1], overlap)))
        sigma = (2 * radius + 1) / 6
        for i in range(max(row - radius, 0), min(row + radius + 1, grid.ny)):
            for j in range(max(column - radius, 0), min(column + radius + 1, grid.nx)):
                value = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
                heatmap[label, i, j] = max(heatmap[label, i, j], value)
    return heatmap


def test_radius_follows_the_formula_that_public_code_kept():
    sides = random_boxes(50)[:, 3:5].double()
    found = gaussian_radius(sides[:, 0], sides[:, 1])
    wanted = [reference_radius(*pair, 0.1) for pair in sides.tolist()]
    assert np.abs(found.numpy() - wanted).max() < 1e-12


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.7])
def test_exact_radius_is_where_the_worst_shift_reaches_the_overlap(overlap):
    height, width = 4.0, 7.0
    radius = gaussian_radius(torch.tensor([height]), torch.tensor([width]), overlap, "exact").item()

    def overlaps(r):
        moved = (height - r) * (width - r)
        inner, outer = (height - 2 * r) * (width - 2 * r), (height + 2 * r) * (width + 2 * r)
        return [moved / (2 * height * width - moved), inner / (height * width), height * width / outer]

    assert min(overlaps(radius)) == pytest.approx(overlap, abs=1e-5)


def test_heatmap_equals_a_loop_over_boxes_and_cells():
    boxes, labels = random_boxes(40), torch.arange(40) % 3
    targets = centre_targets([boxes], [labels], GRID, 3)
    assert targets.heatmap.shape == (1, 3, 32, 32)
    assert np.abs(targets.heatmap[0].numpy() - reference_heatmap(boxes, labels, 3)).max() < 1e-6


def test_peaks_are_one_and_two_objects_of_a_cell_share_theirs():
    boxes = random_boxes(1).repeat(3, 1)
    boxes[:, :2] = torch.tensor([[0.1, 0.1], [0.2, 0.2], [3.1, 0.1]])
    targets = centre_targets([boxes], [torch.zeros(3, dtype=torch.int64)], GRID, 1)
    assert len(targets.code) == 3
    assert (targets.heatmap == 1).sum() == 2
    assert targets.heatmap[0, 0, targets.row, targets.column].tolist() == [1.0, 1.0, 1.0]


def test_samples_do_not_mix_and_other_labels_are_not_drawn():
    boxes, labels = random_boxes(6), torch.tensor([0, 1, -1, 5, 0, 1])
    whole = centre_targets([boxes[:0], boxes, boxes[:2]], [labels[:0], labels, labels[:2]], GRID, 2)
    assert whole.sample.tolist() == [1, 1, 1, 1, 2, 2]
    assert not whole.heatmap[0].any()
    alone = centre_targets([boxes[:2]], [labels[:2]], GRID, 2)
    assert torch.equal(whole.heatmap[2], alone.heatmap[0])


def test_boxes_that_cannot_be_learned_are_left_out():
    boxes = random_boxes(5)
    boxes[0, 0] = 8.0  # the upper edge is out
    boxes[1, 1] = -4.01
    boxes[2, 3] = 0.0
    boxes[3, 6] = math.nan
    *_, usable, _ = encode_boxes(boxes, GRID)
    assert usable.tolist() == [False, False, False, False, True]
    targets = centre_targets([boxes], [torch.zeros(5, dtype=torch.int64)], GRID, 1)
    assert len(targets.code) == 1 and targets.code.isfinite().all()


def test_a_box_left_of_the_grid_does_not_slip_into_its_first_column():
    boxes = random_boxes(1)
    boxes[0, 0] = -8.2  # truncation instead of the floor would give cell 0
    assert not encode_boxes(boxes, GRID)[2].item()


def test_decoding_gives_the_boxes_back():
    boxes = random_boxes(200, seed=3)
    velocity = torch.randn(200, 2)
    row, column, usable, code = encode_boxes(boxes, GRID, velocity)
    assert usable.all() and code.shape == (200, 10)
    assert (code[:, :2] >= 0).all() and (code[:, :2] <= 1).all()
    found, speed = decode_boxes(code, row, column, GRID)
    assert (found - boxes).abs().max() < 1e-4
    assert torch.equal(speed, velocity)
    assert decode_boxes(code[:, :8], row, column, GRID)[1] is None


def test_code_of_a_box_worked_out_by_hand():
    row, column, _, code = encode_boxes(torch.tensor([[1.2, -0.95, -1.0, 4.0, 2.0, 1.5, math.pi / 6]]), GRID)
    # x: (1.2 + 8) / 0.5 = 18.4; y: (-0.95 + 4) / 0.25 = 12.2
    assert (row.item(), column.item()) == (12, 18)
    wanted = [0.4, 0.2, -1.0, math.log(4), math.log(2), math.log(1.5), 0.5, math.sqrt(0.75)]
    assert code[0].tolist() == pytest.approx(wanted, abs=1e-5)


def test_sides_are_bounded_whatever_is_predicted():
    code = torch.zeros(2, 8)
    code[0, 3:6], code[1, 3:6] = 500.0, -500.0
    boxes, _ = decode_boxes(code, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), GRID)
    assert boxes.isfinite().all() and boxes[0, 3:6].max() < 55 and boxes[1, 3:6].min() > 0.04


def test_angles_stay_in_the_half_open_circle():
    code = torch.tensor([[0.0] * 6 + [0.0, -1.0], [0.0] * 6 + [-0.0, -1.0]])
    boxes, _ = decode_boxes(code, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), GRID)
    assert (boxes[:, 6] >= -math.pi).all() and (boxes[:, 6] < math.pi).all()


def test_focal_loss_by_hand():
    logits = torch.tensor([0.0, math.log(3), -math.log(3)]).view(1, 1, 1, 3)
    target = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
    # p = 1/2, 3/4, 1/4
    wanted = -(0.25 * math.log(0.5) + 0.5**4 * 0.75**2 * math.log(0.25) + 0.25**2 * math.log(0.75))
    assert heatmap_focal_loss(logits, target).item() == pytest.approx(wanted, abs=1e-6)
    # A second peak halves what everything else costs.
    two = torch.cat([logits, logits[..., :1]], -1), torch.cat([target, target[..., :1]], -1)
    assert heatmap_focal_loss(*two).item() == pytest.approx((wanted - 0.25 * math.log(0.5)) / 2, abs=1e-6)


def test_focal_loss_of_a_perfect_map_is_zero_up_to_the_clip():
    target = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    loss = heatmap_focal_loss((target - 0.5) * 100, target).item()
    # p = 1 - 1e-4 at peaks and 1e-4 elsewhere: (1e-4)^2 * 1e-4 a cell
    assert 0 <= loss < 384 * 1.1e-12
    assert heatmap_focal_loss((0.5 - target) * 100, target).item() > 1


def test_focal_loss_does_not_change_when_the_grid_is_mirrored():
    boxes, labels = random_boxes(10), torch.zeros(10, dtype=torch.int64)
    target = centre_targets([boxes], [labels], GRID, 1).heatmap
    logits = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = heatmap_focal_loss(logits, target)
    for axis in (-1, -2):
        assert torch.allclose(heatmap_focal_loss(logits.flip(axis), target.flip(axis)), plain, rtol=1e-6)


def test_an_empty_map_has_a_finite_loss_and_gradient():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    empty = centre_targets([torch.zeros(0, 7)], [torch.zeros(0, dtype=torch.int64)], GRID, 2)
    assert empty.heatmap.shape == (1, 2, 32, 32) and not empty.heatmap.any()
    loss = heatmap_focal_loss(logits, torch.zeros(1, 2, 4, 4)) + box_l1_loss(logits[0, 0, :0].repeat(1, 2), empty.code)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_box_loss_is_zero_at_the_target_and_skips_unknown_velocities():
    velocity = torch.tensor([[1.0, -2.0], [math.nan, math.nan]])
    *_, code = encode_boxes(random_boxes(2), GRID, velocity)
    assert box_l1_loss(code.nan_to_num(), code).item() == 0
    prediction = code.nan_to_num() + 1
    prediction.requires_grad_(True)
    loss = box_l1_loss(prediction, code)
    loss.backward()
    # 8 numbers of weight 1 for both boxes, 2 of weight 0.2 for the first: 16.4 over 2 boxes
    assert loss.item() == pytest.approx(16.4 / 2.0001, rel=1e-5)
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1, 8:].tolist() == [0.0, 0.0]


def test_drawing_nothing_and_drawing_at_the_corner():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert not draw_gaussians(nothing, nothing, nothing, nothing, (2, 3, 4)).any()
    zero = torch.zeros(1, dtype=torch.int64)
    corner = draw_gaussians(zero, zero, zero, zero + 2, (1, 8, 8))
    sigma = 5 / 6
    assert corner[0, 0, 0] == 1
    assert corner[0, 1, 2].item() == pytest.approx(math.exp(-5 / (2 * sigma**2)), rel=1e-5)
    assert (corner[0, 3:] == 0).all() and (corner[0, :, 3:] == 0).all()


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="PERCEPTION_DATA is not set: no nuScenes frame")
def test_the_nuscenes_frame_has_51_boxes_and_50_peaks():
    frame = json.loads((Path(os.environ["PERCEPTION_DATA"]) / "bev/nuscenes_frame/frame.json").read_text())
    boxes = torch.tensor([box["box"] for box in frame["boxes_lidar"]])
    labels = torch.tensor([box["label"] for box in frame["boxes_lidar"]])
    grid = BEVGrid.from_range((-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), (0.8, 0.8))
    targets = centre_targets([boxes], [labels], grid, 10)
    assert len(targets.code) == 51
    assert (targets.heatmap == 1).sum() == 50
    inside = (boxes[:, :2].abs() < 51.2).all(1) & (labels >= 0)
    reference = reference_heatmap(boxes[inside], labels[inside], 10, grid)
    assert np.abs(targets.heatmap[0].numpy() - reference).max() < 1e-6
