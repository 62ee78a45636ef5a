"""Samples with several labels: kept by the extraction, judged by the one protocol that is made for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.preprocessing import StandardScaler
from toy import ToyBackbone, clouds

from perception.datasets.base import Dataset
from perception.evaluation.features import cached_features, embed_dataset, extract
from perception.evaluation.knn import KNN
from perception.evaluation.linear_adam import LinearAdam, MultiLabelAdam
from perception.evaluation.linear_lbfgs import LinearLBFGS
from perception.evaluation.multi_label import average_precision, multi_label_figures
from perception.evaluation.multi_label_lbfgs import LabelRegression, MultiLabelLBFGS
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
    for protocol in (LinearAdam(), LinearLBFGS(penalty=0.1)):
        with pytest.raises(EvaluationError, match="several labels a sample; MultiLabelAdam"):
            protocol.run(splits(), 0)
    single = clouds(40)
    for other in (MultiLabelAdam(), MultiLabelLBFGS()):
        with pytest.raises(EvaluationError, match="one class a sample"):
            other.run(Splits(single, single, single), 0)
    with pytest.raises(EvaluationError, match=r"evaluation\.test, which has one class a sample"):
        KNN().run(Splits(train=splits().train, test=single), 0)


def random_labels(n: int = 40, labels: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores in fifths, so with many ties, and labels; the last label never occurs."""
    random = np.random.default_rng(seed)
    truth = (random.random((n, labels)) < np.linspace(0.1, 0.7, labels)).astype(np.float32)
    truth[:, -1] = 0
    return torch.from_numpy(random.integers(0, 6, (n, labels)) / 5), torch.from_numpy(truth)


def test_averages_equal_those_of_scikit_learn() -> None:
    scores, truth = random_labels()
    found = multi_label_figures(scores, scores > 0.5, truth)
    present = slice(0, -1)  # where scikit-learn would count an undefined value as 0
    s, t, told = scores.numpy(), truth.numpy(), (scores > 0.5).numpy()
    assert found["ap_micro"] == pytest.approx(average_precision_score(t, s, average="micro"), abs=1e-12)
    assert found["f1_micro"] == pytest.approx(f1_score(t, told, average="micro"), abs=1e-12)
    for average in ("macro", "weighted"):
        ap = average_precision_score(t[:, present], s[:, present], average=average)
        f1 = f1_score(t[:, present], told[:, present], average=average)
        assert found[f"ap_{average}"] == pytest.approx(ap, abs=1e-12), average
        assert found[f"f1_{average}"] == pytest.approx(f1, abs=1e-12), average


def test_average_precision_by_hand() -> None:
    # Ranks: hit, tie of a hit and a miss, miss. Recall 1/2 at precision 1, then 1 at 2/3.
    assert average_precision([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision([0.1, 0.2], [0, 1]) == 1.0
    with pytest.raises(ValueError, match="needs positives"):
        average_precision([0.1, 0.2], [0, 0])
    with pytest.raises(ValueError, match="NaN"):
        average_precision([float("nan"), 0.2], [0, 1])


def test_neighbours_vote_on_every_label_by_itself() -> None:
    data = splits()
    outcome = KNN(variant="resize-benchmark").run(data, 0)[0]
    near = ((data.test.x[:, None] - data.train.x[None]) ** 2).sum(2).topk(5, largest=False).indices
    shares = data.train.y[near].mean(1)
    assert torch.equal((shares * 5).round() / 5, shares) and len(shares.unique()) == 6
    truth, told = data.test.y.numpy(), (shares > 0.5).numpy()
    expected = average_precision_score(truth, shares.numpy(), average="micro")
    assert outcome.metric == "ap_micro" and outcome.value == pytest.approx(expected, abs=1e-9)
    assert outcome.extras["f1_macro"] == pytest.approx(f1_score(truth, told, average="macro"), abs=1e-9)
    assert set(outcome.extras) == {"ap_macro", "ap_weighted", "f1_micro", "f1_macro", "f1_weighted"}
    chosen = KNN(k=[1, 9], temperature=0.1).run(data, 0)[0].chosen
    assert chosen["k"] == 9 and chosen["val_ap_micro"] > 0.9


def test_nobody_with_a_label_is_an_error() -> None:
    data = splits()
    empty = Features(data.test.x, torch.zeros_like(data.test.y), data.test.index)
    with pytest.raises(EvaluationError, match="none of the 300 test samples has any of the 3 labels"):
        KNN().run(Splits(train=data.train, test=empty), 0)


def test_label_regression_equals_scikit_learn_label_by_label() -> None:
    data = splits()
    x = data.train.x + torch.from_numpy(np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32))
    model = LabelRegression(x, data.train.y, double=True, tolerance=1e-9).fit(1 / (2 * 0.316 * 300))
    scale = StandardScaler().fit(x.numpy())
    for label in range(3):
        theirs = LogisticRegression(C=0.316, tol=1e-8).fit(scale.transform(x.numpy()), data.train.y[:, label])
        assert np.allclose(model.weight[label], theirs.coef_[0], atol=1e-4)
        assert model.bias[label] == pytest.approx(theirs.intercept_[0], abs=1e-4)
    outcome = MultiLabelLBFGS().run(data, 0)[0]
    assert outcome.value > 0.99 and outcome.extras["f1_micro"] > 0.95 and not outcome.proportion
