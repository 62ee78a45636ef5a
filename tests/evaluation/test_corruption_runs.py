"""Models under corruptions: a detector that sees exactly the boxes that hold enough points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from perception.datasets.base import Dataset
from perception.errors import DataError
from perception.evaluation.corruption_runs import corruption_table, scores_under, spoofing_rates
from perception.evaluation.driving_metrics import BEVDetectionMetric
from perception.evaluation.robustness import Robustness
from perception.geometry.boxes import count_points
from perception.transforms.corrupt import Corrupt

FRAMES, AROUND = 3, 12  # every frame has a ring of cars, 30 degrees apart


class Ring(Dataset):
    """Cars all around, 20 points in each."""

    modality = "driving"
    classes = ("car",)
    fetched = 0

    def __len__(self):
        return FRAMES

    def fetch(self, indices):
        self.fetched += 1
        angle = np.radians(np.arange(AROUND) * 30 + 10.0)
        centre = np.stack([20 * np.cos(angle), 20 * np.sin(angle), -angle * 0 - 1], 1)
        sides = np.tile([4.0, 2.0, 1.6], (AROUND, 1))
        boxes = np.concatenate([centre, sides, angle[:, None] * 0], 1).astype(np.float32)
        batch = {"points": [], "point_id": [], "boxes": [], "box_label": [], "velocity": []}
        for index in indices:
            random = np.random.default_rng(index)
            inside = (random.uniform(-0.4, 0.4, (AROUND, 20, 3)) * sides[:, None] + centre[:, None]).reshape(-1, 3)
            points = np.concatenate([inside, np.full((len(inside), 1), 0.5)], 1).astype(np.float32)
            batch["points"].append(torch.from_numpy(points))
            batch["point_id"].append(torch.arange(len(points)))
            batch["boxes"].append(torch.from_numpy(boxes))
            batch["box_label"].append(torch.zeros(AROUND, dtype=torch.int64))
            batch["velocity"].append(torch.full((AROUND, 2), math.nan))
        return {**batch, "index": torch.from_numpy(indices)}


class Oracle(nn.Module):
    """Reports the true boxes that hold enough points, and a car wherever many points were injected."""

    def __init__(self, least=10, ghost=0):
        super().__init__()
        self.least, self.ghost = least, ghost  # points of a box, and the class of what was injected

    def test_step(self, batch):
        assert not torch.is_grad_enabled() and not self.training
        found = {"boxes": [], "labels": [], "scores": []}
        for points, marks, boxes in zip(batch["points"], batch["point_id"], batch["boxes"], strict=True):
            seen = boxes[count_points(points, boxes) >= self.least]
            labels = [0] * len(seen)
            fake = points[marks < 0]
            if len(fake) > 80:
                ghost = torch.cat([fake[:, :3].mean(0), torch.tensor([4.0, 2.0, 1.6, 0.0])])
                seen = torch.cat([seen, ghost[None]])
                labels.append(self.ghost)
            found["boxes"].append(seen)
            found["labels"].append(torch.tensor(labels))
            found["scores"].append(torch.ones(len(seen)))
        return [found]


def metric():
    return BEVDetectionMetric(nuscenes=False)


def table(model=None, **changed):
    options = {"figure": "detection/bev_ap50", "corruptions": ("lidar-fov", "lidar-empty"), **changed}
    return corruption_table(model or Oracle(), Ring(), metric(), **options)


def test_the_table_says_what_the_detector_sees():
    found = table()
    assert found.clean == 1.0
    # Cars at 10, 40, 70 ... degrees: within 105, 90, 75, 60 and 45 degrees of the front there are 7, 6, 5, 4 and 3.
    centres = np.arange(AROUND) * 30 + 10.0
    centres = np.where(centres > 180, centres - 360, centres)
    width = [sum(abs(c) < limit for c in centres) for limit in (105, 90, 75, 60, 45)]
    assert width == [7, 6, 5, 4, 3]
    assert found.scores["lidar-fov"] == pytest.approx([w / AROUND for w in width])
    # What a corruption takes away still has to be found.
    assert found.scores["lidar-empty"] == [0.0] * 5


def test_a_model_beside_itself_has_an_error_of_exactly_100_percent():
    own = table(severities=(1, 3, 5))
    assert table(severities=(1, 3, 5), baseline=own).mce == 100
    blind = table(Oracle(least=15), corruptions=("lidar-density",), severities=(1, 5))
    assert table(corruptions=("lidar-density",), severities=(1, 5), baseline=blind).mce < 100


def test_every_batch_is_read_once_and_figures_do_not_depend_on_its_size():
    data = Ring()
    settings = {s: Corrupt("lidar-density", s) for s in (1, 5)}
    found = scores_under(Oracle(least=19), data, metric(), settings, batch_size=2)
    assert data.fetched == 2
    assert found == scores_under(Oracle(least=19), Ring(), metric(), settings, batch_size=3)
    assert 1 == found[None]["detection/bev_ap50"] > found[1]["detection/bev_ap50"] > found[5]["detection/bev_ap50"]


def test_spoofing_succeeds_where_the_model_falls_for_it():
    rates = spoofing_rates(Oracle(), Ring(), budgets=(60, 100), distance=(6.0, 8.0))
    assert rates[60].rate == 0 and rates[100].rate == 1
    assert not rates[100].occupied.any() and len(rates[100].success) == FRAMES


def test_every_vehicle_counts_as_a_success_of_spoofing():
    """A fake that is reported as a truck is a vehicle; a pedestrian is none."""
    data = Ring()
    data.classes = ("car", "Truck", "pedestrian")
    for ghost, rate in ((1, 1.0), (2, 0.0)):
        assert spoofing_rates(Oracle(ghost=ghost), data, budgets=(100,), distance=(6.0, 8.0))[100].rate == rate
    assert spoofing_rates(Oracle(ghost=1), data, budgets=(100,), distance=(6.0, 8.0), labels=(0,))[100].rate == 0
    data.classes = ("palm",)
    with pytest.raises(DataError, match="none of the classes palm is known to be a vehicle: give labels"):
        spoofing_rates(Oracle(), data)


def test_a_figure_that_does_not_exist_is_named():
    with pytest.raises(DataError, match="bev_ap50"):
        table(figure="detection/bev_ap5")


def test_a_clean_score_repeated_is_a_resilience_of_100():
    assert Robustness(0.6, {"lidar-fog": [0.6] * 3, "lidar-rain": [0.6] * 3}).mrr == pytest.approx(100)
