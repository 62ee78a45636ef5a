"""Configs of surgical feedback have the values of its card, and lack a table alone; the small ones take a step."""

import os

import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.registry import DATASETS, MODELS
from perception.validation import validate_config

FULL = sorted(name for name in list_configs() if name.endswith("_surgical-feedback"))
SMALL = ["video/videomae-ssl_vit-tiny_railwagon4", "video/finetune_vit-tiny_railwagon4"]
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/video")


@pytest.mark.parametrize("name", FULL)
def test_full_size_configs_lack_a_table_alone(name):
    faults = validate_config(load_config(name))
    assert faults and all(fault.path.endswith(".dataset.table") for fault in faults)
    assert validate_config(load_config(name), data_sets=False) == []


# config, batch, rate, weight decay, epochs, widths
ROWS = [
    ("videomae-ssl_vit-base", 24, 5e-7, 0.05, 500, None),
    ("finetune_vit-base", 16, 1e-4, 0.01, 10, {"video": [768, 512, 256]}),
    ("text_hashing-tfidf", 16, 5e-4, 0.01, 10, {"text": [384, 256, 128]}),
    ("fusion_vit-base", 16, 1e-3, 0.01, 20, {"video": [768, 256, 128], "text": [384, 128, 64]}),
]


@pytest.mark.parametrize(("name", "batch", "rate", "decay", "epochs", "widths"), ROWS)
def test_values_of_the_card(name, batch, rate, decay, epochs, widths):
    cfg = plain(load_config(f"video/{name}_surgical-feedback"))
    loader, optimizer = cfg["train_dataloader"], cfg["optim_wrapper"]["optimizer"]
    assert (loader["batch_size"], optimizer["type"], cfg["train_cfg"]["max_epochs"]) == (batch, "AdamW", epochs)
    assert (optimizer["lr"], optimizer["weight_decay"]) == (rate, decay)
    assert (loader["dataset"]["frames"], loader["dataset"]["size"], loader["dataset"]["sampling"]) == (16, 224, "whole")
    assert loader["dataset"]["group"] == "surgery" and loader["dataset"].get("split_by", "group") == "group"
    with torch.device("meta"):
        model = MODELS.build(cfg["model"])
    # Self-supervision on the first 10 s, the supervised stages on the whole clip.
    assert loader["dataset"].get("first_seconds") == (10.0 if widths is None else None)
    if widths is None:
        mae = model.pretexts["video_mae"]
        assert mae.describe() == {"cubes that the encoder sees": f"{1568 - 1332} of 1568"}
        assert (cfg["param_scheduler"]["type"], mae.target) == ("LinearDecay", "channel")
        assert [hook["type"] for hook in cfg["custom_hooks"]] == ["ParameterDistance"]
        return
    found = {
        n: [b[0].in_features, *(m.out_features for m in b if hasattr(m, "out_features"))]
        for n, b in model.head.branches.items()
    }
    assert found == widths
    joint = [m.out_features for m in model.head.joint if hasattr(m, "out_features")]
    assert joint == ([256, 128] if len(widths) == 2 else []) and model.head.head.out_features == 2
    assert loader["sampler"]["type"] == "BalancedSampler"
    assert all("sampler" not in cfg[part] for part in ("val_dataloader", "test_dataloader"))
    hooks = [hook["type"] for hook in cfg.get("custom_hooks") or []]
    assert hooks == (["TrainPlateau"] if name == "finetune_vit-base" else [])


def test_all_stages_share_their_folds():
    keys = ("table", "path", "label", "group", "missing", "on_error", "folds", "fold", "fold_seed", "where", "split_by")
    told = [plain(load_config(name))["train_dataloader"]["dataset"] for name in FULL]
    assert len({str([cfg.get(key) for key in keys]) for cfg in told}) == 1


@needs_data
@pytest.mark.parametrize("name", SMALL)
def test_small_configs_take_a_step_in_every_parameter(name):
    cfg = load_config(name)
    assert validate_config(cfg) == []
    cfg = plain(cfg)
    model = MODELS.build(cfg["model"])
    data = DATASETS.build(cfg["train_dataloader"]["dataset"])
    if hasattr(model, "fit_to"):
        model.fit_to(data)
    (batch,) = model.data_preprocessor(data.__getitems__(range(4)), True)
    loss, _ = model.parse_losses(model(batch))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters() if p.requires_grad)


@needs_data
def test_evaluation_sees_every_clip_of_the_file_once():
    cfg = plain(load_config("video/finetune_vit-tiny_railwagon4"))
    parts = {}
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        parts[loader] = DATASETS.build({**cfg[loader]["dataset"], "video": False})
    assert sum(map(len, parts.values())) == 160
    groups = [set(data.groups.tolist()) for data in parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
