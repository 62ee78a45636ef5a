"""Supervised contrast of images: the public protocol on CIFAR-100 to the digit, and a small config that trains."""

import os

import numpy as np
import pytest
import torch

from perception.config import load_config, plain
from perception.datasets.base import SampleKey
from perception.registry import DATASETS, MODELS, OPTIM_WRAPPERS, PARAM_SCHEDULERS
from perception.validation import validate_config

SUPCON, LINEAR, CE = (f"image/{kind}_resnet50_cifar100" for kind in ("supcon", "linear", "ce"))
SMALL = "image/supcon_convnet_cifar-small"
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/image_small")


def config(name, *overrides):
    return plain(load_config(name, overrides))


def built(name, *overrides):
    return MODELS.build(config(name, *overrides)["model"])


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "lr", "decay"),
    [(SUPCON, 1024, 1000, 0.5, 1e-4), (LINEAR, 512, 100, 5.0, 0.0), (CE, 1024, 500, 0.8, 1e-4)],
)
def test_batches_lengths_and_rates_are_the_published_ones(name, batch, epochs, lr, decay):
    cfg = config(name)
    assert cfg["train_dataloader"]["batch_size"] == batch and cfg["train_cfg"]["max_epochs"] == epochs
    assert cfg["optim_wrapper"]["optimizer"] == dict(type="SGD", lr=lr, momentum=0.9, weight_decay=decay)
    assert cfg["train_dataloader"]["dataset"]["split"] == "train50000"
    if name != SUPCON:
        assert cfg["test_dataloader"]["dataset"]["split"] == "test" and "val_dataloader" not in cfg


def rates(name, epochs, steps=3):
    """The rate at the beginning of epochs, by the config's schedule of ``steps`` steps an epoch."""
    cfg = config(name)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg["optim_wrapper"]["optimizer"]["lr"])
    wrapper = OPTIM_WRAPPERS.build(dict(type="OptimWrapper"), default_args=dict(optimizer=optimizer))
    total, schedule = cfg["train_cfg"]["max_epochs"], cfg["param_scheduler"]
    by_step = schedule["type"] == "CosineWarmup"
    if by_step:
        schedule.update(total_steps=total * steps, epoch_length=steps)
    scheduler = PARAM_SCHEDULERS.get(schedule.pop("type"))(wrapper, **schedule)
    found = [optimizer.param_groups[0]["lr"]]
    wrapper.step()  # a schedule comes after it
    for _ in range(total):
        for _ in range(steps if by_step else 1):
            scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return [found[epoch] for epoch in epochs]


def test_rates_warm_up_for_ten_epochs_and_end_at_a_thousandth():
    assert rates(SUPCON, [0, 5, 10, 505, 1000]) == pytest.approx([0, 0.25, 0.5, (0.5 + 0.0005) / 2, 0.0005])
    assert rates(CE, [0, 10, 255, 500]) == pytest.approx([0, 0.8, (0.8 + 0.0008) / 2, 0.0008])


def test_the_linear_classifier_s_rate_falls_to_a_fifth_three_times():
    assert rates(LINEAR, [0, 59, 60, 74, 75, 89, 90, 99]) == pytest.approx([5, 5, 1, 1, 0.2, 0.2, 0.04, 0.04])


def test_views_and_loss_are_the_published_ones():
    cfg = config(SUPCON)
    (views,) = cfg["train_dataloader"]["dataset"]["transforms"]
    assert (views["size"], views["global_views"], views["local_views"], views["scale"]) == (32, 2, 0, [0.2, 1.0])
    assert [views[key] for key in ("brightness", "contrast", "saturation", "hue")] == [0.4, 0.4, 0.4, 0.1]
    assert (views["jitter_probability"], views["grayscale"], views["turn"]) == (0.8, 0.2, False)
    assert views.get("flip", True)
    assert cfg["model"]["pretexts"]["supcon"]["options"] == dict(temperature=0.1, base_temperature=0.07)
    simclr = dict(type="SupervisedContrast", supervised=False, options=dict(temperature=0.5, base_temperature=0.07))
    changed = config(SUPCON, "model.pretexts.supcon.supervised=False", "model.pretexts.supcon.options.temperature=0.5")
    assert changed["model"]["pretexts"]["supcon"] == dict(simclr, hidden_dim=2048, projection_dim=128)


def test_one_network_is_pre_trained_frozen_and_trained_by_cross_entropy():
    backbones = [config(name)["model"]["backbone"] for name in (SUPCON, LINEAR, CE)]
    assert backbones[0] == backbones[1] == backbones[2]
    with torch.device("meta"):
        supcon, linear, ce = built(SUPCON), built(LINEAR), built(CE)
    # timm's ResNet-50 has 25,557,032 parameters, 2,049,000 of them in its classifier; the stem is 3 x 3, not 7 x 7.
    size = 25_557_032 - 2_049_000 - 64 * 3 * 40
    assert sum(p.numel() for p in supcon.backbone.parameters()) == size and supcon.backbone.strides == (8,)
    projection = [tuple(p.shape) for p in supcon.pretexts["supcon"].parameters()]
    assert projection == [(2048, 2048), (2048,), (128, 2048), (128,)]
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (linear, ce)]
    assert trained == [2048 * 100 + 100, size + 2048 * 100 + 100]


def test_they_have_no_faults_beside_a_folder_of_the_archive(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    places = {
        SUPCON: ["train_dataloader.dataset", "evaluation.train", "evaluation.val", "evaluation.test"],
        **{name: ["train_dataloader.dataset", "test_dataloader.dataset"] for name in (LINEAR, CE)},
    }
    for name, sets in places.items():
        assert sorted(f.path for f in validate_config(load_config(name))) == sorted(f"{place}.root" for place in sets)
        assert validate_config(load_config(name, [f"{place}.root={tmp_path}" for place in sets])) == []


@needs_data
def test_the_small_one_sees_two_views_of_labelled_images_and_trains_every_parameter():
    assert validate_config(load_config(SMALL)) == []
    cfg, model = config(SMALL), built(SMALL)
    data = DATASETS.build(cfg["train_dataloader"]["dataset"])
    assert len(data) == 4500 and np.bincount(data.labels).tolist() == [450] * 10
    (batch,) = model.data_preprocessor(data.__getitems__([SampleKey(i, 0) for i in range(40)]), True)
    assert [tuple(view.shape) for view in batch["views"]] == [(40, 3, 32, 32)] * 2
    loss, log = model.parse_losses(model(batch))
    loss.backward()
    assert set(log) == {"loss", "class_gap"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
