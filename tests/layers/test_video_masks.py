import pytest
import torch

from perception.errors import DataError
from perception.layers.video_masks import (
    MASKS,
    kept_places,
    mask_cubes,
    mask_from_bool,
    running_cells,
    show_ends,
)

GRID = (8, 14, 14)


def draw(kind, grid=GRID, ratio=0.9, batch=3, seed=0):
    length = grid[0] * grid[1] * grid[2]
    return mask_cubes(kind, torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)), grid, ratio)


def test_tubes_of_the_card():
    mask = draw("tube").mask
    assert mask.dtype == torch.bool and mask.shape == (3, 1568)
    slots = mask.view(3, 8, 196)
    assert (slots == slots[:, :1]).all()  # the same places in every slot
    assert (slots.sum(2) == int(0.9 * 196)).all() and int(0.9 * 196) == 176
    assert (~mask).sum(1).tolist() == [160] * 3
    assert not torch.equal(mask[0], mask[1])  # one mask for every sample


@pytest.mark.parametrize(("kind", "ratio"), [("tube", 0.75), ("random", 0.6)])
def test_all_places_are_equally_likely(kind, ratio):
    grid, draws = (2, 3, 4), 4000
    frequency = draw(kind, grid, ratio, draws).mask.float().mean(0)
    expected = int(ratio * 12) / 12 if kind == "tube" else 1 - int(24 * (1 - ratio)) / 24
    assert (frequency - expected).abs().max() < 4 * (expected * (1 - expected) / draws) ** 0.5


@pytest.mark.parametrize(("grid", "ratio", "kept"), [((8, 16, 16), 0.9, 204), (GRID, 0.9, 156), ((2, 2, 2), 0.5, 4)])
def test_random_masks_keep_the_numbers_of_the_card(grid, ratio, kept):
    mask = draw("random", grid, ratio)
    length = grid[0] * grid[1] * grid[2]
    assert mask.keep.shape == (3, kept) and mask.mask.sum(1).tolist() == [length - kept] * 3
    assert kept_places("random", grid, ratio) == kept


def test_random_keeps_the_least_noise():
    noise = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.2, 0.8, 0.7, 0.6]])
    mask = mask_cubes("random", noise, (2, 2, 2), 0.6)
    assert mask.keep.tolist() == [[1, 3, 4]] and mask.hidden.tolist() == [[0, 2, 5, 6, 7]]


@pytest.mark.parametrize("kind", MASKS)
def test_every_way_has_one_interface_and_inverts(kind):
    mask = draw(kind)
    joined = torch.cat([mask.keep, mask.hidden], dim=1)
    assert torch.equal(joined.gather(1, mask.restore), torch.arange(1568).expand(3, 1568))
    assert (mask.keep.diff(dim=1) > 0).all() and (mask.hidden.diff(dim=1) > 0).all()
    assert mask.ratio == pytest.approx(mask.mask.float().mean().item(), abs=1e-6)
    assert mask.ratio == pytest.approx(0.9, abs=1 / 196)


def test_order_based_masks_by_hand():
    grid = (5, 1, 2)
    assert draw("temporal", grid, 0.6, 1).keep.tolist() == [[0, 1, 2, 3]]  # a prefix: the future is predicted
    assert draw("center", grid, 0.6, 1).keep.tolist() == [[0, 1, 8, 9]]  # both ends
    assert draw("center", grid, 0.7, 1).keep.tolist() == [[0, 1, 9]]  # of equal distances the first
    assert torch.equal(draw("boundary").mask, draw("center").mask)
    assert torch.equal(draw("agnostic").mask, draw("random").mask)


def test_given_masks():
    mask = torch.tensor([[True, False, True], [False, True, True]])
    split = mask_from_bool(mask)
    assert split.keep.tolist() == [[1], [0]] and split.hidden.tolist() == [[0, 2], [1, 2]]
    assert torch.equal(split.mask, mask)
    with pytest.raises(DataError, match=r"same number of cubes, but the masks hide \[1, 2\]"):
        mask_from_bool(torch.tensor([[True, False, True], [False, False, True]]))


def test_ends_are_whole_slots():
    assert show_ends(2, (4, 1, 2), 1).keep.tolist() == [[0, 1, 6, 7]] * 2


def test_running_cells_take_turns():
    grid = (4, 4, 4)
    ids = running_cells(torch.arange(4), grid, 0.5)
    assert ids.shape == (4, 32)
    chosen = torch.zeros(4, 64).scatter_(1, ids, 1.0).view(4, 4, 2, 2, 2, 2)  # sample, slot, cell row, row, cell, col
    assert (chosen.sum((3, 5)) == 2).all()  # two of every cell of four
    assert (chosen.sum(1) == 2).all()  # every place half of the time
    assert (chosen == chosen[:, :, :1, :, :1]).all()  # all cells alike
    assert chosen[0, 0, 0, :, 0].flatten().tolist() == [1, 1, 0, 0]
    assert chosen[0, 1, 0, :, 0].flatten().tolist() == [0, 1, 1, 0]  # one on
    assert torch.equal(chosen[1, 0], chosen[0, 1])  # a start of 1 is one slot ahead
    assert running_cells(torch.zeros(1, dtype=torch.long), grid, 0.75).shape == (1, 16)


def test_shuffled_cubes_hide_1332_of_1568_in_every_sample():
    mask = draw("shuffle", ratio=0.85, batch=64)
    assert mask.mask.sum(1).tolist() == [1332] * 64 and kept_places("shuffle", GRID, 0.85) == 236
    assert len({tuple(row) for row in mask.hidden.tolist()}) == 64  # every sample has a shuffle of its own
    slots = mask.mask.view(64, 8, 196)
    assert not (slots == slots[:, :1]).flatten(1).all(1).any()  # and no tubes
