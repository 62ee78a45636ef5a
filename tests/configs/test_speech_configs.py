"""Shipped speech configs: they have the papers' sizes and values, and all that the big ones lack is a user's table."""

import csv

import numpy as np
import pytest
import soundfile
import torch

from perception.config import list_configs, load_config, plain
from perception.engine.layer_decay import LayerDecayConstructor
from perception.registry import DATASETS, MODELS
from perception.validation import validate_config

NAMES = sorted(name for name in list_configs() if name.startswith("speech/"))
REGIONS = [name for name in NAMES if name.endswith("_regions")]
PRETRAINING = ["speech/wav2vec2_base_librispeech", "speech/wav2vec2_large_libri-light"]


def meta(name):
    cfg = plain(load_config(name))
    cfg["model"]["backbone"]["pretrained"] = None  # weights are not embedded
    with torch.device("meta"):
        return MODELS.build(cfg["model"])


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", [*PRETRAINING, *REGIONS])
def test_full_size_configs_lack_tables_alone(name, tmp_path):
    cfg = load_config(name)
    places = [fault.path for fault in validate_config(cfg)]
    assert places and all(place.endswith(".table") for place in places)
    noise = np.random.default_rng(0)
    rows = []
    for region in range(17):
        for city in range(3):
            rows.append((f"{region}-{city}.wav", f"r{region:02d}", f"{region}-{city}", "train" if city else "val"))
            soundfile.write(tmp_path / rows[-1][0], noise.uniform(-0.5, 0.5, 32000), 16000)
    wanted = ["path", "label", "speaker", *(["split"] if name in PRETRAINING else [])]
    with open(tmp_path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([wanted, *(row[: len(wanted)] for row in rows)])
    overrides = [f"{place}={tmp_path / 'table.csv'}" for place in places]
    filled = load_config(name, overrides)
    assert validate_config(filled) == []
    data = DATASETS.build(plain(filled)["train_dataloader"]["dataset"])
    batch = data.__getitems__(range(4))
    assert ("label" in batch) == (name not in PRETRAINING) and batch["sample_rate"] == 16000
    if name in PRETRAINING:
        assert len(data) == 34 and batch["audio_length"].tolist() == [32000] * 4


def test_sizes_of_wav2vec_2():
    base, large = (meta(name) for name in PRETRAINING)
    # transformers' Wav2Vec2ForPreTraining has 95.0 million at BASE's sizes, and 317 million at LARGE's.
    assert millions(base) == pytest.approx(95.0, abs=0.1) and millions(large) == pytest.approx(317, abs=1)
    assert (base.backbone.conv_norm, large.backbone.conv_norm) == ("group", "layer")
    assert (base.backbone.conv_gradient, large.backbone.conv_gradient) == (0.1, 1.0)
    assert base.pretexts["wav2vec2"].describe() == {"codes": "2 x 320", "distractors": "100"}


# name, GPUs, clips a GPU, longest clip in samples, updates, rate, dropout, layer drop, floor, penalty, width of targets
VALUES = [
    (PRETRAINING[0], 64, 8, 250_000, 400_000, 5e-4, 0.1, 0.05, 0.5, 10.0, 256),
    (PRETRAINING[1], 128, 4, 320_000, 1_000_000, 3e-4, 0.0, 0.0, 0.1, 0.0, 768),
]


@pytest.mark.parametrize(
    ("name", "gpus", "clips", "longest", "updates", "rate", "drop", "layer_drop", "floor", "penalty", "width"), VALUES
)
def test_values_of_wav2vec_2(
    name, gpus, clips, longest, updates, rate, drop, layer_drop, floor, penalty, width, tmp_path
):
    cfg = plain(load_config(name))
    loader, backbone = cfg["train_dataloader"], cfg["model"]["backbone"]
    data = loader["dataset"]
    assert loader["batch_size"] == clips and data["crop_seconds"] * data["sample_rate"] == longest
    assert 1.5 < gpus * clips * longest / 16000 / 3600 < 2.9  # hours of an update if no clip were shorter
    assert data["min_seconds"] == 2.0
    assert cfg["train_cfg"]["max_iters"] == updates
    assert cfg["optim_wrapper"]["optimizer"] == dict(
        type="AdamW", lr=rate, betas=[0.9, 0.98], eps=1e-6, weight_decay=0.01
    )
    assert cfg["param_scheduler"] == dict(type="LinearDecay", warmup_steps=32_000)
    assert (backbone.get("drop_rate", 0.0), backbone.get("layer_drop", 0.0)) == (drop, layer_drop)
    assert backbone["preprocess"]["normalize"] == ("none" if "base" in name else "utterance")
    pretext = meta(name).pretexts["wav2vec2"]
    s = pretext.settings
    assert (s["mask_probability"], s["mask_length"], s["negatives"], s["temperature"]) == (0.65, 10, 100, 0.1)
    assert (s["gumbel_start"], s["gumbel_decay"], s["gumbel_floor"]) == (2.0, 0.999995, floor)
    assert (s["diversity_weight"], s["penalty_weight"], s["feature_drop"]) == (0.1, penalty, drop)
    assert (s["groups"], s["entries"], s["code_dim"], s["project_dim"]) == (2, 320, width, width)
    # The temperature is at its floor well before the end: 2 x 0.999995^t = 0.5 at t = 277,000.
    pretext.quantizer.to_empty(device="cpu")
    pretext.before_step(277_260, updates)
    assert pretext.quantizer.temperature == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("name", REGIONS)
def test_values_of_language_varieties(name):
    cfg = plain(load_config(name))
    backbone, loader = cfg["model"]["backbone"], cfg["train_dataloader"]
    assert backbone["preset"] == "xls-r-300m" and backbone["freeze_convs"] is True
    assert (backbone["pretrained"] is None) == ("finetune" in name)
    sampler = loader["sampler"]
    assert (sampler["classes"], sampler["samples"], sampler["groups"]) == (8, 4, "speakers")
    assert loader["batch_size"] == 32 and loader["dataset"]["crop_seconds"] == 10.0
    assert cfg["train_cfg"]["max_epochs"] == 20
    if "supcon" not in name:
        assert cfg["model"]["num_classes"] == 17 and "crop_seconds" not in cfg["test_dataloader"]["dataset"]
        assert cfg["custom_hooks"] == [dict(type="EarlyStopping", monitor="f1/macro", patience=3)]
    if "joint" in name:
        assert (cfg["model"]["weight"], cfg["model"]["loss"]) == (0.5, "multi-similarity")
        assert cfg["model"]["options"] == dict(alpha=2.0, beta=50.0, base=0.5)


@pytest.mark.parametrize("name", REGIONS)
def test_heads_learn_a_hundred_times_faster_than_the_encoder(name):
    wrapper = plain(load_config(name))["optim_wrapper"]
    assert wrapper["constructor"] == "LayerDecay"
    paramwise = wrapper.pop("paramwise_cfg")
    constructor = LayerDecayConstructor(wrapper, paramwise)
    model = meta(name)
    rates = {id(p): g["lr"] for g in constructor.groups(model, wrapper["optimizer"]["lr"], 0.01) for p in g["params"]}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1e-5 if key.startswith("backbone.") else 1e-3), key
    frozen = [key for key, parameter in model.backbone.named_parameters() if not parameter.requires_grad]
    assert all(key.startswith("feature_extractor.") or key == "masked_spec_embed" for key in frozen) and frozen


def test_the_small_fine_tuning_needs_no_data_and_takes_a_step_in_every_parameter(monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    cfg = load_config("speech/finetune_wav2vec2-tiny_varieties")
    assert validate_config(cfg) == []
    cfg = plain(cfg)
    model = MODELS.build(cfg["model"])
    data = DATASETS.build({**cfg["train_dataloader"]["dataset"], "speakers": 4})
    assert data.order == (3, 0, 1, 2) and DATASETS.build(dict(type="SpokenVarieties", label="word")).order is None
    (batch,) = model.data_preprocessor(data.__getitems__(range(8)), True)
    loss, _ = model.parse_losses(model(batch))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters() if p.requires_grad)
