"""Regions are found once, and never taken from a damaged or outdated file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import perception.transforms.find_regions as module
from perception.errors import ConfigError, DataError
from perception.geometry.regions import RegionSettings, find_regions
from perception.transforms.driving_augment import TwoViews
from perception.transforms.find_regions import FindRegions
from perception.transforms.randomness import SampleRandom

RANDOM = SampleRandom(0, 0, np.arange(2))


def sweep(seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    ground = np.column_stack([random.uniform(-20, 20, (500, 2)), np.full(500, -1.7)])
    thing = random.normal((8, 3, -0.5), 0.3, (80, 3))
    return torch.from_numpy(np.column_stack([np.concatenate([ground, thing]), np.zeros(580)]).astype(np.float32))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def find(points: np.ndarray, settings: RegionSettings) -> np.ndarray:
        calls.append(len(points))
        return find_regions(points, settings)

    monkeypatch.setattr(module, "find_regions", find)
    return calls


def test_regions_join_the_batch() -> None:
    batch = FindRegions(sensor_height=1.7)({"points": [sweep(0), sweep(1)]}, RANDOM)
    for region in batch["region"]:
        assert region.dtype == torch.int64 and region.shape == (580,)
        assert (region[:500] == -1).all() and (region[500:] == 0).float().mean() > 0.95


def test_regions_are_gauged_by_boxes() -> None:
    thing = torch.tensor([[8.0, 3.0, -0.5, 9.0, 9.0, 9.0, 0.0]])  # a box around the ground below, too
    far = torch.tensor([[-90.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
    batch = {"points": [sweep(0), sweep(1)], "boxes": [thing, far]}
    found = FindRegions(sensor_height=1.7, gauge=True)(batch, RANDOM)
    inside = ((sweep(0)[:, :3] - thing[0, :3]).abs() <= 4.5).all(1)
    region = found["region"][0] == 0
    expected = float((inside & region).sum() / (inside | region).sum())
    assert 0.5 < expected < 1 and found["region_iou"][0] == pytest.approx(expected, abs=1e-6)
    assert found["region_iou"].dtype == torch.float32 and found["region_iou"][1].isnan()
    with pytest.raises(DataError, match="gauges regions by 'boxes', but the batch holds"):
        FindRegions(gauge=True)({"points": [sweep(0)]}, RANDOM)


def test_turning_sweeps_changes_neither_regions_nor_pairs() -> None:
    """Regions are found once, in the sensor's frame; views of one turn hold the same ids and the same regions."""
    given = FindRegions(sensor_height=1.7)({"points": [sweep(0), sweep(1)]}, RANDOM)
    turned = TwoViews(rotation=90.0)(given, RANDOM)["views"]
    still = TwoViews(rotation=0.0, scale=(1.0, 1.0))(given, RANDOM)["views"]
    for a, b in zip(turned, still, strict=True):
        for place in range(2):
            assert not torch.equal(a["points"][place], b["points"][place])
            assert torch.equal(a["region"][place], b["region"][place])
            assert torch.equal(a["point_id"][place], b["point_id"][place])
            assert torch.equal(a["region"][place], given["region"][place][a["point_id"][place]])


def test_a_sweep_is_looked_at_once(counted: list[int], tmp_path: Path) -> None:
    transform = FindRegions(cache=str(tmp_path / "regions"))
    first = transform({"points": [sweep(0)]}, RANDOM)["region"][0]
    again = transform({"points": [sweep(0)]}, RANDOM)["region"][0]
    other_process = pickle.loads(pickle.dumps(transform))
    assert not other_process._remembered
    read = other_process({"points": [sweep(0)]}, RANDOM)["region"][0]
    assert torch.equal(first, again) and torch.equal(first, read)
    assert len(counted) == 1
    transform({"points": [sweep(1)]}, RANDOM)
    FindRegions(cache=str(tmp_path / "regions"), eps=0.5)({"points": [sweep(0)]}, RANDOM)
    assert len(counted) == 3
    assert len(list((tmp_path / "regions").iterdir())) == 3  # no temporary file is left


def test_a_damaged_file_is_found_again(counted: list[int], tmp_path: Path) -> None:
    expected = FindRegions(cache=str(tmp_path))({"points": [sweep(0)]}, RANDOM)["region"][0]
    file = next(tmp_path.iterdir())
    for content in (b"", file.read_bytes()[:-9], b"\x80\x04K\x01."):
        file.write_bytes(content)
        found = FindRegions(cache=str(tmp_path))({"points": [sweep(0)]}, RANDOM)["region"][0]
        assert torch.equal(found, expected)
    assert len(counted) == 4


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    transform = FindRegions()
    for seed in range(4):
        transform({"points": [sweep(seed)]}, RANDOM)
    assert len(transform._remembered) == 2


def test_faults() -> None:
    with pytest.raises(ConfigError, match="thin"):
        FindRegions(thin=2.0)
    with pytest.raises(DataError, match="before TwoViews"):
        FindRegions()({"views": [], "points": []}, RANDOM)
