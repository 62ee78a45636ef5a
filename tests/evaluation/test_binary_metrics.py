"""AUROC and binary scores as metrics of a task: copies, clips of one video, groups, and classes that are absent."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from perception.errors import DataError
from perception.evaluation import binary_metrics
from perception.evaluation.binary_metrics import AUROC, BinaryScores
from perception.evaluation.bootstrap import bootstrap_auroc


def samples(n=60, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 2, generator=random).mul(4).round().div(4)
    label = (torch.rand(n, generator=random) < 0.4).long()
    return {"logits": logits, "label": label, "index": torch.arange(n), "cluster": torch.arange(n) % 9}


def measure(metric, *parts):
    for part in parts:
        metric.process({}, [part])
    return metric.compute_metrics(metric.results)


def cut(data, rows):
    return {key: value[rows] for key, value in data.items()}


def test_values_are_scikit_learns():
    data = samples()
    score, told = data["logits"].double().softmax(1)[:, 1], data["logits"].argmax(1)
    found = measure(AUROC(), data)
    assert found["value"] == pytest.approx(roc_auc_score(data["label"], score), abs=1e-12)
    by_hand = bootstrap_auroc(score.numpy(), data["label"].numpy() == 1, data["cluster"].numpy())
    assert (found["low"], found["high"], found["groups"], found["n"]) == (by_hand.low, by_hand.high, 9, 60)
    found = measure(BinaryScores(), data)
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name] == pytest.approx(function(data["label"], told))
    assert found["accuracy"] == pytest.approx((told == data["label"]).float().mean().item())
    assert found["tp"] + found["fn"] == data["label"].sum() and found["tp"] + found["fp"] == told.sum()


def test_batches_order_and_padding_do_not_matter():
    data = samples()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = cut(data, torch.cat([order, order[:7]]))  # a distributed sampler repeats the first ones
    for kind in (AUROC, BinaryScores):
        assert measure(kind(), cut(shuffled, slice(0, 20)), cut(shuffled, slice(20, 67))) == measure(kind(), data)
    assert measure(AUROC(), data)["n"] == 60


def test_clips_of_a_video_count_once():
    data = samples(30)
    clips = {**cut(data, torch.arange(30).repeat(3)), "index": torch.arange(90), "group": torch.arange(30).repeat(3)}
    for kind in (AUROC, BinaryScores):
        assert measure(kind(), clips) == pytest.approx(measure(kind(), data))


def test_no_groups_no_interval_no_class(monkeypatch):
    said = []
    monkeypatch.setattr(binary_metrics, "print_log", lambda text, logger, level: said.append(text))
    data = samples()
    free = {key: value for key, value in data.items() if key != "cluster"}
    assert measure(AUROC(), free)["groups"] == 60
    assert set(measure(AUROC(resamples=0), data)) == {"value", "n"} and not said
    found = measure(AUROC(), {**data, "cluster": torch.zeros(60, dtype=torch.long)})
    assert set(found) == {"value", "n"} and "all samples are of one group" in said[0]
    for kind in (AUROC, BinaryScores):
        for label, word in ((0, "none"), (1, "all")):
            with pytest.raises(DataError, match=f"{word} of 60 samples (is|are) of class 1"):
                measure(kind(), {**data, "label": torch.full((60,), label)})
    with pytest.raises(DataError, match="there are 2 classes"):
        measure(AUROC(positive=2), data)
    with pytest.raises(DataError, match="NaN"):
        measure(AUROC(), {**data, "logits": torch.full((60, 2), float("nan"))})
    assert np.isfinite(list(measure(AUROC(positive=0), data).values())).all()
