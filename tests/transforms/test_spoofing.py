"""Fake vehicles in front of the sensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.transforms.randomness import SampleRandom
from perception.transforms.spoofing import Spoof


def random_numbers(indices=(0,)):
    return SampleRandom(0, 0, np.array(indices))


def car(count=60, at=(30.0, 12.0)):
    """The near side of a car, seen from the origin."""
    random = np.random.default_rng(1)
    side = np.stack([random.uniform(-2, 2, count), np.full(count, -0.8), random.uniform(-0.7, 0.7, count)], 1)
    side[:, 0] += at[0]
    side[:, 1] += at[1]
    side[:, 2] -= 1.0
    return np.concatenate([side, np.full((count, 1), 0.4)], 1).astype(np.float32)


def frame(boxes=True, count=60):
    sweep = np.concatenate([car(count), np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32) * 30])
    found = {
        "points": [torch.from_numpy(sweep)],
        "point_id": [torch.arange(len(sweep))],
        "index": torch.tensor([0]),
    }
    if boxes:
        found["boxes"] = [torch.tensor([[30.0, 12.0, -1.0, 4.2, 1.8, 1.5, 0.0]])]
        found["box_label"] = [torch.tensor([0])]
    return found


@pytest.mark.parametrize("budget", [60, 100, 200])
@pytest.mark.parametrize("forward", ["x", "y"])
def test_the_trace_is_moved_rigidly_to_the_front(budget, forward):
    given = frame()
    found = Spoof(budget, forward=forward)(given, random_numbers())
    sweep, box = found["points"][0], found["spoof_box"][0]
    added = sweep[len(given["points"][0]) :]
    assert len(added) == budget
    assert torch.equal(sweep[: -len(added)], given["points"][0])
    assert (found["point_id"][0][-budget:] == -1).all()
    front = {"x": 0.0, "y": math.pi / 2}[forward]
    assert math.atan2(box[1], box[0]) == pytest.approx(front, abs=1e-5)
    assert 5 <= box[:2].norm() <= 10
    # Turned by the difference of the azimuths, and seen from the same side: no farther from the sensor than the box.
    turn = front - math.atan2(12.0, 30.0)
    assert box[6].item() == pytest.approx(turn, abs=1e-5)
    local = torch.from_numpy(car()[:, :3]).double() - torch.tensor([30.0, 12.0, -1.0], dtype=torch.float64)
    cos, sin = math.cos(turn), math.sin(turn)
    moved = torch.stack([cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1], local[:, 2]], 1)
    moved = moved + box[:3].double()
    nearest = torch.cdist(added[:, :3].double(), moved).min(1).values
    assert nearest.max() < (1e-5 if budget <= 60 else 0.15)
    # The visible side faces the sensor: the trace lies closer than the middle of the box.
    assert added[:, :2].norm(dim=1).mean() < box[:2].norm()


def test_a_frame_without_a_fit_vehicle_gets_a_car_on_the_ground():
    for given in (frame(boxes=False), frame(count=5), frame(count=300)):
        found = Spoof(100)(given, random_numbers())
        added, box = found["points"][0][-100:], found["spoof_box"][0]
        assert box[3:6].tolist() == pytest.approx([4.2, 1.8, 1.5])
        assert box[2] - box[5] / 2 == pytest.approx(-1.73)
        inside = (added[:, :3] - box[:3]).abs() <= box[3:6] / 2 + 0.01
        assert inside.all()


def test_seeds_decide_and_the_input_is_left_alone():
    given = frame()
    before = given["points"][0].clone()
    once, again = (Spoof(200)(given, random_numbers()) for _ in range(2))
    assert torch.equal(once["points"][0], again["points"][0])
    assert torch.equal(given["points"][0], before)
    other = Spoof(200)(given, random_numbers(indices=(1,)))
    assert not torch.equal(once["spoof_box"], other["spoof_box"])


def test_faults():
    with pytest.raises(DataError, match="points"):
        Spoof()({"index": torch.tensor([0])}, random_numbers())
    bad = {"points": 0, "distance": (10, 5), "labels": (0,), "forward": "z", "height": 1.7}
    assert {key for key, _ in Spoof.check_config(bad)} == {"points", "distance", "forward"}
