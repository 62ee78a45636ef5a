"""MultiCrop: shapes, orientations and colours worked out by hand, and the same views in whatever batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_views import views_of

from perception.datasets.base import SampleKey
from perception.datasets.images import ArrayImages
from perception.errors import DataError
from perception.registry import TRANSFORMS
from perception.transforms.image_augment import RandomResizedCrop
from perception.transforms.multi_crop import MultiCrop
from perception.transforms.randomness import SampleRandom

SMALL = dict(size=12, local_size=6, global_views=2, local_views=3)
JITTER = dict(brightness=0.4, contrast=0.4, saturation=0.3)
COLOURS = dict(hue=0.1, grayscale=0.3)


def images(count=9, bands=3, side=20, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256 if dtype == torch.uint8 else 9000, (count, bands, side, side), generator=generator)
    return values.to(dtype)


def test_views_are_global_then_local_in_the_raw_type():
    for dtype in (torch.uint8, torch.uint16, torch.float32):
        out = views_of(MultiCrop(**SMALL), images(dtype=dtype), range(9))
        assert [tuple(v.shape) for v in out["views"]] == [(9, 3, 12, 12)] * 2 + [(9, 3, 6, 6)] * 3
        assert all(v.dtype == dtype for v in out["views"])
        assert out["image"] is out["views"][0] and out["global_views"] == 2 and len(out["index"]) == 9
    alone = views_of(MultiCrop(size=12, global_views=1, local_views=0), images(), range(9))
    assert len(alone["views"]) == 1


@pytest.mark.parametrize("options", [dict(), JITTER, dict(flip=False, turn=False, **JITTER), dict(**JITTER, **COLOURS)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_sample_s_views_do_not_depend_on_its_batch(options, dtype):
    transform = MultiCrop(**SMALL, **options)
    pixels = images(dtype=dtype)
    whole = views_of(transform, pixels, range(9))["views"]
    for chosen in ([4], [8, 0, 3], [5, 1, 7, 2, 6]):
        for part, view in zip(views_of(transform, pixels[chosen], chosen)["views"], whole, strict=True):
            assert torch.equal(part, view[chosen])
    again = views_of(transform, pixels, range(9))["views"]
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))
    for other in (dict(seed=4), dict(epoch=2)):
        changed = views_of(transform, pixels, range(9), **other)["views"]
        assert not any(torch.equal(a, b) for a, b in zip(changed, whole, strict=True))


def test_views_of_a_sample_differ_from_each_other():
    same = images(1).repeat(4, 1, 1, 1)
    views = views_of(MultiCrop(**SMALL), same, range(4))["views"]
    seen = [v[i].numpy().tobytes() for v in views[:2] for i in range(4)]
    assert len(set(seen)) == 8


def test_without_scaling_a_view_is_one_of_the_eight_orientations_and_all_occur_equally_often():
    pixels = images(1, side=5).repeat(800, 1, 1, 1)
    (view,) = views_of(
        MultiCrop(size=5, global_views=1, local_views=0, scale=(1.0, 1.0), ratio=(1.0, 1.0)), pixels, range(800)
    )["views"]
    source = pixels[0].numpy()
    eight = [np.rot90(m, k, axes=(1, 2)).tobytes() for m in (source, source[..., ::-1]) for k in range(4)]
    counts = np.array([sum(v.tobytes() == o for v in view.numpy()) for o in eight])
    assert counts.sum() == 800 and (np.abs(counts - 100) < 40).all()  # 4 standard deviations


@pytest.mark.parametrize(("flip", "turn", "orientations"), [(True, False, 2), (False, True, 4), (False, False, 1)])
def test_flips_and_turns_can_be_left_out(flip, turn, orientations):
    pixels = images(1, side=5).repeat(100, 1, 1, 1)
    whole = dict(size=5, global_views=1, local_views=0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    (view,) = views_of(MultiCrop(**whole, flip=flip, turn=turn), pixels, range(100))["views"]
    assert len({v.tobytes() for v in view.numpy()}) == orientations


def test_windows_cover_the_shares_of_area_that_are_asked_for():
    # The values are the columns' numbers: a window's width shows in the span of its view.
    side = 200
    ramp = torch.arange(side, dtype=torch.float32).expand(300, 1, side, side).contiguous()
    transform = MultiCrop(
        size=64, local_size=32, global_views=1, local_views=1, ratio=(1.0, 1.0), flip=False, turn=False
    )
    wide, narrow = views_of(transform, ramp, range(300))["views"]
    for view, (low, high) in ((wide, (0.4, 1.0)), (narrow, (0.05, 0.4))):
        span = (view.amax((1, 2, 3)) - view.amin((1, 2, 3)) + 1).numpy()
        area = (span / side) ** 2
        assert low - 0.05 < area.min() < low + 0.1 and high - 0.15 < area.max() < high + 0.05
        assert area.mean() == pytest.approx((low + high) / 2, abs=0.06)


def test_crops_are_those_of_random_resized_crop():
    transform = MultiCrop(size=12, global_views=1, local_views=0, flip=False, turn=False)
    pixels, indices = images(), np.arange(9)
    random = SampleRandom(3, 1, indices)
    crop = RandomResizedCrop(12, (0.4, 1.0))
    expected = crop({"image": pixels.contiguous(memory_format=torch.channels_last)}, random.streams(1))["image"]
    assert torch.equal(views_of(transform, pixels, indices)["views"][0], expected)


def test_images_of_different_sizes_in_a_list():
    pixels = [images(1, side=side)[0] for side in (20, 31, 14)]
    out = views_of(MultiCrop(**SMALL), pixels, range(3))
    assert out["views"][0].shape == (3, 3, 12, 12) and out["views"][-1].shape == (3, 3, 6, 6)


def test_colours_change_as_stated():
    pixels = images(40, side=8)
    plain = dict(size=8, global_views=1, local_views=0, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False, turn=False)
    transform = MultiCrop(**plain, **JITTER, jitter_probability=0.5)
    (view,) = views_of(transform, pixels, range(40))["views"]
    random = _after_windows(transform, 40)
    factors = transform._jitter_factors(random.uniform() < 0.5, random)
    unchanged = (factors == 1).all(1)
    assert 8 < unchanged.sum() < 32 and torch.equal(view[unchanged], pixels[unchanged])
    for i in torch.nonzero(~unchanged)[:, 0].tolist():
        light, contrast, colour = factors[i].tolist()
        assert 0.6 <= light <= 1.4 and 0.6 <= contrast <= 1.4 and 0.7 <= colour <= 1.3
        x = pixels[i].double().numpy()
        grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
        saturated = grey + (x - grey) * colour
        expected = (x.mean() + (saturated - x.mean()) * contrast) * light
        assert np.abs(view[i].numpy() - np.clip(expected, 0, 255)).max() <= 0.51


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_band_is_shifted_by_an_amount_of_its_own(dtype):
    pixels = (images(60, bands=4, side=8) // 2 + 64).to(dtype)  # away from the ends of the range
    plain = dict(size=8, global_views=2, local_views=0, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False, turn=False)
    views = views_of(MultiCrop(**plain, band_shift=9.0), pixels, range(60))["views"]
    moved = torch.stack([view.double() - pixels.double() for view in views])  # (2, 60, 4, 8, 8)
    assert (moved - moved[..., :1, :1]).abs().max() < 1e-4  # alike for all pixels of a band
    shifts = moved[..., 0, 0].flatten()
    assert shifts.min() < -8 and shifts.max() > 8 and shifts.abs().max() <= 9 and len(shifts.round().unique()) == 19
    correlation = torch.corrcoef(moved[..., 0, 0].permute(0, 2, 1).flatten(0, 1))
    assert (correlation - torch.eye(8)).abs().max() < 0.5  # bands and views by themselves
    still = views_of(MultiCrop(**plain), pixels, range(60))["views"]
    assert all(torch.equal(view, pixels) for view in still)


def _after_windows(transform, count):
    """The generator as ``MultiCrop`` has it when it draws the colours of its only global view."""
    random = SampleRandom(3, 1, np.arange(count)).streams(1)
    transform.crops[0][1].windows(np.full(count, 8), np.full(count, 8), random)
    return random


@pytest.mark.parametrize("option", ["saturation", "hue", "grayscale"])
def test_colours_need_three_bands(option):
    with pytest.raises(DataError, match=rf"MultiCrop\.{option} .* 4 bands"):
        views_of(MultiCrop(**SMALL, **{option: 0.2}), images(bands=4), range(9))
    assert views_of(MultiCrop(**SMALL, contrast=0.2), images(bands=4), range(9))["views"][0].shape[1] == 4


def test_streams_are_uniform_and_unlike_each_other():
    random = SampleRandom(0, 0, np.arange(5000))
    split = random.streams(3)
    draws = split.uniform().reshape(3, 5000)
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    others = random.uniform()
    for a, b in ((draws[0], draws[1]), (draws[1], draws[2]), (draws[0], others)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
    lone = SampleRandom(0, 0, np.array([17])).streams(3).uniform()
    assert np.array_equal(lone, draws[:, 17])


def test_a_data_set_gives_views():
    data = ArrayImages(images().numpy(), None, (), transforms=[dict(type="MultiCrop", **SMALL)], seed=5)
    batch = data.__getitems__([SampleKey(2, 7), SampleKey(6, 7)])
    assert len(batch["views"]) == 5 and batch["index"].tolist() == [2, 6]
    direct = views_of(MultiCrop(**SMALL), images()[[2, 6]], [2, 6], seed=5, epoch=7)
    assert torch.equal(batch["views"][4], direct["views"][4])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (dict(size=0), "size"),
        (dict(global_views=0), "global_views"),
        (dict(local_views=-1), "local_views"),
        (dict(scale=(0.5, 0.4)), "scale"),
        (dict(local_scale=(0.0, 0.4)), "local_scale"),
        (dict(ratio=(2, 1)), "ratio"),
        (dict(interpolation="bicubik"), "interpolation"),
        (dict(contrast=1.5), "contrast"),
        (dict(band_shift=-1.0), "band_shift"),
        (dict(hue=0.6), "hue"),
        (dict(hue=-0.1), "hue"),
        (dict(grayscale=1.2), "grayscale"),
    ],
)
def test_faults_of_a_config_are_named(options, key):
    from perception.signatures import signature_of

    defaults = {k: a.default for k, a in signature_of(TRANSFORMS.get("MultiCrop")).arguments.items()}
    assert [k for k, _ in MultiCrop.check_config({**defaults, **options})] == [key]
    assert list(MultiCrop.check_config(defaults)) == []
