"""Shipped video configs: they have the papers' sizes and values, and all that they lack is data on a user's disk."""

import os

import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.datasets.moving_digits import MEAN, STD
from perception.registry import DATASETS, MODELS
from perception.validation import validate_config

NAMES = sorted(name for name in list_configs() if name.startswith("video/"))
FULL = [n for n in NAMES if n.endswith(("_kinetics400", "_ssv2", "_ucf101", "_headcam", "-shot")) or "364-" in n]


def meta(name):
    with torch.device("meta"):
        return MODELS.build(plain(load_config(name))["model"])


@pytest.mark.parametrize("name", FULL)
def test_full_size_configs_lack_data_alone(name):
    faults = validate_config(load_config(name))
    assert faults and all(fault.path.rpartition(".")[2] in ("root", "path") for fault in faults)


@pytest.mark.parametrize(
    ("size", "encoder", "decoder"),
    [
        ("small", (384, 12, 6), (192, 4, 3)),
        ("base", (768, 12, 12), (384, 4, 6)),
        ("large", (1024, 24, 16), (512, 12, 8)),
        ("huge", (1280, 32, 16), (640, 12, 8)),
    ],
)
def test_videomae_sizes(size, encoder, decoder):
    model = meta(f"video/videomae_vit-{size}_kinetics400")
    vit, mae = model.backbone, model.pretexts["video_mae"]
    assert (vit.embed_dims, len(vit.blocks), vit.blocks[0].attn.num_heads) == encoder
    assert (mae.decoder_dim, len(mae.decoder.blocks), mae.decoder.blocks[0].attn.num_heads) == decoder
    assert mae.describe() == {"cubes that the encoder sees": "160 of 1568"}
    tuned = meta(f"video/finetune_vit-{size}_kinetics400")
    assert {k: v.shape for k, v in tuned.backbone.state_dict().items()} == {
        k: v.shape for k, v in vit.state_dict().items()
    }


# data, mask ratio, epochs, rate before scaling, total batch, GPUs, stride
PRETRAINING = [
    ("base_kinetics400", 0.9, 1600, 1.5e-4, 64, 4),
    ("small_ssv2", 0.9, 2400, 1.5e-4, 64, 2),
    ("base_ucf101", 0.75, 3200, 3e-4, 8, 4),
]


@pytest.mark.parametrize(("name", "ratio", "epochs", "rate", "gpus", "stride"), PRETRAINING)
def test_pre_training_values_of_the_paper(name, ratio, epochs, rate, gpus, stride):
    cfg = plain(load_config(f"video/videomae_vit-{name}"))
    loader, mae = cfg["train_dataloader"], cfg["model"]["pretexts"]["video_mae"]
    total = gpus * loader["batch_size"]
    assert total == {64: 2048, 8: 192}[gpus]
    optimizer = cfg["optim_wrapper"]["optimizer"]
    assert optimizer == dict(type="AdamW", lr=pytest.approx(rate * total / 256), betas=[0.9, 0.95], weight_decay=0.05)
    assert (mae["mask"], mae["mask_ratio"], mae["target"]) == ("tube", ratio, "channel")
    assert cfg["train_cfg"]["max_epochs"] == epochs and cfg["param_scheduler"]["warmup_epochs"] == 40
    assert cfg["param_scheduler"]["min_lr"] == 1e-5 and "clip_grad" not in cfg["optim_wrapper"]
    assert loader["dataset"]["stride"] == cfg["model"]["backbone"]["preprocess"]["stride"] == stride
    assert [t["type"] for t in loader["dataset"]["transforms"]] == ["ClipMultiScaleCrop"]


FINE_TUNING = [
    # name, epochs, total batch, decay, drop path, dropout, flip, classes, test clips
    ("base_kinetics400", 75, 384, 0.75, 0.1, 0.0, True, 400, (5, 3)),
    ("small_ssv2", 30, 384, 0.75, 0.1, 0.0, False, 174, (2, 3)),
    ("base_ucf101", 100, 128, 0.7, 0.2, 0.5, True, 101, (5, 3)),
]


@pytest.mark.parametrize(
    ("name", "epochs", "total", "decay", "drop_path", "dropout", "flip", "classes", "clips"), FINE_TUNING
)
def test_fine_tuning_values_of_the_paper(name, epochs, total, decay, drop_path, dropout, flip, classes, clips):
    cfg = plain(load_config(f"video/finetune_vit-{name}"))
    model, train, test = cfg["model"], cfg["train_dataloader"], cfg["test_dataloader"]["dataset"]
    assert {384: 64, 128: 8}[total] * train["batch_size"] == total and train["dataset"]["repeats"] == 2
    assert cfg["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(5e-4 * total / 256)
    assert cfg["optim_wrapper"]["paramwise_cfg"] == dict(decay=decay)
    assert cfg["train_cfg"]["max_epochs"] == epochs and cfg["param_scheduler"]["min_lr"] == 1e-6
    assert model["backbone"]["drop_path_rate"] == drop_path and model.get("dropout", 0.0) == dropout
    assert (model["feature"], model["norm"], model["num_classes"]) == ("mean", "layer", classes)
    transforms = {t["type"]: t for t in train["dataset"]["transforms"]}
    assert ("RandomFlip" in transforms) == flip
    assert transforms["Mix"]["num_classes"] == classes and transforms["RandomErasing"]["probability"] == 0.25
    assert (transforms["RandAugment"]["magnitude"], transforms["RandAugment"]["num_ops"]) == (7, 4)
    assert (test["views"], test["crops"]) == clips
    assert test["sampling"] == ("uniform_views" if "ssv2" in name else "dense_views")


def test_headcam_values():
    cfg = plain(load_config("video/spatiotemporal-mae_vit-huge_headcam"))
    model = meta("video/spatiotemporal-mae_vit-huge_headcam")
    vit, mae = model.backbone, model.pretexts["spatiotemporal_mae"]
    assert vit.num_cubes == 2048 and mae.describe() == {"cubes that the encoder sees": "204 of 2048"}
    assert (mae.mask, mae.target, mae.out_cube, mae.decoder_pred.out_features) == ("random", "raw", (2, 14, 14), 1176)
    head = 1280 * 700 + 700  # of a classifier of Kinetics-700
    assert (sum(p.numel() for p in vit.parameters()) + head) / 1e6 == pytest.approx(633, abs=1)
    assert cfg["optim_wrapper"]["clip_grad"] == dict(max_norm=0.1) and "param_scheduler" not in cfg
    assert cfg["optim_wrapper"]["optimizer"]["lr"] == 1e-4 and cfg["train_dataloader"]["dataset"]["repeats"] == 16


@pytest.mark.parametrize("name", ["video/videomae_vit-tiny_moving-digits", "video/finetune_vit-tiny_moving-digits"])
def test_small_configs_need_no_data_and_take_a_step_in_every_parameter(name, monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    cfg = load_config(name)
    assert validate_config(cfg) == []
    cfg = plain(cfg)
    record = cfg["model"]["backbone"]["preprocess"]
    assert (tuple(record["mean"]), tuple(record["std"])) == (MEAN, STD)
    model = MODELS.build(cfg["model"])
    data = DATASETS.build({**cfg["train_dataloader"]["dataset"], "count": 4})
    (batch,) = model.data_preprocessor(data.__getitems__(range(4)), True)
    loss, log = model.parse_losses(model(batch))
    loss.backward()
    assert loss.isfinite() and ("accuracy" in log) == ("finetune" in name)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_fine_tuned_trunk_is_the_pre_trained_one():
    tiny = [meta(f"video/{kind}_vit-tiny_moving-digits").backbone.state_dict() for kind in ("videomae", "finetune")]
    assert {k: v.shape for k, v in tiny[0].items()} == {k: v.shape for k, v in tiny[1].items()}


TARGETS = ["hmdb51", "ucf101", "diving48", "ssv2-mini", "rareact"]


@pytest.mark.parametrize("target", TARGETS)
def test_cdfsl_v_values_of_the_paper(target):
    first, second = (
        plain(load_config(f"video/{kind}_vit-small_kinetics364-{target}")) for kind in ("videomae", "cdfsl-v")
    )
    vit = first["model"]["backbone"]
    assert vit == second["model"]["backbone"]
    assert (vit["embed_dim"], vit["depth"], vit["num_heads"], vit["frames"], vit["image_size"]) == (384, 12, 6, 16, 112)
    assert (first["train_cfg"]["max_epochs"], first["train_dataloader"]["batch_size"]) == (400, 32)
    assert first["optim_wrapper"]["optimizer"] == dict(type="SGD", lr=0.1) and "param_scheduler" not in first
    both = first["train_dataloader"]["dataset"]["datasets"]
    assert len(both) == 2 and all(d["labels"] is False and d.get("split", "train") == "train" for d in both)

    source, goal = second["train_dataloader"]["dataset"]["datasets"]
    assert source["path"] == both[0]["path"] and "labels" not in source
    assert goal["labels"] is False and goal["split"] == "train"
    assert {k: goal[k] for k in ("type", "root", "path") if k in goal} == {
        k: second["evaluation"]["test"][k] for k in ("type", "root", "path") if k in goal
    }
    weak, strong = goal["transforms"][0]["views"]
    assert weak == source["transforms"] == strong[:2]
    assert [t["type"] for t in strong] == ["ClipResizedCrop", "RandomFlip", "ClipJitter", "ClipGrey", "ClipBlur"]
    jitter = {k: v for k, v in strong[2].items() if k != "type"}
    assert jitter == dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8)
    assert strong[3]["probability"] == 0.2
    pretext = second["model"]["pretexts"]["cdfsl_v"]
    assert (pretext["num_classes"], pretext["temperature"]) == (364, 0.1)
    assert (pretext["teacher_momentum"], pretext["teacher_update"]) == (0.9, "step")
    assert (second["train_cfg"]["max_epochs"], second["train_dataloader"]["batch_size"]) == (200, 16)
    assert second["optim_wrapper"]["optimizer"] == dict(type="SGD", lr=0.01, momentum=0.9, nesterov=True)
    assert second["optim_wrapper"]["clip_grad"] == dict(max_norm=5.0)
    episodes = second["evaluation"]["protocols"]["episodes"]
    assert second["evaluation"] == first["evaluation"]
    assert (episodes["ways"], episodes["shots"], episodes["queries"], episodes["episodes"]) == (5, [1, 5, 20], 15, 600)


def test_the_cubes_of_cdfsl_v():
    model = meta("video/videomae_vit-small_kinetics364-hmdb51")
    # 7 x 7 places in 8 slots; int(0.9 x 49) = 44 are hidden.
    assert model.pretexts["video_mae"].describe() == {"cubes that the encoder sees": "40 of 392"}
    trained, started = meta("video/cdfsl-v_vit-small_kinetics364-hmdb51").backbone, model.backbone
    assert {k: v.shape for k, v in trained.state_dict().items()} == {
        k: v.shape for k, v in started.state_dict().items()
    }


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs the small video sets")
@pytest.mark.parametrize("kind", ["videomae", "cdfsl-v"])
def test_cdfsl_v_in_small_takes_a_step_in_every_parameter(kind):
    cfg = load_config(f"video/{kind}_vit-tiny_weizmann4-railwagon4")
    assert validate_config(cfg) == []
    cfg = plain(cfg)
    model = MODELS.build(cfg["model"])
    data = DATASETS.build(cfg["train_dataloader"]["dataset"])
    assert len(data) == {"videomae": 36 + 120, "cdfsl-v": 36}[kind]
    # Clips of 64 x 64 and of 96 x 128 pixels in one batch.
    (batch,) = model.data_preprocessor(data.__getitems__([0, len(data) - 1, 1, len(data) - 2]), True)
    assert batch["video"].shape == (4, 3, 8, 64, 64) and ("label" in batch) == (kind == "cdfsl-v")
    model.before_training(2, 4)
    model.before_step(0, 4)
    loss, _ = model.parse_losses(model(batch))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters() if p.requires_grad)
