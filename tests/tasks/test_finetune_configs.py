"""Fine-tuning configs fit the pre-training runs that they are meant to start from."""

from __future__ import annotations

import os

import pytest

from perception.config import list_configs, load_config, plain
from perception.validation import validate_config

# Fine-tuning config -> the one whose backbone it starts from; of a fusion one for each branch.
PAIRS: dict[str, str | dict[str, str]] = {
    "driving/finetune_fusion_scenes": {
        "lidar": "driving/prc_pillars_scenes",
        "camera": "driving/rad_lift-splat_scenes",
    },
    "driving/finetune_lift-splat_scenes": "driving/rad_lift-splat_scenes",
    "driving/finetune_pillars_scenes": "driving/prc_pillars_scenes",
    "graph/finetune_gat_cora": "graph/graphmae_gat_cora",
    "graph/finetune_gin_mutag": "graph/graphmae_gin_mutag",
    "image/finetune_vit-tiny_cifar-small": "image/mae_vit-tiny_cifar-small",
    "image/finetune_vit-tiny_digits": "image/mae_vit-tiny_digits",
    "image/finetune_vit-base_imagenet": "image/mae_vit-base_imagenet",
    "image/finetune_vit-large_imagenet": "image/mae_vit-large_imagenet",
    "image/finetune_vit-huge_imagenet": "image/mae_vit-huge_imagenet",
    "remote_sensing/finetune_clip-tiny_land-cover": "remote_sensing/clip_tiny_land-cover",
    "remote_sensing/finetune_convnet_eurosat-mini": "remote_sensing/simclr_convnet_eurosat-mini",
    "speech/finetune_supcon-tiny_fsdd": "speech/supcon_tiny_fsdd",
    "speech/finetune_wav2vec2-tiny_varieties": "speech/wav2vec2_tiny_varieties",
    "speech/finetune_xls-r-300m_regions": "speech/supcon_xls-r-300m_regions",
    "tabular_image/finetune_convnet_cxr-missing": "tabular_image/tip_convnet_cxr-missing",
    "tabular_image/finetune_convnet_digits-table": "tabular_image/tip_convnet_digits-table",
    "tabular_image/finetune_convnet_fashion24": "tabular_image/tip_convnet_fashion24",
    "tabular_image/finetune_convnet_houses535": "tabular_image/tip_convnet_houses535",
    "tabular_image/finetune_convnet_leaf99": "tabular_image/tip_convnet_leaf99",
    "tabular_image/finetune_resnet50_dvm-car": "tabular_image/tip_resnet50_dvm-car",
    "video/finetune_vit-base_kinetics400": "video/videomae_vit-base_kinetics400",
    "video/finetune_vit-base_ssv2": "video/videomae_vit-base_ssv2",
    "video/finetune_vit-base_surgical-feedback": "video/videomae-ssl_vit-base_surgical-feedback",
    "video/finetune_vit-base_ucf101": "video/videomae_vit-base_ucf101",
    "video/finetune_vit-huge_kinetics400": "video/videomae_vit-huge_kinetics400",
    "video/finetune_vit-huge_ssv2-10-shot": "video/spatiotemporal-mae_vit-huge_headcam",
    "video/finetune_vit-large_kinetics400": "video/videomae_vit-large_kinetics400",
    "video/finetune_vit-small_kinetics400": "video/videomae_vit-small_kinetics400",
    "video/finetune_vit-small_ssv2": "video/videomae_vit-small_ssv2",
    "video/finetune_vit-tiny_moving-digits": "video/videomae_vit-tiny_moving-digits",
    "video/finetune_vit-tiny_railwagon4": "video/videomae-ssl_vit-tiny_railwagon4",
}
# On data that is not here.
ELSEWHERE = ("dvm-car", "imagenet", "kinetics400", "regions", "ssv2", "ucf101", "surgical-feedback")
# What may differ between the two: regularisation, which no weight depends on, and how weights begin.
FREE = ("drop_path_rate", "drop_rate", "in_drop", "attn_drop", "init", "pretrained")


def test_every_fine_tuning_config_is_listed():
    assert {n for n in list_configs() if n.rpartition("/")[2].startswith("finetune_")} == set(PAIRS)


def filled(backbone: dict) -> dict:
    """The config of a backbone with its defaults, without the Preprocess record."""
    from perception.registry import BACKBONES
    from perception.signatures import signature_of

    arguments = signature_of(BACKBONES.get(backbone["type"])).arguments
    defaults = {key: plain(argument.default) for key, argument in arguments.items() if not argument.required}
    return {k: v for k, v in {**defaults, **backbone}.items() if k not in (*FREE, "preprocess")}


def record_of(backbone: dict):
    from perception.registry import PREPROCESSES

    record = backbone.get("preprocess")
    return PREPROCESSES.build(dict(record)) if record else None


def backbone_of(name: str) -> dict:
    return plain(load_config(name))["model"]["backbone"]


@pytest.mark.parametrize("name", PAIRS)
def test_backbone_equals_the_one_that_is_pre_trained(name):
    own, others = backbone_of(name), PAIRS[name]
    pairs = [(own, others)] if isinstance(others, str) else [(own[place], other) for place, other in others.items()]
    for mine, other in pairs:
        theirs = backbone_of(other)
        assert filled(mine) == filled(theirs)
        if "dvm-car" in name:  # its record is fitted on rows that are not here
            assert mine["preprocess"] == theirs["preprocess"]
        elif record_of(mine) is None:
            assert record_of(theirs) is None
        else:
            record_of(mine).require_same(record_of(theirs).record(), other)


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="PERCEPTION_DATA is not set: data sets cannot be found")
@pytest.mark.parametrize("name", [n for n in PAIRS if not any(data in n for data in ELSEWHERE)])
def test_config_has_no_faults(name):
    assert validate_config(load_config(name)) == []
