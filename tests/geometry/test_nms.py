"""Suppression against the textbook loop, box after box."""

import math

import numpy as np
import pytest
import torch

from perception.geometry.nms import circle_nms, rotated_nms
from perception.geometry.rotated_iou import iou_3d, iou_bev


def crowd(count: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate(
        [rng.uniform(-12, 12, (count, 2)), rng.uniform(-1, 1, (count, 1)), rng.uniform(1, 5, (count, 4))], axis=1
    )
    scores = np.round(rng.random(count), 2)  # with ties
    return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(rng.integers(0, 3, count))


def one_by_one(drops: np.ndarray, scores: np.ndarray) -> list[int]:
    """``drops[i, j]``: i, once kept, forbids j."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        if not any(drops[k, i] for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("by_class", [False, True])
def test_rotated_nms_is_the_greedy_one(threshold: float, volume: bool, by_class: bool) -> None:
    boxes, scores, labels = crowd()
    drops = ((iou_3d if volume else iou_bev)(boxes, boxes) > threshold).numpy()
    if by_class:
        drops = drops & (labels[:, None] == labels).numpy()
    expected = one_by_one(drops, scores.numpy())
    found = rotated_nms(boxes, scores, threshold, labels if by_class else None, volume=volume)
    assert found.tolist() == expected and 10 < len(expected) < 300
    assert (
        rotated_nms(boxes, scores, threshold, labels if by_class else None, after=5, volume=volume).tolist()
        == (expected[:5])
    )


def test_circle_nms_is_the_greedy_one() -> None:
    boxes, scores, labels = crowd()
    distance = torch.cdist(boxes[:, :2], boxes[:, :2]).numpy()
    assert circle_nms(boxes, scores, 2.0).tolist() == one_by_one(distance <= 2.0, scores.numpy())
    radii = torch.tensor([0.5, 2.0, 3.5])
    drops = (distance <= radii[labels].numpy()[:, None]) & (labels[:, None] == labels).numpy()
    assert circle_nms(boxes, scores, radii, labels).tolist() == one_by_one(drops, scores.numpy())
    with pytest.raises(ValueError, match="needs labels"):
        circle_nms(boxes, scores, radii)


def test_a_dropped_box_drops_nothing() -> None:
    """In a chain where each box reaches only the next, every second one stays."""
    centres = torch.stack([torch.arange(40.0), torch.zeros(40)], dim=1)
    kept = circle_nms(centres, torch.linspace(1, 0, 40), 1.0)
    assert kept.tolist() == list(range(0, 40, 2))


def test_known_boxes() -> None:
    boxes = torch.tensor(
        [[0, 0, 0, 4, 2, 1, 0], [0, 0, 0, 4, 2, 1, math.pi], [0, 0, 0, 4, 2, 1, math.pi / 2], [9, 9, 0, 4, 2, 1, 0]]
    )
    scores = torch.tensor([0.5, 0.9, 0.3, 0.1])
    assert rotated_nms(boxes, scores, 0.5).tolist() == [1, 2, 3]  # crossed boxes share 4 of 12
    assert rotated_nms(boxes, scores, 0.3).tolist() == [1, 3]
    assert rotated_nms(boxes, scores, 0.5, before=2).tolist() == [1]  # only the best two are looked at
    assert rotated_nms(boxes, scores, 0.5, labels=torch.tensor([0, 1, 0, 0])).tolist() == [1, 0, 2, 3]


def test_nothing_and_nonsense() -> None:
    assert rotated_nms(torch.zeros(0, 7), torch.zeros(0), 0.5).tolist() == []
    assert circle_nms(torch.zeros(0, 2), torch.zeros(0), 1.0).tolist() == []
    with pytest.raises(ValueError, match="score for each of 2"):
        rotated_nms(torch.zeros(2, 7), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="finite"):
        rotated_nms(torch.full((2, 7), torch.nan), torch.zeros(2), 0.5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, labels = crowd()
    whole = rotated_nms(boxes, scores, 0.1, labels), circle_nms(boxes, scores, 2.0, labels)
    for name in ("nms._CHUNK", "nms._NEAR", "rotated_iou._CHUNK"):
        monkeypatch.setattr(f"perception.geometry.{name}", 1000)
    assert torch.equal(rotated_nms(boxes, scores, 0.1, labels), whole[0])
    assert torch.equal(circle_nms(boxes, scores, 2.0, labels), whole[1])
