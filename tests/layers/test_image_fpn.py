"""Necks of image networks and encoders of the ground, by sizes and by hand."""

from __future__ import annotations

import pytest
import torch

from perception.layers.bev_encoder import BEVResNet, Downsample
from perception.layers.fusion import ConvFuser, keep_one_at_least
from perception.layers.image_fpn import ImageFPN


@pytest.mark.parametrize("merge", ["concat", "add"])
def test_every_map_reaches_the_finest(merge):
    torch.manual_seed(0)
    neck = ImageFPN((4, 6, 8), 5, merge).eval()
    maps = [torch.randn(2, c, s, 2 * s, requires_grad=True) for c, s in ((4, 8), (6, 4), (8, 2))]
    out = neck(maps)
    assert out.shape == (2, 5, 8, 16)
    out.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)


def test_add_is_laterals_plus_nearest_enlargement():
    neck = ImageFPN((1, 1), 1, "add")
    for lateral, factor in zip(neck.lateral, (1.0, 10.0), strict=True):
        torch.nn.init.constant_(lateral.weight, factor)
        torch.nn.init.zeros_(lateral.bias)
    torch.nn.init.zeros_(neck.out.bias)
    torch.nn.init.zeros_(neck.out.weight)
    neck.out.weight.data[0, 0, 1, 1] = 1.0
    fine, coarse = torch.arange(8.0).view(1, 1, 2, 4), torch.tensor([[[[1.0, 2.0]]]])
    assert neck([fine, coarse])[0, 0].tolist() == [[10, 11, 22, 23], [14, 15, 26, 27]]


def test_lss_neck_has_its_weights():
    """320 + 112 channels -> 512 by two 3 x 3 convolutions, as in the public code."""
    neck = ImageFPN((112, 320), 512, "concat", lateral_kernel=3)
    shapes = [tuple(p.shape) for p in neck.parameters() if p.ndim == 4]
    assert shapes == [(512, 432, 3, 3), (512, 512, 3, 3)]
    one = ImageFPN((7,), 5, "concat")
    assert one([torch.randn(2, 7, 3, 3)]).shape == (2, 5, 3, 3)
    with pytest.raises(ValueError, match="merge = 'sum' is not one of concat, add"):
        ImageFPN((4, 6), 5, "sum")


def test_encoders_keep_or_halve_the_map():
    x = torch.randn(2, 6, 40, 24)
    assert Downsample(6, 9)(x).shape == (2, 9, 20, 12)
    lss = BEVResNet(6)
    assert lss(x).shape == (2, 128, 40, 24) and lss.stem[0].kernel_size == (7, 7)
    bevdet = BEVResNet(6, (12, 24, 48), 32, 16, stem=False)
    assert bevdet(x).shape == (2, 16, 40, 24)
    assert bevdet.layer1(x).shape == (2, 12, 20, 12)


def test_fuser_sees_both_maps_and_one_sensor_always_stays():
    torch.manual_seed(0)
    fuser = ConvFuser((3, 5), 7).eval()
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    both = fuser([a, b])
    assert both.shape == (2, 7, 4, 4)
    assert not torch.equal(both, fuser([a, b * 0])) and not torch.equal(both, fuser([a * 0, b]))
    kept = keep_one_at_least(20_000, (0.3, 0.5), torch.device("cpu"))
    assert kept.any(1).all()
    share = 1 - kept.float().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.3, 0.5]), atol=0.015, rtol=0)
    assert keep_one_at_least(50, (0.0, 0.0), torch.device("cpu")).all()
