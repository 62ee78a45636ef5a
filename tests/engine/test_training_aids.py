"""Balanced classes, rates that follow training, straight schedules, and how far weights have moved."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from perception.checkpoint import load_checkpoint
from perception.engine.balanced_sampler import BalancedSampler
from perception.engine.data import build_dataloader
from perception.engine.hooks.distance import ParameterDistance
from perception.engine.hooks.train_plateau import TrainPlateau
from perception.engine.linear_decay import LinearDecay
from perception.engine.sampler import ResumableSampler
from perception.errors import ConfigError, DataError


class Labelled:
    def __init__(self, targets):
        self.targets = np.asarray(targets)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, key):
        return int(key)


RARE = Labelled([0] * 20 + [1] * 5 + [2] * 3 + [-1] * 4)


def test_classes_come_in_equal_numbers_and_the_largest_whole():
    sampler = BalancedSampler(RARE, seed=3)
    order = np.array(list(sampler))
    assert len(sampler) == len(order) == 60 and np.bincount(RARE.targets[order]).tolist() == [20, 20, 20]
    assert sorted(order[RARE.targets[order] == 0]) == list(range(20))
    sampler.set_epoch(1)
    assert sorted(order) != sorted(sampler) and len(set(order)) < 29  # drawn anew, with replacement
    again = BalancedSampler(RARE, seed=3)
    assert [int(i) for i in again] == order.tolist()
    again.set_epoch(0, start=7)
    assert [int(i) for i in again] == order[7:].tolist()
    counts = np.bincount([int(i) for e in range(400) for i in (again.set_epoch(e), list(again))[1]], minlength=28)
    np.testing.assert_allclose(counts[20:25] / 400, 4, atol=0.4)  # 20 draws among 5
    assert not (counts[28:]).any()


def test_a_sampler_that_repeats_is_refused_in_evaluation():
    cfg = dict(dataset=RARE, batch_size=4, sampler=dict(type="BalancedSampler"))
    assert len(build_dataloader(cfg, seed=0, training=True)) == 15
    with pytest.raises(ConfigError, match="for training alone"):
        build_dataloader(cfg, seed=0, training=False)
    seen = [int(i) for batch in build_dataloader(dict(dataset=RARE, batch_size=5), 0, False) for i in batch]
    assert seen == list(range(len(RARE)))  # evaluation sees every sample once, in order


@pytest.mark.parametrize(
    ("data", "message"), [(Labelled([1, 1, 1]), "labels of 1 classes"), ([1, 2], "has no 'targets' or 'labels'")]
)
def test_what_cannot_be_balanced(data, message):
    with pytest.raises(DataError, match=message):
        BalancedSampler(data)


def test_several_clips_of_a_video_share_its_label():
    data = Labelled([0, 1, 1])
    data.__class__ = type("Clips", (Labelled,), {"__len__": lambda self: 2 * len(self.targets)})
    order = [int(i) for i in BalancedSampler(data)]
    assert len(order) == 8 and sum(i in (0, 1) for i in order) == 4


def test_the_plain_order_is_unchanged():
    expected = np.random.default_rng([5, 2]).permutation(11)
    assert ResumableSampler(range(11), seed=5).indices(2).tolist() == expected.tolist()


def runner(model, optimizer, folder=None, total=10, resumed=0):
    logged = []
    return SimpleNamespace(
        param_schedulers=[],
        optim_wrapper=optimizer,
        epoch=1,
        iter=0,
        max_iters=total,
        rank=0,
        resumed_step=resumed,
        work_dir=str(folder),
        bare_model=model,
        logged=logged,
        log_scalars=logged.append,
    )


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_rate_falls_as_torch_lets_it_fall(patience):
    figures = [0.5, 0.6, 0.6, 0.55, 0.6, 0.7, 0.7, 0.7, 0.7, 0.65, 0.8, 0.2, 0.3, 0.4, 0.5, 0.9]
    ours, theirs = (torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4) for _ in range(2))
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode="max", factor=0.5, patience=patience - 1, threshold=0, eps=0
    )
    hook, run = TrainPlateau(patience=patience), runner(None, ours)
    for value in figures:
        for part in (value - 0.01, value + 0.01):  # the mean over an epoch's steps counts
            hook.after_train_iter(run, 0, None, {"accuracy": torch.tensor(part), "loss": torch.tensor(1.0)})
        hook.after_train_epoch(run)
        reference.step(round(value, 6))
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
        twin = TrainPlateau(patience=patience)
        twin.load_state_dict(json.loads(json.dumps(hook.state_dict())))
        hook = twin
    assert ours.param_groups[0]["lr"] < 1e-4


def test_the_rate_has_one_master_and_its_figure_exists():
    run = runner(None, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
    run.param_schedulers = [object()]
    with pytest.raises(ConfigError, match="keep one of the two"):
        TrainPlateau().before_train(run)
    with pytest.raises(ConfigError, match="nearest is 'accuracy'"):
        TrainPlateau(monitor="acuracy").after_train_iter(run, 0, None, {"accuracy": torch.tensor(1.0)})
    with pytest.raises(ConfigError, match=r"\(0, 1\)"):
        TrainPlateau(factor=2.0)


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_straight_line_is_that_of_transformers(warmup):
    from transformers import get_linear_schedule_with_warmup

    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=5e-7) for _ in range(2))
    schedule = LinearDecay(ours, total_steps=20, warmup_steps=warmup)
    reference = get_linear_schedule_with_warmup(theirs, warmup, 20)
    for _ in range(20):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-15)
        ours.step(), theirs.step(), schedule.step(), reference.step()
    assert ours.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-20)
    assert LinearDecay(ours, total_steps=20, min_lr=1e-8).value(5e-7, 1.0, 20) == pytest.approx(1e-8)


def test_distance_from_the_start_also_after_a_resume(tmp_path):
    model = SimpleNamespace(backbone=nn.Linear(2, 1))
    with torch.no_grad():
        model.backbone.weight.copy_(torch.tensor([[3.0, 0.0]]))
        model.backbone.bias.copy_(torch.tensor([4.0]))
    hook, run = ParameterDistance(interval=5), runner(model, None, tmp_path)
    hook.before_train(run)
    with torch.no_grad():
        model.backbone.weight += torch.tensor([[0.0, 0.3]])
        model.backbone.bias -= 0.4
    for run.iter in range(1, 11):
        hook.after_step(run)
    hook.after_train(run)
    assert run.logged == [pytest.approx({"distance/absolute": 0.5, "distance/relative": 0.1}, rel=1e-5)] * 2
    assert set(load_checkpoint(tmp_path / "start.pth")["parameters"]) == {"weight", "bias"}
    resumed = ParameterDistance()
    resumed.before_train(runner(model, None, tmp_path, resumed=5))
    assert resumed.measure(model.backbone)["distance/absolute"] == pytest.approx(0.5, rel=1e-5)
