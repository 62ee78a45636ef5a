"""Shipped configs of remote sensing: they are free of faults, build, and take a training step on their own data."""

import os

import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.registry import DATASETS, MODELS
from perception.transforms.base import identity_collate
from perception.validation import validate_config

NAMES = sorted(name for name in list_configs() if name.startswith("remote_sensing/"))
FULL = [name for name in NAMES if "patch32" in name]  # on corpora and weights that are not here
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")


@needs_data
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FULL])
def test_a_step_changes_the_backbone(name):
    cfg = load_config(name)
    assert validate_config(cfg) == []
    take_a_step(plain(cfg))


def take_a_step(sections):
    torch.manual_seed(0)
    model = MODELS.build(sections["model"]).train()
    dataset = DATASETS.build(sections["train_dataloader"]["dataset"])
    batch = identity_collate(dataset.__getitems__(list(range(8))))
    if sections["model"]["type"] == "Pretrainer":
        model.before_training(10, 100)
        model.before_step(0, 100)
    total, logged = model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(value) for value in logged.values())
    trained = [p for p in model.backbone.parameters() if p.requires_grad and p.grad is not None]
    assert trained and any(p.grad.abs().max() > 0 for p in trained)


@needs_data
def test_the_tiny_dual_encoder_has_the_budget_of_the_baseline():
    """Its sizes but for the vocabulary: with the baseline's, of words seen twice, it has the baseline's parameters."""
    cfg = plain(load_config("remote_sensing/clip_tiny_rsicd-mini"))
    own = MODELS.build(cfg["model"]).backbone.tokenizer.vocab_size
    cfg["model"]["backbone"]["preprocess"]["tokenizer"]["min_count"] = 2
    model = MODELS.build(cfg["model"])
    assert own < model.backbone.tokenizer.vocab_size == 761
    assert abs(sum(p.numel() for p in model.parameters()) - 1.23e6) < 0.01e6
    rows = len(DATASETS.build(cfg["train_dataloader"]["dataset"]))
    assert rows // cfg["train_dataloader"]["batch_size"] * cfg["train_cfg"]["max_epochs"] == 720


def test_the_embedded_default_needs_no_data_folder(monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    assert validate_config(load_config("remote_sensing/clip_tiny_land-cover")) == []


@pytest.mark.parametrize("name", FULL)
def test_of_a_config_at_full_size_only_data_and_weights_are_missing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERCEPTION_DATA", str(tmp_path))
    cfg = load_config(name)
    assert [f.path for f in validate_config(cfg, data_sets=False)] == ["model.backbone.init_from"]
    faults = validate_config(cfg)
    files = {"root", "translations", "exclude", "init_from"}
    assert {f.path.rpartition(".")[2] for f in faults} <= files and all("no" in f.message for f in faults)
    members = cfg.train_dataloader.dataset.datasets
    assert {f"train_dataloader.dataset.datasets.{i}.root" for i in range(len(members))} <= {f.path for f in faults}


@pytest.mark.parametrize("name", FULL)
def test_a_config_at_full_size_takes_a_step_in_small(name):
    """Its own pretexts, views and joined captions, on a backbone of one block and tiles of two sizes."""
    sections = plain(load_config(name))
    backbone = sections["model"]["backbone"]
    del backbone["init_from"]
    xlm = dict(model_type="xlm-roberta", vocab_size=258, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    xlm.update(intermediate_size=16, max_position_embeddings=130, pad_token_id=0)  # the padding of bytes
    backbone["model"] = dict(
        embed_dim=16,
        vision_cfg=dict(image_size=224, patch_size=32, layers=1, width=32, head_width=16),
        text_cfg=dict(hf_config=xlm, hf_pooler_type="mean_pooler")
        if backbone["model"].startswith("xlm")
        else dict(layers=1, width=16, heads=2),
    )
    backbone["preprocess"]["tokenizer"] = dict(type="ByteTokenizer", context_length=77)
    if "distill" in sections["model"]["pretexts"]:
        sections["model"]["pretexts"]["distill"].update(prototypes=32, hidden_dim=16, bottleneck_dim=8)
    dataset = sections["train_dataloader"]["dataset"]
    dataset["datasets"] = [dict(type="LandCover", split="val", count=4, size=size) for size in (128, 160)]
    take_a_step(sections)


def test_rs_m_clip_has_the_size_that_it_says():
    sections = plain(load_config("remote_sensing/rs-m-clip_vit-base-patch32_captions"))
    del sections["model"]["backbone"]["init_from"]
    # Without the tokenizer, which the hub would have to be asked for.
    sections["model"]["backbone"]["preprocess"] = dict(type="ImagePreprocess", size=224)
    with torch.device("meta"):
        model = MODELS.build(sections["model"])
    assert sum(p.numel() for p in model.backbone.parameters()) == 366_121_473  # open_clip's
    head = (768 + 1) * 2048 + (2048 + 1) * 2048 + (2048 + 1) * 256 + 256 * 65536
    assert sum(p.numel() for p in model.pretexts.parameters()) == head
    assert model.backbone.model_config["quick_gelu"] is False and model.backbone.model_config["explicit_gelu"]
