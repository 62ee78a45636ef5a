"""Cross-entropy and contrast together: what each reaches, and that weight 0 is cross-entropy alone."""

from __future__ import annotations

import pytest
import torch
from test_classifier import Tiny, batch, prepare
from torch import nn

from perception.config import load_config
from perception.engine.api import train
from perception.errors import DataError
from perception.losses.supervised_contrast import supervised_contrast
from perception.registry import MODELS
from perception.tasks.classifier import Classifier
from perception.tasks.contrastive_classifier import ContrastiveClassifier


def build(**options):
    torch.manual_seed(1)
    return ContrastiveClassifier(Tiny(), 3, **{"projection_dim": 4, "options": {"temperature": 0.3}, **options})


def test_losses_are_the_two_terms_on_the_same_features():
    model = build(weight=0.25).eval()
    data = prepare(model, batch())
    losses = model(data)
    h = model.backbone.body(data["image"])
    w1, b1, w2, b2 = model.contrast.projection.parameters()
    g = torch.relu(h @ w1.T + b1) @ w2.T + b2
    assert w1.shape == (6, 6) and w2.shape == (4, 6)
    torch.testing.assert_close(losses["ce_loss"], nn.functional.cross_entropy(model.head(h), data["label"]))
    expected = 0.25 * supervised_contrast("supcon", g, data["label"], temperature=0.3)
    torch.testing.assert_close(losses["contrast_loss"], expected)
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, losses["ce_loss"] + expected)
    assert log["loss"] is total and -2 < float(losses["class_gap"]) < 2
    assert set(model(data, "predict")) == {"logits", "label", "index"}


@pytest.mark.parametrize("loss", ["supcon", "eps-supinfonce", "multi-similarity", "triplet", "fairkl"])
def test_the_contrast_reaches_the_backbone_and_its_projection_but_not_the_classifier(loss):
    model = build(loss=loss, options={}, group_key="speaker")
    data = {**prepare(model, batch()), "speaker": torch.arange(8) // 4}
    model(data)["contrast_loss"].backward()
    assert model.head.weight.grad is None and model.head.bias.grad is None
    assert model.backbone.body[0].weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in model.contrast.projection[0].parameters())


def test_fairkl_stands_beside_the_loss():
    model = build(weight=0.5, fairkl=2.0, group_key="speaker").eval()
    data = {**prepare(model, batch()), "speaker": torch.arange(8) // 4}
    g = model.contrast.projection(model.backbone.body(data["image"]))
    expected = 0.5 * 2.0 * supervised_contrast("fairkl", g, data["label"], groups=data["speaker"])
    torch.testing.assert_close(model(data)["fairkl_loss"], expected)
    with pytest.raises(DataError, match="group_key = 'speaker': in the batch it is not one of image, index, label"):
        model(prepare(model, batch()))


def test_nodes_of_the_split_alone_are_contrasted():
    model = build().eval()
    data = {**batch(), "mask": torch.tensor([1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.bool)}
    data["label"][1] = -1
    inside = prepare(model, data)
    kept = {key: value[data["mask"]] for key, value in data.items() if key != "mask"}
    torch.testing.assert_close(model(inside)["contrast_loss"], model(prepare(model, kept))["contrast_loss"])


def test_mixed_labels_are_refused():
    model = build()
    data = {**batch(), "label": torch.full((8, 3), 1 / 3)}
    with pytest.raises(DataError, match="leave Mix out"):
        model(prepare(model, data))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "subcon"}, "nearest is 'supcon'"),
        ({"options": {"temprature": 0.1}}, "nearest is 'temperature'"),
        ({"options": {"temperature": 0.0}}, "must be positive"),
        ({"weight": -1.0}, "must not be negative"),
        ({"across_groups": True}, "need the key of the groups"),
        ({"num_classes": 1}, "at least 2"),
    ],
)
def test_faults_are_named(options, message):
    arguments = {"num_classes": 3, "backbone": Tiny(), "norm": None, "dropout": 0.0, "label_smoothing": 0.0}
    arguments["class_weights"] = None
    rest = {"init_std": 0.01, "feature": None, "loss": "supcon", "options": None, "hidden_dim": None, "fairkl": 0.0}
    more = {"projection_dim": 4, "anchors": "all", "group_key": None, "across_groups": False, "weight": 0.5}
    faults = list(ContrastiveClassifier.check_config({**arguments, **rest, **more, **options}))
    assert len(faults) == 1 and message in faults[0][1]


def curve(folder, model):
    cfg = load_config("image/finetune_vit-tiny_digits")
    cfg.model.update(model)
    cfg.model.backbone.drop_path_rate = 0.2
    cfg.model.dropout = 0.3
    cfg.optim_wrapper.clip_grad = 1.0
    cfg.train_cfg.max_epochs = 2
    cfg.default_hooks.scalars.interval = 1
    train(cfg, folder, seed=3)
    from perception.cli._pictures import read_scalars

    return [(line["step"], line["loss"]) for line in read_scalars(folder / "scalars.jsonl") if "loss" in line]


def test_weight_0_is_cross_entropy_alone_to_the_last_bit(tmp_path):
    """Same seed, same loss curve, with dropout, stochastic depth and clipped gradients."""
    alone = curve(tmp_path / "ce", {})
    joint = curve(tmp_path / "w0", {"type": "ContrastiveClassifier", "weight": 0.0})
    assert len(alone) > 10 and joint == alone
    other = curve(tmp_path / "w1", {"type": "ContrastiveClassifier", "weight": 1.0})
    assert other[0][1] != alone[0][1]


def test_both_build_from_configs_with_the_same_start():
    cfg = load_config("image/finetune_vit-tiny_digits").model.to_dict()
    torch.manual_seed(0)
    plain = MODELS.build(cfg)
    after = torch.rand(1)
    torch.manual_seed(0)
    joint = MODELS.build({**cfg, "type": "ContrastiveClassifier"})
    assert torch.equal(torch.rand(1), after) and isinstance(plain, Classifier)
    state = joint.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
