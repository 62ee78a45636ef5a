"""Fine-tuning configs fit the pre-training runs that they are meant to start from."""

from __future__ import annotations

import os

import pytest

from perception.config import list_configs, load_config, plain
from perception.validation import validate_config

PAIRS = {
    "graph/finetune_gat_cora": "graph/graphmae_gat_cora",
    "graph/finetune_gin_mutag": "graph/graphmae_gin_mutag",
    "image/finetune_vit-tiny_cifar-small": "image/mae_vit-tiny_cifar-small",
    "image/finetune_vit-tiny_digits": "image/mae_vit-tiny_digits",
    "image/finetune_vit-base_imagenet": "image/mae_vit-base_imagenet",
    "image/finetune_vit-large_imagenet": "image/mae_vit-large_imagenet",
    "image/finetune_vit-huge_imagenet": "image/mae_vit-huge_imagenet",
    "remote_sensing/finetune_clip-tiny_land-cover": "remote_sensing/clip_tiny_land-cover",
    "remote_sensing/finetune_convnet_eurosat-mini": "remote_sensing/simclr_convnet_eurosat-mini",
}
# What may differ between the two: regularisation, which no weight depends on.
FREE = ("drop_path_rate", "drop_rate", "in_drop", "attn_drop")


def test_every_fine_tuning_config_is_listed():
    assert {n for n in list_configs() if n.rpartition("/")[2].startswith("finetune_")} == set(PAIRS)


@pytest.mark.parametrize("name", PAIRS)
def test_backbone_equals_the_one_that_is_pre_trained(name):
    from perception.registry import BACKBONES, PREPROCESSES
    from perception.signatures import signature_of

    filled = []
    for config in (name, PAIRS[name]):
        cfg = plain(load_config(config))["model"]["backbone"]
        arguments = signature_of(BACKBONES.get(cfg["type"])).arguments
        defaults = {key: plain(argument.default) for key, argument in arguments.items() if not argument.required}
        record = plain(PREPROCESSES.build(cfg.pop("preprocess")).record())
        filled.append({**{k: v for k, v in {**defaults, **cfg}.items() if k not in FREE}, "preprocess": record})
    assert filled[0] == filled[1]


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="PERCEPTION_DATA is not set: data sets cannot be found")
@pytest.mark.parametrize("name", [n for n in PAIRS if "imagenet" not in n])
def test_config_has_no_faults(name):
    assert validate_config(load_config(name)) == []
