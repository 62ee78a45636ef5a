import pytest
import torch
import torch.nn.functional as F

from perception.layers.bev_conv import BEVNeck, BEVStages, out_stride, stage_faults


def randomised(module):
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.normal_()
            part.bias.data.normal_()
    return module.eval()


def normed(x, norm):
    return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, 1e-3))


def test_stages_are_convolutions_without_bias():
    stages, x = randomised(BEVStages(3, (1, 2), (2, 1), (4, 5))), torch.randn(2, 3, 8, 6)
    found, expected = stages(x), []
    for block, stride, count in zip(stages.blocks, (2, 1), (2, 3), strict=True):
        for place in range(count):
            weight = block[3 * place].weight
            x = normed(F.conv2d(x, weight, None, 1 if place else stride, 1), block[3 * place + 1])
        expected.append(x)
        assert len(block) == 3 * count
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert [tuple(m.shape[1:]) for m in found] == [(4, 4, 3), (5, 4, 3)]
    assert set(stages.state_dict()) >= {"blocks.0.0.weight", "blocks.1.7.running_mean"}
    assert not [k for k in stages.state_dict() if k.endswith("0.bias") or k.endswith("3.bias")]


def test_the_neck_joins_maps_of_all_scales():
    neck = randomised(BEVNeck((2, 3, 4), (0.5, 1, 2), (5, 6, 7)))
    maps = [torch.randn(2, 2, 8, 8), torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)]
    half, same, double = neck.deblocks
    expected = [
        normed(F.conv2d(maps[0], half[0].weight, None, 2), half[1]),
        normed(torch.einsum("bihw,io->bohw", maps[1], same[0].weight[:, :, 0, 0]), same[1]),
        normed(F.conv_transpose2d(maps[2], double[0].weight, None, 2), double[1]),
    ]
    torch.testing.assert_close(neck(maps), torch.cat(expected, 1), atol=1e-5, rtol=1e-5)
    assert neck.out_channels == 18
    shapes = {k: tuple(v.shape) for k, v in neck.state_dict().items() if v.ndim == 4}
    assert shapes == {
        "deblocks.0.0.weight": (5, 2, 2, 2), "deblocks.1.0.weight": (3, 6, 1, 1), "deblocks.2.0.weight": (4, 7, 2, 2)
    }  # fmt: skip
    plain = BEVNeck((2, 3, 4), (0.5, 1, 2), (5, 6, 7), conv_for_one=True)
    assert tuple(plain.deblocks[1][0].weight.shape) == (6, 3, 1, 1)


def test_strides_of_the_joined_map():
    assert out_stride((2, 2, 2), (1, 2, 4)) == 2
    assert out_stride((2, 2, 2), (0.5, 1, 2)) == 4
    assert out_stride((1, 2, 2), (1, 2, 4)) == 1
    assert out_stride((1, 2), (1, 2)) == 1
    assert out_stride((2, 2), (1, 1)) is None
    assert out_stride((1,), (2,)) is None


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        (dict(strides=(2, 0, 2)), "strides", "at least 1"),
        (dict(layers=(3, 5)), "layers", "counted differently"),
        (dict(scales=(1, 2, 3)), "scales", "do not bring stages"),
        (dict(scales=(1, 2.5, 4)), "scales", "to enlarge"),
        (dict(shape=(496, 434)), "strides", "496 x 434 cells cannot be divided by 8"),
        (dict(channels=()), "channels", "at least 1"),
    ],
)
def test_faults_name_their_key(changes, key, text):
    given = dict(shape=(496, 432), layers=(3, 5, 5), strides=(2, 2, 2), channels=(64, 128, 256), scales=(1, 2, 4))
    given["neck_channels"] = (128,) * 3
    assert not list(stage_faults(**given))
    ((found, message),) = list(stage_faults(**{**given, **changes}))
    assert found == key and text in message
