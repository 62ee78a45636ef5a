import os
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import clouds, features

from perception.evaluation.anomaly import Anomaly, normality
from perception.evaluation.knn import KNN, VARIANTS
from perception.evaluation.linear_lbfgs import LinearLBFGS
from perception.evaluation.low_shot import LowShot, draw
from perception.evaluation.protocol import EvaluationError, Splits
from perception.evaluation.svm import KernelSVM, SVMCrossValidation, squared_distances
from perception.registry import PROTOCOLS
from perception.sections import evaluation_faults


def test_svm_is_scikit_learns_nested_grid_search():
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.svm import SVC

    data = clouds(90, spread=2.0)
    x, y = data.x.double().numpy(), data.y.numpy()
    costs = [1e-3, 1e-2, 1e-1, 1, 10]
    scores = []
    for train, test in StratifiedKFold(10, shuffle=True, random_state=0).split(x, y):
        search = GridSearchCV(SVC(random_state=42), {"C": costs}, cv=5, scoring="accuracy")
        search.fit(x[train], y[train])
        scores.append(search.score(x[test], y[test]))
    outcome = SVMCrossValidation().run(Splits(all=data), 0)[0]
    np.testing.assert_allclose(outcome.extras["folds"], scores)
    assert outcome.value == pytest.approx(np.mean(scores)) and outcome.n == 90
    assert outcome.metric == "micro_f1"


def test_squared_distances():
    x = np.random.default_rng(0).normal(size=(6, 3)) + 100
    expected = [[((a - b) ** 2).sum() for b in x] for a in x]
    np.testing.assert_allclose(squared_distances(x), expected, atol=1e-9)


def test_svm_errors_and_constant_features():
    small = features(np.eye(6), [0, 0, 0, 0, 1, 1])
    with pytest.raises(EvaluationError, match="smallest class has 2 samples"):
        SVMCrossValidation().run(Splits(all=small), 0)
    with pytest.raises(EvaluationError, match=r"evaluation\.all"):
        SVMCrossValidation().run(Splits(train=small), 0)
    same = KernelSVM(np.ones((8, 2)), np.array([0, 1] * 4))
    assert same.accuracies(np.arange(4), np.arange(4, 8), [1.0]) == [0.5]


def test_draws_are_lists_of_their_own():
    data = clouds(120)
    labels, index = data.y.numpy(), data.index.numpy()
    first = draw(labels, index, 5, seed=0)
    assert np.bincount(labels[first]).tolist() == [5, 5, 5] and len(set(first)) == 15
    # The same samples whatever the order of the rows.
    order = np.random.default_rng(0).permutation(120)
    assert set(index[order][draw(labels[order], index[order], 5, seed=0)]) == set(index[first])
    assert set(first) != set(draw(labels, index, 5, seed=1))
    with pytest.raises(EvaluationError, match="class 0 has"):
        draw(labels, index, 100, seed=0)


def test_low_shot_grows_with_labels_and_reports_spread():
    train, val, test = clouds(400, seed=1), clouds(100, seed=2), clouds(400, seed=3)
    one, fifty = LowShot(per_class=(1, 50)).run(Splits(train, val, test), 0)
    assert one.variant == "1 per class" and fifty.variant == "50 per class"
    assert one.value < fifty.value
    assert one.value == pytest.approx(np.mean(one.extras["values"])) and len(one.extras["values"]) == 3
    assert one.extras["std"] == pytest.approx(np.std(one.extras["values"], ddof=1))
    with pytest.raises(EvaluationError, match="at least 3"):
        LowShot(seeds=(0, 1))


def test_low_shot_reads_published_lists(tmp_path):
    train, test = clouds(60, seed=1), clouds(50, seed=3)
    lists = {f"few_2_seed{s}": draw(train.y.numpy(), train.index.numpy(), 2, s) for s in range(3)}
    np.savez(tmp_path / "lists.npz", **lists)
    options = {"per_class": 2, "penalty": 0.1}
    named = LowShot(index_file=str(tmp_path / "lists.npz"), index_key="few_{n}_seed{seed}", **options)
    assert named.run(Splits(train=train, test=test), 0) == LowShot(**options).run(Splits(train=train, test=test), 0)
    with pytest.raises(EvaluationError, match="no list 'few_3_seed0'"):
        LowShot(3, index_file=str(tmp_path / "lists.npz"), index_key="few_{n}_seed{seed}", penalty=0.1).run(
            Splits(train=train, test=test), 0
        )
    part = train.take(torch.arange(10))
    with pytest.raises(EvaluationError, match="not in the train split"):
        named.run(Splits(train=part, test=test), 0)


def test_anomaly_by_hand():
    train = features([[1, 0], [0, 1], [-1, 0]], [0, 0, 1])
    queries = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-3.0, 0.0]])
    torch.testing.assert_close(normality(train.x[:2], queries), torch.tensor([1.0, 0.5**0.5, 0.0]))
    test = features(queries, [0, 0, 1])
    outcome = Anomaly().run(Splits(train=train, test=test), 0)[0]
    assert outcome.value == 1.0 and outcome.extras["per_class"] == {"0": 1.0, "1": 1.0}
    assert not outcome.proportion
    with pytest.raises(EvaluationError, match="class 2"):
        Anomaly(normal=2).run(Splits(train=train, test=test), 0)


def _raw_pixels() -> Splits:
    """First 5,000 / 1,000 images, normalised per channel: read here independently of the data sets of the library."""
    if "PERCEPTION_DATA" not in os.environ:
        pytest.skip("needs the images of $PERCEPTION_DATA/image_small")
    import cv2

    found = []
    for name, count in (("cifar10_train20000.npz", 5000), ("cifar10_test4000.npz", 1000)):
        arrays = np.load(Path(os.environ["PERCEPTION_DATA"]) / "image_small" / name, allow_pickle=False)
        data, offsets = arrays["jpeg_bytes"], arrays["offsets"]
        images = [cv2.imdecode(data[offsets[i] : offsets[i + 1]], cv2.IMREAD_COLOR)[..., ::-1] for i in range(count)]
        x = (np.stack(images) / 255 - [0.4914, 0.4822, 0.4465]) / [0.247, 0.2435, 0.2616]
        found.append(features(x.transpose(0, 3, 1, 2).reshape(count, -1), arrays["labels"][:count].astype(int)))
    return Splits(train=found[0], test=found[1])


@pytest.mark.slow
def test_raw_pixel_baselines_of_the_data_readme():
    data = _raw_pixels()
    splits = str(Path(os.environ["PERCEPTION_DATA"]) / "image_small" / "splits.npz")
    assert KNN().run(data, 0)[0].value == pytest.approx(0.376, abs=0.001)
    # Decoders differ by some grey levels: a few of 1,000 images may fall on the other side.
    assert LinearLBFGS(0.05).run(data, 0)[0].value == pytest.approx(0.361, abs=0.005)
    anomaly = Anomaly().run(data, 0)[0]
    assert anomaly.value == pytest.approx(0.598, abs=0.001)
    expected = [0.712, 0.565, 0.567, 0.565, 0.606, 0.499, 0.616, 0.480, 0.747, 0.619]
    assert list(anomaly.extras["per_class"].values()) == pytest.approx(expected, abs=0.002)
    low_shot = LowShot(penalty=0.05, index_file=splits, index_key="cifar_lowshot_{n}_seed{seed}").run(data, 0)
    assert [o.value for o in low_shot] == pytest.approx([0.216, 0.254, 0.273], abs=0.003)


@pytest.mark.parametrize(
    ("kind", "cfg", "val"),
    [
        ("LinearLBFGS", {}, True),
        ("LinearLBFGS", {"penalty": 0.05}, False),
        ("LinearLBFGS", {"penalty": 0.05, "refit": True}, True),
        ("LinearLBFGS", {"C": 0.316}, False),
        ("LinearLBFGS", {"C": [0.1, 1.0]}, True),
        ("KNN", {}, False),
        ("KNN", {"k": [5, 20]}, True),
        ("KNN", {"k": [5, 20], "variant": next(iter(VARIANTS))}, False),
        ("LinearSGD", {"lr": [0.1, 1.0]}, True),
        ("LinearSGD", {}, False),
        ("LowShot", {}, True),
    ],
)
def test_what_is_chosen_needs_a_validation_split(kind: str, cfg: dict, val: bool) -> None:
    assert ("val" in PROTOCOLS.get(kind).splits_needed({"type": kind, **cfg})) is val


def test_validation_tells_before_training_that_there_is_nothing_to_choose_on() -> None:
    cfg = {
        "evaluation": {
            "train": {"type": "X"},
            "test": {"type": "X"},
            "protocols": {"linear": {"type": "LinearLBFGS"}, "fixed": {"type": "LinearLBFGS", "penalty": 0.05}},
        }
    }
    (fault,) = evaluation_faults(cfg, lambda registry, name: registry.get(name) if registry is PROTOCOLS else None)
    assert str(fault).startswith("evaluation.val = None: the protocol 'linear' needs this data set")
