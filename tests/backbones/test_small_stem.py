"""Residual networks of timm for images of 32 pixels."""

import json

import pytest
import timm
import torch
from torch.nn import functional

from perception.backbones.timm_model import TimmModel
from perception.checkpoint import load_state, save_checkpoint
from perception.errors import CheckpointError, ConfigError
from perception.exporting import build_backbone, export_backbone, load_backbone


def build(name="resnet18", **changes):
    torch.manual_seed(0)
    return TimmModel(name, **{"image_size": 32, "small_images": True, **changes}).eval()


def by_hand(trunk, x):
    """Maps of the stem and the four stages of a ResNet on pixels (B, 3, H, W), without any pooling before them."""
    x = functional.conv2d(x, trunk.conv1.weight, stride=1, padding=1)
    maps = [functional.relu(trunk.bn1(x))]
    for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
        maps.append(stage(maps[-1]))
    return maps


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_maps_and_strides_are_those_of_networks_for_32_pixels(name):
    backbone, x = build(name, out_indices=range(5)), torch.randn(2, 3, 32, 32)
    assert backbone.trunk.conv1.weight.shape == (64, 3, 3, 3) and backbone.strides == (1, 1, 2, 4, 8)
    with torch.no_grad():
        maps, expected = backbone(x), by_hand(backbone.trunk, x)
        assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
        for found, wanted in zip(maps, expected, strict=True):
            torch.testing.assert_close(found, wanted)
        pooled = expected[-1].mean((2, 3))
        torch.testing.assert_close(backbone.encode({"image": x}), pooled)
        torch.testing.assert_close(backbone.encode({"image": x}, "gap"), pooled)
        tokens, whole = backbone.token_features({"image": x})
        assert tokens.shape == (2, 16, backbone.token_dims)
        torch.testing.assert_close(whole, pooled)


def test_its_size_is_that_of_the_large_network_less_the_stem():
    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(build("resnet50")) == size(build("resnet50", small_images=False)) - 64 * 3 * (49 - 9)
    assert build("resnet50", small_images=False, out_indices=range(5)).strides == (2, 4, 8, 16, 32)  # as it was


def test_the_first_convolution_begins_as_timm_lets_convolutions_begin():
    weight = build("resnet50").trunk.conv1.weight  # normal, its variance 2 / (64 * 9)
    assert weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05) and abs(weight.mean().item()) < 0.005


def test_layer_groups_follow():
    small, large = build(), build(small_images=False)
    ids = [{n: b.layer_id(n) for n, _ in b.named_parameters()} for b in (small, large)]
    assert ids[0] == ids[1] and ids[0]["trunk.conv1.weight"] == 0 and small.layer_count() == large.layer_count()


def test_weights_of_the_other_stem_are_refused_and_nothing_is_copied():
    public, small = timm.create_model("resnet18"), build()
    before = {key: value.clone() for key, value in small.state_dict().items()}
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=r"7 x 7, this network with one of 3 x 3.*small_images=False"):
            load_state(small, public.state_dict(), "timm", strict=strict)
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    with pytest.raises(CheckpointError, match=r"3 x 3, this network with one of 7 x 7.*small_images=True"):
        load_state(build(small_images=False), small.state_dict(), "a run")


def test_weights_of_the_same_stem_load_and_are_inflated_to_other_bands():
    small = build()
    state = {key.removeprefix("trunk."): value for key, value in small.state_dict().items()}
    load_state(build(), {**state, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, "timm's names")
    record = dict(type="ImagePreprocess", size=32, bands=("vv", "vh"), mean=(0, 0), std=(1, 1), value_scale=1)
    radar = build(in_channels=2, preprocess=record)
    load_state(radar, small.state_dict(), "RGB")
    mean = small.trunk.conv1.weight.mean(dim=1)
    torch.testing.assert_close(radar.trunk.conv1.weight, torch.stack([mean, mean], 1) * 1.5)


def test_an_export_keeps_the_stem(tmp_path):
    cfg = dict(type="TimmModel", name="resnet18", image_size=32, small_images=True)
    backbone = build_backbone(cfg)
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    meta = {"config": json.dumps({"model": {"backbone": cfg}}), "preprocess": backbone.preprocess.record()}
    save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "step_00000001.pth")
    export_backbone(tmp_path / "step_00000001.pth", tmp_path / "export")
    raw = {"image": torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)}
    assert torch.equal(load_backbone(tmp_path / "export").embed(raw), backbone.embed(raw))


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2", "seresnet18"])
def test_relatives_with_the_same_stem_have_it_too(name):
    with torch.device("meta"):
        assert TimmModel(name, image_size=32, small_images=True, out_indices=(0, -1)).strides == (1, 8)


def test_the_fault_names_networks_that_have_it():
    with pytest.raises(ConfigError, match=r"model\.backbone\.small_images.*'resnet18', 'resnet34'"):
        build("vit_tiny_patch16_224")
