"""The modes of modules outlast a look at the model."""

from __future__ import annotations

import pytest
from torch import nn

from perception.layers.eval_mode import eval_mode


def test_every_module_is_found_again_as_it_was_left():
    frozen, free, other = nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2)
    model = nn.Sequential(frozen, free)
    frozen.eval()  # a frozen part of a model that trains
    with pytest.raises(ValueError, match="stop"), eval_mode(model, other):
        assert not any(module.training for module in (model, frozen, free, other))
        raise ValueError("stop")
    assert [module.training for module in (model, frozen, free, other)] == [True, False, True, True]
