"""The linear map by 1 x 1 convolution is the linear map."""

import pytest
import torch
import torch.nn.functional as F

from perception.layers import linear as module
from perception.layers.linear import Linear, linear, use_fast_linear


@pytest.fixture(params=[True, False], ids=["by convolution", "by product"])
def chosen(request, monkeypatch):
    monkeypatch.setattr(module, "_slow_mkl", lambda: request.param)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 17), (1, 1), (3, 64)])
def test_values_and_gradients_are_those_of_a_matrix_product(chosen, bias, shape):
    torch.manual_seed(0)
    x = torch.randn(*shape, 32, requires_grad=True)
    weight = torch.randn(48, 32, requires_grad=True)
    offset = torch.randn(48, requires_grad=True) if bias else None
    wanted = torch.randn(*shape, 48)
    inputs = [x, weight, *([offset] if bias else [])]
    out = linear(x, weight, offset)
    # Written out in float64, without either routine.
    exact = torch.einsum("btk,nk->btn", x.double(), weight.double()) + (offset.double() if bias else 0)
    torch.testing.assert_close(out, exact.float(), atol=1e-4, rtol=1e-5)
    found = torch.autograd.grad(out, inputs, wanted)
    expected = torch.autograd.grad(exact, inputs, wanted.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.float(), atol=1e-3, rtol=1e-4)


def test_a_strided_input_is_read_right(chosen):
    x = torch.randn(2, 32, 9).transpose(1, 2)
    weight = torch.randn(16, 32)
    torch.testing.assert_close(linear(x, weight), torch.einsum("btk,nk->btn", x, weight), atol=1e-4, rtol=1e-4)


def test_other_types_and_shapes_take_the_plain_way(monkeypatch):
    monkeypatch.setattr(module, "_slow_mkl", lambda: True)
    monkeypatch.setattr(F, "conv2d", lambda *_: pytest.fail("a convolution was used"))
    layer = Linear(32, 16)
    assert layer(torch.randn(5, 32)).shape == (5, 16)
    assert layer(torch.randn(0, 3, 32)).shape == (0, 3, 16)
    assert Linear(32, 4)(torch.randn(2, 3, 32)).shape == (2, 3, 4)
    assert layer.double()(torch.randn(2, 3, 32, dtype=torch.float64)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(32, 16)(torch.randn(2, 3, 32)).dtype == torch.bfloat16


def test_layers_of_others_multiply_our_way_with_their_own_parameters():
    network = torch.nn.Sequential(
        torch.nn.Linear(20, 24), torch.nn.ModuleDict({"a": torch.nn.Linear(24, 16, bias=False)})
    )
    before, x = dict(network.named_parameters()), torch.randn(2, 3, 20)
    expected = network[1]["a"](network[0](x))
    use_fast_linear(network)
    assert type(network[0]) is type(network[1]["a"]) is Linear
    after = dict(network.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in after)
    assert (network[0].in_features, network[0].out_features) == (20, 24)
    torch.testing.assert_close(network[1]["a"](network[0](x)), expected, atol=1e-5, rtol=1e-5)
