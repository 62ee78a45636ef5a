"""Focal loss of map classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from perception.losses.map_focal import map_focal_loss


def test_by_hand():
    logits = torch.tensor([math.log(3), math.log(3)]).view(1, 1, 1, 2)
    masks = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    # The truth has probability 3/4 and 1/4.
    wanted = (0.25**2 * -math.log(0.75) + 0.75**2 * -math.log(0.25)) / 2
    assert map_focal_loss(logits, masks).tolist() == pytest.approx([wanted], abs=1e-6)


def test_gamma_zero_is_the_cross_entropy_of_every_class():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=generator)
    masks = torch.rand(2, 3, 5, 4, generator=generator) > 0.5
    each = functional.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none").mean((0, 2, 3))
    assert torch.allclose(map_focal_loss(logits, masks, gamma=0.0), each, atol=1e-6)


def test_cells_that_nobody_knows_count_nothing():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    masks = torch.full((1, 2, 3, 3), -1.0)
    masks[0, 0, 0, 0] = 1.0
    loss = map_focal_loss(logits, masks)
    loss.sum().backward()
    p = logits[0, 0, 0, 0].sigmoid().item()
    assert loss.tolist() == pytest.approx([-((1 - p) ** 2) * math.log(p), 0.0], rel=1e-4)
    assert logits.grad.count_nonzero() == 1


def test_extreme_logits_stay_finite():
    logits = torch.tensor([500.0, -500.0]).view(1, 1, 1, 2).requires_grad_(True)
    loss = map_focal_loss(logits, torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    loss.sum().backward()
    assert loss.item() == pytest.approx(500.0) and logits.grad.isfinite().all()
