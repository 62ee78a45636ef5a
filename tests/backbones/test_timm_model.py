"""Networks of timm as backbones."""

import json

import pytest
import timm
import torch

from perception.backbones.inflation import inflate
from perception.backbones.timm_model import TimmModel
from perception.checkpoint import load_state, save_checkpoint
from perception.errors import CheckpointError, ConfigError
from perception.exporting import build_backbone, export_backbone, load_backbone
from perception.validation import validate_config

NAMES = ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"]


def build(name, **changes):
    torch.manual_seed(0)
    return TimmModel(name, **{"image_size": 64, **changes}).eval()


@pytest.mark.parametrize("name", NAMES)
def test_pooled_features_and_maps_are_timms(name):
    torch.manual_seed(1)
    changes = dict(img_size=64) if name.startswith("vit") else {}
    public = timm.create_model(name, num_classes=7, **changes).eval()
    ours, x = build(name, out_indices=(1, -1)), torch.randn(2, 3, 64, 64)
    load_state(ours, public.state_dict(), "timm")  # strictly, its classifier left out
    with torch.no_grad():
        expected = public.forward_head(public.forward_features(x), pre_logits=True)
        found = ours.encode({"image": x})
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert found.shape == (2, ours.feature_dims()) and ours.feature_dims() == ours.embed_dims
        gap = ours.encode({"image": x}, "gap")
        assert gap.shape == (2, ours.feature_dims("gap"))
        maps = ours(x)
    assert [m.shape[-1] * s for m, s in zip(maps, ours.strides, strict=True)] == [64, 64]
    if name == "resnet18":
        torch.testing.assert_close(gap, found)
        torch.testing.assert_close(maps[-1].mean(dim=(2, 3)), found)


def test_the_record_is_what_timm_states_and_sizes_are_said_once():
    backbone = TimmModel("resnet18", image_size=(32, 64))
    assert backbone.preprocess.shape == (32, 64)
    stated = backbone.trunk.pretrained_cfg
    assert backbone.preprocess.mean == stated["mean"] and backbone.preprocess.std == stated["std"]
    assert backbone.preprocess.interpolation == stated["interpolation"] == "bicubic"
    assert backbone.preprocess.crop_fraction == stated["crop_pct"] == 0.95
    raw = torch.randint(256, (2, 3, 32, 64), dtype=torch.uint8)
    assert backbone.embed({"image": raw}).shape == (2, 512) and backbone.training
    record = dict(type="ImagePreprocess", size=48)
    assert TimmModel("vit_tiny_patch16_224", preprocess=record).trunk.patch_embed.grid_size == (3, 3)


def test_a_vit_takes_other_sizes_at_forward_and_at_loading():
    small, x = build("vit_tiny_patch16_224"), torch.randn(2, 3, 96, 96)
    large = build("vit_tiny_patch16_224", image_size=96)
    load_state(large, small.state_dict(), "a model of 64 pixels")
    with torch.no_grad():
        torch.testing.assert_close(large.encode({"image": x}), small.encode({"image": x}), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_rgb_weights_are_inflated_by_the_names_of_the_bands(name):
    bands = ("B02", "B03", "B04", "B08")
    record = dict(type="ImagePreprocess", size=64, bands=bands, mean=(0.1,) * 4, std=(0.1,) * 4, value_scale=10000)
    public = build(name)
    wide = build(name, in_channels=4, preprocess=record)
    load_state(wide, public.state_dict(), "RGB")
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        found = wide.encode({"image": grey.expand(-1, 4, -1, -1)})
        torch.testing.assert_close(found, public.encode({"image": grey.expand(-1, 3, -1, -1)}), atol=1e-4, rtol=1e-3)
    key = f"trunk.{public.trunk.default_cfg['first_conv']}.weight"
    assert torch.equal(wide.state_dict()[key], inflate(public.state_dict()[key], bands))


@pytest.mark.parametrize("name", NAMES)
def test_layer_groups_are_timms(name):
    backbone = build(name)
    ids = {n: backbone.layer_id(n) for n, _ in backbone.named_parameters()}
    assert ids[f"trunk.{backbone.trunk.default_cfg['first_conv']}.weight"] == 0
    assert max(ids.values()) == backbone.layer_count() - 2 and len(set(ids.values())) > 4
    if name.startswith("vit"):
        assert [ids[f"trunk.blocks.{i}.norm1.weight"] for i in range(12)] == list(range(1, 13))
        assert ids["trunk.norm.weight"] == 12  # with the last block


@pytest.mark.parametrize(
    ("arguments", "key", "text"),
    [
        (dict(name="resnet_18"), "name", "resnet18"),
        (dict(name="resnet18", in_channels=4), "preprocess", "must be given for in_channels = 4"),
        (dict(name="resnet18", in_channels=0), "in_channels", "at least 1"),
        (dict(name="resnet18", image_size=0), "image_size", "positive"),
        (dict(name="resnet18", drop_path_rate=1.0), "drop_path_rate", "[0, 1)"),
        (dict(name="resnet18", out_indices=()), "out_indices", "at least one"),
        (dict(name="resnet50d", small_images=True), "small_images", "'resnet50'"),
        (dict(name="convnext_atto", small_images=True), "small_images", "does not begin with one convolution of 7 x 7"),
        (dict(name="resnetblur50", small_images=True), "small_images", "and max-pooling"),
        (dict(name="resnet18", small_images=True, pretrained=True), "small_images", "pretrained=True"),
        (
            dict(name="resnet18", image_size=64, preprocess=dict(type="ImagePreprocess", size=32)),
            "preprocess",
            "makes images of",
        ),
    ],
)
def test_impossible_configs_name_the_key(arguments, key, text):
    with pytest.raises(ConfigError) as caught:
        TimmModel(**arguments)
    assert f"model.backbone.{key}" in str(caught.value) and text in str(caught.value)
    config = {"model": dict(type="Classifier", backbone=dict(type="TimmModel", **arguments), num_classes=2)}
    found = [str(fault) for fault in validate_config(config, training=False)]
    assert any(f"model.backbone.{key}" in fault and text in fault for fault in found), found


def test_maps_that_do_not_exist_and_foreign_weights_are_named():
    with pytest.raises(ConfigError, match="resnet18 has 5 maps"):
        TimmModel("resnet18", out_indices=(5,))
    with pytest.raises(ConfigError, match="feature"):
        build("resnet18").encode({"image": torch.zeros(1, 3, 64, 64)}, "cls")
    with pytest.raises(CheckpointError, match="made for another model"):
        load_state(build("resnet18"), timm.create_model("convnext_atto").state_dict(), "timm")


def test_an_export_downloads_nothing_again_and_starts_more_bands(tmp_path):
    cfg = dict(type="TimmModel", name="resnet18", image_size=32)
    backbone = build_backbone(cfg)
    assert isinstance(backbone, TimmModel)
    config = {"model": {"backbone": {**cfg, "pretrained": True}}}
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    meta = {"config": json.dumps(config), "preprocess": backbone.preprocess.record()}
    save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "step_00000001.pth")
    export_backbone(tmp_path / "step_00000001.pth", tmp_path / "export")
    again = load_backbone(tmp_path / "export")
    raw = {"image": torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)}
    assert torch.equal(again.embed(raw), backbone.embed(raw))
    two = dict(size=32, bands=("vv", "vh"), mean=(0, 0), std=(1, 1), value_scale=1, interpolation="bicubic")
    record = dict(type="ImagePreprocess", crop_fraction=0.95, **two)
    radar = build_backbone(dict(cfg, in_channels=2, preprocess=record, init_from=str(tmp_path / "export")))
    mean = backbone.trunk.conv1.weight.mean(dim=1)
    torch.testing.assert_close(radar.trunk.conv1.weight[:, 1], mean * 1.5)


def test_windows_of_attention_stay_if_asked():
    kept = TimmModel("swin_tiny_patch4_window7_224", image_size=(64, 96), window_size=7)
    table = kept.trunk.layers[0].blocks[0].attn.relative_position_bias_table
    assert table.shape[0] == 13 * 13  # 7 x 7 windows have offsets from -6 to 6
    grown = TimmModel("swin_tiny_patch4_window7_224", image_size=(448, 448))
    assert grown.trunk.layers[0].blocks[0].attn.relative_position_bias_table.shape[0] == 27 * 27
    assert [m.shape[1:] for m in kept.eval()(torch.zeros(1, 3, 64, 96))] == [(768, 2, 3)]
    with pytest.raises(ConfigError, match="resnet18 has no windows"):
        build("resnet18", window_size=7)
