"""Shipped configs of tables with images: free of faults, they build, take a step, and carry the paper's values."""

import os

import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.registry import DATASETS, MODELS
from perception.transforms.base import identity_collate
from perception.validation import validate_config

NAMES = sorted(name for name in list_configs() if name.startswith("tabular_image/"))
FULL = [name for name in NAMES if name.endswith("dvm-car")]  # on data that is not here
EMBEDDED = [name for name in NAMES if name.endswith("digits-table")]
SMALL = [name for name in NAMES if name not in FULL]
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/tabular_image")


def take_a_step(sections, count=12):
    torch.manual_seed(0)
    model = MODELS.build(sections["model"]).train()
    dataset = DATASETS.build(sections["train_dataloader"]["dataset"])
    batch = identity_collate(dataset.__getitems__(list(range(count))))
    total, logged = model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(value) for value in logged.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    return model, logged


@needs_data
@pytest.mark.parametrize("name", [name for name in SMALL if name not in EMBEDDED])
def test_a_step_reaches_every_parameter(name):
    cfg = load_config(name)
    assert validate_config(cfg) == []
    take_a_step(plain(cfg))


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_ones_need_no_data_folder(name, monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    cfg = load_config(name)
    assert validate_config(cfg) == []
    _, logged = take_a_step(plain(cfg))
    if name.startswith("tabular_image/tip"):
        assert set(logged) == {"itc_loss", "itm_loss", "itm_accuracy", "mtr_loss", "cell_accuracy", "loss"}
        assert cfg["demo"]["title"] == "tabular-image"


@needs_data
@pytest.mark.parametrize("name", [name for name in NAMES if "/tip_" in name and name not in FULL])
def test_the_total_is_the_mean_of_three_losses(name):
    _, logged = take_a_step(plain(load_config(name)))
    mean = sum(logged[f"{part}_loss"] for part in ("itc", "itm", "mtr")) / 3
    torch.testing.assert_close(logged["loss"], mean)


@needs_data
def test_no_config_shows_the_model_what_gives_the_label_away():
    model = MODELS.build(plain(load_config("tabular_image/tip_convnet_fashion24"))["model"])
    names = [column.name for column in model.backbone.preprocess.columns]
    assert names == ["gender", "baseColour", "season", "usage", "year"]


def full(name):
    """A full-size config with the record of a table like DVM-Car's, since its rows are not here."""
    sections = plain(load_config(name))
    sizes = (22, 13, 3, 12)
    columns = [dict(name=f"c{j}", kind="categorical", categories=list(map(str, range(k)))) for j, k in enumerate(sizes)]
    columns += [dict(name=f"n{j}", kind="continuous", categories=[]) for j in range(13)]
    record = sections["model"]["backbone"]["preprocess"]
    del record["fit"]
    record.update(columns=columns, table_mean=[0.0] * 13, table_std=[1.0] * 13)
    return sections, columns


@pytest.mark.parametrize("name", FULL)
def test_only_the_data_of_the_full_size_ones_is_missing(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PERCEPTION_DATA", str(tmp_path))
    cfg = load_config(name)
    assert validate_config(cfg, data_sets=False) == []
    faults = validate_config(cfg)
    assert faults and all("dvm_car" in str(fault) for fault in faults)


def test_the_paper_at_full_size():
    sections, _ = full("tabular_image/tip_resnet50_dvm-car")
    with torch.device("meta"):
        model = MODELS.build(sections["model"])
    d, table, tip = 512, model.backbone.table_backbone, model.pretexts["tip"]
    block = 2 * 2 * d + 3 * d * d + d * d + d + 2 * 4 * d * d + 5 * d  # norms, qkv, proj, MLP
    tokens = 50 * d + 2 * d + 2 * d + 18 * d + 2 * d
    assert sum(p.numel() for p in table.parameters()) == 4 * block + tokens
    cross = block + 2 * d + d * d + d + 2 * d * d + d * d + d
    interaction = 4 * cross + 2048 * d + d + 2 * d + 2 * d
    assert sum(p.numel() for p in model.backbone.interaction.parameters()) == interaction
    assert (
        sum(p.numel() for p in model.backbone.image_backbone.parameters()) == 23_508_032
    )  # ResNet-50 without its head
    assert [tuple(p.shape) for p in tip.image_projector.parameters() if p.ndim > 1] == [(2048, 2048), (128, 2048)]
    assert [tuple(p.shape) for p in tip.table_projector.parameters() if p.ndim > 1] == [(512, 512), (128, 512)]
    assert (tip.temperature, tip.image_weight, tip.mask_ratio, tip.vocabulary) == (0.1, 0.5, 0.5, "global")
    assert sections["optim_wrapper"]["optimizer"] == dict(type="Adam", lr=3e-4, weight_decay=1.5e-6)
    assert sections["train_cfg"]["max_epochs"] == 500 and sections["train_dataloader"]["batch_size"] == 256
    transforms = sections["train_dataloader"]["dataset"]["transforms"]
    assert transforms[0]["probability"] == 0.95 and transforms[1] == dict(type="CorruptTable", rate=0.3)
    tuned = plain(load_config("tabular_image/finetune_resnet50_dvm-car"))
    assert tuned["optim_wrapper"]["optimizer"] == dict(type="Adam", lr=1e-4, weight_decay=0.0)
    assert tuned["custom_hooks"][0] == dict(type="EarlyStopping", monitor="accuracy/top1", patience=10, min_delta=2e-4)
    assert "param_scheduler" not in tuned


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_config_takes_a_step_in_small(name):
    """Its own transforms and losses on four rows, with a small network for images."""
    from perception.datasets.table_rows import TableData, TableRows
    from perception.transforms.table_columns import as_columns

    sections, columns = full(name)
    backbone = sections["model"]["backbone"]
    backbone["image_backbone"].update(name="resnet18")
    backbone["table_backbone"].update(embed_dim=32, depth=1)
    backbone.update(depth=1)
    random = torch.Generator().manual_seed(0)
    codes = [torch.randint(k, (4, 1), generator=random).float() for k in (22, 13, 3, 12)]
    table = torch.cat([*codes, torch.randn(4, 13, generator=random)], 1).numpy()
    labels = None if "/tip" in name else torch.arange(4).numpy()
    data = TableData(table, table != table, as_columns(columns), labels, tuple(map(str, range(286))), "train")
    images = torch.randint(256, (4, 3, 128, 128), dtype=torch.uint8, generator=random).numpy()
    rows = TableRows(data, images, transforms=sections["train_dataloader"]["dataset"]["transforms"])
    model = MODELS.build(sections["model"]).train()
    total, _ = model.parse_losses(model(*model.data_preprocessor(rows.__getitems__([0, 1, 2, 3]), True)))
    total.backward()
    assert total.isfinite()
