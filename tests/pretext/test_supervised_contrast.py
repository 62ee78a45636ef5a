"""The pretext on batches of one view and of several, with labels and without."""

from __future__ import annotations

import pytest
import torch
from tiny_speech import tiny

from perception.config import load_config
from perception.errors import ConfigError, DataError
from perception.losses.supervised_contrast import LOSSES, supervised_contrast
from perception.pretext.supervised_contrast import SupervisedContrast
from perception.registry import BACKBONES, DATASETS, MODELS

VIEWS = [dict(type="MultiCrop", size=8, local_views=0, turn=False, interpolation="bilinear")]


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return BACKBONES.build(load_config("image/mae_vit-tiny_digits").model.backbone.to_dict()).eval()


def samples(backbone, transforms=()):
    data = DATASETS.build(dict(type="Digits", split="train", transforms=list(transforms)))
    return backbone.preprocess(data.__getitems__(range(12)))


def build(backbone, **options):
    torch.manual_seed(1)
    pretext = SupervisedContrast(**{"projection_dim": 16, **options})
    pretext.attach(backbone)
    return pretext


@pytest.mark.parametrize("name", LOSSES)
def test_one_view_is_the_loss_of_the_projected_features(backbone, name):
    batch = {**samples(backbone), "speaker": torch.arange(12) % 3}
    pretext = build(backbone, loss=name, group_key="speaker")
    projected = pretext.head.projection(backbone.encode(batch))
    assert projected.shape == (12, 16)
    expected = supervised_contrast(name, projected, batch["label"], groups=batch["speaker"])
    losses = pretext(backbone, batch)
    torch.testing.assert_close(losses["loss"], expected)
    losses["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in backbone.parameters())


def test_views_are_contrasted_view_by_view(backbone):
    batch = samples(backbone, VIEWS)
    first, second = (backbone.encode({"image": view}) for view in batch["views"])
    for supervised in (True, False):
        pretext = build(backbone, supervised=supervised, options={"temperature": 0.2})
        projected = torch.stack([pretext.head.projection(x) for x in (first, second)], dim=1)
        labels = batch["label"] if supervised else None
        expected = supervised_contrast("supcon", projected, labels, temperature=0.2)
        torch.testing.assert_close(pretext(backbone, batch)["loss"], expected)


def test_views_of_waveforms_are_contrasted_without_their_padding():
    """Windows of clips that are shorter than the window: each view counts for its real samples alone."""
    torch.manual_seed(0)
    encoder = tiny("group", preprocess=dict(type="SpeechPreprocess", sample_rate=8000)).eval()
    record = dict(type="SpeechViews", crop_seconds=2.0)
    data = DATASETS.build(
        dict(type="SpokenVarieties", split="train", speakers=4, sample_rate=8000, transforms=[record])
    )
    batch = encoder.preprocess(data.__getitems__(range(6)))
    views, lengths = batch["views"], batch["view_lengths"]
    assert views[0].shape == (6, 16000) and lengths[0].max() < 16000 and len(set(lengths[0].tolist())) > 3
    alone = [
        torch.cat([encoder.encode({"audio": clip[None, :n]}) for clip, n in zip(view, length, strict=True)])
        for view, length in zip(views, lengths, strict=True)
    ]
    pretext = build(encoder, supervised=False, options={"temperature": 0.2})
    projected = torch.stack([pretext.head.projection(x) for x in alone], dim=1)
    expected = supervised_contrast("supcon", projected, None, temperature=0.2)
    torch.testing.assert_close(pretext(encoder, batch)["loss"], expected, atol=1e-4, rtol=1e-4)


def test_fairkl_and_positives_across_groups(backbone):
    batch = {**samples(backbone), "speaker": torch.arange(12) % 3, "label": torch.arange(12) // 6}
    pretext = build(backbone, fairkl=0.5, group_key="speaker", across_groups=True)
    projected = pretext.head.projection(backbone.encode(batch))
    losses = pretext(backbone, batch)
    labels, groups = batch["label"], batch["speaker"]
    mined = supervised_contrast("supcon", projected, labels, groups=groups, across_groups=True)
    torch.testing.assert_close(losses["loss"], mined)
    # FairKL compares with pairs of one group as well, whatever is mined.
    torch.testing.assert_close(
        losses["fairkl_loss"], 0.5 * supervised_contrast("fairkl", projected, labels, groups=groups)
    )


def test_what_is_missing_is_named(backbone):
    batch = samples(backbone)
    with pytest.raises(DataError, match=r"learns from labels.*supervised=False"):
        build(backbone)(backbone, {"image": batch["image"]})
    with pytest.raises(DataError, match="two views or more"):
        build(backbone, supervised=False)(backbone, batch)
    with pytest.raises(DataError, match="group_key = 'speaker'"):
        build(backbone, group_key="speaker")(backbone, batch)
    with pytest.raises(ConfigError, match=r"options\.margin"):
        SupervisedContrast(options={"margin": 0.1})
    with pytest.raises(ConfigError, match="anchors"):
        SupervisedContrast(anchors="first")


def test_it_trains_a_backbone_of_a_config():
    cfg = load_config("image/mae_vit-tiny_digits").model.to_dict()
    cfg["pretexts"] = dict(supcon=dict(type="SupervisedContrast", options=dict(temperature=0.2)))
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    data = DATASETS.build(dict(type="Digits", split="train")).__getitems__(range(64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for _ in range(15):
        losses = model(*model.data_preprocessor(data), mode="loss")
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        found.append((float(losses["loss"].detach()), float(losses["class_gap"])))
    assert found[-1][0] < found[0][0] - 0.3 and found[-1][1] > found[0][1] + 0.2
