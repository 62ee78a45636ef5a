"""Configs of CLIPs that cannot be built are named before anything is built, in the validator and by hand."""

import clip_models as models
import pytest

from perception.backbones import clip_config
from perception.backbones.clip import CLIP
from perception.errors import ConfigError
from perception.signatures import signature_of
from perception.validation import validate_config


def changed(tower, **values):
    return {**models.VIT, tower: {**models.VIT[tower], **values}}


def whole(**arguments):
    """Model section of a training config, as far as the validator looks at it."""
    backbone = dict(type="CLIP", **{"preprocess": models.record(models.VIT), **arguments})
    return {"model": dict(type="Pretrainer", backbone=backbone, pretexts=dict(image_text=dict(type="ImageText")))}


@pytest.mark.parametrize(
    ("arguments", "path", "text"),
    [
        (dict(model="ViT-B32"), "model", "ViT-B-32"),
        (dict(model="ViT-B-32-quickgelu", quick_gelu=False, preprocess=None), "quick_gelu", "contradicts"),
        (dict(model={"embed_dim": 8}), "model.vision_cfg", "needs this dict"),
        (dict(model={**models.VIT, "embed_dim": 0}), "model.embed_dim", "at least 1"),
        (dict(model={**models.VIT, "vison_cfg": {}}), "model.vison_cfg", "vision_cfg"),
        (dict(model=changed("vision_cfg", head_dim=8)), "model.vision_cfg.head_dim", "head_width"),
        (dict(model=changed("vision_cfg", head_width=12)), "model.vision_cfg.head_width", "does not divide width = 32"),
        (dict(model=changed("vision_cfg", patch_size=7)), "model.vision_cfg.image_size", "not divisible by patch_size"),
        (dict(model=changed("vision_cfg", layers=0)), "model.vision_cfg.layers", "at least 1"),
        (dict(model=changed("vision_cfg", layers=[1, 1])), "model.vision_cfg.layers", "four stages"),
        (dict(model=changed("vision_cfg", timm_model_name="resnet_50")), "timm_model_name", "resnet50"),
        (dict(model=changed("vision_cfg", pool_type="cls")), "model.vision_cfg.pool_type", "'tok'"),
        (dict(model=changed("text_cfg", heads=3)), "model.text_cfg.heads", "does not divide width = 32"),
        (dict(model=changed("text_cfg", pool_type="mean")), "model.text_cfg.pool_type", "'argmax'"),
        (dict(model=changed("text_cfg", vocab_size=1)), "model.text_cfg.vocab_size", "at least 2"),
        (dict(model=changed("text_cfg", hf_config=dict(hidden_size=8))), "hf_config", "model_type"),
        (dict(model=models.RESNET, image_size=72, preprocess=None), "model.vision_cfg.image_size", "multiple of 32"),
        (dict(model=models.VIT, image_size=0), "image_size", "positive"),
        (dict(model=models.VIT, image_size=40), "preprocess", "makes images of"),
        (dict(model=models.VIT, in_channels=4), "preprocess", "3 band means, but in_channels = 4"),
        (dict(model="ViT-B-32", in_channels=4, preprocess=None), "preprocess", "must be given for in_channels = 4"),
        (dict(model=models.VIT, in_channels=0), "in_channels", "at least 1"),
        (dict(model=models.VIT, out_indices=(3,)), "out_indices", "between -3 and 2"),
    ],
)
def test_faults_are_found_in_the_config_and_when_building(arguments, path, text):
    found = [str(fault) for fault in validate_config(whole(**arguments), training=False)]
    assert any(path in fault and text in fault for fault in found), found
    with pytest.raises(ConfigError) as caught:
        CLIP(**{"preprocess": models.record(models.VIT), **arguments})
    assert path in str(caught.value) and text in str(caught.value)


def test_a_good_config_has_no_faults():
    assert validate_config(whole(model=models.VIT), training=False) == []
    assert validate_config(whole(model="ViT-B-32", preprocess=None), training=False) == []


@pytest.mark.parametrize(
    ("model", "tokenizer", "text"),
    [
        (changed("text_cfg", vocab_size=10), models.words(), "its vocab_size is 13, the text tower's 10"),
        (changed("text_cfg", context_length=6), models.words(), "its context_length is 8, the text tower's 6"),
        (changed("text_cfg", pool_type="eos"), models.words(), "end token is 12, the text tower looks for eos_id = 2"),
        (models.HF, models.words(), None),
        (
            {**models.HF, "text_cfg": dict(models.HF["text_cfg"], hf_config=dict(models.XLM_R, pad_token_id=1))},
            dict(type="ByteTokenizer", context_length=36),
            "its padding is 0, the text tower's pad_token_id 1",
        ),
        (models.HF, dict(type="ByteTokenizer", context_length=64), "context_length is 64, the text tower's 40"),
    ],
)
def test_a_tokenizer_must_fit_the_tower(model, tokenizer, text):
    if text is None:
        models.build(model, preprocess=models.record(model, tokenizer))
        return
    with pytest.raises(ConfigError, match=text):
        CLIP(model, preprocess=models.record(model, tokenizer))


def test_names_are_resolved_with_their_activation():
    named = clip_config.resolve("ViT-B/32", None)
    assert named["quick_gelu"] is False and named["explicit_gelu"] is False
    assert clip_config.resolve("ViT-B-32-quickgelu", None)["explicit_gelu"] is True
    assert clip_config.resolve("ViT-B-32", True)["quick_gelu"] is True
    assert "RN50" in clip_config.model_names() and len(clip_config.model_names()) > 100


def test_every_model_of_open_clip_resolves_without_faults():
    sizes = {}
    for name in clip_config.model_names():
        if name.startswith(("nllb", "mt5")):
            continue  # described by the hub alone
        cfg = clip_config.resolve(name, None)
        assert list(clip_config.faults_of(cfg)) == [], name
        sizes[name] = cfg["text_cfg"]["hf_config"]
    assert sizes["xlm-roberta-base-ViT-B-32"]["vocab_size"] == 250002


def test_nobody_downloads_unless_asked_to():
    cfg = clip_config.resolve("xlm-roberta-base-ViT-B-32", None)
    assert cfg["text_cfg"]["hf_model_pretrained"] is False
    arguments = signature_of(CLIP).arguments
    assert arguments["model"].required and arguments["quick_gelu"].default is None


@pytest.mark.slow
def test_xlm_r_of_rs_m_clip_is_built_without_the_network():
    record = dict(type="ImagePreprocess", size=224)
    backbone = CLIP("xlm-roberta-base-ViT-B-32", preprocess=record)
    assert sum(p.numel() for p in backbone.parameters()) == 366_121_473
    assert backbone.text.transformer.embeddings.word_embeddings.weight.shape == (250002, 768)


def test_a_default_record_names_the_tokenizer_of_the_model():
    small = clip_config.default_record(clip_config.resolve("ViT-B-32", None))
    assert small["tokenizer"] == {"type": "CLIPTokenizer", "context_length": 77} and small["size"] == 224
    assert small["mean"] == clip_config.CLIP_MEAN
    siglip = clip_config.default_record(clip_config.resolve("ViT-B-16-SigLIP", None))
    assert siglip["tokenizer"]["name"] == "timm/ViT-B-16-SigLIP" and siglip["tokenizer"]["clean"] == "canonicalize"
    assert siglip["mean"] == (0.5, 0.5, 0.5) and siglip["tokenizer"]["context_length"] == 64
    xlm = clip_config.default_record(clip_config.resolve("xlm-roberta-base-ViT-B-32", None))
    assert xlm["tokenizer"]["name"] == "xlm-roberta-base" and xlm["tokenizer"]["context_length"] == 77
