"""Batch norms forget as fast as a run of its length needs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_config
from torch import nn

from perception.engine.hooks.norm_momentum import NormMomentum
from perception.errors import ConfigError
from perception.validation import validate_config


def test_every_batch_norm_gets_it() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.01), nn.Sequential(nn.BatchNorm2d(3), nn.LayerNorm(3)))
    NormMomentum(0.25).before_train(SimpleNamespace(bare_model=model))
    first = model[0]
    first(torch.tensor([[2.0, 0.0], [2.0, 4.0]]))
    assert first.running_mean.tolist() == [0.5, 0.5]  # 0.75 * 0 + 0.25 * 2
    assert model[1][0].momentum == 0.25


def test_faults() -> None:
    with pytest.raises(ConfigError, match="momentum"):
        NormMomentum(0.0)
    cfg = tiny_config(custom_hooks=[dict(type="NormMomentum", momentum=2.0)])
    (fault,) = validate_config(cfg)
    assert fault.path == "custom_hooks.0.momentum"
