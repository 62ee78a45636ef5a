"""Several heads on one backbone, a regression head, and frozen backbones whose batch norms stand still."""

import pytest
import torch
import torch.nn.functional as F
from table_models import encoder_config, raw_batch, table_config

from perception.errors import ConfigError, DataError
from perception.registry import METRICS, MODELS
from perception.tasks.regressor import regression_loss
from perception.validation import validate_config


def task(kind="EnsembleClassifier", **changes):
    torch.manual_seed(0)
    extra = {} if kind == "Regressor" else dict(num_classes=3)
    return MODELS.build(dict(type=kind, backbone=encoder_config()) | extra | changes)


def labelled(count=6, label=None):
    return raw_batch(count, holes=0.2) | dict(label=torch.arange(count) % 3 if label is None else label)


def prepared(model, raw, training=True):
    (batch,) = model.data_preprocessor(raw, training)
    return batch


def test_the_ensemble_is_the_mean_of_the_scores_of_three_heads():
    model = task().eval()
    batch = prepared(model, labelled())
    names = ("multimodal", "image", "table")
    by_hand = sum(model.heads[n](model.backbone.encode(batch, n)) for n in names) / 3
    torch.testing.assert_close(model.logits(batch), by_hand)
    torch.testing.assert_close(model(batch)["loss"], F.cross_entropy(by_hand, batch["label"]))
    assert model.heads["image"].in_features == 12 and model.heads["table"].in_features == 16
    assert model.test_step(labelled())[0]["logits"].shape == (6, 3)


def test_what_no_head_reads_is_not_trained():
    model = task(features=("image", "table"))
    assert not any(p.requires_grad for p in model.backbone.interaction.parameters())
    model(prepared(model, labelled()))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.requires_grad for p in task().parameters())


@pytest.mark.parametrize("kind", ["EnsembleClassifier", "Classifier", "Regressor"])
def test_a_frozen_backbone_keeps_its_batch_norms(kind):
    model = task(kind, frozen=True).train()
    raw = labelled(label=torch.rand(6) if kind == "Regressor" else None)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    assert "image_backbone.stages.0.1.running_mean" in before
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        loss = model(prepared(model, raw))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert not model.backbone.training and all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if n.startswith("head"))
    free = task(kind).train()
    free(prepared(free, raw))
    assert not torch.equal(free.backbone.image_backbone.stages[0][1].running_mean, torch.zeros(8))


@pytest.mark.parametrize("feature", ["image", "table"])
def test_one_branch_alone_is_a_classifier_of_its_feature(feature):
    model = task("Classifier", feature=feature)
    raw = labelled()
    drop = "table" if feature == "image" else "image"
    raw = {k: v for k, v in raw.items() if not k.startswith(drop)}
    model(prepared(model, raw))["loss"].backward()
    trained = {n.split(".")[0] for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained == {f"{feature}_backbone"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_faults_of_an_ensemble_are_told():
    cfg = dict(
        model=dict(type="EnsembleClassifier", backbone=encoder_config(), num_classes=3, features=("image", "tabel"))
    )
    (fault,) = validate_config(cfg, training=False)
    assert fault.path == "model.features" and "meant table?" in fault.message
    cfg["model"]["features"] = ("image",)
    (fault,) = validate_config(cfg, training=False)
    assert "at least two" in fault.message
    with pytest.raises(DataError, match="label 3 of sample 3 is out of range"):
        model = task()
        model.data_preprocessor(labelled(label=torch.arange(6)), True)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mse", (1.0 + 9.0) / 2), ("mae", (1.0 + 3.0) / 2), ("huber", (0.5 + 2.5) / 2)],
)
def test_regression_losses_by_hand(kind, expected):
    scores = torch.tensor([1.0, 5.0, 0.0], requires_grad=True)
    target = torch.tensor([2.0, float("nan"), 3.0])
    loss = regression_loss(scores, target, kind)
    loss.backward()
    assert loss.item() == pytest.approx(expected) and scores.grad[1] == 0 and scores.grad.isfinite().all()
    assert regression_loss(scores, torch.full((3,), float("nan")), kind) == 0


@pytest.mark.parametrize("log", [False, True])
def test_a_regressor_standardises_what_it_learns_and_tells_the_unit_of_the_labels(log):
    model = task("Regressor", log=log, mean=2.0, std=4.0).eval()
    label = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    batch = prepared(model, labelled(label=label))
    scores = model.head(model.backbone.encode(batch))[:, 0]
    target = ((label.log() if log else label) - 2) / 4
    torch.testing.assert_close(model(batch)["loss"], (scores - target).square().mean())
    (found,) = model.test_step(labelled(label=label))
    told = scores * 4 + 2
    torch.testing.assert_close(found["prediction"], told.exp() if log else told)
    assert torch.equal(found["label"], label) and torch.equal(found["index"], torch.arange(6))


def test_a_regressor_of_images_alone():
    model = MODELS.build(
        dict(
            type="Regressor",
            backbone=dict(type="ConvNet", widths=(8,), strides=(4,), preprocess=dict(type="ImagePreprocess", size=16)),
        )
    )
    raw = dict(image=raw_batch()["image"], label=torch.rand(6))
    model(prepared(model, raw))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_faults_of_a_regressor_are_told():
    cfg = dict(model=dict(type="Regressor", backbone=encoder_config(), loss="mse", std=0.0, feature="imag"))
    found = {f.path: f.message for f in validate_config(cfg, training=False)}
    assert found["model.std"] == "must be positive" and "nearest is 'image'" in found["model.feature"]
    model = task("Regressor", log=True)
    with pytest.raises(DataError, match="label 0 of sample 0 must be positive for log=True"):
        model.data_preprocessor(labelled(label=torch.arange(6).float()), True)
    with pytest.raises(DataError, match="label inf of sample 1 must be finite"):
        task("Regressor").data_preprocessor(labelled(label=torch.tensor([0.0, float("inf")] + [1.0] * 4)), True)
    with pytest.raises(DataError, match="trains on labels"):
        model.data_preprocessor(raw_batch(), True)


def test_regression_figures_by_hand():
    metric = METRICS.build(dict(type="RegressionError"))
    nan = float("nan")
    metric.process(
        None,
        [
            dict(
                prediction=torch.tensor([1.0, 2.0, 9.0]),
                label=torch.tensor([2.0, 4.0, nan]),
                index=torch.tensor([0, 1, 2]),
            )
        ],
    )
    metric.process(
        None, [dict(prediction=torch.tensor([6.0, 1.0]), label=torch.tensor([6.0, 2.0]), index=torch.tensor([3, 0]))]
    )
    found = metric.compute_metrics(metric.results)  # the padding, sample 0 again, counts once
    assert found["mse"] == pytest.approx(5 / 3) and found["mae"] == pytest.approx(1.0)
    assert found["rmse"] == pytest.approx((5 / 3) ** 0.5) and found["r2"] == pytest.approx(1 - 5 / 8)
    with pytest.raises(DataError, match="no labelled sample"):
        metric.compute_metrics([dict(prediction=torch.zeros(1).numpy(), label=torch.full((1,), nan).numpy())])


def test_macro_f1_by_hand():
    metric = METRICS.build(dict(type="MacroF1"))
    logits = F.one_hot(torch.tensor([0, 0, 0, 1, 2, 2]), 4).float()
    label = torch.tensor([0, 0, 1, 1, 2, 0])
    metric.process(None, [dict(logits=logits, label=label)])
    found = metric.compute_metrics(metric.results)
    # class 0: 2 right of 3 told and 3 true; class 1: 1 of 1 and 2; class 2: 1 of 2 and 1; class 3 never occurs
    assert found["macro"] == pytest.approx((2 * 2 / 6 + 2 * 1 / 3 + 2 * 1 / 3) / 3)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_table_encoders_alone_are_tasks_too():
    from table_models import record

    model = task("Classifier", backbone=table_config() | dict(preprocess=record()))
    model(prepared(model, {k: v for k, v in labelled().items() if k != "image"}))["loss"].backward()
    with pytest.raises(ConfigError, match="must lie in"):
        task("Regressor", backbone=table_config(drop_rate=2.0) | dict(preprocess=record()))
