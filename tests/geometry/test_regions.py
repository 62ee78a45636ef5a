"""Ground planes and regions: planted planes and boxes, scikit-learn's DBSCAN, real sweeps."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from perception.geometry.boxes import points_in_boxes
from perception.geometry.ground import ground_plane
from perception.geometry.regions import RegionSettings, cluster, find_regions, region_quality

DATA = Path(os.environ.get("PERCEPTION_DATA", "")) / "bev"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs $PERCEPTION_DATA/bev")


def tilted_ground(random: np.random.Generator, count: int = 4000) -> np.ndarray:
    xy = random.uniform(-30, 30, (count, 2))
    z = -1.7 + 0.03 * xy[:, 0] - 0.02 * xy[:, 1]
    return np.column_stack([xy, z]).astype(np.float32)


def block(centre: tuple[float, float], size: float, bottom: float, top: float, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    low, high = (*(c - size / 2 for c in centre), bottom), (*(c + size / 2 for c in centre), top)
    return random.uniform(low, high, (count, 3)).astype(np.float32)


def test_ground_plane_is_the_planted_one() -> None:
    random = np.random.default_rng(0)
    points = np.concatenate([tilted_ground(random), block((5, 5), 4, -1.0, 2.0, 2000, 1)])
    plane = ground_plane(points, sensor_height=1.7)
    expected = np.array([-0.03, 0.02, 1.0]) / np.linalg.norm([-0.03, 0.02, 1.0])
    np.testing.assert_allclose(plane.normal, expected, atol=0.01)
    assert plane.offset == pytest.approx(1.7 * expected[2], abs=0.05)
    height = plane.height(np.array([[0.0, 0.0, 1.0]], dtype=np.float32))
    assert height[0] == pytest.approx(2.7, abs=0.06) and height.dtype == np.float32


def test_a_wall_is_no_ground() -> None:
    random = np.random.default_rng(0)
    wall = np.column_stack([np.full(3000, 4.0), random.uniform(-20, 20, 3000), random.uniform(-5, 0, 3000)])
    points = np.concatenate([wall.astype(np.float32), tilted_ground(random, 500)])
    assert ground_plane(points).normal[2] > np.cos(np.deg2rad(18))


@pytest.mark.parametrize("points", [np.empty((0, 3), np.float32), np.array([[1, 2, -1], [2, 1, -1]], np.float32)])
def test_too_few_points_give_a_level_plane_without_support(points: np.ndarray) -> None:
    plane = ground_plane(points, sensor_height=1.7)
    assert plane.support == 0.0
    np.testing.assert_array_equal(plane.normal, [0, 0, 1])
    assert plane.offset == 1.7


def test_points_on_a_line_span_no_plane() -> None:
    points = np.column_stack([np.arange(9.0), np.zeros(9), np.full(9, -1.7)]).astype(np.float32)
    assert np.isfinite(ground_plane(points, sensor_height=1.7).normal).all()


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Labels agree up to their names."""
    pairs = np.unique(np.stack([a, b], axis=1), axis=0)
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_dbscan(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = np.concatenate([random.normal(c, 0.4, (60, 3)) for c in random.uniform(-8, 8, (6, 3))])
    points = np.concatenate([points, random.uniform(-10, 10, (100, 3))]).astype(np.float32)
    expected = DBSCAN(eps=0.75, min_samples=5).fit(points)
    found = cluster(points, 0.75, 5)
    np.testing.assert_array_equal(found < 0, expected.labels_ < 0)
    core = expected.core_sample_indices_  # a border point may lie within reach of two clusters
    assert same_partition(found[core], expected.labels_[core])


def test_thinned_points_count_as_many() -> None:
    one_voxel = np.full((5, 3), 0.05, np.float32) + np.linspace(0, 0.01, 5, dtype=np.float32)[:, None]
    alone = np.array([[9.0, 9.0, 9.0]], np.float32)
    points = np.concatenate([one_voxel, alone])
    np.testing.assert_array_equal(cluster(points, 0.75, 5, thin=0.2), [0, 0, 0, 0, 0, -1])
    np.testing.assert_array_equal(cluster(points, 0.75, 6, thin=0.2), [-1] * 6)


def scene() -> tuple[np.ndarray, list[slice]]:
    """Ground with a car, a pole too high, a house too long, a lone pair of points."""
    ground = tilted_ground(np.random.default_rng(0))
    ground[:, 2] = -1.7
    parts = [
        ground,
        block((10, 0), 3, -1.3, 0.0, 300, 1),
        block((-10, 0), 0.5, -1.3, 4.0, 300, 2),
        block((0, 15), 12, -1.3, 1.0, 6000, 3),
        np.array([[-15, -15, 0], [-15.1, -15, 0]], np.float32),
        block((1, 0), 1, -1.3, 0.0, 200, 4),  # the own vehicle
        block((10, 10), 1, -1.3, 0.0, 100, 5),
    ]
    ends = np.cumsum([0, *map(len, parts)])
    return np.concatenate(parts), [slice(a, b) for a, b in itertools.pairwise(ends)]


def test_regions_are_objects_of_a_fair_size_in_order_of_their_points() -> None:
    points, (ground, car, pole, house, pair, own, walker) = scene()
    regions = find_regions(points, RegionSettings(sensor_height=1.7))
    for part in (ground, pole, house, pair, own):
        assert (regions[part] == -1).all()
    assert (regions[car] == 0).all() and (regions[walker] == 1).all()


def test_the_order_of_points_changes_nothing() -> None:
    points, _ = scene()
    order = np.random.default_rng(3).permutation(len(points))
    np.testing.assert_array_equal(find_regions(points)[order], find_regions(points[order]))


def test_no_points_and_no_regions() -> None:
    assert find_regions(np.empty((0, 4), np.float32)).shape == (0,)
    flat = tilted_ground(np.random.default_rng(0))
    assert (find_regions(flat, RegionSettings(sensor_height=1.7)) == -1).all()


def test_settings_name_what_is_out_of_range() -> None:
    assert RegionSettings().faults() == []
    keys = [key for key, _ in RegionSettings(eps=0.1, thin=0.2, max_tilt=90, max_height=0).faults()]
    assert keys == ["max_height", "thin", "max_tilt"]


def test_quality_is_the_best_overlap_of_every_box() -> None:
    regions = np.array([0, 0, 0, 0, 1, 1, -1, -1])
    in_box = np.zeros((8, 3), bool)
    in_box[[0, 1, 2, 6], 0] = True  # 3 of 4 + 1 elsewhere: 3 / 5
    in_box[[4, 5], 1] = True  # exact
    in_box[7, 2] = True  # too few points
    found = region_quality(regions, in_box, min_points=2)
    assert found.mean_iou == pytest.approx((3 / 5 + 1) / 2)
    assert (found.boxes, found.regions, found.share) == (2, 2, 0.75)
    assert np.isnan(region_quality(regions, in_box, min_points=9).mean_iou)


@needs_data
def test_a_real_sweep_gives_regions_of_objects() -> None:
    packed = np.load(DATA / "kitti_raw_seq" / "0000000000.npz")
    sweep = packed["xyz_i16"].astype(np.float32) * float(packed["scale_m"])
    plane = ground_plane(sweep, sensor_height=1.73)
    assert plane.offset == pytest.approx(1.73, abs=0.1)
    regions = find_regions(sweep, RegionSettings(sensor_height=1.73))
    assert 60 <= regions.max() + 1 <= 160
    assert 0.2 <= (regions >= 0).mean() <= 0.5


@needs_data
def test_figures_of_the_nuscenes_sweep() -> None:
    """A throw-away implementation had 188 clusters, 171 short enough, and a mean best overlap with a box of 0.54.

    Which boxes and points it took is not known; here they are valid boxes and their points above the ground.
    """
    sweep = np.fromfile(DATA / "nuscenes_frame" / "LIDAR_TOP.bin", np.float32).reshape(-1, 5)[:, :3]
    labels = json.loads((DATA / "nuscenes_frame" / "frame.json").read_text())["boxes_lidar"]
    boxes = np.array([box["box"] for box in labels if box["valid"]])
    settings = RegionSettings(sensor_height=1.84)
    height = ground_plane(sweep, settings.sensor_height).height(sweep)
    away = np.hypot(sweep[:, 0], sweep[:, 1])
    above = (height >= settings.ground_band) & (away >= settings.min_range)
    near = above & (away < 50)
    labels = cluster(sweep[near], settings.eps, settings.min_points, settings.thin)
    longest = np.array([np.ptp(sweep[near][labels == k, :2], axis=0).max() for k in range(labels.max() + 1)])
    assert len(longest) == pytest.approx(188, abs=4)
    assert (longest <= settings.max_extent).sum() == pytest.approx(171, abs=6)
    inside = points_in_boxes(sweep, boxes) & (height >= settings.ground_band)[:, None]
    found = region_quality(find_regions(sweep, settings), inside)
    assert found.mean_iou == pytest.approx(0.54, abs=0.05) and 22 <= found.boxes <= 28
