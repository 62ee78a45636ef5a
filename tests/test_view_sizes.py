"""Transforms that make images which the backbone cannot take are found before anything runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from perception.config import load_config
from perception.registry import BACKBONES
from perception.validation import validate_config

CONFIG = "remote_sensing/clip-distill_tiny_rsicd-mini"  # patches of 16 pixels, images of 64
VIEWS = "train_dataloader.dataset.transforms.2"


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["local_size=20"], "local_size", r"patches of 16 x 16 pixels. Did you mean '16' or '32'\?"),
        (["local_size=5"], "local_size", r"Did you mean '16'\?"),
        (["size=96"], "size", r"model.backbone.preprocess.size = 64.* Did you mean '64'\?"),
        (["size=50"], "size", r"Did you mean '64'\?"),
    ],
)
def test_views_have_to_fit_the_backbone(overrides: list[str], key: str, said: str) -> None:
    cfg = load_config(CONFIG, [f"{VIEWS}.{text}" for text in overrides])
    (fault,) = validate_config(cfg, data_sets=False)
    assert fault.path == f"{VIEWS}.{key}" and re.search(said, str(fault)), fault


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [f"{VIEWS}.local_size=20", f"{VIEWS}.local_views=0"],
        [f"{VIEWS}.size=96", "model.backbone.preprocess.resize=True"],
    ],
)
def test_views_that_fit_pass(overrides: list[str]) -> None:
    assert validate_config(load_config(CONFIG, overrides), data_sets=False) == []


def test_of_several_transforms_the_last_one_sets_the_size() -> None:
    cfg = load_config(CONFIG, [f"{VIEWS}.size=50"])
    crop: dict[str, Any] = dict(type="RandomResizedCrop", size=64)
    transforms = cfg.train_dataloader.dataset.transforms
    transforms.append(crop)
    assert validate_config(cfg, data_sets=False) == []
    crop["size"] = 63
    assert [f.path for f in validate_config(cfg, data_sets=False)] == ["train_dataloader.dataset.transforms.3.size"]
    transforms.append(dict(type="RandomFlip"))
    assert len(validate_config(cfg, data_sets=False)) == 1


def test_behind_operations_that_nobody_knows_nothing_is_known() -> None:
    pytest.importorskip("albumentations")
    cfg = load_config(CONFIG, [f"{VIEWS}.size=50"])
    cfg.train_dataloader.dataset.transforms.append(dict(type="Albumentations", operations=[]))
    assert validate_config(cfg, data_sets=False) == []


def test_the_sets_of_a_task_are_looked_at_too() -> None:
    cfg = load_config("image/finetune_vit-tiny_digits")
    cfg.val_dataloader.dataset.transforms = [dict(type="RandomResizedCrop", size=(8, 6))]
    assert [f.path for f in validate_config(cfg)] == ["val_dataloader.dataset.transforms.0.size"]


@pytest.mark.parametrize(
    ("backbone", "patch"),
    [
        (dict(type="ViT", patch_size=(8, 4)), (8, 4)),
        (dict(type="ConvNet"), (1, 1)),
        (dict(type="TimmModel", name="vit_tiny_patch16_224"), (16, 16)),
        (dict(type="TimmModel", name="resnet18"), (1, 1)),
        (dict(type="CLIP", model="ViT-L-14", quick_gelu=None), (14, 14)),
        (dict(type="CLIP", model="RN50", quick_gelu=None), (1, 1)),
    ],
)
def test_backbones_know_their_patches(backbone: dict[str, Any], patch: tuple[int, int]) -> None:
    assert BACKBONES.get(backbone["type"]).patch_of(backbone) == patch
