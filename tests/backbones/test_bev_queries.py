"""Maps and raw sensors asked for places: what a probe of "what stands where" gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from perception.backbones.bev_base import BEVBackbone
from perception.datasets.driving_scenes import DrivingScenes
from perception.errors import DataError
from perception.evaluation.features import extract
from perception.geometry.grid import BEVGrid
from perception.transforms.box_queries import QueryBoxes
from perception.transforms.randomness import SampleRandom

RANGE = (-32.0, -32.0, -3.0, 32.0, 32.0, 5.0)


class Position(BEVBackbone):
    """The map is the position of its cells."""

    def __init__(self, **record) -> None:
        record = record or {"point_range": RANGE}
        super().__init__(dict(type="DrivingPreprocess", **record), BEVGrid.from_range(RANGE, (1.0, 1.0)), 2)

    def bev(self, batch: dict) -> Tensor:
        count = len(batch["points"] if "points" in batch else batch["cams"])
        return self.grid.centres().permute(2, 0, 1).repeat(count, 1, 1, 1)


def scenes(**given) -> DrivingScenes:
    small = dict(count=3, beams=24, azimuths=240, camera_size=(48, 96), transforms=[dict(type="QueryBoxes")])
    return DrivingScenes(**{**small, **given})


def test_places_are_boxes_and_points_beside_them() -> None:
    batch = scenes().__getitems__([0, 2])
    start = 0
    for boxes, labels, query, points in zip(
        batch["boxes"], batch["box_label"], batch["query"], batch["points"], strict=True
    ):
        assert len(query) == len(boxes) + 8
        own = batch["label"][start : start + len(query)]
        start += len(query)
        assert torch.equal(query[: len(boxes)], boxes[:, :3]) and torch.equal(own[: len(boxes)], labels)
        assert (own[len(boxes) :] == 3).all()
        for place in query[len(boxes) :]:
            assert (points[:, :3] == place).all(dim=1).any()
            for x, y, _, length, width, _, yaw in boxes.tolist():
                dx, dy = place[0] - x, place[1] - y
                along, across = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
                assert abs(along) > length / 2 + 1 or abs(across) > width / 2 + 1 or place[2] > boxes[:, 2].min()
    assert start == len(batch["label"])


def test_only_near_and_high_places() -> None:
    transform = QueryBoxes(background=50, min_height=0.5, extent=12.0)
    batch = DrivingScenes(count=2, cameras=False).__getitems__([0, 1])
    found = transform(batch, SampleRandom(0, 0, np.arange(2)))
    query = torch.cat(found["query"])
    assert (query[:, :2].abs() < 12).all() and len(query) == len(found["label"])
    assert (query[found["label"] == 3, 2] > -1.8 + 0.4).all()
    again = transform(batch, SampleRandom(0, 0, np.arange(2)))
    assert all(torch.equal(a, b) for a, b in zip(found["query"], again["query"], strict=True))


def test_the_map_is_read_at_the_places() -> None:
    batch = scenes(cameras=False).__getitems__([0, 1])
    inner = [query[:, :2].abs().amax(1) < 31 for query in batch["query"]]
    read = Position().embed(batch).split([len(q) for q in batch["query"]])
    for query, found, kept in zip(batch["query"], read, inner, strict=True):
        assert torch.allclose(found[kept], query[kept, :2], atol=1e-3)


def test_raw_features_count_points_around_a_place() -> None:
    points = torch.tensor([[0.5, 0.5, 0.0, 0.2], [0.6, 0.4, 1.0, 0.4], [2.5, 0.5, -1.0, 1.0], [9.0, 9.0, 0.0, 0.0]])
    batch = {"points": [points], "query": [torch.tensor([[0.5, 0.5, 0.0]])], "lidar_aug": torch.eye(4)[None]}
    raw = Position().baselines(batch)["raw"].view(4, 5, 5)  # statistic, row (y), column (x)
    centre, right = raw[:, 2, 2], raw[:, 2, 4]
    assert centre.tolist() == pytest.approx([np.log(3), 4.0, 3.5, 0.3])
    assert right.tolist() == pytest.approx([np.log(2), 2.0, 2.0, 1.0])
    assert raw.abs().sum() == pytest.approx(float(centre.abs().sum() + right.abs().sum()), abs=1e-4)


def test_raw_features_of_cameras_are_the_pixels_there() -> None:
    dataset = scenes()
    batch = dataset.__getitems__([0])
    only = {k: v for k, v in batch.items() if k not in ("points", "point_id")}
    backbone = Position(image_size=(48, 96), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    raw = backbone.baselines(backbone.preprocess(only))["raw"].view(-1, 8, 8, 3)
    world = dataset.world(0)
    checked = 0
    for row, box in enumerate(batch["boxes"][0]):
        number = int(np.abs(world.boxes[:, :3] - box[:3].numpy()).sum(1).argmin())
        if float(box[:2].norm()) < 14 and raw[row].any():
            colour = raw[row, 3:5, 3:5].mean((0, 1)).numpy()
            own = world.colour[number]
            checked += 1
            assert colour @ own / np.linalg.norm(colour) / np.linalg.norm(own) > 0.9
    assert checked >= 1
    with pytest.raises(DataError, match="height"):
        backbone.raw_features({**backbone.preprocess(only), "query": [torch.zeros(1, 2)]})


def test_probes_get_one_row_a_place() -> None:
    dataset = scenes(cameras=False)
    found = extract(Position(), dataset, batch_size=2, baselines=True)
    places = sum(len(q) for i in range(3) for q in dataset.__getitems__([i])["query"])
    assert found["backbone"].x.shape == (places, 2) and found["raw"].x.shape == (places, 100)
    assert set(found["backbone"].y.tolist()) <= {0, 1, 2, 3}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="boxes and box_label"):
        QueryBoxes()({"points": []}, SampleRandom(0, 0, np.arange(1)))
