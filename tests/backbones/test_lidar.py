import copy

import pytest
import torch
from lidar_models import RANGE, pillars, record, sweeps, voxels

from perception.backbones.pillars import PillarNet
from perception.backbones.voxelnet import VoxelNet
from perception.config import load_config
from perception.engine.pretrainer import Pretrainer
from perception.errors import CheckpointError, ConfigError, DataError
from perception.exporting import build_backbone, export_public, load_backbone
from perception.layers.voxels import dynamic_voxels
from perception.pretext.base import Pretext
from perception.validation import validate_config

KINDS = [pillars, voxels]
HARD = dict(voxelisation="hard", max_points=2, max_voxels=(20, 40))


# The table of published networks: range and cell give the map that they are known by.
@pytest.mark.parametrize(
    ("kind", "preset", "columns", "canvas", "map_"),
    [
        (PillarNet, "kitti", 4, (64, 496, 432), (384, 248, 216)),
        (PillarNet, "nuscenes", 5, (64, 512, 512), (384, 128, 128)),
        (PillarNet, "bevfusion", 5, (64, 512, 512), (384, 128, 128)),
        (PillarNet, "waymo", 5, (64, 468, 468), (384, 468, 468)),
        (VoxelNet, "nuscenes-0.1", 5, (256, 128, 128), (512, 128, 128)),
        (VoxelNet, "nuscenes-0.075", 5, (256, 180, 180), (512, 180, 180)),
    ],
)
def test_published_networks(kind, preset, columns, canvas, map_):
    model = build_backbone({"type": kind.__name__, "preset": preset}).eval()
    assert len(model.preprocess.point_features) == columns
    x = torch.zeros(1, *canvas, device="meta")
    assert tuple(model.pts_neck.to("meta")(model.pts_backbone.to("meta")(x)).shape[1:]) == map_
    assert (model.bev_channels, *model.grid.shape) == map_
    assert model.embed_dims == 2 * map_[0]
    assert model.canvas_grid.nx == canvas[2] * (8 if kind is VoxelNet else 1)
    assert model.settings["voxelisation"] == "hard"
    if kind is VoxelNet:
        assert model.voxel_layers == 40


def test_sizes_of_the_published_kitti_network():
    model = PillarNet("kitti")
    widths = {k: tuple(v.shape) for k, v in model.state_dict().items() if v.ndim > 1}
    assert widths["pts_voxel_encoder.pfn_layers.0.linear.weight"] == (64, 10)
    assert widths["pts_backbone.blocks.0.0.weight"] == (64, 64, 3, 3)
    assert widths["pts_backbone.blocks.2.15.weight"] == (256, 256, 3, 3)
    assert widths["pts_neck.deblocks.2.0.weight"] == (256, 128, 4, 4)
    assert len([k for k in widths if "pts_backbone" in k]) == 4 + 6 + 6
    # Encoder, three stages and neck, counted from the table: convolutions and two numbers a norm.
    stages = sum(9 * w * (i + n * w) + 2 * (n + 1) * w for i, w, n in ((64, 64, 3), (64, 128, 5), (128, 256, 5)))
    neck = 128 * (64 + 128 * 4 + 256 * 16) + 3 * 2 * 128
    assert sum(p.numel() for p in model.parameters()) == 64 * 10 + 2 * 64 + stages + neck


def test_settings_take_the_place_of_a_presets():
    model = PillarNet("kitti", voxelisation="dynamic", include_padding=False, pillar_channels=(8,), channels=(4, 4, 4))
    assert model.settings["legacy"] and model.settings["pillar_channels"] == (8,)
    assert model.pts_voxel_encoder.slots == 0
    assert PillarNet("kitti").pts_voxel_encoder.slots == 32
    assert PillarNet().settings["voxelisation"] == "dynamic" and not PillarNet().settings["legacy"]


@pytest.mark.parametrize("build", KINDS)
def test_a_map_lies_on_its_grid_and_sweeps_do_not_meet(build):
    model = build().eval()
    batch = sweeps(300, 0, 200)
    (bev,) = model(batch)
    assert bev.shape == (3, 12, *model.grid.shape) and model.grid.shape == (16, 16)
    assert model.grid.point_range == RANGE and model.grid.cell == (1.0, 1.0)
    for number in range(3):
        alone = model.bev({"points": [batch["points"][number]]})[0]
        torch.testing.assert_close(bev[number], alone, atol=1e-5, rtol=1e-5)
    assert not torch.equal(bev[0], bev[2])


@pytest.mark.parametrize("build", KINDS)
def test_what_moves_on_the_ground_moves_on_the_map(build):
    """A cluster shines at its own row (y) and column (x), in the order of the grid."""
    model = build().eval()
    cluster = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) * 0.9
    for x, y in ((3.0, -6.0), (12.0, 5.0)):
        points = cluster + torch.tensor([x, y, 0.0, 0.0])
        with torch.no_grad():
            change = (model.bev({"points": [points]}) - model.bev({"points": [points[:0]]})).abs().sum(1)[0]
        row, column, _ = model.grid.index(points.mean(0))
        # The change is centred on the cluster, not on the mirrored or transposed place.
        weights = change / change.sum()
        rows, columns = (weights.sum(1 - axis) @ torch.arange(16.0) for axis in (0, 1))
        assert abs(rows - row) < 2 and abs(columns - column) < 2


@pytest.mark.filterwarnings("ignore:max_voxels")
@pytest.mark.parametrize("build", KINDS)
@pytest.mark.parametrize("options", [{}, HARD])
def test_training_reaches_every_weight(build, options):
    model = build(**options).train()
    # Shares of both views of an empty and a full sweep: nothing may raise or be lost.
    loss = (
        model.encode(sweeps(300, 0)).square().sum() + model.encode(sweeps(0, 0)).sum() + model.encode(sweeps(1)).sum()
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert sum(float(p.grad.abs().sum()) > 0 for p in model.parameters()) >= len(list(model.parameters())) - 2


@pytest.mark.parametrize("build", KINDS)
def test_embedding_raw_batches_in_any_order_of_points(build):
    model, batch = build(), sweeps(300, 100)
    batch["points"][0][0, 0] = torch.nan
    with pytest.warns(UserWarning, match="not finite"):
        found = model.embed(batch)
    assert found.shape == (2, model.embed_dims) and found.isfinite().all()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="not finite"):
        again = model.embed({"points": [batch["points"][0][order], batch["points"][1]]})
    torch.testing.assert_close(found, again, atol=1e-5, rtol=1e-5)


def test_voxels_are_the_means_of_their_points():
    model, seen = voxels(), []
    model.pts_middle_encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = sweeps(200)
    model(batch)
    sparse = seen[0]
    assert sparse.shape == (9, 64, 64) and model.voxel_layers == 8
    grouped = dynamic_voxels(batch["points"], model.canvas_grid, 8)
    rows = {tuple(c): grouped.points[grouped.voxel == i].mean(0) for i, c in enumerate(grouped.coors.tolist())}
    for cell, feature in zip(sparse.coors().tolist(), sparse.features, strict=True):
        torch.testing.assert_close(feature, rows[tuple(cell)])


def test_what_max_voxels_leaves_out_is_warned_of_once_and_logged():
    model = pillars(**HARD).train()
    assert model.log_values() == {}
    grouped = dynamic_voxels(sweeps(300)["points"], model.canvas_grid)
    with pytest.warns(UserWarning, match="max_voxels = 20 leaves out") as caught:
        model(sweeps(300))
        model(sweeps(300))
    assert len([w for w in caught if "max_voxels" in str(w.message)]) == 1
    values = model.log_values()
    torch.testing.assert_close(values["dropped_voxels"], torch.tensor((len(grouped) - 20) / len(grouped)))
    assert 0 < values["dropped_points"] < 1 and model.log_values() == {}
    model.eval()(sweeps(300))
    torch.testing.assert_close(model.log_values()["dropped_voxels"], torch.tensor((len(grouped) - 40) / len(grouped)))
    pillars()(sweeps(300))
    assert pillars().log_values() == {}


class Energy(Pretext):
    """Any objective on a map."""

    def forward(self, backbone, batch):
        return {"loss": backbone.encode(batch).square().mean()}


@pytest.mark.filterwarnings("ignore:max_voxels")
def test_the_log_of_a_pre_training_has_the_shares_that_were_left_out():
    found = {}
    for options in ({}, HARD):
        model = Pretrainer(pillars(**options), {"energy": Energy()}).train()
        losses = model(*model.data_preprocessor(sweeps(300), True), mode="loss")
        found[len(options)] = total, losses = model.parse_losses(losses)
        assert torch.equal(total, losses["loss"])
    assert set(found[0][1]) == {"loss"}
    assert set(found[3][1]) == {"loss", "dropped_voxels", "dropped_points"}
    assert found[3][1]["dropped_voxels"] > 0.5


def test_layer_groups_go_from_points_to_neck():
    model = pillars()
    groups = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert model.layer_count() == 5
    assert groups["pts_voxel_encoder.pfn_layers.0.linear.weight"] == 0
    assert groups["pts_backbone.blocks.0.0.weight"] == 1 and groups["pts_backbone.blocks.1.1.bias"] == 2
    assert groups["pts_neck.deblocks.1.0.weight"] == 3


@pytest.mark.parametrize("build", KINDS)
def test_public_names_without_prefix_and_the_layout_of_spconv_2(build):
    model = build()
    own = {k: torch.randn(v.shape) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    public = {}
    for key, value in own.items():
        turned = value.permute(4, 0, 1, 2, 3) if value.ndim == 5 else value
        public[key.removeprefix("pts_")] = turned
    public["bbox_head.conv_cls.weight"] = torch.zeros(1)
    adapted = model.adapt_state(public)
    assert set(adapted) - set(own) == {"bbox_head.conv_cls.weight"}
    assert all(torch.equal(adapted[k], v) for k, v in own.items())
    assert all(torch.equal(model.adapt_state(own)[k], v) for k, v in own.items())


@pytest.mark.parametrize(("build", "kind"), [(pillars, "PillarNet"), (voxels, "VoxelNet")])
def test_a_public_checkpoint_becomes_an_export(build, kind, tmp_path):
    """Keys of a detector of LiDAR alone, its head among them, as mmdetection3d writes them."""
    model = build().eval()
    public = {key.removeprefix("pts_"): value for key, value in model.state_dict().items()}
    file = tmp_path / "detector.pth"
    torch.save({"state_dict": {**public, "bbox_head.conv_cls.weight": torch.zeros(1)}}, file)
    plain = {k: v for k, v in model.settings.items() if k != "preprocess"}
    config = {"model": {"backbone": {"type": kind, **plain, "preprocess": model.preprocess.record()}}}
    count, left_out = export_public(file, config, tmp_path / "export")
    assert count == len(model.state_dict()) and left_out == ["bbox_head.conv_cls.weight"]
    again = load_backbone(tmp_path / "export")
    torch.testing.assert_close(again.embed(sweeps(300)), model.embed(sweeps(300)))


def test_validation_fills_in_defaults_and_names_the_nearest():
    cfg = load_config("image/mae_vit-tiny_digits")
    cfg.model.backbone = dict(type="PillarNet", preset="kity")
    (fault,) = [f for f in validate_config(cfg) if "backbone" in f.path]
    assert fault.path == "model.backbone.preset" and "nearest is 'kitti'" in str(fault)
    cfg.model.backbone = dict(type="PillarNet", preset="kitti", cell=(0.32, 0.32), sparse=1)
    assert [f.path for f in validate_config(cfg) if "backbone" in f.path] == ["model.backbone.sparse"]


def test_weights_of_other_pillars_are_refused():
    model = pillars(legacy=True)
    config = {"type": "PillarNet", "cell": [0.5, 0.5], "legacy": True}
    model.require_compatible({"config": config, "preprocess": model.preprocess.record()}, "weights")
    with pytest.raises(CheckpointError, match="legacy: False there, True here"):
        model.require_compatible({"config": {**config, "legacy": None}}, "weights")
    with pytest.raises(CheckpointError, match=r"cell: \[0.25, 0.5\] there"):
        model.require_compatible({"config": {**config, "cell": (0.25, 0.5)}}, "weights")
    with pytest.raises(CheckpointError, match="point_features"):
        other = {**model.preprocess.record(), "point_features": ("x", "y", "z")}
        model.require_compatible({"preprocess": other}, "weights")


def test_a_copy_counts_for_itself():
    model = pillars(**HARD).eval()
    other = copy.deepcopy(model)
    with pytest.warns(UserWarning):
        model(sweeps(300))
    assert other.log_values() == {} and model.log_values()


def test_cameras_alone_are_not_enough():
    with pytest.raises(DataError, match="PillarNet reads 'points'"):
        pillars()({"cams": torch.zeros(1)})


@pytest.mark.parametrize(
    ("build", "changes", "text"),
    [
        (pillars, dict(preset="kity"), "preset = 'kity': not one of .*; nearest is 'kitti'"),
        (pillars, dict(cell=(0.3, 0.5)), "cell = .*16 m along x"),
        (pillars, dict(voxelisation="soft"), "voxelisation"),
        (pillars, dict(max_points=0), "max_points"),
        (pillars, dict(max_voxels=5), "max_voxels"),
        (pillars, dict(include_padding=True), "include_padding = .*dynamic"),
        (pillars, dict(pillar_channels=(5, 4)), "pillar_channels"),
        (pillars, dict(scales=(1, 1)), "scales"),
        (pillars, dict(strides=(8, 8), scales=(1, 8)), "strides = .*32 x 32 cells"),
        (pillars, dict(preprocess=dict(type="DrivingPreprocess", image_size=(4, 4))), "preprocess = .*reads points"),
        (voxels, dict(cell=(0.25, 0.25)), "cell = .*x, y and z"),
        (voxels, dict(cell=(0.25, 0.25, 0.3)), "cell = .*4 m along z"),
        (voxels, dict(cell=(16 / 63, 0.25, 0.5)), "cell = .*64 x 63 cells"),
        (voxels, dict(cell=(0.25, 0.25, 4.0)), "encoder = .*1 cells along z"),
        (voxels, dict(encoder=((4, 4, 6), (8, 8))), "encoder = .*stage 1"),
        (voxels, dict(encoder_channels=0), "encoder_channels"),
    ],
)
def test_faults_name_their_key(build, changes, text):
    with pytest.raises(ConfigError, match=f"model.backbone.{text}"):
        build(**changes)


def test_the_record_of_a_preset_can_be_replaced():
    model = PillarNet(
        "nuscenes", preprocess=record(point_features=("x", "y", "z")), strides=(1, 1, 2), scales=(1, 1, 2)
    )
    assert model.canvas_grid.shape == (80, 80)
    assert model.pts_voxel_encoder.pfn_layers[0].linear.weight.shape == (64, 9)
