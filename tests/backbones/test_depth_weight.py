"""Depths of cameras that the points teach a detector."""

from __future__ import annotations

import pytest
import torch
from camera_rig import raw_batch
from test_bev_fusion import CAMERA, LIDAR

from perception.backbones.bev_fusion import BEVFusion
from perception.backbones.lift_splat import LiftSplat
from perception.config import load_config
from perception.errors import ConfigError, DataError
from perception.losses.depth import depth_bins, depth_loss, nearest_depths
from perception.tasks.bev_detector import BEVDetector
from perception.validation import validate_config

BACKBONES = {
    "cameras": CAMERA,
    "fusion": dict(type="BEVFusion", lidar=LIDAR, camera=CAMERA, fused_channels=14),
    "fusion that drops cameras": dict(
        type="BEVFusion", lidar=LIDAR, camera=CAMERA, fused_channels=14, drop_lidar=0.3, drop_camera=0.6
    ),
    "fusion of cameras alone": dict(type="BEVFusion", camera=CAMERA),
}


def detector(backbone, **changed):
    torch.manual_seed(0)
    return BEVDetector(backbone, ("car", "pedestrian"), **{"width": 16, **changed})


def batch_of(model):
    """A preprocessed batch with two sweeps around the cameras and a box each."""
    random = torch.Generator().manual_seed(0)
    points = [torch.cat([torch.randn(n, 2, generator=random) * 6, torch.rand(n, 2, generator=random) - 0.5], 1)
              for n in (900, 700)]  # fmt: skip
    boxes = [torch.tensor([[5.0, 3, 0, 4, 2, 1.5, 0.3]]), torch.tensor([[-6.0, 2, 0, 4, 2, 1.5, 1.3]])]
    labels = {"boxes": boxes, "box_label": [torch.tensor([0]), torch.tensor([1])]}
    (batch,) = model.data_preprocessor({**raw_batch(), "points": points, **labels}, True)
    return batch


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_loss_is_the_weight_times_that_of_the_camera_branch(kind):
    model = detector(BACKBONES[kind], depth_weight=3.0).train()
    batch = batch_of(model)
    torch.manual_seed(5)
    losses = model(batch, "loss")
    camera = model.backbone if isinstance(model.backbone, LiftSplat) else model.backbone.camera
    _, alpha = camera.bev_and_depth(batch)
    # The card's target: the nearest point in every feature of 8 x 8 pixels, in bins of 1 m from 1 m on.
    depth = nearest_depths(
        batch["points"], batch["lidar2cam"], batch["cam2img"], (64, 96), 8, batch["img_aug"], batch["lidar_aug"]
    )
    target = depth_bins(depth, (1.0, 20.0, 1.0))
    assert (target >= 0).sum() > 50
    assert losses["loss_depth"].item() == pytest.approx(3 * depth_loss(alpha, target).item(), rel=1e-6)
    total, log = model.parse_losses(losses)
    assert log["loss_depth"] is losses["loss_depth"]
    assert total.item() == pytest.approx(sum(v.item() for k, v in losses.items() if k.startswith("loss_")), rel=1e-6)
    losses["loss_depth"].backward()
    assert camera.view.depthnet.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.bbox_head.parameters())


@pytest.mark.parametrize("kind", ["cameras", "fusion", "fusion that drops cameras"])
def test_without_a_weight_nothing_changes(kind):
    """Neither the other losses nor their gradients, to the bit; nor predictions with one."""
    plain, weightless, taught = (
        detector(BACKBONES[kind], **w) for w in ({}, {"depth_weight": 0.0}, {"depth_weight": 2})
    )
    found, gradients = [], []
    for model in (plain, weightless, taught):
        batch = batch_of(model.train())
        torch.manual_seed(3)
        losses = model(batch, "loss")
        found.append({name: value.detach() for name, value in losses.items()})
        sum(value for name, value in losses.items() if name not in ("boxes_dropped", "loss_depth")).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert set(found[0]) == set(found[1]) == set(found[2]) - {"loss_depth"}
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))
    batch = batch_of(plain.eval())
    with torch.no_grad():
        said, again = plain(batch, "predict"), taught.eval()({**batch, "points": batch["points"]}, "predict")
    assert all(torch.equal(a, b) for a, b in zip(said["boxes"], again["boxes"], strict=True))


def test_what_has_no_depths_is_refused():
    def fails(backbone, words, **changed):
        with pytest.raises(ConfigError, match=words):
            detector(backbone, **{"depth_weight": 3.0, **changed})

    fails(LIDAR, r"model.depth_weight = 3(\.0)?: PillarNet has no camera branch that tells depths")
    found = validate_config(load_config("driving/finetune_pillars_scenes", ["model.depth_weight=3.0"]))
    assert [fault.path for fault in found] == ["model.depth_weight"]  # before anything is built
    fails(dict(type="BEVFusion", lidar=LIDAR), "model.backbone.camera = None: is missing")
    fails({**CAMERA, "drop_cameras": 1}, "model.backbone.drop_cameras = 1: hides whose depths")
    blind = dict(type="BEVFusion", lidar=LIDAR, camera={**CAMERA, "drop_cameras": 2})
    fails(blind, "model.backbone.camera.drop_cameras = 2: hides whose depths")
    fails(CAMERA, "depth_weight.*must not be negative", depth_weight=-1.0)
    fails(CAMERA, "depth_weight.*frozen", frozen=True)
    detector({**CAMERA, "drop_cameras": 1})  # without a weight it may


def test_batches_without_points_or_cameras_are_refused():
    model = detector(CAMERA, depth_weight=3.0).train()
    batch = batch_of(model)
    with pytest.raises(DataError, match=r"depth_weight = 3 teaches depths by 'points'.*lidar=True"):
        model({**batch, "points": None}, "loss")
    assert "loss_depth" not in model.eval()({**batch, "points": None}, "predict")
    fusion = detector(BACKBONES["fusion that drops cameras"], depth_weight=3.0).eval()
    with pytest.raises(DataError, match="depths are those of 'cams'"):
        fusion({**batch_of(fusion), "cams": None}, "loss")
    with pytest.raises(ConfigError, match="no depths to teach"):
        BEVFusion(lidar=LIDAR).depth_loss(torch.zeros(1), batch)
