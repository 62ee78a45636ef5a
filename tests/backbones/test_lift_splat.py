"""The camera branch as a backbone: sizes, geometry, weights and errors."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from camera_rig import SMALL, raw_batch

from perception.backbones.lift_splat import ENCODERS, LiftSplat, map_widths
from perception.backbones.lift_splat_presets import PRESETS
from perception.backbones.timm_model import TimmModel
from perception.checkpoint import save_checkpoint
from perception.errors import CheckpointError, ConfigError, DataError
from perception.exporting import build_backbone, export_backbone, load_backbone
from perception.geometry.augmentation import image_matrix, lidar_matrix
from perception.validation import validate_config


def build(**changes):
    torch.manual_seed(0)
    return LiftSplat(**{**SMALL, **changes}).eval()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_map_grid_and_pooled_features_agree(encoder):
    net = build(encoder=encoder, z_slices=2)
    batch = net.preprocess(raw_batch())
    (bev,) = net(batch)
    halved = encoder == "downsample"
    assert net.grid.shape == ((16, 16) if halved else (32, 32)) and net.grid.cell == ((2, 2) if halved else (1, 1))
    assert bev.shape == (2, net.bev_channels, *net.grid.shape)
    assert net.bev_channels == (12 if encoder == "none" else 10) and net.embed_dims == 2 * net.bev_channels
    assert net.embed(raw_batch()).shape == (2, net.embed_dims) and not net.training
    bev.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["lss", "bevdet-r50", "bevfusion-det"])
def test_published_settings(name):
    """Sizes of the table: features, depths, cells and channels of the map."""
    changes = {"image_backbone": {"type": "TimmModel", "name": "resnet18", "out_indices": [2, 3, 4]}}
    net = LiftSplat(preset=name, **(changes if name == "bevfusion-det" else {}))  # Swin takes seconds to build
    features, depths, context, grid, channels = {
        "lss": ((8, 22), 41, 64, (200, 200), 128),
        "bevdet-r50": ((16, 44), 59, 64, (128, 128), 256),
        "bevfusion-det": ((32, 88), 118, 80, (180, 180), 80),
    }[name]
    frustum = net.view.frustum
    assert (frustum.feature_size, frustum.num_depths, net.view.context_channels) == (features, depths, context)
    assert (net.grid.shape, net.bev_channels) == (grid, channels)
    assert net.preprocess.image_size == frustum.image_size
    assert net.settings["drop_cameras"] == (1 if name == "lss" else 0)


def test_every_preset_is_valid():
    for name in PRESETS:
        cfg = dict(model=dict(type="BEVDetector", backbone=dict(type="LiftSplat", preset=name), classes=["car"]))
        assert [f for f in validate_config(cfg, training=False) if "backbone" in f.path] == []
    cfg["model"]["backbone"]["preset"] = "bevfusion-detr"
    (fault,) = [f for f in validate_config(cfg, training=False) if "preset" in f.path]
    assert "nearest is 'bevfusion-det'" in fault.message


def test_widths_of_maps_are_found_without_running():
    net = TimmModel("resnet18", image_size=64, out_indices=(1, 3, 4))
    before = copy.deepcopy(net.state_dict())
    assert map_widths(net, (64, 64)) == [64, 256, 512]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net.training


def test_the_same_scene_under_point_augmentation_is_the_same_map_turned():
    """A quarter turn of the points turns the map by a quarter; before the encoder nothing else changes."""
    net = build(encoder="none", exact_centres=True)
    batch = net.preprocess(raw_batch())
    turned = {**batch, "lidar_aug": torch.from_numpy(lidar_matrix(rotation=np.pi / 2)).float().expand(2, 4, 4)}
    with torch.no_grad():
        plain, other = net.bev(batch), net.bev(turned)
    # x -> -y, y -> x counter-clockwise: column j of row i goes to row j, column Nx - 1 - i.
    expected = plain.transpose(2, 3).flip(3)
    agreeing = ((other - expected).abs().amax(1) < 1e-4).float().mean()
    assert plain.abs().sum() > 0 and agreeing > 0.97  # cells at whose edges a point lies may differ


def test_flipped_images_with_their_matrix_give_the_same_map():
    """Mirrored images, with a matrix that says so: exact centres make features and rays mirror, too."""
    net = build(encoder="none", exact_centres=True)
    net.image = torch.nn.AvgPool2d(8)  # a network that mirrors with its input, as convolutions do not
    net.neck = torch.nn.Identity()
    torch.manual_seed(0)
    net.view.depthnet = torch.nn.Conv2d(3, net.view.depthnet.out_channels, 1)
    raw = raw_batch()
    flip = torch.from_numpy(image_matrix(flip=True, size=(64, 96))).float().expand(2, 3, 4, 4)
    with torch.no_grad():
        plain = net.bev(net.preprocess(raw))
        flipped = net.bev(net.preprocess({**raw, "cams": raw["cams"].flip(-1), "img_aug": flip}))
        untold = net.bev(net.preprocess({**raw, "cams": raw["cams"].flip(-1)}))
    torch.testing.assert_close(flipped, plain, atol=1e-4, rtol=1e-4)
    assert (untold - plain).abs().max() > 0.01


def test_cameras_permuted_doubled_or_none():
    net = build(encoder="none")
    batch = net.preprocess(raw_batch())

    def chosen(*order):
        keys = ("cams", "lidar2cam", "cam2img", "img_aug")
        with torch.no_grad():
            return net.bev({**batch, **{key: batch[key][:, list(order)] for key in keys}})

    torch.testing.assert_close(chosen(0, 1, 2), chosen(2, 0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chosen(0, 0), 2 * chosen(0), atol=1e-5, rtol=1e-5)
    assert not chosen().any()


def test_some_cameras_are_dropped_in_training_alone():
    net = build(encoder="none", drop_cameras=1)
    batch = net.preprocess(raw_batch(batch=6))
    _, alpha = net.bev_and_depth(batch)
    assert alpha.shape[:2] == (6, 3)
    net.train()
    torch.manual_seed(1)
    bev, alpha = net.bev_and_depth(batch)
    assert alpha.shape[:2] == (6, 2)
    torch.manual_seed(1)
    assert torch.equal(net.bev(batch), bev)
    with pytest.raises(DataError, match="drop_cameras = 1 leaves none of the 1 cameras"):
        net.bev({**batch, **{k: batch[k][:, :1] for k in ("cams", "lidar2cam", "cam2img", "img_aug")}})


def test_depth_is_taught_by_points():
    net = build()
    batch = net.preprocess(raw_batch(batch=1))
    random = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(500, 2, generator=random) * 6, torch.rand(500, 1, generator=random) - 0.5], dim=1)
    batch["points"] = [points]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = net.depth_loss(net.bev_and_depth(batch)[1], batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(DataError, match="depths are taught by 'points'"):
        net.depth_loss(net.bev_and_depth(batch)[1], {**batch, "points": None})


def test_bfloat16_autocast_keeps_the_sum_in_float32():
    net = build(encoder="none")
    batch = net.preprocess(raw_batch())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = net.bev(batch)
    with torch.no_grad():
        full = net.bev(batch)
    assert low.dtype == torch.float32
    assert (low - full).norm() < 0.03 * full.norm()


def test_weights_travel_and_geometry_is_compared(tmp_path):
    net = build()
    config = dict(model=dict(backbone=dict(type="LiftSplat", **SMALL)))
    checkpoint = tmp_path / "run.pth"
    state = {f"backbone.{k}": v for k, v in net.state_dict().items()}
    meta = {"config": json.dumps(config), "preprocess": net.preprocess.record()}
    save_checkpoint({"meta": meta, "state_dict": state}, checkpoint)
    export_backbone(checkpoint, tmp_path / "export")
    back, raw = load_backbone(tmp_path / "export"), raw_batch()
    assert torch.equal(back.embed(raw), net.embed(raw))
    with pytest.raises(CheckpointError, match=r"another geometry[\s\S]*depth"):
        build_backbone(dict(type="LiftSplat", **{**SMALL, "depth": (2.0, 21.0, 1.0)}, init_from=str(checkpoint)))
    moved = build_backbone(dict(type="LiftSplat", **{**SMALL, "image_size": (64, 128)}, init_from=str(checkpoint)))
    assert moved.view.frustum.feature_size == (8, 16)  # another image size is another frustum, not other weights
    public = dict(image_backbone=dict(type="TimmModel", name="resnet18", pretrained=True))
    assert LiftSplat.bare_config(public)["image_backbone"]["pretrained"] is False


def test_copies_share_no_cache_and_layers_are_ordered():
    net = build()
    net.bev(net.preprocess(raw_batch()))
    assert len(net.view.indices) == 1 and len(net.teacher_copy().view.indices) == 0
    ids = [net.layer_id(name) for name, _ in net.named_parameters()]
    assert ids == sorted(ids) and max(ids) == net.layer_count() - 2


def test_bad_input_is_named():
    net = build()
    batch = net.preprocess(raw_batch())
    with pytest.raises(DataError, match="LiftSplat reads 'cams', but the batch holds"):
        net.bev({key: value for key, value in batch.items() if key != "cams"})
    with pytest.raises(DataError, match="frustum is made for"):
        net.bev({**batch, "cams": batch["cams"][..., :64]})
    for changes, text in (
        (dict(encoder="resnet"), "not one of none, downsample"),
        (dict(depth=(0.0, 10.0, 1.0)), "first depth above 0"),
        (dict(depth=(1.0, float("nan"), 1.0)), "a later end"),
        (dict(depth=(1.0, float("inf"), 1.0)), "a later end"),
        (dict(image_size=(64, 100)), r"image_size = \(64, 100\): is no multiple of"),
        (dict(image_backbone=dict(type="PillarNet")), "needs the 'type' of an image backbone"),
        (dict(cell=(0.7, 1.0)), "no whole number of cells"),
        (dict(cell=(32 / 33, 1.0)), "cannot be halved"),
        (dict(preprocess=dict(type="DrivingPreprocess", image_size=(64, 64))), "has images of"),
        (dict(preprocess=dict(type="DrivingPreprocess", point_range=(-1, -1, -1, 1, 1, 1))), "without cameras"),
        (dict(preprocess=dict(type="DrivingPreprocess", image_size=(64, 96), mean=(0, 0, 0))), "is made for"),
    ):
        with pytest.raises(ConfigError, match=text):
            build(**changes)
