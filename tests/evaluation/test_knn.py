import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from toy import clouds, features

from perception.evaluation.knn import KNN, VARIANTS, neighbours, predict, vote
from perception.evaluation.protocol import EvaluationError, Features, Splits


def knn_accuracy(train: Features, test: Features, **options) -> float:
    return KNN(**options).run(Splits(train=train, test=test), seed=0)[0].value


def test_hand_computed_vote():
    # Unit rows at angles 0, 60, 90 degrees to the query: cosines 1, 0.5, 0.
    bank = features([[1, 0], [0.5, math.sqrt(3) / 2], [0, 1]], [0, 1, 1])
    query = torch.tensor([[2.0, 0.0]])
    values, rows = neighbours(bank.x, query, 3, "cosine", 10)
    assert rows.tolist() == [[0, 1, 2]]
    scores = vote(values, bank.y[rows], 2, 0.5, "cosine")
    # exp((s - 1) / 0.5): 1 for class 0; e^-1 + e^-2 for class 1.
    torch.testing.assert_close(scores, torch.tensor([[1.0, math.exp(-1) + math.exp(-2)]]).double(), atol=1e-6, rtol=0)
    assert predict(scores).tolist() == [0]
    # T -> infinity counts votes: two against one.
    assert predict(vote(values, bank.y[rows], 2, 1e9, "cosine")).tolist() == [1]


def test_euclidean_weights():
    values, rows = neighbours(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0]]), 2, "euclidean", 10)
    scores = vote(values, rows, 2, 1.0, "euclidean")
    torch.testing.assert_close(scores, torch.tensor([[1 / 1.00001, 1 / 2.00001]]).double(), atol=1e-6, rtol=0)


def test_one_neighbour_on_the_training_set_is_perfect():
    train = clouds(200)
    assert knn_accuracy(train, train, k=1) == 1.0
    assert knn_accuracy(train, train, k=1, distance="euclidean") == 1.0


def test_invariant_to_scale_and_rotation():
    train, test = clouds(150, seed=1), clouds(200, seed=2)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))

    def turn(f: Features) -> Features:
        return features(7.5 * f.x.numpy() @ rotation, f.y)

    assert knn_accuracy(train, test) == knn_accuracy(turn(train), turn(test))
    assert knn_accuracy(train, test) > 0.5


def test_all_neighbours_at_infinite_temperature_give_the_majority():
    train = clouds(101, seed=3)
    majority = int(torch.bincount(train.y).argmax())
    test = clouds(60, seed=4)
    expected = float((test.y == majority).double().mean())
    assert knn_accuracy(train, test, k=101, temperature=1e12) == expected


def test_ties_go_to_the_lower_class():
    assert predict(torch.tensor([[0.2, 0.7, 0.7], [0.5, 0.5, 0.5]])).tolist() == [1, 0]
    # Two neighbours at the same distance, listed with the higher class first.
    train = features([[1, 1], [1, -1]], [2, 1])
    assert knn_accuracy(train, features([[1, 0]], [1]), k=2) == 1.0


def test_low_temperature_stays_finite():
    train, test = clouds(50, seed=5), clouds(20, seed=6)
    assert knn_accuracy(train, test, k=50, temperature=1e-4) == knn_accuracy(train, test, k=1)


def test_chunks_do_not_matter():
    train, test = clouds(80, seed=1), clouds(90, seed=2)
    assert knn_accuracy(train, test, chunk=7) == knn_accuracy(train, test, chunk=1000)


def test_errors_are_explicit():
    train = clouds(30)
    with pytest.raises(EvaluationError, match="k = 31 is larger than the 30 training rows"):
        knn_accuracy(train, train, k=31)
    many = clouds(450)
    with pytest.raises(EvaluationError, match="smallest class has"):
        knn_accuracy(many, many, k=200)
    with pytest.raises(EvaluationError, match="smallest class has"):
        knn_accuracy(many, many, variant="lightly")
    assert knn_accuracy(many, many, k=200, allow_large_k=True) > 0.3
    with pytest.raises(EvaluationError, match=r"needs evaluation\.val"):
        knn_accuracy(train, train, k=[1, 5])


def test_several_values_are_chosen_on_validation_data():
    train, val, test = clouds(120, seed=1), clouds(80, seed=2), clouds(70, seed=3)
    outcome = KNN(k=[1, 5, 20], temperature=[0.07, 0.5]).run(Splits(train, val, test), 0)[0]
    by_hand = {(k, t): knn_accuracy(train, val, k=k, temperature=t) for k in (1, 5, 20) for t in (0.07, 0.5)}
    best = max(by_hand.values())
    assert outcome.chosen["val_accuracy"] == best
    k, t = outcome.chosen["k"], outcome.chosen["temperature"]
    assert by_hand[k, t] == best
    assert outcome.value == knn_accuracy(train, test, k=k, temperature=t)


def test_refit_adds_the_validation_rows_to_the_bank():
    train, val, test = clouds(120, seed=1), clouds(80, seed=2), clouds(70, seed=3)
    both = features(torch.cat([train.x, val.x]), torch.cat([train.y, val.y]))
    outcome = KNN(refit=True).run(Splits(train, val, test), 0)[0]
    assert outcome.value == knn_accuracy(both, test) and outcome.settings["bank"] == 200


def test_five_uniform_votes_equal_a_loop():
    train, test = clouds(90, seed=1), clouds(70, seed=2)
    values, rows = neighbours(train.x, test.x, 5, "euclidean", 16)
    scores = vote(values, train.y[rows], 3, 1.0, "euclidean", "uniform")
    told = predict(scores)
    bank, queries = train.x.double().numpy(), test.x.double().numpy()
    for i, query in enumerate(queries):
        distance = [math.dist(query, row) for row in bank]
        nearest = sorted(range(90), key=lambda j, d=distance: d[j])[:5]
        votes = [sum(int(train.y[j]) == c for j in nearest) for c in range(3)]
        assert rows[i].tolist() == nearest and scores[i].tolist() == votes
        assert int(told[i]) == votes.index(max(votes))  # the first of equals
    value = knn_accuracy(train, test, variant="resize-benchmark")
    assert value == float((told == test.y).double().mean())
    theirs = KNeighborsClassifier(5).fit(bank, train.y).score(queries, test.y)
    assert value == pytest.approx(theirs)


def test_uniform_votes_do_not_see_scale_or_order_of_the_bank():
    train, test = clouds(120, seed=1), clouds(100, seed=2)
    value = knn_accuracy(train, test, variant="resize-benchmark")
    assert value == knn_accuracy(
        features(7e3 * train.x, train.y), features(7e3 * test.x, test.y), variant="resize-benchmark"
    )
    shuffled = train.take(torch.from_numpy(np.random.default_rng(0).permutation(120)))
    assert value == knn_accuracy(shuffled, test, variant="resize-benchmark")
    assert knn_accuracy(train, train, k=1, distance="euclidean", votes="uniform") == 1.0


def test_distances_survive_a_large_mean_and_a_bank_in_pieces(monkeypatch):
    train, test = clouds(120, seed=1), clouds(100, seed=2)
    far = [features(f.x.double() + 4096, f.y) for f in (train, test)]  # float32 keeps 1/2048 there
    expected = torch.cdist(far[1].x.double(), far[0].x.double()).topk(4, largest=False).indices
    assert torch.equal(neighbours(far[0].x, far[1].x, 4, "euclidean", 33)[1], expected)
    monkeypatch.setattr("perception.evaluation.knn._BANK_ROWS", 3)
    assert torch.equal(neighbours(far[0].x, far[1].x, 4, "euclidean", 33)[1], expected)


def test_standardised_features_take_the_statistics_of_the_bank():
    train, test = clouds(120, seed=1), clouds(100, seed=2)
    stretch = torch.tensor([1.0, 100.0, 0.01, 5.0, 1.0])
    mean, std = train.x.mean(0), train.x.std(0, unbiased=False)
    by_hand = [features((f.x - mean) / std, f.y) for f in (train, test)]
    stretched = [features(f.x * stretch, f.y) for f in (train, test)]
    options = dict(k=5, distance="euclidean", votes="uniform")
    assert knn_accuracy(*stretched, standardise=True, **options) == knn_accuracy(*by_hand, **options)
    assert knn_accuracy(*stretched, **options) != knn_accuracy(*by_hand, **options)


def test_config_faults():
    faults = dict(KNN.check_config({"k": [0], "temperature": -1.0, "distance": "cosin", "variant": None}))
    assert set(faults) == {"k", "temperature", "distance"}
    assert "'cosine'" in faults["distance"]
    assert not list(KNN.check_config({"k": 20, "temperature": 0.07, "distance": "cosine", "variant": "dino"}))
    assert VARIANTS["solo-learn"]["k"] == 20
