"""Shipped pre-training configs of images: they have the paper's sizes and values, build, and take a step."""

import os

import cv2
import numpy as np
import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.registry import MODELS
from perception.validation import validate_config

NAMES = sorted(name for name in list_configs() if name.startswith("image/mae_"))
IMAGENET = [name for name in NAMES if name.endswith("_imagenet")]
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/image_small")


def build(name, *overrides):
    return MODELS.build(plain(load_config(name, overrides))["model"])


def test_the_five_are_shipped():
    assert [n.removeprefix("image/mae_vit-") for n in NAMES] == [
        "base_imagenet",
        "huge_imagenet",
        "large_imagenet",
        "tiny_cifar-small",
        "tiny_digits",
    ]


@pytest.mark.parametrize(
    ("size", "millions", "gpu_batch"), [("base", 111.9, 256), ("large", 329.5, 128), ("huge", 657.0, 64)]
)
def test_imagenet_configs_have_the_papers_sizes_and_rates(size, millions, gpu_batch):
    name = f"image/mae_vit-{size}_imagenet"
    cfg = plain(load_config(name))
    with torch.device("meta"):
        model = build(name)
    state = [v for k, v in model.state_dict().items() if not k.startswith("data_preprocessor")]
    assert sum(t.numel() for t in state) / 1e6 == pytest.approx(millions, abs=0.15)
    wrapper = cfg["optim_wrapper"]
    assert cfg["train_dataloader"]["batch_size"] == gpu_batch
    assert 8 * gpu_batch * wrapper["accumulative_counts"] == 4096
    assert wrapper["optimizer"] == dict(type="AdamW", lr=1.5e-4 * 16, betas=[0.9, 0.95], weight_decay=0.05)
    assert cfg["train_cfg"]["max_epochs"] == 800 and cfg["param_scheduler"]["warmup_epochs"] == 40
    mae = model.pretexts["mae"]
    assert (mae.mask_ratio, mae.norm_pix, mae.decoder_dim, len(mae.decoder_blocks)) == (0.75, True, 512, 8)


def test_imagenet_config_has_no_faults_beside_a_folder_of_that_layout(tmp_path):
    (tmp_path / "train" / "n01").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "train" / "n01" / "1.jpg"), np.zeros((9, 9, 3), np.uint8))
    root = f"train_dataloader.dataset.root={tmp_path}"
    for name in IMAGENET:
        assert [f.path for f in validate_config(load_config(name))] == ["train_dataloader.dataset.root"]
        assert validate_config(load_config(name, [root])) == []


@pytest.mark.parametrize("name", ["image/mae_vit-tiny_digits", "image/mae_vit-tiny_cifar-small"])
def test_tiny_configs_take_a_step_in_every_parameter(name):
    model = build(name)
    height, width = model.backbone.image_size
    raw = {"image": torch.randint(0, 256, (4, model.backbone.in_channels, height, width), dtype=torch.uint8)}
    (batch,) = model.data_preprocessor(raw, True)
    loss, log = model.parse_losses(model(batch))
    loss.backward()
    assert set(log) == {"loss"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert list(model.pictures(batch)) == ["mae_reconstruction"]


def test_the_demo_needs_no_data_from_outside(monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    cfg = load_config("image/mae_vit-tiny_digits")
    assert validate_config(cfg) == [] and cfg["demo"]["title"] == "image"


@needs_data
def test_cifar_config_has_no_faults():
    assert validate_config(load_config("image/mae_vit-tiny_cifar-small")) == []
