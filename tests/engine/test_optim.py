from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from perception.engine.optim import AutocastOptimWrapper
from perception.errors import ConfigError


def wrapper(model: nn.Module, **options: object) -> AutocastOptimWrapper:
    return AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_accumulation_equals_the_big_batch() -> None:
    torch.manual_seed(0)
    big = nn.Linear(5, 3)
    small = copy.deepcopy(big)
    x, y = torch.randn(12, 5), torch.randn(12, 3)
    one, four = wrapper(big), wrapper(small, accumulative_counts=4)
    four.initialize_count_status(small, 0, 4)
    one.update_params(((big(x) - y) ** 2).mean())
    boundaries = []
    for part in range(4):
        rows = slice(part * 3, part * 3 + 3)
        four.update_params(((small(x[rows]) - y[rows]) ** 2).mean())
        boundaries.append(four.at_boundary())
    assert boundaries == [False, False, False, True]
    assert torch.allclose(big.weight, small.weight, atol=1e-6)


def test_autocast_on_a_cpu() -> None:
    model = nn.Linear(4, 4)
    optim = wrapper(model, dtype="bfloat16")
    with optim.optim_context(model):
        out = model(torch.randn(2, 4))
    assert out.dtype is torch.bfloat16
    optim.update_params(out.float().pow(2).mean())
    assert model.weight.dtype is torch.float32
    with wrapper(model).optim_context(model):
        assert model(torch.randn(2, 4)).dtype is torch.float32


def test_clipping_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    optim = wrapper(model, clip_grad=0.5)
    optim.update_params(model(torch.tensor([[8.0]])).sum())  # gradient 8, clipped to 0.5; 0 - 0.1 * 0.5
    assert optim.grad_norm == 8.0
    assert model.weight.item() == pytest.approx(-0.05, rel=1e-4)


def test_update_with_bad_gradients_does_not_happen() -> None:
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    optim = wrapper(model)
    optim.parameter_names = {id(model.weight): "weight", id(model.bias): "bias"}
    optim.update_params(model(torch.tensor([[float("inf"), 0.0]])).sum())
    assert bool(optim.nonfinite_gradients) and optim.bad_parameters == ["weight"]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_state_with_loss_scale_goes_round() -> None:
    model = nn.Linear(2, 1)
    optim = wrapper(model, dtype="float16")
    optim.update_params(model(torch.ones(1, 2)).float().sum())
    state = optim.state_dict()
    assert state["loss_scaler"]["scale"] > 1
    other = wrapper(model, dtype="float16")
    other.load_state_dict(state)
    assert other.scaler.state_dict() == optim.scaler.state_dict()


def test_unknown_dtype() -> None:
    with pytest.raises(ConfigError, match="bfloat16"):
        wrapper(nn.Linear(1, 1), dtype="bfloat")
