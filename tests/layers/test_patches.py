import pytest
import torch

from perception.layers.patches import kept_patches, patchify, random_masking, take_tokens, unpatchify

SIZES = [((4, 4), (8, 12), 3), ((2, 3), (6, 12), 1), ((5, 1), (10, 4), 4)]


@pytest.mark.parametrize(("patch", "size", "channels"), SIZES)
def test_unpatchify_inverts_patchify(patch, size, channels):
    images = torch.randn(2, channels, *size)
    grid = (size[0] // patch[0], size[1] // patch[1])
    assert torch.equal(unpatchify(patchify(images, patch), patch, grid), images)


def test_layout_by_hand():
    # One image of 2 x 4 pixels, 2 channels, patches of 2 x 2: value = 100 * channel + 10 * row + column.
    row, column = torch.arange(2)[:, None], torch.arange(4)[None, :]
    image = torch.stack([10 * row + column, 100 + 10 * row + column])[None].float()
    patches = patchify(image, (2, 2))
    assert patches[0, 1].tolist() == [2, 102, 3, 103, 12, 112, 13, 113]  # (row, column, channel)
    assert patchify(image, (2, 2), channels_first=True)[0, 1].tolist() == [2, 3, 12, 13, 102, 103, 112, 113]


def test_patches_are_row_major():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert patchify(image, (1, 1))[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="not divisible"):
        patchify(torch.zeros(1, 3, 8, 9), (4, 4))
    with pytest.raises(ValueError, match="do not fill"):
        unpatchify(torch.zeros(1, 5, 48), (4, 4), (2, 2))


def test_take_tokens_equals_indexing_and_passes_gradients():
    tokens = torch.randn(3, 7, 4, requires_grad=True)
    ids = torch.tensor([[0, 6], [3, 3], [5, 1]])
    taken = take_tokens(tokens, ids)
    for b in range(3):
        assert torch.equal(taken[b], tokens[b, ids[b]])
        assert torch.equal(take_tokens(tokens[:1], ids)[b], tokens[0, ids[b]])
    taken.sum().backward()
    expected = torch.zeros(3, 7)
    expected[0, 0] = expected[0, 6] = expected[2, 5] = expected[2, 1] = 1
    expected[1, 3] = 2
    assert torch.equal(tokens.grad, expected[..., None].expand(3, 7, 4))


def test_masking_by_hand():
    mask = random_masking(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), 0.5)
    assert mask.keep.tolist() == [[1, 3]]  # ordered by noise, not by position
    assert mask.removed.tolist() == [[2, 0]]
    assert mask.restore.tolist() == [[3, 0, 2, 1]]
    assert mask.mask.tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize(("length", "ratio", "kept"), [(196, 0.75, 49), (16, 0.75, 4), (64, 0.6, 25), (10, 0.0, 10)])
def test_number_of_kept_patches(length, ratio, kept):
    assert kept_patches(length, ratio) == kept
    mask = random_masking(torch.rand(5, length), ratio)
    assert mask.mask.sum(1).tolist() == [length - kept] * 5
    assert mask.keep.shape == (5, kept) and mask.removed.shape == (5, length - kept)


def test_restore_inverts_the_shuffle():
    mask = random_masking(torch.rand(4, 30), 0.7)
    shuffled = torch.cat([mask.keep, mask.removed], dim=1)
    assert torch.equal(shuffled.gather(1, mask.restore), torch.arange(30).expand(4, 30))


def test_masks_are_uniform_random_subsets():
    draws, length = 20000, 8
    mask = random_masking(torch.rand(draws, length, generator=torch.Generator().manual_seed(0)), 0.75)
    pairs = torch.zeros(length, length)
    pairs.index_put_((mask.keep[:, 0], mask.keep[:, 1]), torch.ones(draws), accumulate=True)
    off = pairs[~torch.eye(length, dtype=torch.bool)]  # the 56 ordered pairs are equally likely
    assert pairs.diagonal().sum() == 0
    chi2 = ((off - draws / 56) ** 2 / (draws / 56)).sum().item()
    assert chi2 < 93.2  # 99.9 % point of chi-square with 55 degrees of freedom
