import math

import pytest
import torch

from perception.layers.positions import guess_grid, resample_positions, sincos_2d


def test_values_of_one_token_by_hand():
    # dim 8: halves of 4 = [sin f0, sin f1, cos f0, cos f1], f = 1, 10000^(-1/2) = 0.01
    table = sincos_2d(8, (3, 5), prefix_tokens=1)
    row, column = 2, 4
    expected = [math.sin(column), math.sin(0.01 * column), math.cos(column), math.cos(0.01 * column)]
    expected += [math.sin(row), math.sin(0.01 * row), math.cos(row), math.cos(0.01 * row)]
    assert table.shape == (1, 16, 8) and table.dtype == torch.float32
    assert torch.equal(table[0, 0], torch.zeros(8))
    torch.testing.assert_close(table[0, 1 + row * 5 + column], torch.tensor(expected))


def test_first_half_is_the_column():
    table = sincos_2d(16, (4, 6))[0].view(4, 6, 16)
    assert torch.equal(table[0, :, :8], table[3, :, :8])  # the same column in another row
    assert torch.equal(table[:, 0, 8:], table[:, 5, 8:])
    assert not torch.equal(table[:, 0, :8], table[:, 1, :8])


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(6, (2, 2))


def test_resampling_keeps_prefix_constant_and_equal_grids():
    positions = torch.randn(1, 2 + 12, 5)
    assert resample_positions(positions, (3, 4), (3, 4), 2) is positions
    larger = resample_positions(positions, (3, 4), (6, 4), 2)
    assert larger.shape == (1, 2 + 24, 5)
    assert torch.equal(larger[:, :2], positions[:, :2])
    flat = resample_positions(torch.full((1, 12, 5), 0.7), (3, 4), (7, 9))
    torch.testing.assert_close(flat, torch.full((1, 63, 5), 0.7))


def test_resampling_transposes_with_the_grid():
    table = torch.randn(3, 4, 5)
    wide = resample_positions(table.view(1, 12, 5), (3, 4), (6, 5)).view(6, 5, 5)
    tall = resample_positions(table.transpose(0, 1).reshape(1, 12, 5), (4, 3), (5, 6)).view(5, 6, 5)
    torch.testing.assert_close(wide, tall.transpose(0, 1))


@pytest.mark.parametrize(
    ("tokens", "target", "grid"),
    [(196, (8, 8), (14, 14)), (64, (4, 16), (8, 8)), (32, (4, 8), (4, 8)), (32, (16, 8), (8, 4)), (7, (1, 9), (1, 7))],
)
def test_grid_of_a_checkpoint(tokens, target, grid):
    assert guess_grid(tokens, target) == grid
