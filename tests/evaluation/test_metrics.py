"""Task metrics against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.evaluation.metrics import Accuracy, Calibration, merge_views, topk_accuracy

SCORES = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
LABELS = np.array([1, 1, 0, 1])


def test_topk_accuracy():
    # Ranks of the labels: 0, 2, 2, 1 (a tie goes to the lower class).
    assert [topk_accuracy(SCORES, LABELS, k) for k in (1, 2, 3)] == [0.25, 0.5, 1.0]


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
    expected = {"accuracy/top1": 0.25, "accuracy/top2": 0.5}
    metric = Accuracy(topk=(1, 2))
    assert feed(metric, [0, 1, 2, 3]) == expected
    assert feed(metric, [3, 1, 0, 2, 0, 0]) == expected


def test_more_rows_than_samples_of_the_data_set_all_count():
    metric = Accuracy()
    metric.process({}, [{"logits": torch.tensor(SCORES), "label": torch.tensor(LABELS)}])
    assert metric.evaluate(size=1) == {"accuracy/top1": 0.25}


def test_unlabelled_rows_do_not_count():
    metric = Accuracy()
    metric.process({}, [{"logits": torch.tensor(SCORES), "label": torch.tensor([1, -1, -1, -1])}])
    assert metric.evaluate(4) == {"accuracy/top1": 1.0}
    metric.process({}, [{"logits": torch.tensor(SCORES), "label": torch.full((4,), -1)}])
    with pytest.raises(DataError, match="no labelled sample"):
        metric.evaluate(4)


def test_calibration_by_hand():
    # Two rows of confidence 0.9, one right; two of confidence 0.6, both right: (|1 - 1.8| + |2 - 1.2|) / 4 = 0.4.
    # A shift of the logits changes nothing.
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)) + 7
    metric = Calibration(bins=10)
    metric.process({}, [{"logits": logits, "label": torch.tensor([0, 0, 0, 1])}])
    found = metric.evaluate(4)
    assert found["calibration/nll"] == pytest.approx(-(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 4)
    assert found["calibration/ece"] == pytest.approx(0.4)


def test_metrics_are_registered():
    from perception.registry import METRICS

    assert METRICS.get("Accuracy") is Accuracy and METRICS.get("Calibration") is Calibration


def test_clips_of_one_video_are_merged_by_their_mean_probability():
    # Video 7: views that say class 0 with 0.6, class 1 with 0.9 -> mean (0.35, 0.65). Video 3: one view.
    logits = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2]]).log()
    sample = {
        "logits": logits,
        "label": torch.tensor([1, 1, 1]),
        "index": torch.tensor([14, 15, 6]),
        "group": torch.tensor([7, 7, 3]),
    }
    metric = Accuracy()
    metric.process(None, [sample, {key: value[:1] for key, value in sample.items()}])  # one view repeated by padding
    assert metric.compute_metrics(metric.results) == {"top1": 0.5}
    merged, labels = merge_views(logits.numpy(), np.array([1, 1, 1]), np.array([7, 7, 3]))
    np.testing.assert_allclose(np.exp(merged), [[0.8, 0.2], [0.35, 0.65]], atol=1e-6)
    assert labels.tolist() == [1, 1]
