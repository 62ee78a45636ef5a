"""Task metrics against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.evaluation.metrics import (
    Accuracy,
    Calibration,
    expected_calibration_error,
    negative_log_likelihood,
    topk_accuracy,
)

SCORES = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
LABELS = np.array([1, 1, 0, 1])


def test_topk_accuracy():
    # Ranks of the labels: 0, 2, 2, 1 (a tie goes to the lower class).
    assert [topk_accuracy(SCORES, LABELS, k) for k in (1, 2, 3)] == [0.25, 0.5, 1.0]


def test_nll_of_known_probabilities_and_of_huge_logits():
    logits = np.log(np.array([[0.25, 0.75], [0.9, 0.1]])) + 7  # softmax ignores a shift
    assert negative_log_likelihood(logits, np.array([1, 1])) == pytest.approx(-(math.log(0.75) + math.log(0.1)) / 2)
    assert negative_log_likelihood(np.array([[1e5, 0.0]]), np.array([0])) == 0


def test_ece_by_hand():
    # Two rows of confidence 0.9, one right; two of confidence 0.6, both right: (|1 - 1.8| + |2 - 1.2|) / 4.
    logits = np.log(np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]]))
    assert expected_calibration_error(logits, np.array([0, 0, 0, 1]), bins=10) == pytest.approx(0.4)


def test_ece_of_certain_and_right_predictions_is_zero():
    assert expected_calibration_error(np.array([[100.0, 0.0], [0.0, 100.0]]), np.array([0, 1])) == pytest.approx(0)


def feed(metric, rows, batch_size=2):
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        sample = {
            "logits": torch.tensor(SCORES[part]),
            "label": torch.tensor(LABELS[part]),
            "index": torch.tensor(part),
        }
        metric.process({}, [sample])
    return metric.evaluate(len(SCORES))


def test_padding_is_counted_once_and_order_does_not_matter():
    expected = {"accuracy/top1": 0.25, "accuracy/top2": 0.5, "accuracy/n": 4.0}
    metric = Accuracy(topk=(1, 2))
    assert feed(metric, [0, 1, 2, 3]) == expected
    assert feed(metric, [3, 1, 0, 2, 0, 0]) == expected


def test_more_rows_than_samples_of_the_data_set_all_count():
    metric = Accuracy()
    metric.process({}, [{"logits": torch.tensor(SCORES), "label": torch.tensor(LABELS)}])
    assert metric.evaluate(size=1) == {"accuracy/top1": 0.25, "accuracy/n": 4.0}


def test_unlabelled_rows_do_not_count():
    metric = Accuracy()
    metric.process({}, [{"logits": torch.tensor(SCORES), "label": torch.tensor([1, -1, -1, -1])}])
    assert metric.evaluate(4) == {"accuracy/top1": 1.0, "accuracy/n": 1.0}
    metric.process({}, [{"logits": torch.tensor(SCORES), "label": torch.full((4,), -1)}])
    with pytest.raises(DataError, match="no labelled sample"):
        metric.evaluate(4)


def test_calibration_metric_gives_both_values():
    found = feed(Calibration(bins=5), [0, 1, 2, 3])
    assert found["calibration/nll"] == pytest.approx(negative_log_likelihood(SCORES, LABELS))
    assert found["calibration/ece"] == pytest.approx(expected_calibration_error(SCORES, LABELS, 5))


def test_metrics_are_registered():
    from perception.registry import METRICS

    assert METRICS.get("Accuracy") is Accuracy and METRICS.get("Calibration") is Calibration
