"""Maps in the frame of augmented points: flips and quarter turns by hand, and the map that would be drawn there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.datasets.driving_scenes import DrivingScenes
from perception.errors import ConfigError, DataError
from perception.geometry.augmentation import lidar_matrix
from perception.geometry.grid import BEVGrid
from perception.registry import TRANSFORMS
from perception.transforms.driving_augment import AugmentPoints
from perception.transforms.randomness import SampleRandom
from perception.transforms.warp_masks import UNKNOWN, WarpMasks

RANGE = (-3.0, -2.0, -1.0, 3.0, 2.0, 1.0)  # 4 rows along y, 6 columns along x
SQUARE = (-2.0, -2.0, -1.0, 2.0, 2.0, 1.0)


def batch(mask, matrix=None, extent=RANGE):
    mask = torch.as_tensor(np.asarray(mask))[None]
    moved = np.eye(4) if matrix is None else matrix
    return {
        "bev_mask": mask,
        "lidar_aug": torch.from_numpy(moved).float()[None],
        "meta": {"map_range": extent, "map_classes": ("road",)},
    }


def warped(mask, matrix=None, extent=RANGE, target=RANGE, cell=(1.0, 1.0)):
    return WarpMasks(target, cell)(batch(mask, matrix, extent), None)["bev_mask"][0].numpy()


def numbers(rows=4, columns=6):
    """Every cell its own number, so that a cell in the wrong place shows."""
    return np.arange(rows * columns, dtype=np.uint8).reshape(1, rows, columns)


def test_flips_and_quarter_turns_by_hand():
    m = numbers()
    assert np.array_equal(warped(m), m)
    assert np.array_equal(warped(m, lidar_matrix(flip_x=True)), m[:, :, ::-1])  # x is the column
    assert np.array_equal(warped(m, lidar_matrix(flip_y=True)), m[:, ::-1])
    assert np.array_equal(warped(m, lidar_matrix(math.pi)), m[:, ::-1, ::-1])
    square = numbers(4, 4)
    # Counter-clockwise seen from above: what lay at (x, y) lies at (-y, x).
    turned = warped(square, lidar_matrix(math.pi / 2), SQUARE, SQUARE)
    for row in range(4):
        for column in range(4):
            x, y = column - 1.5, row - 1.5
            assert turned[0, int(x + 2), int(-y + 2)] == square[0, row, column]
    back = warped(turned, lidar_matrix(-math.pi / 2), SQUARE, SQUARE)
    assert np.array_equal(back, square)


def test_what_comes_from_beyond_the_map_is_unknown():
    m = numbers()
    moved = warped(m, lidar_matrix(translation=(1.0, -2.0, 5.0)))  # a step to +x, two to -y; height does not matter
    assert np.array_equal(moved[:, :2, 1:], m[:, 2:, :-1])
    assert (moved[:, 2:] == UNKNOWN).all() and (moved[:, :, 0] == UNKNOWN).all() and moved.dtype == np.int8
    small = warped(m, lidar_matrix(scale=1 / 3))  # centres at 0.5 and 1.5 come from 1.5 and 4.5
    kept = np.full((1, 4, 6), UNKNOWN)
    kept[0, 1:3, 2:4] = m[0, ::3, 1::3]
    assert np.array_equal(small, kept)


def test_a_map_can_be_cut_and_its_cells_be_split():
    m = numbers()
    inner = (-2.0, -1.0, -1.0, 2.0, 1.0, 1.0)
    assert np.array_equal(warped(m, target=inner), m[:, 1:3, 1:5])
    fine = warped(m, target=inner, cell=(0.5, 0.5))
    assert np.array_equal(fine, m[:, 1:3, 1:5].repeat(2, 1).repeat(2, 2))
    assert (warped(m, target=(-4.0, -2.0, -1.0, 3.0, 2.0, 1.0))[:, :, 0] == UNKNOWN).all()


def test_a_warped_map_is_the_one_that_is_drawn_in_the_new_frame():
    """Against the road itself, asked at the places that the cells come from; two augmentations, one reading."""
    target, cell = (-20.0, -20.0, -5.0, 20.0, 20.0, 5.0), (0.5, 0.5)
    data = DrivingScenes(count=3, extent=32.0, cameras=False, beams=4, azimuths=32, map_cell=0.125)
    found = data.__getitems__([0, 1, 2])
    random = SampleRandom(1, 0, np.arange(3))
    moved = AugmentPoints(scale=(0.9, 1.1))(AugmentPoints(translation=1.0)(found, random), random)
    out = WarpMasks(target, cell)(moved, random)
    assert torch.equal(out["lidar_aug"], moved["lidar_aug"]) and "map_range" not in out["meta"]
    centres = BEVGrid.from_range(target, cell).centres().numpy().astype(np.float64)
    for i in range(3):
        inverse = np.linalg.inv(moved["lidar_aug"][i].double().numpy())
        xy = centres @ inverse[:2, :2].T + inverse[:2, 3]
        # A cell of the data set's map tells its centre: up to 9 cm from the place.
        assert (out["bev_mask"][i].numpy() != data.world(i).road.masks(xy)).mean() < 0.01
        assert (
            out["bev_mask"][i].numpy() != found["bev_mask"][i, :, ::4, ::4][:, 24:104, 24:104].numpy()
        ).mean() > 0.03


def test_points_on_the_road_stay_on_the_road():
    """The sweep tells where the map has to lie: points of painted or bare road keep their layer."""
    data = DrivingScenes(count=2, extent=32.0, cameras=False, beams=16, azimuths=128, map_cell=0.5)
    before = data.__getitems__([0, 1])
    random = SampleRandom(3, 0, np.arange(2))
    after = WarpMasks((-32.0, -32.0, -5.0, 32.0, 32.0, 5.0), (0.5, 0.5))(AugmentPoints()(before, random), random)
    grid = data.map_grid
    for i in range(2):
        layers = []
        for b in (before, after):
            row, column, inside = grid.index(b["points"][i])
            layers.append((b["bev_mask"][i, 0, row, column], inside & (b["bev_mask"][i, 0, row, column] >= 0)))
        known = layers[0][1] & layers[1][1]
        assert known.sum() > 500 and (layers[0][0] == layers[1][0])[known].float().mean() > 0.97


def test_faults_are_named():
    assert TRANSFORMS.get("WarpMasks") is WarpMasks
    warp = WarpMasks(RANGE, (1.0, 1.0))
    with pytest.raises(DataError, match="needs 'bev_mask'"):
        warp({"points": [], "meta": {}}, None)
    once = warp(batch(numbers()), None)
    with pytest.raises(DataError, match=r"map_range.*were warped before"):
        warp(once, None)
    tilted = np.eye(4)
    tilted[0, 2] = 0.1
    with pytest.raises(DataError, match="tilts"):
        warp(batch(numbers(), tilted), None)
    with pytest.raises(DataError, match="no inverse"):
        warp(batch(numbers(), np.diag([1.0, 0, 1, 1])), None)
    with pytest.raises(ConfigError, match="cell"):
        WarpMasks(RANGE, (0.7, 1.0))
