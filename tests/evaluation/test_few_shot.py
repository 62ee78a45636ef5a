"""Few-shot episodes: what is drawn, how it is solved, what is counted; corrected and legacy readings side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy import ToyBackbone, clouds, features

from perception.errors import ConfigError
from perception.evaluation.episode_regression import _Problems, fit_logistic
from perception.evaluation.few_shot import (
    Episodes,
    FewShotEpisodes,
    draw_episodes,
    episode_accuracies,
    half_width,
    legacy_accuracies,
    solve_episodes,
)
from perception.evaluation.protocol import EvaluationError, Splits
from perception.evaluation.run import evaluate


def labels_of(*sizes):
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))


def drawn(labels, ways=3, shots=2, queries=4, count=120, seed=0, index=None):
    index = np.arange(len(labels)) if index is None else index
    return draw_episodes(labels, index, ways, shots, queries, count, seed)


def test_episodes_are_balanced_distinct_and_disjoint():
    labels = labels_of(12, 9, 7, 30, 6)
    found = drawn(labels)
    assert found.classes.shape == (120, 3) and found.support.shape == (120, 3, 2) and found.query.shape == (120, 12)
    assert all(len(set(row)) == 3 for row in found.classes.tolist())
    assert (labels[found.support] == found.classes[..., None]).all()
    own = np.take_along_axis(found.classes, found.target, axis=1)
    assert (labels[found.query] == own).all()
    assert all(np.bincount(row).tolist() == [4, 4, 4] for row in found.target)
    for support, query in zip(found.support.reshape(120, -1).tolist(), found.query.tolist(), strict=True):
        assert len({*support, *query}) == 6 + 12
    assert found.left_out == () and sorted(set(found.classes.ravel().tolist())) == [0, 1, 2, 3, 4]


def test_classes_supports_and_order_of_queries_are_random():
    labels = labels_of(20, 20, 20, 20)
    found = drawn(labels, ways=2, shots=1, queries=5, count=2000)
    counts = np.bincount(found.classes.ravel(), minlength=4)
    assert np.abs(counts - 1000).max() < 110  # 4 x sqrt(2000 / 4)
    supports = np.bincount(found.support.ravel(), minlength=80)
    assert abs(supports - 50).max() < 35 and supports.min() > 0  # any sample, not the first of the list
    assert np.bincount(found.target[:, 0]).min() > 850


def test_all_remaining_samples_are_queries():
    labels = labels_of(5, 3, 8)
    found = drawn(labels, ways=2, shots=2, queries=None, count=30)
    for classes, support, query, target in zip(found.classes, found.support, found.query, found.target, strict=True):
        real = query >= 0
        rest = set(np.flatnonzero(np.isin(labels, classes)).tolist()) - set(support.ravel().tolist())
        assert set(query[real].tolist()) == rest and real.sum() == len(rest)
        assert real[: len(rest)].all() and (target[~real] == -1).all()  # what fills up stands at the end
        assert (classes[target[real]] == labels[query[real]]).all()


def test_episodes_depend_on_the_samples_not_on_their_order_and_the_first_are_those_of_fewer():
    labels = labels_of(12, 9, 7, 30, 6)
    found = drawn(labels)
    mixed = np.random.default_rng(1).permutation(len(labels))
    other = drawn(labels[mixed], index=mixed)
    assert (mixed[other.support] == found.support).all() and (mixed[other.query] == found.query).all()
    few = drawn(labels, count=70)
    assert all((getattr(few, k) == getattr(found, k)[:70]).all() for k in ("classes", "support", "query", "target"))
    assert not (drawn(labels, seed=1).support == found.support).all()


def test_classes_that_are_too_small_are_left_out_and_told():
    labels = labels_of(12, 3, 9, 5)
    found = drawn(labels, ways=2, shots=2, queries=4)
    assert found.left_out == (1, 3) and set(found.classes.ravel().tolist()) == {0, 2}
    with pytest.raises(EvaluationError, match=r"3-way episodes with 6 samples a class.*of 4 classes 2 have so many"):
        drawn(labels)
    rows = FewShotEpisodes(ways=2, shots=2, queries=4, episodes=10).run(Splits(test=features(np.eye(29), labels)), 0)
    assert rows[0].notes == ("2 classes too small for 2-shot episodes are never drawn: 1, 3",)


@pytest.mark.parametrize(("shots", "dims", "scale"), [(1, 40, 1.0), (5, 40, 3.0), (20, 6, 0.2), (5, 6, 20.0)])
def test_probabilities_are_scikit_learns(shots, dims, scale):
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(shots)
    x = torch.from_numpy(scale * (random.normal(size=(12, 4 * shots, dims)) + 3)).float()
    y = torch.from_numpy(random.permuted(np.tile(np.repeat(np.arange(4), shots), (12, 1)), axis=1))
    asked = torch.from_numpy(scale * (random.normal(size=(12, 9, dims)) + 3))
    weight, bias = fit_logistic(x, y, 4)
    torch.testing.assert_close(bias.sum(1), torch.zeros(12, dtype=torch.float64), atol=1e-9, rtol=0)
    found = torch.softmax(asked @ weight.transpose(1, 2) + bias[:, None], 2)
    for i in range(12):
        model = LogisticRegression(C=1.0, solver="newton-cg", max_iter=1000, tol=1e-9)
        expected = model.fit(x[i].double().numpy(), y[i].numpy()).predict_proba(asked[i].numpy())
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-4)


def test_the_strength_of_the_penalty_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    data = clouds(30, classes=3)
    weight, bias = fit_logistic(data.x[None], data.y[None], 3, C=0.05)
    model = LogisticRegression(C=0.05, tol=1e-9, max_iter=1000).fit(data.x.double().numpy(), data.y.numpy())
    np.testing.assert_allclose(weight[0].numpy(), model.coef_, atol=1e-4)
    np.testing.assert_allclose(bias[0].numpy(), model.intercept_ - model.intercept_.mean(), atol=1e-4)


def test_copies_in_the_support_and_features_that_are_not_finite():
    x = torch.ones(2, 4, 10)
    weight, bias = fit_logistic(x, torch.tensor([[0, 1, 2, 3]] * 2), 4)
    assert weight.abs().max() < 1e-6 and bias.abs().max() < 1e-6  # nothing to tell apart
    x[1, 2, 3] = float("nan")
    with pytest.raises(EvaluationError, match="features are not finite"):
        fit_logistic(x, torch.tensor([[0, 1, 2, 3]] * 2), 4)


def test_a_problem_is_not_iterated_beyond_its_solution_for_the_sake_of_a_harder_one():
    """Conjugate gradients that go on after they have arrived are led by rounding, now and then far away."""
    x = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1] *= torch.logspace(-2, 3, 6)
    y = torch.arange(4).repeat(2).expand(2, -1)
    both, alone = _Problems(x, y, 4, 1.0), _Problems(x[:1], y[:1], 4, 1.0)
    v = 0.1 * torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = torch.softmax(both.z @ v, dim=2)
    gradient = both.z.transpose(1, 2) @ (p - both.target) + both.penalty * v
    together = both._newton_step(p, gradient, torch.tensor([False, False]))
    torch.testing.assert_close(
        together[:1], alone._newton_step(p[:1], gradient[:1], torch.tensor([False])), rtol=1e-10, atol=0
    )
    assert not both._newton_step(p, gradient, torch.tensor([True, False]))[0].any()


def test_predictions_of_an_episode_are_those_of_its_own_problem():
    data = clouds(80, classes=5)
    episodes = drawn(data.y.numpy(), ways=3, shots=2, queries=4, count=8)
    found = solve_episodes(data.x, episodes)
    for i in range(8):
        weight, bias = fit_logistic(
            data.x[episodes.support[i].ravel()][None], torch.arange(3).repeat_interleave(2)[None], 3
        )
        logits = data.x[episodes.query[i]].double() @ weight[0].T + bias[0]
        assert torch.equal(found[i], logits.argmax(1))


def test_accuracies_by_hand():
    target = torch.tensor([[0, 1, 2, 0, 1, 2, 1], [2, 1, 0, 0, -1, -1, -1]])
    predicted = torch.tensor([[0, 1, 2, 1, 1, 0, 1], [2, 0, 0, 1, 0, 0, 0]])
    assert episode_accuracies(predicted, target).tolist() == pytest.approx([5 / 7, 2 / 4])
    # First episode: queries 0 1 2 0 1 with recalls 1/2, 1, 1, then 2 1 with recalls -, 1, 0.
    # Second: 2 1 0 0 with recalls 1/2, 0, 1; the batch that is filled up alone does not count.
    assert legacy_accuracies(predicted, target, 3).tolist() == pytest.approx([(2.5 / 3 + 1 / 3) / 2, 1.5 / 3])


def test_a_perfect_classifier_is_perfect_in_batches_of_any_size_but_not_in_legacy():
    labels = labels_of(*[210] * 5)
    found = drawn(labels, ways=5, shots=1, queries=200, count=100)
    target = torch.from_numpy(found.target)
    assert (episode_accuracies(target, target) == 1).all()
    # The expected share of 5 classes in 5 of 1000 queries without replacement: 1 - C(800, 5) / C(1000, 5).
    expected = 1 - math.comb(800, 5) / math.comb(1000, 5)
    assert expected == pytest.approx(0.672, abs=0.002)  # 1 - (4/5)^5
    assert legacy_accuracies(target, target, 5).mean().item() == pytest.approx(expected, abs=0.005)
    # A classifier at chance: 0.2 of that.
    guessed = torch.from_numpy(np.random.default_rng(0).integers(0, 5, target.shape))
    assert legacy_accuracies(guessed, target, 5).mean().item() == pytest.approx(0.2 * expected, abs=0.005)
    for batch in (1, 3, 1000):
        value = legacy_accuracies(target, target, 5, batch).mean().item()
        assert value == pytest.approx(1 - math.comb(800, batch) / math.comb(1000, batch), abs=0.005)


def test_perfect_features_and_shuffled_labels():
    labels = labels_of(*[40] * 6)
    corrected, legacy = FewShotEpisodes(shots=1, queries=15).run(
        Splits(test=features(np.eye(6)[labels] * 9, labels)), 0
    )
    assert corrected.value == 1 and corrected.interval == (1, 1) and corrected.metric == "accuracy"
    assert legacy.metric == "legacy_accuracy" and legacy.value == pytest.approx(legacy.extras["perfect"])
    # 5 classes of 15 queries: 1 - C(60, 5) / C(75, 5).
    assert legacy.value == pytest.approx(1 - math.comb(60, 5) / math.comb(75, 5), abs=0.005)
    assert "a perfect classifier would have 6" in legacy.notes[0]
    # Labels that features know nothing of, among so many samples that episodes hardly share any.
    labels, noise = labels_of(*[800] * 6), np.random.default_rng(3).normal(size=(4800, 10))
    guessed = FewShotEpisodes(shots=5, queries=15, episodes=1000).run(Splits(test=features(noise, labels)), 0)[0]
    assert abs(guessed.value - 0.2) < 1.5 * guessed.extras["ci95_half"] < 0.01


def test_the_interval_by_hand():
    # Of 0.2, 0.4, 0.9: mean 0.5, s = sqrt((0.09 + 0.01 + 0.16) / 2) = 0.360555, 1.96 s / sqrt(3) = 0.408007.
    assert half_width(math.sqrt(0.13), 3) == pytest.approx(0.408007, abs=1e-6)
    data = clouds(90, classes=6, spread=2.0)
    (outcome, _) = FewShotEpisodes(ways=3, shots=1, queries=5, episodes=60).run(Splits(test=data), 0)
    episodes = drawn(data.y.numpy(), ways=3, shots=1, queries=5, count=60)
    values = (solve_episodes(data.x, episodes).numpy() == episodes.target).mean(1)
    half = 1.96 * values.std(ddof=1) / math.sqrt(60)
    assert outcome.value == pytest.approx(values.mean()) and outcome.extras["ci95_half"] == pytest.approx(half)
    assert outcome.interval == pytest.approx((values.mean() - half, values.mean() + half))


def test_standardise_takes_the_statistics_of_the_training_rows():
    data, train = clouds(90, classes=6), clouds(50, classes=6, seed=1)
    moved = features(data.x * 100 + 7, data.y)
    protocol = FewShotEpisodes(ways=3, shots=1, queries=5, episodes=50, standardise=True, unit=True)
    plain = protocol.run(Splits(test=data, train=train), 0)[0].value
    assert protocol.run(Splits(test=moved, train=features(train.x * 100 + 7, train.y)), 0)[0].value == plain
    x = (data.x - train.x.mean(0)) / train.x.std(0, unbiased=False)
    by_hand = features(x / x.norm(dim=1, keepdim=True), data.y)
    same = FewShotEpisodes(ways=3, shots=1, queries=5, episodes=50).run(Splits(test=by_hand), 0)[0]
    assert same.value == plain
    with pytest.raises(EvaluationError, match=r"standardise needs evaluation\.train"):
        protocol.run(Splits(test=data), 0)


def test_all_sources_meet_the_same_episodes_and_the_seed_is_kept():
    section = {
        "test": {"type": "ToyDataset", "split": "test", "size": 90},
        "protocols": {"few": FewShotEpisodes(ways=3, shots=[1, 5], queries=5, episodes=40, episode_seed=7)},
    }
    rows = evaluate(ToyBackbone(), section, 0, ToyBackbone())
    assert {(r["variant"], r["metric"]) for r in rows} == {
        (f"3-way {k}-shot", m) for k in (1, 5) for m in ("accuracy", "legacy_accuracy")
    }
    assert {r["source"] for r in rows} == {"trained", "untrained", "raw"} and len(rows) == 12
    assert all(r["settings"]["episode_seed"] == 7 and r["settings"]["episodes"] == 40 for r in rows)
    assert all(r["ci95"][0] <= r["value"] <= r["ci95"][1] for r in rows)
    ceilings = {r["extras"]["perfect"] for r in rows if r["metric"] == "legacy_accuracy" and "1-shot" in r["variant"]}
    assert len(ceilings) == 1  # a figure of the episodes alone
    again = evaluate(ToyBackbone(), section, 5)  # another run seed, the same episodes
    assert again[0]["settings"]["episode_seed"] == 7


def test_large_features_are_worked_on_in_parts(monkeypatch):
    data = clouds(90, classes=6)
    protocol = FewShotEpisodes(ways=3, shots=1, queries=5, episodes=20)
    whole = [o.value for o in protocol.run(Splits(test=data), 0)]
    monkeypatch.setattr("perception.evaluation.few_shot._VALUES", 3 * 18 * 5)  # three episodes at a time
    assert [o.value for o in protocol.run(Splits(test=data), 0)] == whole


def test_faults_of_a_config():
    with pytest.raises(ConfigError, match="ways"):
        FewShotEpisodes(ways=1)
    for key, value in (("episodes", 1), ("queries", 0), ("shots", [1, 0]), ("C", 0), ("shots", [])):
        with pytest.raises(ConfigError, match=key):
            FewShotEpisodes(**{key: value})
    assert isinstance(drawn(labels_of(9, 9, 9)).take(slice(2)), Episodes)
