"""The map head, its resampling, and masks drawn from boxes."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_bev import TinyBEV, scene_batch

from perception.errors import ConfigError, DataError
from perception.geometry.grid import BEVGrid
from perception.tasks.bev_segmenter import BEVSegmenter, resample
from perception.transforms.box_masks import DrawBoxMasks, box_masks

INNER = (-7.0, -3.0, -3.0, 7.0, 3.0, 1.0)


def segmenter(**changed):
    torch.manual_seed(0)
    options = {"backbone": TinyBEV(), "classes": ("car", "pedestrian"), "point_range": INNER, "cell": (0.25, 0.25)}
    return BEVSegmenter(**{**options, **changed})


def drawn(batch):
    return DrawBoxMasks([[0], [1]], INNER, (0.25, 0.25))(batch, None)


def test_resampling_reads_the_map_at_metric_positions():
    # The grids of the card: +-51.2 m in cells of 0.8 m -> +-50 m in cells of 0.5 m.
    source = BEVGrid((-51.2, 51.2), (-51.2, 51.2), (-5.0, 3.0), (0.8, 0.8))
    target = BEVGrid((-50.0, 50.0), (-50.0, 50.0), (-5.0, 3.0), (0.5, 0.5))
    plane = source.centres()
    maps = torch.stack([2 * plane[..., 0] - 3 * plane[..., 1] + 1, plane[..., 1]])[None]
    found = resample(maps, source, target)
    assert found.shape == (1, 2, 200, 200)
    where = target.centres()
    assert where[0, 0].tolist() == [-49.75, -49.75]
    # A plane is what bilinear reading gives exactly.
    assert (found[0, 0] - (2 * where[..., 0] - 3 * where[..., 1] + 1)).abs().max() < 2e-4
    assert (found[0, 1] - where[..., 1]).abs().max() < 1e-4
    assert resample(maps, source, source) is maps


def test_box_masks_equal_a_test_of_every_cell():
    grid = BEVGrid((-7.0, 7.0), (-3.0, 3.0), (-3.0, 1.0), (0.25, 0.25))
    batch = scene_batch((8,))
    boxes, labels = batch["boxes"][0], batch["box_label"][0]
    masks = box_masks(boxes, labels, 2, grid)
    wanted = torch.zeros(2, *grid.shape, dtype=torch.bool)
    for i in range(grid.ny):
        for j in range(grid.nx):
            x, y = grid.x[0] + (j + 0.5) * 0.25, grid.y[0] + (i + 0.5) * 0.25
            for (cx, cy, _, length, width, _, yaw), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                u = (x - cx) * math.cos(yaw) + (y - cy) * math.sin(yaw)
                v = (y - cy) * math.cos(yaw) - (x - cx) * math.sin(yaw)
                wanted[label, i, j] |= abs(u) <= length / 2 and abs(v) <= width / 2
    assert torch.equal(masks, wanted)
    assert 50 < masks.sum() < masks.numel() / 2


def test_the_area_drawn_is_that_of_the_box_and_other_labels_are_not_drawn():
    grid = BEVGrid((-10.0, 10.0), (-10.0, 10.0), (-3.0, 1.0), (0.05, 0.05))
    boxes = torch.tensor([[1.0, -2.0, 0.0, 4.0, 2.0, 1.5, 0.7]]).repeat(3, 1)
    masks = box_masks(boxes, torch.tensor([1, -1, 5]), 3, grid)
    assert masks[1].sum() * 0.05**2 == pytest.approx(8.0, rel=0.01)
    assert not masks[0].any() and not masks[2].any()


def test_layers_join_labels_and_samples_stay_apart():
    batch = scene_batch((2, 0, 1))
    each = DrawBoxMasks([[0], [1], [0, 1]], INNER, (0.25, 0.25))(batch, None)["bev_mask"]
    assert each.shape == (3, 3, 24, 56) and each.dtype == torch.bool
    assert torch.equal(each[:, 2], each[:, 0] | each[:, 1])
    assert not each[1].any()
    with pytest.raises(DataError, match="boxes"):
        DrawBoxMasks([[0]])({"points": []}, None)
    with pytest.raises(ConfigError, match="layer"):
        DrawBoxMasks([])


def test_losses_have_the_names_of_the_classes_and_a_gradient_everywhere():
    model = segmenter().train()
    (batch,) = model.data_preprocessor(drawn(scene_batch()), True)
    losses = model(batch, "loss")
    assert set(losses) == {"loss_car", "loss_pedestrian"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_predictions_are_probabilities_on_the_target_grid():
    model = segmenter().eval()
    (found,) = model.val_step(scene_batch())
    assert found["map_scores"].shape == (3, 2, 24, 56)
    assert found["map_scores"].min() >= 0 and found["map_scores"].max() <= 1
    assert found["index"].tolist() == [0, 1, 2]


def test_a_segmenter_learns_its_scene():
    model = segmenter(width=16).train()
    batch = drawn(scene_batch((3,), seed=4))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(150):
        (ready,) = model.data_preprocessor(batch, True)
        loss = sum(model(ready, "loss").values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = model.eval().val_step(batch)[0]["map_scores"] > 0.5
    truth = batch["bev_mask"]
    assert (found & truth).sum() / (found | truth).sum() > 0.7


def test_frozen_and_faults():
    model = segmenter(frozen=True).train()
    (batch,) = model.data_preprocessor(drawn(scene_batch()), True)
    sum(model(batch, "loss").values()).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    with pytest.raises(DataError, match="bev_mask"):
        model.data_preprocessor(scene_batch(), True)
    wrong = {**scene_batch(), "bev_mask": torch.zeros(3, 2, 10, 10)}
    with pytest.raises(DataError, match=r"\(2, 10, 10\).*\(2, 24, 56\)"):
        model.data_preprocessor(wrong, True)
    masks = drawn(scene_batch())["bev_mask"].float()
    for spoiled, text in (
        (masks[:1], "has 1 maps, but the batch 3 samples"),
        (list(masks), r"tensor \(B, K, Ny, Nx\), not list"),
        (masks[0], r"not of shape \(2, 24, 56\)"),
        (masks * 255, "0 or 1 in every cell"),
        (torch.full_like(masks, torch.nan), "0 or 1 in every cell"),
    ):
        with pytest.raises(DataError, match=text):
            model.data_preprocessor({**scene_batch(), "bev_mask": spoiled}, True)
    model.data_preprocessor({**scene_batch(), "bev_mask": masks - 1}, True)  # negative where nobody knows
    with pytest.raises(ConfigError, match="beyond"):
        segmenter(point_range=(-20.0, -3.0, -3.0, 20.0, 3.0, 1.0))
    with pytest.raises(ConfigError, match="cell"):
        segmenter(cell=(0.3, 0.35))


def test_a_map_that_did_not_move_with_the_points_is_refused():
    model = segmenter()
    batch = drawn(scene_batch())
    told = {"map_range": INNER, "map_classes": ("car", "pedestrian")}
    still = {**batch, "meta": told, "lidar_aug": torch.eye(4).repeat(3, 1, 1)}
    model.data_preprocessor(still, True)
    turned = torch.eye(4).repeat(3, 1, 1)
    turned[1, 0, 0] = -1
    with pytest.raises(DataError, match="moved by lidar_aug and the map was not: put WarpMasks behind"):
        model.data_preprocessor({**still, "lidar_aug": turned}, True)
    # Without map_range the map was drawn or warped behind the augmentation.
    model.data_preprocessor({**still, "lidar_aug": turned, "meta": {"map_classes": told["map_classes"]}}, True)
    elsewhere = {**told, "map_range": (-6.0, -3.0, -3.0, 8.0, 3.0, 1.0)}
    with pytest.raises(DataError, match=r"x -6 to 8 and y -3 to 3, the model's on -7 to 7 and -3 to 3: WarpMasks"):
        model.data_preprocessor({**still, "meta": elsewhere}, True)
    with pytest.raises(DataError, match=r"layers are pedestrian, car, but model\.classes car, pedestrian"):
        model.data_preprocessor({**still, "meta": {**told, "map_classes": ("pedestrian", "car")}}, True)
