"""Shipped configs of remote sensing: they are free of faults, build, and take a training step on their own data."""

import os

import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.registry import DATASETS, MODELS
from perception.transforms.base import identity_collate
from perception.validation import validate_config

NAMES = sorted(name for name in list_configs() if name.startswith("remote_sensing/"))
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_a_step_changes_the_backbone(name):
    cfg = load_config(name)
    assert validate_config(cfg) == []
    sections = plain(cfg)
    torch.manual_seed(0)
    model = MODELS.build(sections["model"]).train()
    dataset = DATASETS.build(sections["train_dataloader"]["dataset"])
    batch = identity_collate(dataset.__getitems__(list(range(8))))
    model.before_training(10, 100)
    model.before_step(0, 100)
    total, logged = model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(value) for value in logged.values())
    trained = [p for p in model.backbone.parameters() if p.requires_grad and p.grad is not None]
    assert trained and any(p.grad.abs().max() > 0 for p in trained)


@needs_data
def test_the_tiny_dual_encoder_has_the_budget_of_the_baseline():
    cfg = plain(load_config("remote_sensing/clip_tiny_rsicd-mini"))
    model = MODELS.build(cfg["model"])
    assert abs(sum(p.numel() for p in model.parameters()) - 1.23e6) < 0.01e6
    rows = len(DATASETS.build(cfg["train_dataloader"]["dataset"]))
    assert rows // cfg["train_dataloader"]["batch_size"] * cfg["train_cfg"]["max_epochs"] == 720
    assert model.backbone.tokenizer.vocab_size == 761


def test_the_embedded_default_needs_no_data_folder(monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    assert validate_config(load_config("remote_sensing/clip_tiny_land-cover")) == []
