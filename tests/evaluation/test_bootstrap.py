"""Intervals and tests of AUROCs against scipy, scikit-learn and literal resampling."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from perception.evaluation.bootstrap import _weighted_auroc, bootstrap_auroc, delong, paired_bootstrap
from perception.evaluation.ranking import auroc


def tied(seed=0, n=80):
    random = np.random.default_rng(seed)
    labels = random.random(n) < 0.4
    return random.integers(0, 7, n) + labels * random.integers(0, 3, n), labels, random.integers(0, 12, n)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_mann_whitney_statistic_with_ties_one_half(seed):
    scores, labels, _ = tied(seed)
    statistic = mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert auroc(scores, labels) == pytest.approx(statistic / (labels.sum() * (~labels).sum()), abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("transform", [np.exp, lambda s: s**3 - 5, lambda s: -1 / (s + 1)])
def test_monotone_transforms_change_nothing(transform):
    scores, labels, groups = tied()
    value = bootstrap_auroc(scores, labels, groups)
    assert bootstrap_auroc(transform(scores.astype(float)), labels, groups) == value


def test_constant_scores_are_at_one_half_with_certainty():
    _, labels, groups = tied()
    found = bootstrap_auroc(np.ones(80), labels, groups)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_alone_is_an_error_and_no_nan(label):
    with pytest.raises(ValueError, match="positives and negatives"):
        bootstrap_auroc(np.arange(5.0), np.full(5, label))


def test_weights_are_repetitions():
    scores, labels, _ = tied()
    times = np.random.default_rng(1).integers(0, 4, (6, 80))
    found = _weighted_auroc(scores.astype(float), labels, times)
    for value, row in zip(found, times, strict=True):
        assert value == pytest.approx(roc_auc_score(np.repeat(labels, row), np.repeat(scores, row)), abs=1e-12)
    assert np.isnan(_weighted_auroc(scores.astype(float), labels, labels[None].astype(int))[0])


def test_the_interval_is_that_of_whole_groups_drawn_with_replacement():
    scores, labels, groups = tied(3, 200)
    found = bootstrap_auroc(scores, labels, groups, resamples=1000, seed=1)
    random = np.random.default_rng(7)
    values = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in random.integers(0, 12, 12)])
        values.append(auroc(scores[rows], labels[rows]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.02)
    assert found.groups == 12 and found.resamples == 1000 and found.discarded == 0
    assert found == bootstrap_auroc(scores, labels, groups, resamples=1000, seed=1)


def test_copies_of_samples_do_not_narrow_an_interval_over_groups():
    scores, labels, groups = tied(5)
    once, thrice = (bootstrap_auroc(*(np.tile(v, k) for v in (scores, labels, groups))) for k in (1, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-12)
    loose = bootstrap_auroc(np.tile(scores, 3), np.tile(labels, 3))
    assert loose.high - loose.low < 0.8 * (bootstrap_auroc(scores, labels).high - bootstrap_auroc(scores, labels).low)


def test_resamples_without_a_class_are_counted_and_too_many_are_an_error():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    found = bootstrap_auroc(scores, labels, np.array([0, 1, 0, 2]))
    assert (
        found.discarded > 0 and found.resamples + found.discarded == 1000 and np.isfinite([found.low, found.high]).all()
    )
    with pytest.raises(ValueError, match="one class alone"):
        bootstrap_auroc(scores, labels, labels)  # both groups are pure: half of the draws and more hold one class
    with pytest.raises(ValueError, match="one length"):
        bootstrap_auroc(scores, labels, np.arange(3))


def test_paired_bootstrap():
    random = np.random.default_rng(0)
    labels, groups = random.random(300) < 0.5, np.arange(300) // 5
    good, bad = labels + random.normal(0, 1, 300), random.normal(0, 1, 300)
    found = paired_bootstrap(good, bad, labels, groups)
    assert found.value == pytest.approx(roc_auc_score(labels, good) - roc_auc_score(labels, bad))
    assert found.low > 0 and found.p < 0.01
    turned = paired_bootstrap(bad, good, labels, groups)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low)) and turned.p == found.p
    same = paired_bootstrap(good, 2 * good, labels, groups)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    # The same resamples for both: a model that is a little better everywhere is told apart though intervals overlap.
    better = good + 0.15 * labels
    assert paired_bootstrap(better, good, labels, groups).low > 0
    assert bootstrap_auroc(better, labels, groups).low < bootstrap_auroc(good, labels, groups).high


def test_delong_equals_its_definition():
    first, labels, _ = tied(1)
    second = first + np.random.default_rng(2).normal(0, 2, 80)

    def wins(scores):  # the kernel of the U statistic, pair by pair
        diff = scores[labels][:, None] - scores[~labels][None]
        return (diff > 0) + 0.5 * (diff == 0)

    a, b = wins(first.astype(float)), wins(second)
    m, n = a.shape
    s10 = np.cov(np.stack([a.mean(1), b.mean(1)]))
    s01 = np.cov(np.stack([a.mean(0), b.mean(0)]))
    covariance = s10 / m + s01 / n
    contrast = np.array([1, -1])
    z = (a.mean() - b.mean()) / np.sqrt(contrast @ covariance @ contrast)
    from math import erfc

    value, p = delong(first, second, labels)
    assert value == pytest.approx(a.mean() - b.mean(), abs=1e-12) and p == pytest.approx(
        erfc(abs(z) / 2**0.5), abs=1e-12
    )
    assert delong(first, first * 3.0, labels) == (0.0, 1.0)
    with pytest.raises(ValueError, match="two samples"):
        delong([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [True, False, False])
