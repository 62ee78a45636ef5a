from __future__ import annotations

import math

import pytest
import torch

from perception.engine.schedulers import CosineWarmup, CurriculumRate
from perception.errors import ConfigError


def optimizer(*groups: dict) -> torch.optim.Optimizer:
    groups = groups or ({},)
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], **g} for g in groups], lr=1.0)


def rates(schedule: CosineWarmup, count: int) -> list[float]:
    """Rate that each of the first ``count`` steps is made with."""
    found = []
    for _ in range(count):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_per_step_with_warmup_by_hand() -> None:
    # 4 epochs of 2 steps, warm-up of 1 epoch = 2 steps, then half a cosine over 6 steps down to 0.1.
    schedule = CosineWarmup(optimizer(), total_steps=8, epoch_length=2, warmup_epochs=1, min_lr=0.1)
    expected = [0.0, 0.5, 1.0, 0.939711, 0.775, 0.55, 0.325, 0.160289]
    assert rates(schedule, 8) == pytest.approx(expected, abs=1e-6)


def test_per_epoch_without_warmup_is_the_plain_cosine() -> None:
    # GraphMAE's schedule: (1 + cos(pi * epoch / epochs)) / 2.
    schedule = CosineWarmup(optimizer(), total_steps=4, epoch_length=1, by_step=False)
    assert schedule.by_epoch
    assert rates(schedule, 4) == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_per_epoch_counts_epochs_whatever_their_length() -> None:
    schedule = CosineWarmup(optimizer(), total_steps=50, epoch_length=10, by_step=False)
    assert rates(schedule, 5) == pytest.approx([(1 + math.cos(math.pi * t / 5)) / 2 for t in range(5)])


def test_layer_scale_applies_to_the_floor_too() -> None:
    schedule = CosineWarmup(optimizer({"lr": 0.5, "lr_scale": 0.5}), total_steps=4, min_lr=0.1)
    assert rates(schedule, 5)[-1] == pytest.approx(0.05)


def test_run_shorter_than_its_warmup_stays_on_the_slope() -> None:
    schedule = CosineWarmup(optimizer(), total_steps=3, epoch_length=1, warmup_epochs=10)
    assert rates(schedule, 3) == pytest.approx([0.0, 0.1, 0.2])


def test_resumed_schedule_goes_on() -> None:
    whole = CosineWarmup(optimizer(), total_steps=9, warmup_steps=3)
    expected = rates(whole, 9)
    first = CosineWarmup(optimizer(), total_steps=9, warmup_steps=3)
    rates(first, 5)
    second = CosineWarmup(optimizer(), total_steps=9, warmup_steps=3)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 4) == expected[5:]


def test_resumed_schedule_has_the_length_and_rate_of_the_config() -> None:
    first = CosineWarmup(optimizer(), total_steps=4)
    rates(first, 4)
    longer = CosineWarmup(optimizer({"lr": 0.5}), total_steps=8)
    longer.load_state_dict(first.state_dict())
    assert rates(longer, 4) == pytest.approx([0.5 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(4, 8)])


def test_two_lengths_of_warmup_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="warmup_epochs"):
        CosineWarmup(optimizer(), warmup_epochs=1, warmup_steps=1)


def test_the_rate_of_a_head_falls_by_the_curriculum_by_hand() -> None:
    groups = optimizer({"name": "layer_0"}, {"name": "head_no_decay", "lr": 0.5}, {"name": "head"})
    schedule = CurriculumRate(groups, "head", total_steps=8, epoch_length=2)
    assert schedule.by_epoch
    found = []
    for _ in range(4):  # x = 0, 1/4, 1/2, 3/4: arctan(5) / pi = 0.437167, arctan(2.5) / pi = 0.378881
        found.append([group["lr"] for group in groups.param_groups])
        groups.step()
        schedule.step()
    factors = [0.937167, 0.878881, 0.5, 0.121119]
    assert found == [pytest.approx([1.0, 0.5 * factor, factor], abs=1e-6) for factor in factors]
    with pytest.raises(ConfigError, match=r"no such group.*layer_0, head_no_decay, head"):
        CurriculumRate(groups, "heads")
