"""The classifier against hand-computed losses, with a backbone small enough to follow by eye."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from perception.backbones.base import Backbone
from perception.config import load_config
from perception.engine.api import train
from perception.errors import ConfigError, DataError
from perception.tasks.classifier import Classifier, check_labels, classification_loss
from perception.tasks.contrastive_classifier import ContrastiveClassifier
from perception.tasks.ensemble_classifier import EnsembleClassifier
from perception.transforms.preprocess import Preprocess
from perception.validation import validate_config


@dataclass(frozen=True)
class Halve(Preprocess):
    """Halves the values, so that a forgotten record shows."""

    modality = "image"

    def __call__(self, batch):
        return {**batch, "image": batch["image"].float() / 2}


class Tiny(Backbone):
    modality = "image"

    def __init__(self):
        super().__init__(Halve())
        self.embed_dims = 6
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))

    def forward(self, x):
        return (self.body(x),)

    def encode(self, batch, feature=None):
        return self.body(batch["image"])


def batch(n=8, classes=3):
    torch.manual_seed(0)
    return {"image": torch.randn(n, 4), "label": torch.arange(n) % classes, "index": torch.arange(n)}


def prepare(model, data, training=True):
    return model.data_preprocessor(data, training)[0]


def test_loss_is_the_mean_over_labelled_rows():
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0], [math.log(9), 0.0]])
    losses = classification_loss(logits, torch.tensor([1, -1, 1]))
    # Row 0: p = 3/4. Row 1 is unlabelled. Row 2: p = 1/10.
    assert losses["loss"].item() == pytest.approx((-math.log(0.75) - math.log(0.1)) / 2, abs=1e-6)
    assert losses["accuracy"].item() == 0.5


def test_a_batch_without_labelled_rows_gives_zero_and_no_nan():
    logits = torch.randn(3, 2, requires_grad=True)
    losses = classification_loss(logits, torch.full((3,), -1))
    losses["loss"].backward()
    assert losses["loss"].item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_smoothing_moves_mass_to_the_uniform_distribution():
    logits = torch.tensor([[0.0, math.log(3)]])
    expected = -(0.9 + 0.05) * math.log(0.75) - 0.05 * math.log(0.25)
    hard = classification_loss(logits, torch.tensor([1]), smoothing=0.1)["loss"]
    soft = classification_loss(logits, torch.tensor([[0.05, 0.95]]))["loss"]
    assert hard.item() == pytest.approx(expected, abs=1e-6)
    assert soft.item() == pytest.approx(expected, abs=1e-6)


def test_soft_labels_equal_hard_ones_when_they_are_one_hot():
    logits, label = torch.randn(5, 4), torch.tensor([0, 3, 2, 1, 0])
    one_hot = nn.functional.one_hot(label, 4).float()
    assert torch.allclose(classification_loss(logits, label)["loss"], classification_loss(logits, one_hot)["loss"])


def test_frozen_backbone_keeps_every_parameter_and_buffer_under_training():
    model = Classifier(Tiny(), num_classes=3, frozen=True).train()
    assert not any(module.training for module in model.backbone.modules())
    assert model.head.training
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    losses = model(prepare(model, batch()), "loss")
    losses["loss"].backward()
    assert all(torch.equal(before[k], v) for k, v in model.backbone.state_dict().items())
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.head.weight.grad.abs().sum() > 0


def test_a_full_backbone_learns():
    model = Classifier(Tiny(), num_classes=3).train()
    assert model.backbone.training
    model(prepare(model, batch()), "loss")["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


class TwoTowers(Tiny):
    """``wide`` has 4 columns; ``words`` and ``scale`` belong to texts."""

    unused_by_encode = ("words", "scale", "absent")

    def __init__(self):
        super().__init__()
        self.words, self.scale = nn.Linear(3, 6), nn.Parameter(torch.ones(()))

    @classmethod
    def feature_choices(cls):
        return ("pooled", "wide")

    def feature_dims(self, feature=None):
        return 4 if feature == "wide" else 6

    def encode(self, batch, feature=None):
        return batch["image"] if feature == "wide" else super().encode(batch)


def test_the_head_is_as_wide_as_the_feature():
    model = Classifier(TwoTowers(), 3, feature="wide", norm="layer")
    assert model.head.weight.shape == (3, 4) and model.norm.weight.shape == (4,)
    assert model.logits(prepare(model, batch())).shape == (8, 3)
    assert Classifier(TwoTowers(), 3).head.weight.shape == (3, 6)


def test_a_text_tower_is_left_as_it_is():
    model = Classifier(TwoTowers(), 3)
    still = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert still == {"backbone.words.weight", "backbone.words.bias", "backbone.scale"}
    model(prepare(model, batch()), mode="loss")["loss"].backward()
    # What is to be trained gets a gradient, all of it, so that no rank waits for one that never comes.
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert "backbone.words.weight" in model.state_dict()


def test_the_preprocess_record_is_applied_and_prediction_is_deterministic():
    model = Classifier(Tiny(), num_classes=3).eval()
    data = batch()
    (found,) = model.val_step(data)
    expected = model.head(model.backbone.body(data["image"] / 2))
    assert torch.allclose(found["logits"], expected, atol=1e-6)
    assert torch.equal(found["label"], data["label"])
    assert torch.equal(found["index"], data["index"])
    assert torch.equal(model.test_step(data)[0]["logits"], found["logits"])


def test_mask_selects_the_nodes_of_the_split():
    model = Classifier(Tiny(), num_classes=3).eval()
    data = batch()
    mask = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
    whole = model(prepare(model, data), "predict")
    part = model(prepare(model, {**data, "mask": mask}), "predict")
    assert torch.equal(part["logits"], whole["logits"][mask])
    assert part["index"].tolist() == [0, 3, 5]
    loss = model(prepare(model, {**data, "mask": mask}), "loss")["loss"]
    assert torch.allclose(loss, nn.functional.cross_entropy(part["logits"], data["label"][mask]))


def test_norms_of_the_head():
    layer = Classifier(Tiny(), num_classes=3, norm="layer").eval()
    features = layer.backbone.encode(prepare(layer, batch(), False))
    assert torch.allclose(layer.norm(features).mean(1), torch.zeros(8), atol=1e-6)
    probe = Classifier(Tiny(), num_classes=3, norm="batch", frozen=True)
    assert probe.norm.weight is None and probe.norm.eps == 1e-6


@pytest.mark.parametrize(
    ("label", "mask", "words"),
    [
        (torch.tensor([0, 7, 1]), None, ["label 7", "sample 11", "0..2"]),
        (torch.tensor([0, 7, 9]), torch.tensor([True, False, True]), ["label 9", "node 2"]),
        (torch.zeros(3, 2), None, ["(3, 2)", "3 classes"]),
        (torch.zeros(3, 2, dtype=torch.int64), None, ["(3, 2)"]),
    ],
)
def test_impossible_labels_are_named(label, mask, words):
    data = {"label": label, "index": torch.tensor([10, 11, 12])}
    if mask is not None:
        data["mask"] = mask
    with pytest.raises(DataError) as error:
        check_labels(data, 3)
    assert all(word in str(error.value) for word in words)


def test_labels_outside_the_mask_and_unlabelled_rows_are_not_faults():
    check_labels({"label": torch.tensor([5, 0, -1]), "mask": torch.tensor([False, True, True])}, 3)


def test_training_without_labels_is_refused_and_prediction_is_not():
    model = Classifier(Tiny(), num_classes=3).eval()
    data = {"image": torch.randn(2, 4)}
    with pytest.raises(DataError, match="image"):
        model.data_preprocessor(data, True)
    assert set(model.val_step(data)[0]) == {"logits"}


def config(**changed):
    defaults = {
        "backbone": {},
        "num_classes": 3,
        "feature": None,
        "norm": None,
        "dropout": 0.0,
        "label_smoothing": 0.0,
        "frozen": False,
        "init_std": 0.01,
        "class_weights": None,
    }
    return {**defaults, **changed}


def test_check_config_accepts_a_sound_config():
    assert list(Classifier.check_config(config())) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_classes", 1), ("norm", "group"), ("dropout", 1.0), ("label_smoothing", -0.1), ("init_std", 0)]
    + [
        ("class_weights", wrong)
        for wrong in ([1, 2], [1, 2, 0], [1, -2, 3], [1, 2, float("nan")], "balance", [1, 1, "2"])
    ],
)
def test_check_config_names_the_key(key, value):
    assert [found for found, _ in Classifier.check_config(config(**{key: value}))] == [key]


WEIGHTS = torch.tensor([0.5, 3.0, 1.25])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_losses_are_those_of_torch(smoothing):
    torch.manual_seed(3)
    logits, label = torch.randn(7, 3, requires_grad=True), torch.tensor([0, 1, -1, 2, 2, -7, 0])
    found = classification_loss(logits, label, smoothing, WEIGHTS)
    rows = label >= 0
    expected = nn.functional.cross_entropy(logits[rows], label[rows], weight=WEIGHTS, label_smoothing=smoothing)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    mine, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found["loss"], expected))
    assert torch.allclose(mine, theirs, atol=1e-7)
    assert found["accuracy"] == classification_loss(logits, label)["accuracy"]


def test_the_weighted_loss_is_the_weighted_mean():
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0], [math.log(9), 0.0], [0.0, 0.0]])
    loss = classification_loss(logits, torch.tensor([1, -1, 1, 0]), weights=torch.tensor([4.0, 1.0]))["loss"]
    # p = 3/4 and 1/10 with weight 1, p = 1/2 with weight 4.
    assert loss.item() == pytest.approx((-math.log(0.75) - math.log(0.1) - 4 * math.log(0.5)) / 6, abs=1e-6)
    logits = torch.randn(3, 3, requires_grad=True)
    nothing = classification_loss(logits, torch.full((3,), -1), 0.1, WEIGHTS)["loss"]
    nothing.backward()
    assert nothing.item() == 0 and torch.equal(logits.grad, torch.zeros(3, 3))


def test_soft_labels_have_no_weights():
    with pytest.raises(DataError, match=r"class_weights needs hard labels.*BalancedSampler"):
        classification_loss(torch.randn(2, 3), torch.full((2, 3), 1 / 3), weights=WEIGHTS)


class Labelled:
    """Four samples of class 0, one of class 1, three of class 2, two without a label."""

    classes = ("wave", "bend", "jump")
    targets = np.array([0, 2, 0, -1, 2, 0, 1, 0, 2, -1])

    def __len__(self):
        return len(self.targets)


def classifiers(**options):
    yield Classifier(Tiny(), 3, **options)
    yield EnsembleClassifier(TwoTowers(), 3, ("pooled", "wide"), **options)
    yield ContrastiveClassifier(Tiny(), 3, weight=0.0, projection_dim=4, **options)


def test_given_weights_reach_the_loss_of_every_classifier():
    for plain, weighted in zip(classifiers(), classifiers(class_weights=[0.5, 3, 1.25]), strict=True):
        weighted.load_state_dict(plain.state_dict())  # weights are no part of a checkpoint
        name = "ce_loss" if isinstance(plain, ContrastiveClassifier) else "loss"
        data = {**batch(), "label": torch.tensor([0, 0, 2, 1, 2, -1, 0, 0])}
        logits = plain.eval().logits(prepare(plain, data))
        known = data["label"] >= 0
        found = weighted.eval()(prepare(weighted, data))[name]
        assert torch.allclose(found, nn.functional.cross_entropy(logits[known], data["label"][known], weight=WEIGHTS))
        assert not torch.allclose(found, plain(prepare(plain, data))[name])
        weighted.fit_to(None)  # given ones need no training set
        assert torch.equal(weighted.class_weights(), WEIGHTS)


def test_balanced_weights_are_counted_in_the_training_set():
    for model in classifiers(class_weights="balanced"):
        with pytest.raises(ConfigError, match="fit_to"):
            model(prepare(model, batch()))
        model.fit_to(Labelled())
        assert model.class_weights().tolist() == pytest.approx([8 / (3 * 4), 8 / (3 * 1), 8 / (3 * 3)])
        data = Labelled()
        data.targets = np.array([0, 1, 2])
        model.fit_to(data)  # another training set, another balance
        assert model.class_weights().tolist() == [1.0, 1.0, 1.0]
        assert not any("class_weights" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 0, 2, -1], "no training sample is of class bend"),
        ([0, 1, 2, 3], "a label 3, 3 classes"),
        (np.eye(3), "no 'targets' or 'labels' with one class number a sample; give numbers"),
    ],
)
def test_balanced_weights_that_cannot_be(targets, words):
    data = Labelled()
    data.targets = np.array(targets)
    with pytest.raises(DataError, match=words):
        Classifier(Tiny(), 3, class_weights="balanced").fit_to(data)


def test_a_constructor_refuses_wrong_weights():
    with pytest.raises(ConfigError, match="has 2 numbers, num_classes is 3"):
        Classifier(Tiny(), 3, class_weights=[1.0, 2.0])


def test_a_run_counts_its_training_labels(tmp_path):
    changes = ["model.class_weights=balanced", "train_cfg.max_epochs=1"]
    cfg = load_config("image/finetune_vit-tiny_digits", changes)
    assert validate_config(cfg) == []
    assert train(cfg, tmp_path / "run", seed=0)["steps"] > 0  # the loss has no weights before they are counted
