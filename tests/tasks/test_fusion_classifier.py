"""Fusion of a backbone, texts and stored features, held against its parts; and the whole road of a run."""

import csv
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from perception.config import plain
from perception.engine.api import train
from perception.errors import ConfigError, DataError
from perception.registry import BACKBONES, MODELS
from perception.validation import validate_config

VIT = dict(
    type="VideoViT",
    image_size=16,
    frames=4,
    patch_size=8,
    embed_dim=24,
    depth=1,
    num_heads=2,
    preprocess=dict(type="VideoPreprocess", size=16, frames=4, stride=1),
)
TEXTS = ["pull back", "good", "cut there", "pull the left arm"]


def build(**options):
    torch.manual_seed(0)
    cfg = dict(type="FusionClassifier", backbone=VIT, text_encoder=dict(type="HashingTfidf", dim=32))
    return MODELS.build({**cfg, **options})


def batch(n=4):
    clips = torch.randint(0, 256, (n, 3, 4, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return {
        "video": clips,
        "text": TEXTS[:n],
        "label": torch.arange(n) % 2,
        "index": torch.arange(n),
        "video_index": torch.arange(n),
        "cluster": torch.arange(n) // 2,
    }


class Texts:
    texts = (*TEXTS, "")


def prepared(model, data, training=True):
    return model.data_preprocessor(data, training)[0]


def test_the_loss_is_weighted_by_class():
    class Rare(Texts):
        targets = np.array([0, 0, 0, 1, -1])

        def __len__(self):
            return 5

    data = {**batch(), "label": torch.tensor([0, 0, 1, -1])}
    for given, weights in (("balanced", (2 / 3, 2.0)), ([1, 5], (1.0, 5.0))):  # 4 / (2 x 3) and 4 / (2 x 1)
        model = build(class_weights=given).eval()
        model.fit_to(Rare())
        ready = prepared(model, data)
        expected = F.cross_entropy(model.logits(ready)[:3], data["label"][:3], weight=torch.tensor(weights))
        assert torch.allclose(model(ready)["loss"], expected)
    with pytest.raises(ConfigError, match=r"class_weights.*positive"):
        build(class_weights=[1, 0])


def test_it_is_the_head_on_the_features_of_its_parts():
    model = build().eval()
    model.fit_to(Texts)
    data = batch()
    found = model(prepared(model, data), mode="predict")
    vit = BACKBONES.build(VIT)
    vit.load_state_dict(model.backbone.state_dict())
    parts = {"video": vit.embed(data), "text": model.text_encoder(TEXTS)}
    torch.testing.assert_close(found["logits"], model.head(parts))
    assert found["group"].tolist() == [0, 1, 2, 3] and found["cluster"].tolist() == [0, 0, 1, 1]
    losses = model(prepared(model, data))
    assert losses["loss"].item() == pytest.approx(F.cross_entropy(found["logits"], data["label"]).item(), abs=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_freezing(frozen):
    model = build(freeze_encoder=frozen).train()
    model.fit_to(Texts)
    assert model.backbone.training != frozen
    model(prepared(model, batch()))["loss"].backward()
    inside = [p.grad is not None and bool(p.grad.any()) for n, p in model.backbone.named_parameters() if "k_" not in n]
    assert not any(inside) if frozen else sum(inside) > 5
    assert all(p.grad is not None for p in model.head.parameters())


def test_single_branches_are_special_cases():
    video = build(branches=dict(video=[512, 256]), joint=[], text_encoder=None)
    assert [tuple(p.shape) for n, p in video.head.named_parameters() if "weight" in n] == [
        (512, 24),
        (256, 512),
        (2, 256),
    ]
    text = build(branches=dict(text=[256, 128]), joint=[], backbone=None)
    text.fit_to(Texts)
    data = {key: value for key, value in batch().items() if key != "video"}
    assert text(prepared(text, data), mode="predict")["logits"].shape == (4, 2) and text.backbone is None


def test_stored_features_equal_the_encoder_that_made_them():
    model = build().eval()
    model.fit_to(Texts)
    data = batch()
    stored = build(backbone=None, stored=dict(video=24, text=32), text_encoder=None).eval()
    stored.head.load_state_dict(model.head.state_dict())
    kept = {
        "video_features": model.backbone.embed(data),
        "text_features": model.text_encoder(TEXTS),
        "label": data["label"],
    }
    torch.testing.assert_close(stored.logits(prepared(stored, kept)), model.logits(prepared(model, data)))
    with pytest.raises(DataError, match=r"but model\.stored says 24"):
        stored.logits({**kept, "video_features": torch.zeros(4, 5)})


def test_missing_texts():
    data = {**batch(), "text_missing": torch.tensor([False, True, False, True])}
    model = build()
    model.fit_to(Texts)
    with pytest.raises(DataError, match="'text' is missing in 2 of 4 samples"):
        model.logits(prepared(model, data))
    model = build(null_vectors=True).eval()
    model.fit_to(Texts)
    changed = {**data, "text": [t if i % 2 == 0 else "anything" for i, t in enumerate(TEXTS)]}
    assert torch.equal(model.logits(prepared(model, data)), model.logits(prepared(model, changed)))


def test_word_weights_are_fitted_once_and_saved():
    model = build()
    with pytest.raises(ConfigError, match="never fitted"):
        model.logits(prepared(model, batch()))
    model.fit_to(Texts)
    idf = model.text_encoder.idf.clone()
    assert int(model.text_encoder.documents) == 4  # the empty text is no document
    model.fit_to(type("Other", (), {"texts": ["new words"] * 9}))
    assert torch.equal(model.text_encoder.idf, idf)
    again = build()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.text_encoder.idf, idf) and again.text_encoder.fitted
    with pytest.raises(DataError, match="has no 'texts'"):
        build().fit_to([1, 2])


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        (dict(text_encoder=None), "model.branches", "nothing gives features for 'text': there are features of video"),
        (dict(stored=dict(vidoe=3)), "model.stored", "nearest is 'video'"),
        (dict(stored=dict(video=0)), "model.stored", "whole number"),
        (dict(norm="layr"), "model.norm", "nearest is 'layer'"),
        (dict(feature="gpa"), "model.feature", "meant gap"),
        (dict(branch_dropout=0.7), "model.branch_dropout", "not exceed 1"),
        (dict(text_encoder=dict(type="HashingTfidff")), "model.text_encoder.type", "no text encoder"),
        (dict(text_encoder=dict(type="HashingTfidf", dim=0)), "model.text_encoder.dim", "at least 1"),
    ],
)
def test_faults(options, path, message):
    cfg = dict(type="FusionClassifier", backbone=VIT, text_encoder=dict(type="HashingTfidf"), **{})
    faults = validate_config(dict(model={**cfg, **options}), training=False)
    assert any(fault.path == path and message in str(fault) + str(fault.nearest) for fault in faults), list(
        map(str, faults)
    )


def test_a_source_that_no_branch_reads():
    with pytest.raises(ConfigError, match=r"model.backbone = 'video': no branch reads it"):
        build(branches=dict(text=[4]))
    with pytest.raises(ConfigError, match="'text' is stored"):
        build(stored=dict(text=5))


@pytest.fixture
def table(tmp_path):
    """40 rows of 8 groups; the stored feature tells the label, the text does not."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40)
    np.savez(tmp_path / "v.npz", features=(random.normal(0, 0.3, (40, 6)) + labels[:, None]).astype(np.float32))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        rows = [[f"{i}.mp4", label, f"g{i % 8}", "pull back" if i % 3 else "good"] for i, label in enumerate(labels)]
        csv.writer(file).writerows([["path", "label", "group", "text"], *rows])
    return tmp_path


def run_config(folder, **model):
    data = dict(
        type="VideoTable",
        table=str(folder / "t.csv"),
        label="label",
        group="group",
        text="text",
        video=False,
        features=dict(video=str(folder / "v.npz")),
        folds=4,
    )
    cfg = dict(type="FusionClassifier", stored=dict(video=6), text_encoder=dict(type="HashingTfidf", dim=16))
    return dict(
        model={**cfg, **model},
        train_dataloader=dict(batch_size=8, dataset={**data, "split": "train"}, sampler=dict(type="BalancedSampler")),
        val_dataloader=dict(batch_size=16, dataset={**data, "split": "val"}),
        test_dataloader=dict(batch_size=16, dataset={**data, "split": "test"}),
        val_evaluator=[dict(type="AUROC", resamples=0)],
        test_evaluator=[dict(type="AUROC"), dict(type="BinaryScores")],
        train_cfg=dict(type="TrainLoop", max_epochs=6),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01)),
        custom_hooks=[dict(type="TrainPlateau", patience=2)],
    )


def test_a_run_from_a_table_to_its_figures(table):
    cfg = run_config(table)
    assert validate_config(cfg) == []
    train(plain(cfg), table / "run", seed=0)
    found = json.loads((table / "run" / "metrics.json").read_text())["test"]
    assert found["auroc/value"] > 0.9 and found["auroc/low"] <= found["auroc/value"] <= found["auroc/high"]
    assert found["auroc/n"] == found["binary/n"] == 10 and found["auroc/groups"] == 2  # two groups of five rows
    assert found["binary/tp"] + found["binary/fn"] + found["binary/fp"] + found["binary/tn"] == 10
    bad = run_config(table)
    bad["val_dataloader"]["sampler"] = dict(type="BalancedSampler")
    with pytest.raises(ConfigError, match="for training alone"):
        train(plain(bad), table / "bad", seed=0)
