import pytest
import torch
import torch.nn.functional as F

from perception.backbones.convnet import ConvNet
from perception.errors import ConfigError
from perception.registry import BACKBONES


def build(**changes):
    torch.manual_seed(0)
    return ConvNet(**{**dict(widths=(4, 6, 8), strides=(2, 1, 2)), **changes})


def images(size=12, channels=3):
    return torch.randn(5, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_stages_are_convolution_norm_and_relu():
    model, x = build().eval(), images()
    expected = []
    for stage, stride in zip(model.stages, (2, 1, 2), strict=True):
        x = F.conv2d(x, stage[0].weight, stride=stride, padding=1)
        x = F.relu(F.batch_norm(x, stage[1].running_mean, stage[1].running_var, stage[1].weight, stage[1].bias))
        expected.append(x)
    for found, wanted in zip(model.maps(images()), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert [tuple(m.shape[1:]) for m in expected] == [(4, 6, 6), (6, 6, 6), (8, 3, 3)]


def test_features_are_means_of_the_maps():
    model, batch = build().eval(), {"image": images()}
    maps = model.maps(batch["image"])
    means = [m.mean((2, 3)) for m in maps]
    torch.testing.assert_close(model.encode(batch), means[2])
    torch.testing.assert_close(model.encode(batch, "stages"), torch.cat(means, 1))
    torch.testing.assert_close(model.encode(batch, "stage-1"), means[1])
    for feature in (None, "gap", "stages", "stage-0"):
        assert model.encode(batch, feature).shape[1] == model.feature_dims(feature)
    assert model.has_feature("stage-1") and not model.has_feature("block-1")
    with pytest.raises(ConfigError, match="it has gap, stages, stage-0, stage-1, stage-2"):
        model.encode(batch, "stage-3")


def test_maps_strides_and_any_size():
    model = build(out_indices=(0, -1))
    found = model(images(16))
    assert model.strides == (2, 4) and [m.shape[-1] for m in found] == [8, 4]
    assert [m.shape[1] for m in found] == [4, 8]
    assert model.embed_dims == 8


def test_the_cost_that_the_class_names():
    counted = []

    def count(layer, _, output):
        height, width = layer.kernel_size
        counted.append(output[0].numel() * layer.in_channels * height * width)

    model = ConvNet()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    model(images(64)[:1])
    assert len(counted) == 4 and sum(counted) == 15_040_512
    assert f"{sum(counted) / 1e6:.0f} M multiplications at 64 pixels" in ConvNet.__doc__


def test_layer_groups_follow_the_stages():
    model = build()
    groups = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert groups["stages.0.0.weight"] == 1 and groups["stages.2.1.bias"] == 3 and model.layer_count() == 5


def test_other_bands_need_a_record():
    record = dict(type="ImagePreprocess", size=12, bands=tuple("abcd"), mean=(0.5,) * 4, std=(0.2,) * 4)
    model = BACKBONES.build(dict(type="ConvNet", in_channels=4, preprocess=record))
    assert model.embed({"image": torch.zeros(2, 4, 12, 12, dtype=torch.uint8)}).shape == (2, 256)
    with pytest.raises(ConfigError, match="must be given for in_channels = 4"):
        ConvNet(in_channels=4)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(strides=(2, 2)), "strides"),
        (dict(widths=(4, 0, 8)), "widths"),
        (dict(in_channels=0), "in_channels"),
        (dict(out_indices=(3,)), "out_indices"),
        (dict(in_channels=2, preprocess=dict(type="ImagePreprocess", size=12)), "preprocess"),
    ],
)
def test_faults_name_their_key(changes, key):
    if key == "preprocess":
        changes["preprocess"] |= dict(bands=("a", "b", "c"), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ConfigError, match=f"model.backbone.{key}"):
        build(**changes)
