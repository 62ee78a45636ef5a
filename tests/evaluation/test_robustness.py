"""Robustness figures on numbers worked out by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.errors import DataError
from perception.evaluation.box_sets import BoxSet
from perception.evaluation.robustness import Robustness, spoofing, spoofing_table

SCORES = {"fog": [0.6, 0.5, 0.4], "snow": [0.8, 0.7, 0.6]}
BASELINE = {"snow": [0.6, 0.5, 0.4], "fog": [0.6, 0.4, 0.2]}


def test_worked_out_by_hand() -> None:
    found = Robustness(0.8, SCORES, BASELINE, "mAP")
    assert found.rr == pytest.approx({"fog": 62.5, "snow": 87.5}) and found.mrr == pytest.approx(75)
    # Errors of fog sum to 1.5 and 1.8, of snow to 0.9 and 1.5.
    assert found.ce == pytest.approx({"fog": 100 * 1.5 / 1.8, "snow": 60.0})
    assert found.mce == pytest.approx((1500 / 18 + 60) / 2)
    assert found.by_severity == pytest.approx([0.8, 0.7, 0.6, 0.5])
    figures = found.figures()
    assert figures["mce"] == found.mce and figures["severity3"] == pytest.approx(0.5)
    assert figures["fog/severity2"] == 0.5
    lines = found.table().splitlines()
    assert lines[0] == "| mAP | clean | s1 | s2 | s3 | RR % | CE % |"
    assert lines[2] == "| fog | 0.8000 | 0.6000 | 0.5000 | 0.4000 | 62.5 | 83.3 |"
    assert lines[-1] == "| mean | 0.8000 | 0.7000 | 0.6000 | 0.5000 | 75.0 | 71.7 |"


def test_a_model_against_itself_and_a_clean_score_repeated() -> None:
    assert Robustness(0.8, SCORES, SCORES).mce == 100
    repeated = Robustness(0.7, {"fog": [0.7] * 5, "snow": [0.7] * 5})
    assert repeated.mrr == pytest.approx(100, abs=1e-12)
    assert "mce" not in repeated.figures() and "CE" not in repeated.table()
    with pytest.raises(DataError, match="none is given"):
        _ = repeated.mce


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="at least one corruption"):
        Robustness(0.5, {})
    with pytest.raises(DataError, match="fog: 2, snow: 1"):
        Robustness(0.5, {"fog": [0.1, 0.2], "snow": [0.1]})
    with pytest.raises(DataError, match=r"of fog must lie in \[0, 1\]"):
        Robustness(0.5, {"fog": [62.0]})
    with pytest.raises(DataError, match=r"of fog must lie"):
        Robustness(0.5, {"fog": [float("nan")]})
    with pytest.raises(DataError, match="clean score"):
        Robustness(0.0, SCORES)
    with pytest.raises(DataError, match="same corruptions: rain"):
        Robustness(0.8, SCORES, {**BASELINE, "rain": [0.1, 0.1, 0.1]})
    with pytest.raises(DataError, match="same number of severities"):
        Robustness(0.8, {"fog": [0.5]}, {"fog": [0.5, 0.4]})
    with pytest.raises(DataError, match="makes no error"):
        Robustness(0.8, {"fog": [0.5]}, {"fog": [1.0]})


def test_picture(tmp_path: Path) -> None:
    file = Robustness(0.8, SCORES, metric="mAP").picture(tmp_path / "deep" / "robustness.png")
    image = cv2.imread(str(file))
    assert image is not None and image.shape[0] > 300 and image.std() > 10
    worse = Robustness(0.8, {name: [0.1] * 3 for name in SCORES}, metric="mAP").picture(tmp_path / "worse.png")
    assert file.read_bytes() != worse.read_bytes()


def detections(*rows: tuple[int, float, float, int, float]) -> BoxSet:
    """Frame, x, y, label, score."""
    boxes = np.array([[x, y, 0, 4, 2, 1.5, 0] for _, x, y, _, _ in rows]).reshape(-1, 7)
    frame, _, _, label, score = np.array(rows, dtype=float).reshape(-1, 5).T
    return BoxSet(frame, boxes, label, score=score)


def test_spoofing() -> None:
    targets = [[8.0, 0.0]] * 6
    clean = detections((1, 8.5, 0.0, 0, 0.9), (2, 20.0, 0.0, 0, 0.9), (3, 8.0, 0.0, 0, 0.1))
    attacked = detections(
        (0, 8.0, 1.0, 0, 0.5),  # a car there: success
        (1, 8.5, 0.0, 0, 0.9),  # was there before
        (2, 20.0, 0.0, 0, 0.9),  # another place
        (3, 7.0, 0.0, 1, 0.3),  # a truck at the least score; before it was not reported: success
        (4, 8.0, 0.0, 5, 0.9),  # a pedestrian
        (5, 8.0, 0.0, 0, 0.2),  # not reported
    )
    found = spoofing(clean, attacked, targets, labels=[0, 1])
    assert found.success.tolist() == [True, False, False, True, False, False]
    assert found.occupied.tolist() == [False, True, False, False, False, False]
    assert found.rate == pytest.approx(2 / 6) and found.interval[0] < 1 / 3 < found.interval[1]
    assert spoofing(clean, attacked, targets, [0, 1], radius=0.9).success.tolist() == [False] * 6
    assert spoofing(clean, clean, targets, [0, 1]).rate == 0
    nothing = clean.take(np.zeros(0, dtype=int))
    assert spoofing(nothing, nothing, targets, [0]).rate == 0
    table = spoofing_table({200: found, 60: spoofing(clean, clean, targets, [0])}, {200: found, 60: found}).splitlines()
    assert table[2] == "| 60 | 6 | 0.0 | 0.0-39.0 | 1 | 33.3 | 100.0 |"
    assert table[3].startswith("| 200 | 6 | 33.3 |") and table[3].endswith("| 33.3 | 0.0 |")
    with pytest.raises(DataError, match="1 targets"):
        spoofing(clean, attacked, targets[:1], [0])
    with pytest.raises(DataError, match="at least one frame"):
        spoofing(nothing, nothing, np.zeros((0, 2)), [0])
