import numpy as np
import pytest
import torch

from perception.losses.masked_cubes import (
    cube_statistics,
    cube_targets,
    masked_cube_loss,
    motion_of,
    motion_weights,
)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def cubes(seed=0, pixels=32):
    """(2, 3, C, P) of a clip in [0, 1], and the same normalised."""
    unit = torch.rand(2, 3, 3, pixels, generator=torch.Generator().manual_seed(seed))
    return unit, (unit - MEAN[:, None]) / STD[:, None]


def test_channel_targets_by_the_formula_on_pixels():
    unit, values = cubes()
    target = cube_targets(values.clone(), "channel", MEAN, STD).view(2, 3, 3, 32)
    x = unit.double().numpy()
    expected = (x - x.mean(-1, keepdims=True)) / (np.sqrt(x.var(-1, ddof=1, keepdims=True)) + 1e-6)
    np.testing.assert_allclose(target.numpy(), expected, atol=2e-5)


def test_eps_is_that_of_pixels_in_zero_to_one():
    unit = torch.full((1, 1, 3, 4), 0.5)
    unit[..., ::2] += 2e-6  # a deviation as small as the eps
    target = cube_targets((unit.double() - MEAN[:, None]) / STD[:, None], "channel", MEAN, STD)
    deviation = np.sqrt(4 * (1e-6) ** 2 / 3)
    assert target.abs().max().item() == pytest.approx(1e-6 / (deviation + 1e-6), rel=0.1)


def test_constant_channels_give_exactly_zero():
    values = torch.full((1, 2, 3, 512), 0.3137255) * torch.tensor([1.0, 1.7, -0.3])[:, None]
    assert (cube_targets(values.clone(), "channel", MEAN, STD) == 0).all()


def test_joint_targets_take_all_channels_together():
    _, values = cubes(1)
    target = cube_targets(values.clone(), "joint", MEAN, STD)
    x = values.double().flatten(2).numpy()
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(target.numpy(), expected, atol=1e-5)
    assert not np.allclose(expected, cube_targets(values.clone(), "channel", MEAN, STD).numpy(), atol=0.1)


def test_raw_and_unit_targets():
    unit, values = cubes(2)
    torch.testing.assert_close(cube_targets(values.clone(), "raw", MEAN, STD), values.flatten(2))
    torch.testing.assert_close(cube_targets(values.clone(), "unit", MEAN, STD), unit.flatten(2))


@pytest.mark.parametrize("kind", ["channel", "joint", "raw", "unit"])
def test_statistics_bring_targets_back(kind):
    _, values = cubes(3)
    shift, scale = cube_statistics(values, kind, MEAN, STD)
    target = cube_targets(values.clone(), kind, MEAN, STD).view(values.shape)
    torch.testing.assert_close(target * scale + shift, values, atol=1e-5, rtol=1e-5)


def test_predicting_zero_costs_n_minus_1_over_n():
    _, values = cubes(4, pixels=512)
    target = cube_targets(values, "channel", MEAN, STD)
    assert masked_cube_loss(torch.zeros_like(target), target).item() == pytest.approx(511 / 512, abs=1e-4)
    assert masked_cube_loss(target, target).item() == 0


def test_weighted_loss_by_hand():
    pred, target = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]]), torch.zeros(1, 2, 2)
    assert masked_cube_loss(pred, target).item() == 1.5
    assert masked_cube_loss(pred, target, torch.tensor([[3.0, 1.0]])).item() == pytest.approx((3 * 1 + 1 * 2) / 4)
    assert masked_cube_loss(pred, target, torch.zeros(1, 2)).item() == 0


def test_motion_is_the_mean_change_within_a_cube():
    clip = torch.zeros(1, 1, 4, 2, 4)
    clip[0, 0, 2, 0, 3] = 8.0  # one pixel of the right cube flashes in frame 2
    motion = motion_of(clip, (2, 2, 2), torch.tensor([[0, 1, 2, 3]]))
    # |frame 2 - frame 1| counts for frame 1; |3 - 2| for frame 2 and, as nothing follows it, for frame 3 too
    assert motion.tolist() == [[0.0, 1.0, 0.0, 2.0]]
    torch.testing.assert_close(motion_weights(motion, 1.0), torch.tensor([[0.0, 4 / 3, 0.0, 8 / 3]]))
    torch.testing.assert_close(motion_weights(motion, 0.5), torch.tensor([[0.5, 7 / 6, 0.5, 11 / 6]]))
    torch.testing.assert_close(motion_weights(torch.zeros(2, 3), 0.7), torch.ones(2, 3))
