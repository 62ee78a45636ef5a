"""Hue and grey in MultiCrop: colours as torchvision changes them, and all else as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_views import views_of
from torchvision.transforms import functional

from perception.transforms.colour import luma, turn_hue
from perception.transforms.multi_crop import MultiCrop
from perception.transforms.randomness import SampleRandom

WHOLE = dict(size=8, global_views=1, local_views=0, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False, turn=False)
# The corners of the cube of colours and pairs of equal values have hues of their own; then what is left to chance.
CORNERS = torch.tensor([[r, g, b] for r in (0, 90, 255) for g in (0, 90, 255) for b in (0, 90, 255)], dtype=torch.uint8)


def noise(count, side=8, seed=0):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def changed_by(options, pixels):
    """The only view of every image, with its pixels where they were."""
    return views_of(MultiCrop(**WHOLE, **options), pixels, range(len(pixels)))["views"][0]


@pytest.mark.parametrize("turn", [-0.5, -0.31, -0.1, 0.0, 0.02, 0.1, 0.25, 0.5])
def test_hue_is_turned_as_by_torchvision(turn):
    pixels = torch.cat([CORNERS.T.reshape(1, 3, 27, 1).expand(-1, -1, -1, 27), noise(5, 27)])
    found = turn_hue(pixels.float(), torch.full((6,), turn))
    in_floats = functional.adjust_hue(pixels.float() / 255, turn) * 255
    torch.testing.assert_close(found, in_floats, atol=2e-3, rtol=0)
    in_bytes = functional.adjust_hue(pixels, turn).float()  # rounds down
    assert (found.round() - in_bytes).abs().max() <= 1


def test_thirds_of_a_turn_exchange_the_bands_and_other_ranges_turn_alike():
    pixels = noise(2).float()
    red, green, blue = pixels.unbind(1)
    for turn, bands in ((1 / 3, [blue, red, green]), (-1 / 3, [green, blue, red])):
        torch.testing.assert_close(turn_hue(pixels, torch.full((2,), turn)), torch.stack(bands, 1), atol=1e-3, rtol=0)
    moved = turn_hue(pixels * 30 - 4000, torch.tensor([0.2, -0.4]))
    torch.testing.assert_close(moved, turn_hue(pixels, torch.tensor([0.2, -0.4])) * 30 - 4000, atol=0.02, rtol=0)
    grey = torch.full((1, 3, 2, 2), 17.0)
    assert torch.equal(turn_hue(grey, torch.tensor([0.3])), grey)


def test_brightness_is_that_of_torchvision():
    pixels = noise(4)
    assert (luma(pixels.float()).floor() - functional.rgb_to_grayscale(pixels).float()).abs().max() <= 1
    torch.testing.assert_close(luma(torch.ones(1, 3, 1, 1)), torch.ones(1, 1, 1, 1))


def test_the_share_of_turned_views_is_that_of_the_jitter_and_turns_are_uniform():
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(2000, 3, 8, 8).contiguous()
    view = changed_by(dict(hue=0.1, jitter_probability=0.6), colour)
    values = view[:, :, 0, 0].float()
    assert (view == view[:, :, :1, :1]).all() and (values.amax(1) == 200).all() and (values.amin(1) == 50).all()
    # (200, 100, 50) lies at a hue of 1/3 of a sixth; a turn by t of 0.1 at most leaves green in the middle and rising
    # from red's side by 150 * 6 t, or, below 0, blue rises and green has become the smallest.
    red, green, blue = values.T
    turn = torch.where(green > 50, (green - 50) / 150 / 6, -(blue - 50) / 150 / 6) - 1 / 18
    assert ((red == 200).float().mean() == 1) and turn.abs().max() < 0.102
    changed = turn.abs() > 1 / 1800
    assert changed.float().mean().item() == pytest.approx(0.6, abs=0.04)
    assert turn[changed].mean().item() == pytest.approx(0, abs=0.006)
    assert turn[changed].std().item() == pytest.approx(0.2 / 12**0.5, abs=0.003)


def test_the_share_of_grey_views_is_as_stated_whether_they_are_changed_or_not():
    pixels = noise(1500)
    view = changed_by(dict(grayscale=0.2, jitter_probability=0.0), pixels)
    grey = (view == view[:, :1]).all(dim=(1, 2, 3))
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert torch.equal(view[~grey], pixels[~grey])
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
    expected = (pixels[grey].double() * weights).sum(1, keepdim=True)
    assert (view[grey] - expected).abs().max() <= 0.5001
    mixed = changed_by(dict(saturation=0.4, hue=0.1, band_shift=20.0, grayscale=1.0), pixels)
    assert (mixed == mixed[:, :1]).all()  # grey comes last


def test_values_out_of_range_are_cut_off_before_the_hue_is_turned():
    pixels = noise(300)
    options = dict(brightness=0.9, jitter_probability=1.0)
    plain = changed_by(options, pixels).float()
    turned = changed_by(dict(options, hue=0.4), pixels).float()
    assert (plain == 255).any()
    assert (plain.amax(1) - turned.amax(1)).abs().max() <= 0 and (plain.amin(1) - turned.amin(1)).abs().max() <= 0


@pytest.mark.parametrize("extra", [dict(hue=0.3), dict(grayscale=0.4), dict(hue=0.3, grayscale=0.4)])
def test_new_options_leave_the_draws_of_the_others_alone(extra):
    pixels = noise(60)
    options = dict(WHOLE, flip=True, turn=True, scale=(0.3, 1.0), brightness=0.2, contrast=0.3, band_shift=4.0)
    plain, other = (
        views_of(MultiCrop(**options, jitter_probability=0.5, **new), pixels, range(60))["views"][0]
        for new in ({}, extra)
    )
    same = (plain == other).all(dim=(1, 2, 3))
    assert 10 < same.sum() < 50  # the views that are neither turned nor grey


def test_the_order_of_the_draws_is_that_of_older_versions_with_the_new_ones_at_the_end():
    pixels = noise(40)
    options = dict(brightness=0.2, contrast=0.3, saturation=0.4, jitter_probability=0.5, band_shift=5.0)
    random = SampleRandom(3, 1, np.arange(40)).streams(1)
    MultiCrop(**WHOLE).crops[0][1].windows(np.full(40, 8), np.full(40, 8), random)
    changed = random.uniform() < 0.5
    light, contrast, colour = (np.where(changed, random.uniform(1 - r, 1 + r), 1.0) for r in (0.2, 0.3, 0.4))
    shift = np.stack([random.uniform(-5, 5) for _ in range(3)], axis=1)
    turn, grey = np.where(changed, random.uniform(-0.1, 0.1), 0.0), random.uniform() < 0.25

    x = pixels.double().numpy()
    brightness = np.tensordot([0.299, 0.587, 0.114], x, axes=(0, 1))[:, None]
    x = brightness + (x - brightness) * colour[:, None, None, None]
    mean = pixels.double().numpy().mean(axis=(1, 2, 3), keepdims=True)
    x = (mean + (x - mean) * contrast[:, None, None, None]) * light[:, None, None, None]
    expected = np.clip(x + shift[:, :, None, None], 0, 255)
    old = changed_by(options, pixels)
    assert np.abs(old.numpy() - expected).max() < 0.501

    x = torch.from_numpy(np.clip(x, 0, 255) / 255)
    x = torch.stack([functional.adjust_hue(image, t) for image, t in zip(x, turn.tolist(), strict=True)]) * 255
    x = (x.numpy() + shift[:, :, None, None]).clip(0, 255)
    brightness = np.tensordot([0.299, 0.587, 0.114], x, axes=(0, 1))[:, None]
    expected = np.where(grey[:, None, None, None], brightness, x)
    new = changed_by(dict(options, hue=0.1, grayscale=0.25), pixels)
    assert np.abs(new.numpy() - expected).max() < 0.51
