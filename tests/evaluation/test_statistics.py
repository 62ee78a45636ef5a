import math

import numpy as np
import pytest
import torch

from perception.evaluation.calibration import (
    aurc,
    excess_aurc,
    expected_calibration_error,
    negative_log_likelihood,
)
from perception.evaluation.ranking import auroc, mid_ranks
from perception.evaluation.stats import binomial_interval, mean_std, t_interval


def test_binomial_interval_of_a_thousand_images():
    low, high = binomial_interval(0.5, 1000)
    assert 0.5 - low == pytest.approx(0.031, abs=1e-4) and high - 0.5 == pytest.approx(0.031, abs=1e-4)


def test_binomial_interval_solves_its_quadratic():
    # The ends p of Wilson's interval solve |value - p| = z sqrt(p (1 - p) / n).
    for value, n in ((0.9, 40), (0.02, 300), (0.5, 7)):
        for p in binomial_interval(value, n):
            assert abs(value - p) == pytest.approx(1.959963985 * math.sqrt(p * (1 - p) / n))
    assert binomial_interval(1.0, 10)[1] == 1.0 and binomial_interval(0.0, 10)[0] == 0.0
    with pytest.raises(ValueError, match="at least one"):
        binomial_interval(0.5, 0)


def test_mean_std_and_t_interval():
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_std([4.0]) == (4.0, 0.0)
    assert t_interval([4.0]) is None
    low, high = t_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t quantile with two degrees of freedom, from a table
    assert (low, high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))


def test_auroc_counts_pairs():
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 6, 40).astype(float), random.random(40) < 0.4
    wins = [(p > q) + 0.5 * (p == q) for p in scores[labels] for q in scores[~labels]]
    assert auroc(scores, labels) == pytest.approx(np.mean(wins))
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))
    assert auroc(np.zeros(40), labels) == 0.5
    assert auroc([0.1, 0.2, 0.8, 0.9], [False, False, True, True]) == 1.0


def test_mid_ranks():
    assert mid_ranks([5.0, 1.0, 5.0, 3.0]).tolist() == [3.5, 1.0, 3.5, 2.0]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [([1.0, np.nan], [True, False], "NaN"), ([1.0, 2.0], [True, True], "negatives"), ([1.0], [True, False], "length")],
)
def test_auroc_errors(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        auroc(scores, labels)


def test_negative_log_likelihood_by_hand():
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    assert negative_log_likelihood(p, torch.tensor([0, 1])) == pytest.approx((math.log(2) - math.log(0.75)) / 2)


def test_calibration_error_by_hand():
    # Confidences 0.95 (right), 0.95 (wrong), 0.65 (right): bins of 2 and 1 samples.
    p = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65]])
    labels = torch.tensor([0, 1, 1])
    assert expected_calibration_error(p, labels) == pytest.approx(2 / 3 * 0.45 + 1 / 3 * 0.35)
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(sure, torch.tensor([0, 1])) == 0.0
    # Exactly on an edge belongs to the bin below: 0.5 with [0.4, 0.5], not with 0.55.
    edge = torch.tensor([[0.5, 0.5], [0.55, 0.45]], dtype=torch.float64)
    assert expected_calibration_error(edge, torch.tensor([1, 0])) == pytest.approx((0.5 + 0.45) / 2)


def test_risk_coverage_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert aurc(p, torch.tensor([0, 0, 0, 0])) == 0.0 and excess_aurc(p, torch.tensor([0, 0, 0, 0])) == 0.0
    # Only the least confident is wrong: a perfect ranking of one error.
    assert aurc(p, torch.tensor([0, 0, 0, 1])) == pytest.approx(1 / 16)
    assert excess_aurc(p, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0)
    # Only the most confident is wrong: risks 1, 1/2, 1/3, 1/4.
    assert aurc(p, torch.tensor([1, 0, 0, 0])) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match="softmax"):
        negative_log_likelihood(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
