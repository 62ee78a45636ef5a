import numpy as np
import pytest
import torch

from perception.errors import ConfigError
from perception.geometry.grid import BEVGrid, sample_bev

GRID = BEVGrid.from_range((-2.0, 0.0, -1.0, 4.0, 4.0, 3.0), (1.0, 2.0))


def test_sizes_of_public_grids():
    kitti = BEVGrid.from_range((0, -39.68, -3, 69.12, 39.68, 1), (0.16, 0.16))
    assert kitti.shape == (496, 432) and kitti.coarser(2).shape == (248, 216)
    fine = BEVGrid.from_range((-54, -54, -5, 54, 54, 3), (0.075, 0.075))
    assert fine.shape == (1440, 1440) and fine.coarser(8).cell == pytest.approx((0.6, 0.6))
    assert GRID.shape == (2, 6) and GRID.point_range == (-2.0, 0.0, -1.0, 4.0, 4.0, 3.0)


def test_lower_edges_belong_to_a_cell_and_upper_ones_do_not():
    xy = torch.tensor([[-2.0, 0.0], [3.999, 3.999], [4.0, 1.0], [0.0, 4.0], [-2.001, 0.0], [0.0, 2.0]])
    row, column, inside = GRID.index(xy)
    assert inside.tolist() == [True, True, False, False, False, True]
    assert row[inside].tolist() == [0, 1, 1] and column[inside].tolist() == [0, 5, 2]
    assert row[~inside].tolist() == column[~inside].tolist() == [0, 0, 0]


def test_positions_that_are_not_finite_are_outside():
    _, _, inside = GRID.index(torch.tensor([[torch.nan, 1.0], [1.0, torch.inf], [-torch.inf, 1.0], [0.5, 0.5]]))
    assert inside.tolist() == [False, False, False, True]


def test_centres_lie_in_their_own_cells():
    centres = GRID.centres()
    assert centres[0, 0].tolist() == [-1.5, 1.0] and centres[1, 5].tolist() == [3.5, 3.0]
    row, column, inside = GRID.index(centres.numpy().astype(np.float64))
    assert inside.all()
    assert torch.equal(row, torch.arange(2)[:, None].expand(2, 6))
    assert torch.equal(column, torch.arange(6).expand(2, 6))


@pytest.mark.parametrize(
    ("point_range", "cell", "text"),
    [
        ((0, 0, 0, 1, 1), (1, 1), "six finite numbers"),
        ((0, 0, 0, 0, 1, 1), (1, 1), "is empty"),
        ((0, 0, 0, float("nan"), 1, 1), (1, 1), "six finite numbers"),
        ((0, 0, 0, 1, 1, 1), (0.3, 1), "1 m along x is no whole number of cells of 0.3 m"),
        ((0, 0, 0, 1, 1, 1), (1, -1), "above 0"),
    ],
)
def test_grids_that_cannot_be(point_range, cell, text):
    with pytest.raises(ConfigError, match=text):
        BEVGrid.from_range(point_range, cell)


def test_coarser_needs_whole_cells():
    with pytest.raises(ConfigError, match="2 x 6 cells"):
        GRID.coarser(4)


def test_a_map_is_read_at_centres_and_between_them():
    maps = torch.arange(2 * 3 * 2 * 6, dtype=torch.float32).view(2, 3, 2, 6)
    found = sample_bev(maps, GRID.centres().view(1, -1, 2).expand(2, -1, -1), GRID)
    torch.testing.assert_close(found, maps.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    # Half way from cell (0, 2) to (0, 3) in x, and a quarter of the way from row 0 to row 1.
    between = sample_bev(maps[:1], torch.tensor([[[1.0, 1.5, 9.0]]]), GRID)[0, 0]
    expected = 0.75 * (maps[0, :, 0, 2] + maps[0, :, 0, 3]) / 2 + 0.25 * (maps[0, :, 1, 2] + maps[0, :, 1, 3]) / 2
    torch.testing.assert_close(between, expected)
    # The outer half of a cell has no neighbour to blend with.
    torch.testing.assert_close(sample_bev(maps[:1], torch.tensor([[[-2.0, 0.0]]]), GRID)[0, 0], maps[0, :, 0, 0])


def test_lists_of_positions_have_their_own_lengths_and_gradients_arrive():
    maps = torch.randn(2, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    xy = [torch.rand(n, 2, dtype=torch.float64).mul(3).requires_grad_() for n in (4, 0)]
    found = sample_bev(maps, xy, GRID)
    assert [tuple(f.shape) for f in found] == [(4, 3), (0, 3)]
    assert torch.autograd.gradcheck(lambda m, p: sample_bev(m, [p, xy[1]], GRID)[0], (maps, xy[0]))


def test_maps_and_lists_must_fit():
    with pytest.raises(ValueError, match=r"\(2, 5\) cells"):
        sample_bev(torch.zeros(1, 1, 2, 5), torch.zeros(1, 1, 2), GRID)
    with pytest.raises(ValueError, match="1 maps"):
        sample_bev(torch.zeros(1, 1, 2, 6), [torch.zeros(1, 2)] * 2, GRID)
