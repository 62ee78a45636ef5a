"""The fusion of LiDAR and cameras: branches alone, their weights, missing sensors and errors."""

from __future__ import annotations

import json

import pytest
import torch
from camera_rig import SMALL, raw_batch

from perception.backbones.bev_fusion import BEVFusion
from perception.checkpoint import save_checkpoint
from perception.errors import CheckpointError, ConfigError, DataError
from perception.exporting import build_backbone, export_backbone, load_backbone
from perception.validation import validate_config

RANGE = (-16.0, -16.0, -5.0, 16.0, 16.0, 3.0)
LIDAR = dict(
    type="PillarNet",
    cell=(0.5, 0.5),
    pillar_channels=(8,),
    layers=(1, 1),
    strides=(2, 2),
    channels=(8, 12),
    scales=(0.5, 1),
    neck_channels=(6, 6),
    preprocess=dict(type="DrivingPreprocess", point_range=RANGE),
)  # 64 x 64 pillars -> 16 x 16 cells of 2 m
CAMERA = dict(type="LiftSplat", **SMALL)  # 32 x 32 cells of 1 m, halved
DECODER = dict(layers=(0, 0), strides=(1, 2), channels=(8, 8), scales=(1, 2), neck_channels=(5, 7))


def build(**changes):
    torch.manual_seed(0)
    return BEVFusion(**{"lidar": LIDAR, "camera": CAMERA, "fused_channels": 14, **changes}).eval()


def both_sensors(seed=0):
    """RAW batch of two samples with points and cameras."""
    random = torch.Generator().manual_seed(seed)
    points = [
        torch.cat([torch.randn(n, 2, generator=random) * 5, torch.rand(n, 2, generator=random)], 1) for n in (300, 200)
    ]
    return {**raw_batch(seed=seed), "points": points}


def without(batch, *keys):
    return {key: value for key, value in batch.items() if key not in keys}


def checkpoint_of(net, config, file):
    meta = {"config": json.dumps(dict(model=dict(backbone=config))), "preprocess": net.preprocess.record()}
    save_checkpoint({"meta": meta, "state_dict": {f"backbone.{k}": v for k, v in net.state_dict().items()}}, file)
    return str(file)


@pytest.mark.parametrize("decoder", [None, DECODER])
def test_both_maps_make_one(decoder):
    net, raw = build(decoder=decoder), both_sensors()
    batch = net.preprocess(raw)
    bev = net.bev(batch)
    assert bev.shape == (2, 12 if decoder else 14, 16, 16) and net.grid.cell == (2, 2)
    assert net.bev_channels == bev.shape[1] and net.embed(raw).shape == (2, net.embed_dims)
    bev.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.describe() == {"fused map": f"{bev.shape[1]} x 16 x 16 of lidar and camera"}
    assert net.camera.describe()["cameras"] == "64 x 96 pixels, 8 x 12 features, 19 depths"
    maps = net.branch_maps(batch)
    assert torch.equal(maps["lidar"], net.lidar.bev(batch)) and torch.equal(maps["camera"], net.camera.bev(batch))
    other = {**batch, "cams": batch["cams"] * 0.5}
    assert not torch.equal(net.bev(other), bev) and torch.equal(net.lidar.bev(other), maps["lidar"])
    fewer = {**batch, "points": [p[::2] for p in batch["points"]]}
    assert not torch.equal(net.bev(fewer), bev)


def test_the_record_has_the_points_of_one_and_the_images_of_the_other():
    record = build().preprocess
    assert record.point_range == RANGE and record.image_size == (64, 96)
    shared = dict(type="DrivingPreprocess", point_range=RANGE, image_size=(64, 96), intensity_scale=255.0)
    net = build(lidar=without(LIDAR, "preprocess"), preprocess=shared)
    assert net.lidar.preprocess == net.camera.preprocess == net.preprocess
    with pytest.raises(ConfigError, match="has a preprocess, and so has the fusion"):
        build(preprocess=shared)


@pytest.mark.parametrize("name", ["lidar", "camera"])
def test_one_branch_is_that_branch(name):
    net = build(**{"camera" if name == "lidar" else "lidar": None})
    raw = without(both_sensors(), "cams" if name == "lidar" else "points")
    batch = net.preprocess(raw)
    assert net.fuser is None and list(net.branches) == [name]
    assert torch.equal(net.bev(batch), net.branches[name].bev(batch))
    assert net.branches[name].embed(raw).shape == net.embed(raw).shape


def test_branches_start_from_runs_of_their_own(tmp_path):
    whole = build()
    sources = {
        "lidar": checkpoint_of(whole.lidar, LIDAR, tmp_path / "lidar.pth"),
        "camera": checkpoint_of(whole.camera, CAMERA, tmp_path / "camera.pth"),
    }
    torch.manual_seed(1)
    started = BEVFusion(
        {**LIDAR, "init_from": sources["lidar"]}, {**CAMERA, "init_from": sources["camera"]}, fused_channels=14
    ).eval()
    batch = whole.preprocess(both_sensors())
    assert torch.equal(started.lidar.bev(batch), whole.lidar.bev(batch))
    assert torch.equal(started.camera.bev(batch), whole.camera.bev(batch))
    assert not torch.equal(started.fuser.mix[0].weight, whole.fuser.mix[0].weight)
    with pytest.raises(CheckpointError, match="weights of a LiftSplat, but the backbone of this config is a PillarNet"):
        build(lidar={**LIDAR, "init_from": sources["camera"]})
    other = {**LIDAR, "preprocess": {**LIDAR["preprocess"], "intensity_scale": 255.0}}
    with pytest.raises(CheckpointError, match=r"another Preprocess record[\s\S]*intensity_scale"):
        build(lidar={**other, "init_from": sources["lidar"]})


def test_an_export_needs_no_sources(tmp_path):
    net = build(decoder=DECODER)
    source = checkpoint_of(net.lidar, LIDAR, tmp_path / "lidar.pth")
    config = dict(
        type="BEVFusion", lidar={**LIDAR, "init_from": source}, camera=CAMERA, fused_channels=14, decoder=DECODER
    )
    run = checkpoint_of(net, config, tmp_path / "fusion.pth")
    (tmp_path / "lidar.pth").unlink()
    export_backbone(run, tmp_path / "export")
    back, raw = load_backbone(tmp_path / "export"), both_sensors()
    assert torch.equal(back.embed(raw), net.embed(raw))
    again = build_backbone({**config, "lidar": LIDAR, "init_from": run})
    assert torch.equal(again.fuser.mix[0].weight, net.fuser.mix[0].weight)


def test_a_missing_sensor_is_an_error_unless_it_was_trained_for():
    batch = build().preprocess(both_sensors())
    with pytest.raises(DataError, match=r"the camera branch reads 'cams'.*train with drop_camera above 0"):
        build().bev(without(batch, "cams"))
    with pytest.raises(DataError, match="the lidar branch reads 'points'"):
        build().bev(without(batch, "points"))
    net = build(drop_camera=0.5)
    with torch.no_grad():
        lidar = net.lidar.bev(batch)
        alone = net.bev(without(batch, "cams"))
        assert torch.equal(alone, net.fuser([lidar, torch.zeros(2, 10, 16, 16)]))
    with pytest.raises(DataError, match="the lidar branch reads 'points'"):
        net.bev(without(batch, "points"))
    with pytest.raises(DataError, match="the camera branch reads 'cams'"):
        net.train().bev(without(batch, "cams"))
    with pytest.raises(DataError, match="needs 'points' or 'cams'"):
        build(drop_camera=0.5, drop_lidar=0.5).bev(without(batch, "cams", "points"))


def test_dropping_hides_whole_maps_of_some_samples():
    net = build(drop_camera=0.999)
    batch = net.preprocess(both_sensors())
    seen = []
    net.fuser.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net.bev(batch)
    net.train()
    torch.manual_seed(0)
    net.bev(batch)
    evaluated, trained = seen
    assert all(map_.abs().sum((1, 2, 3)).min() > 0 for map_ in evaluated)
    assert trained[0].abs().sum((1, 2, 3)).min() > 0 and not trained[1].any()


def test_layer_groups_end_together():
    net = build()
    ids = {name: net.layer_id(name) for name, _ in net.named_parameters()}
    assert net.layer_count() == max(net.lidar.layer_count(), net.camera.layer_count()) + 1
    assert min(ids.values()) >= 0 and ids["fuser.mix.0.weight"] == net.layer_count() - 2
    last = {name: max(v for k, v in ids.items() if k.startswith(name)) for name in ("lidar.", "camera.")}
    assert last["lidar."] == last["camera."] == net.layer_count() - 3


def test_faults_are_named_before_building():
    with pytest.raises(ConfigError, match=r"the same cells: lidar: \(16, 16\).*camera: \(32, 32\)"):
        build(camera={**CAMERA, "encoder": "none"})
    for changes, text in (
        (dict(lidar=None, camera=None), "needs lidar, camera or both"),
        (dict(drop_camera=0.7, drop_lidar=0.6), "must not exceed 1 together"),
        (dict(drop_camera=1.0), r"must lie in \[0, 1\)"),
        (dict(lidar=None, drop_camera=0.5), "needs both branches"),
        (dict(camera=dict(type="ConvNet")), "not 'ConvNet'"),
        (dict(lidar=CAMERA), "has no points, so it is not a lidar branch"),
        (dict(decoder=dict(layers=(1,))), "needs the keys layers, strides"),
        (dict(decoder={**DECODER, "scales": (1, 1)}), "to one size"),
    ):
        with pytest.raises(ConfigError, match=text):
            build(**changes)


def test_validation_reaches_into_the_branches():
    backbone = dict(
        type="BEVFusion", lidar={**LIDAR, "init_from": "no/such/run"}, camera={**CAMERA, "contxt_channels": 8}
    )
    faults = {
        f.path: f for f in validate_config(dict(model=dict(type="BEVDetector", backbone=backbone)), training=False)
    }
    assert "no such file" in faults["model.backbone.lidar.init_from"].message
    assert faults["model.backbone.camera.contxt_channels"].nearest[0] == "context_channels"
