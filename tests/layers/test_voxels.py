import numpy as np
import pytest
import torch
from lidar_sweeps import KITTI, NUSCENES, SMALL, group_one_by_one, kitti_sweep, nuscenes_sweep, random_sweeps

from perception.layers.voxels import dynamic_voxels, hard_voxels


def rows_by_voxel(voxels, sweeps):
    """{cell: points} of grouped points."""
    found = {}
    for number, cell in enumerate(voxels.coors.tolist()):
        found[tuple(cell)] = voxels.points[voxels.voxel == number]
    assert sum(len(p) for p in found.values()) == len(voxels.points)
    return found


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(2, 1000), (1000, 5), (3, 7), (1, 1)])
def test_hard_voxels_follow_the_definition(layers, max_points, max_voxels):
    sweeps = random_sweeps(150, 0, 90, 1)
    expected = group_one_by_one(sweeps, SMALL, max_points, max_voxels, layers)
    voxels = hard_voxels(sweeps, SMALL, max_points, max_voxels, layers)
    assert [tuple(c) for c in voxels.coors.tolist()] == list(expected)
    assert voxels.num_points.tolist() == [len(rows) for rows in expected.values()]
    padded = voxels.padded(max_points)
    for number, (cell, rows) in enumerate(expected.items()):
        assert torch.equal(padded[number, : len(rows)], sweeps[cell[0]][rows])
        assert (padded[number, len(rows) :] == 0).all()


def test_what_the_limits_leave_out_is_counted():
    sweeps = random_sweeps(150, 0, 90)
    free, tight = hard_voxels(sweeps, SMALL, 1000, 1000), hard_voxels(sweeps, SMALL, 2, 10)
    assert free.capped_points == free.capped_voxels == 0
    assert tight.capped_voxels == len(free) - len(tight) and len(tight) == 20
    assert tight.capped_points == len(free.points) - len(tight.points) > 0
    assert tight.outside == free.outside == 240 - len(free.points)


def test_without_limits_hard_is_dynamic():
    sweeps = random_sweeps(200, 30)
    hard, dynamic = hard_voxels(sweeps, SMALL, 1000, 1000, 3), dynamic_voxels(sweeps, SMALL, 3)
    first, second = rows_by_voxel(hard, sweeps), rows_by_voxel(dynamic, sweeps)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[cell], second[cell]) for cell in first)
    assert hard.outside == dynamic.outside and hard.shape == dynamic.shape == (3, 6, 8)


def test_every_point_in_range_is_in_one_cell_that_holds_it():
    sweeps = random_sweeps(400, 100)
    voxels = dynamic_voxels(sweeps, SMALL, 2)
    whole = torch.cat(sweeps)
    inside = SMALL.index(whole)[2] & (whole[:, 2] >= -1) & (whole[:, 2] < 1)
    assert int(voxels.num_points.sum()) == len(voxels.points) == int(inside.sum())
    assert voxels.outside == int((~inside).sum())
    cells = voxels.coors[voxels.voxel]
    low = torch.stack([cells[:, 3] * 0.5 - 2, cells[:, 2] * 0.5 - 1, cells[:, 1] * 1.0 - 1], dim=1)
    offset = voxels.points[:, :3] - low
    assert (offset >= 0).all() and (offset < torch.tensor([0.5, 0.5, 1.0])).all()
    assert voxels.coors.unique(dim=0).shape == voxels.coors.shape
    assert voxels.coors.dtype == voxels.num_points.dtype == torch.int32


def test_points_that_are_not_finite_lie_outside():
    sweep = torch.tensor([[0.0, 0.0, 0.0, 1.0], [torch.nan, 0.0, 0.0, 1.0], [0.0, torch.inf, 0.0, 1.0]])
    for voxels in (dynamic_voxels([sweep], SMALL), hard_voxels([sweep], SMALL, 5, 5)):
        assert len(voxels) == 1 and voxels.outside == 2


@pytest.mark.parametrize("points", [[torch.zeros(0, 4)], [torch.zeros(0, 4)] * 3, [torch.full((5, 4), 99.0)]])
def test_sweeps_without_points(points):
    for voxels in (dynamic_voxels(points, SMALL), hard_voxels(points, SMALL, 5, 5)):
        assert len(voxels) == 0 and voxels.points.shape == (0, 4) and voxels.batch_size == len(points)
        assert voxels.padded(5).shape == (0, 5, 4) and voxels.sums(voxels.points).shape == (0, 4)


def test_the_order_of_points_decides_what_a_limit_keeps():
    (sweep,) = random_sweeps(200)
    kept = [hard_voxels([s], SMALL, 1, 1000).points for s in (sweep, sweep.flip(0))]
    assert kept[0].shape == kept[1].shape and not torch.equal(kept[0].sum(0), kept[1].sum(0))


def test_figures_of_a_real_frame():
    sweep = kitti_sweep()
    voxels = hard_voxels([sweep], KITTI, 32, 16_000)
    assert len(sweep) == 17_238 and len(voxels) == 3_945
    # Of the pillars at the limit of 32, as counted beside the public grouping.
    assert int((voxels.num_points == 32).sum()) == 56
    assert len(dynamic_voxels([sweep], KITTI)) == 3_945


def test_real_frames_group_as_one_by_one():
    sweep = nuscenes_sweep()[::4]
    expected = group_one_by_one([sweep], NUSCENES, 20, 2_000)
    voxels = hard_voxels([sweep], NUSCENES, 20, 2_000)
    assert [tuple(c) for c in voxels.coors.tolist()] == list(expected)
    rows = np.concatenate([np.sort(rows) for rows in expected.values()])
    assert torch.equal(voxels.points, sweep[np.sort(rows)])
    assert voxels.capped_voxels > 0
