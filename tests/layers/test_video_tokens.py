import math

import pytest
import torch
import torch.nn.functional as F

from perception.layers.video_tokens import (
    CubeEmbed,
    cube_grid,
    cut_cubes,
    flat_sinusoid,
    join_cubes,
    resample_time,
    separable_positions,
)


@pytest.mark.parametrize(("cube", "size"), [((2, 4, 4), (4, 8, 12)), ((1, 2, 3), (3, 4, 6)), ((4, 5, 1), (4, 5, 3))])
def test_join_inverts_cut(cube, size):
    clips = torch.randn(2, 3, *size)
    grid = cube_grid(clips.shape, cube)
    assert torch.equal(join_cubes(cut_cubes(clips, cube), cube, grid), clips)


def test_layout_by_hand():
    # value = 1000 channel + 100 frame + 10 row + column; 2 channels, 2 frames, 2 x 4 pixels, cubes of 2 x 2 x 2
    c, t, h, w = torch.meshgrid(*(torch.arange(n) for n in (2, 2, 2, 4)), indexing="ij")
    clip = (1000 * c + 100 * t + 10 * h + w)[None].float()
    cubes = cut_cubes(clip, (2, 2, 2))
    assert cubes.shape == (1, 2, 16)
    one = [2, 3, 12, 13, 102, 103, 112, 113]
    assert cubes[0, 1].tolist() == [v for p in one for v in (p, 1000 + p)]  # (frame, row, column, channel)
    assert cut_cubes(clip, (2, 2, 2), channels_first=True)[0, 1].tolist() == one + [1000 + p for p in one]


def test_cubes_are_ordered_by_time_then_row_then_column():
    clip = torch.arange(2 * 2 * 3.0).view(1, 1, 2, 2, 3)
    assert cut_cubes(clip, (1, 1, 1))[0, :, 0].tolist() == list(range(12))


@pytest.mark.parametrize("channels_first", [True, False])
def test_chosen_cubes_are_those_of_all(channels_first):
    clips, ids = torch.randn(2, 3, 4, 8, 12), torch.tensor([[0, 11, 5], [7, 7, 2]])
    every = cut_cubes(clips, (2, 4, 4), channels_first=channels_first)
    some = cut_cubes(clips, (2, 4, 4), ids, channels_first)
    for b in range(2):
        assert torch.equal(some[b], every[b, ids[b]])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="5 x 8 x 8 is not divisible"):
        cut_cubes(torch.zeros(1, 3, 5, 8, 8), (2, 4, 4))
    with pytest.raises(ValueError, match="do not fill"):
        join_cubes(torch.zeros(1, 5, 96), (2, 4, 4), (1, 2, 2))


def test_embedding_is_a_strided_convolution_with_torchs_start():
    torch.manual_seed(0)
    embed = CubeEmbed((2, 4, 4), 3, 16)
    torch.manual_seed(0)
    assert torch.equal(embed.proj.weight, torch.nn.Conv3d(3, 16, (2, 4, 4), (2, 4, 4)).weight)
    clips = torch.randn(2, 3, 4, 8, 12)
    theirs = F.conv3d(clips, embed.proj.weight, embed.proj.bias, stride=(2, 4, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(clips), theirs, atol=1e-5, rtol=1e-5)
    keep = torch.tensor([[3, 0], [11, 6]])
    torch.testing.assert_close(embed(clips, keep)[1], theirs[1, [11, 6]], atol=1e-5, rtol=1e-5)


def test_sinusoid_by_the_formula():
    table = flat_sinusoid(1568, 12)
    assert table.shape == (1, 1568, 12) and table.dtype == torch.float32
    for p, j in ((0, 0), (0, 1), (7, 4), (7, 5), (1567, 10), (1567, 11), (100, 2)):
        angle = p / 10000 ** (2 * (j // 2) / 12)
        assert table[0, p, j].item() == pytest.approx(math.sin(angle) if j % 2 == 0 else math.cos(angle), abs=1e-6)


def test_separable_table_is_the_explicit_sum():
    space, time = torch.randn(1, 6, 4), torch.randn(1, 3, 4)
    table = separable_positions(space, time)
    assert table.shape == (1, 18, 4)
    for t in range(3):
        for s in range(6):
            assert torch.equal(table[0, 6 * t + s], space[0, s] + time[0, t])


def test_time_is_interpolated_linearly():
    positions = torch.tensor([0.0, 4.0]).view(1, 2, 1)
    assert resample_time(positions, 2) is positions
    assert resample_time(positions, 4).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]  # centres of quarters, ends held
