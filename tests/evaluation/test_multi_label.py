"""Samples with several labels: kept by the extraction, judged by the one protocol that is made for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy import ToyBackbone, clouds

from perception.datasets.base import Dataset
from perception.evaluation.features import cached_features, embed_dataset, extract
from perception.evaluation.knn import KNN
from perception.evaluation.linear_adam import LinearAdam, MultiLabelAdam
from perception.evaluation.protocol import EvaluationError, Features, Splits, micro_f1


class TwoNodeGraphs(Dataset):
    """Items of two rows each, as graphs are of several nodes; the labels are the signs of three columns."""

    modality = "toy"

    def __init__(self, size: int = 30, seed: int = 0, unlabelled: int = 0) -> None:
        super().__init__()
        self.x = np.random.default_rng(seed).normal(size=(size, 2, 4)).astype(np.float32)
        self.y = (self.x[..., :3] > 0).astype(np.float32)
        self.y.reshape(-1, 3)[:unlabelled, 1] = -1

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices):
        x, y = (torch.from_numpy(a[indices]).flatten(0, 1) for a in (self.x, self.y))
        return {"toy": x, "label": y, "index": torch.from_numpy(indices)}


def splits() -> Splits:
    def of(seed: int) -> Features:
        x = torch.from_numpy(np.random.default_rng(seed).normal(size=(300, 4)).astype(np.float32))
        return Features(x, (x[:, :3] > 0).float(), torch.arange(300))

    return Splits(of(0), of(1), of(2))


def test_extraction_keeps_all_labels_and_counts_nodes() -> None:
    data = TwoNodeGraphs(unlabelled=3)
    found = extract(ToyBackbone(), data, batch_size=7)["backbone"]
    assert found.x.shape == (57, 8) and found.unlabelled == 3
    assert torch.equal(found.y, torch.from_numpy(data.y.reshape(-1, 3)[3:]))
    assert found.index.tolist() == list(range(3, 60))


def test_cache_and_export_hold_all_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone, data = ToyBackbone(), TwoNodeGraphs(size=5)
    fresh, read = (cached_features(backbone, data, tmp_path, {}, batch_size=2) for _ in range(2))
    assert torch.equal(fresh.y, read.y) and torch.equal(fresh.x, read.x) and len(list(tmp_path.iterdir())) == 1
    arrays = embed_dataset(backbone, data, batch_size=2)
    assert arrays["labels"].shape == (10, 3) and arrays["index"].tolist() == list(range(10))


def test_micro_f1_by_hand() -> None:
    # TP 2, FP 1, FN 1: 4 / 6.
    predicted = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    labels = torch.tensor([[1, 0, 1], [1, 0, 0]]).bool()
    assert micro_f1(predicted, labels) == pytest.approx(4 / 6)
    assert micro_f1(labels, labels) == 1.0 and micro_f1(~labels, labels) == 0.0
    assert micro_f1(labels & False, labels & False) == 0.0


def test_independent_labels_are_learnt() -> None:
    outcome = MultiLabelAdam(0.1, 0.0, 200).run(splits(), 0)[0]
    assert outcome.metric == "micro_f1" and outcome.value > 0.95 and not outcome.proportion
    assert outcome.chosen["val_micro_f1"] > 0.95 and outcome.extras["early_stopping"] > 0.95
    # One step from the initial layer is chance.
    assert MultiLabelAdam(1e-9, 0.0, 1).run(splits(), 0)[0].value < 0.8


def test_protocols_refuse_the_other_kind_of_labels() -> None:
    for protocol in (KNN(), LinearAdam()):
        with pytest.raises(EvaluationError, match="several labels a sample; MultiLabelAdam"):
            protocol.run(splits(), 0)
    single = clouds(40)
    with pytest.raises(EvaluationError, match="one class a sample"):
        MultiLabelAdam().run(Splits(single, single, single), 0)
