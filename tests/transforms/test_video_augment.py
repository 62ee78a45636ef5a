import colorsys

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.registry import TRANSFORMS
from perception.transforms.image_augment import RandomFlip
from perception.transforms.randomness import SampleRandom
from perception.transforms.video_augment import (
    ClipBlur,
    ClipGrey,
    ClipJitter,
    ClipMultiScaleCrop,
    ClipResizedCrop,
    ClipViews,
    colour_map,
)

CONFIGS = [
    dict(type="RandomFlip"),
    dict(type="ClipResizedCrop", size=(12, 10)),
    dict(type="ClipMultiScaleCrop", size=12),
    dict(type="ClipJitter"),
    dict(type="ClipGrey", probability=0.5),
    dict(type="ClipBlur"),
    dict(type="ClipViews", views=[[dict(type="RandomFlip")], [dict(type="RandomFlip"), dict(type="ClipJitter")]]),
]


def clips(n=24, frames=3, size=(16, 20)):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, frames, *size), dtype=np.uint8))


def apply(transform, rows, seed=0, epoch=0, pool=None, key="video"):
    rows = np.asarray(rows)
    return transform({"video": (clips() if pool is None else pool)[rows]}, SampleRandom(seed, epoch, rows))[key]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: cfg["type"])
def test_a_clip_depends_on_seed_epoch_and_index_alone_and_the_batch_is_left_alone(cfg):
    transform, pool = TRANSFORMS.build(dict(cfg)), clips()
    whole = apply(transform, range(24), pool=pool)
    assert whole.dtype == torch.uint8 and torch.equal(pool, clips())
    assert torch.equal(apply(transform, [19, 2]), whole[[19, 2]])
    assert not torch.equal(apply(transform, range(24), epoch=1), whole)
    assert not torch.equal(apply(transform, range(24), seed=1), whole)


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: cfg["type"])
def test_frames_that_are_alike_stay_alike(cfg):
    still = clips(frames=1).expand(-1, -1, 5, -1, -1).contiguous()
    out = TRANSFORMS.build(dict(cfg))({"video": still}, SampleRandom(3, 0, np.arange(24)))
    for found in out.get("views", [out["video"]]):
        assert (found == found[:, :, :1]).all() and found.shape[2] == 5
    assert not torch.equal(found, still)


def test_flip_mirrors_about_half():
    whole, before = apply(RandomFlip(), range(24)), clips()
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(whole, before, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(whole, before, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and 5 <= sum(mirrored) <= 19


def test_crops_of_clips_of_different_sizes():
    ragged = [torch.full((3, 4, 9 + i, 20 - i), 10 * i, dtype=torch.uint8) for i in range(5)]
    for crop in (ClipResizedCrop(8), ClipMultiScaleCrop(8)):
        out = crop({"video": ragged}, SampleRandom(0, 0, np.arange(5)))["video"]
        assert out.shape == (5, 3, 4, 8, 8) and all((out[i] == 10 * i).all() for i in range(5))
    with pytest.raises(DataError, match="ClipGrey needs clips of one size"):
        ClipGrey()({"video": ragged}, SampleRandom(0, 0, np.arange(5)))
    with pytest.raises(DataError, match="one length"):
        ClipResizedCrop(8)({"video": [ragged[0], ragged[1][:, :2]]}, SampleRandom(0, 0, np.arange(2)))
    with pytest.raises(DataError, match="needs 'video'"):
        ClipGrey()({"image": 0}, SampleRandom(0, 0, np.arange(2)))


def test_a_crop_moves_all_frames_alike():
    ramp = torch.arange(40).expand(3, 30, 40)[None, :, None].repeat(8, 1, 2, 1, 1).to(torch.uint8)
    ramp[:, :, 1] += 100  # the second frame differs by the same everywhere
    out = apply(ClipResizedCrop(10), range(8), pool=ramp).int()
    assert (out[:, :, 1] - out[:, :, 0] - 100).abs().max() <= 1
    assert len({tuple(row) for row in out[:, 0, 0, 0].tolist()}) > 4


def test_multi_scale_windows_by_hand():
    crop, n = ClipMultiScaleCrop(8), 6000
    top, left, rows, columns = crop.windows(np.full(n, 100), np.full(n, 140), SampleRandom(0, 0, np.arange(n))).T
    # 100 times 1, 0.875, 0.75, 0.66; height and width are at most one entry apart: 4 + 2 x 3 pairs.
    sizes = {(100, 100), (87, 87), (75, 75), (66, 66)}
    sizes |= {(100, 87), (87, 75), (75, 66), (87, 100), (75, 87), (66, 75)}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == sizes
    own = (rows == 66) & (columns == 66)  # 34 rows and 74 columns are free: quarters 8.5 and 18.5
    places = set(zip(top[own].tolist(), left[own].tolist(), strict=True))
    corners = {(0, 0), (0, 74), (34, 0), (34, 74)}
    sides = {(17, 0), (17, 74), (34, 37), (0, 37)}
    assert places == corners | sides | {(17, 37), (8, 18), (8, 55), (25, 18), (25, 55)}
    counts = np.unique(top[own] * 1000 + left[own], return_counts=True)[1]
    assert counts.max() < 2.2 * counts.min()


def test_colours_by_hand():
    colour = np.array([200.0, 100.0, 40.0])
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 40

    def changed(*how):
        matrix, shift = colour_map(*how)
        return matrix @ colour + shift

    np.testing.assert_allclose(changed(1, 1, 1, 0, 90.0), colour, atol=1e-9)
    np.testing.assert_allclose(changed(1.2, 1, 1, 0, 90.0), 1.2 * colour)
    np.testing.assert_allclose(changed(1, 0.5, 1, 0, 90.0), 0.5 * colour + 45)
    np.testing.assert_allclose(changed(1, 1, 0.25, 0, 90.0), 0.25 * colour + 0.75 * grey)
    bright = 1.2 * colour  # brightness first: the mean that contrast is taken from has grown, too
    np.testing.assert_allclose(changed(1.2, 0.5, 1, 0, 90.0), 0.5 * bright + 0.5 * 1.2 * 90)
    turned = changed(1, 1, 1, 2 * np.pi / 3, 90.0)  # a third of a turn
    np.testing.assert_allclose(turned @ [0.299, 0.587, 0.114], grey)  # as bright as before
    before, after = (colorsys.rgb_to_hsv(*np.clip(c, 0, 255) / 255)[0] for c in (colour, turned))
    assert 0.2 < min((after - before) % 1, (before - after) % 1) < 0.45
    np.testing.assert_allclose(changed(1, 1, 1, 2 * np.pi, 90.0), colour)


def test_jitter_leaves_the_rest_as_it_is_and_stays_in_range():
    whole, before = apply(ClipJitter(probability=0.5), range(24)), clips()
    same = [torch.equal(a, b) for a, b in zip(whole, before, strict=True)]
    assert 5 <= sum(same) <= 19
    flat = torch.full((24, 3, 2, 4, 4), 120, dtype=torch.uint8)  # grey stays grey, and its mean where it is
    out = apply(ClipJitter(brightness=0, probability=1.0), range(24), pool=flat)
    assert (out == 120).all()
    light = apply(ClipJitter(contrast=0, probability=1.0), range(24), pool=flat)[:, 0, 0, 0, 0]
    assert light.min() < 90 and light.max() > 150 and light.min() >= 72 and light.max() <= 168


def test_grey_and_blur():
    whole = apply(ClipGrey(1.0), range(24))
    assert (whole == whole[:, :1]).all()
    expected = (clips().double() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1).double()).sum(1)
    assert (whole[:, 0] - expected).abs().max() < 0.51
    dot = torch.zeros(4, 3, 2, 21, 21, dtype=torch.uint8)
    dot[:, 1, 1, 10, 10] = 255
    out = apply(ClipBlur(sigma=(1.0, 1.0), probability=1.0), range(4), pool=dot)
    assert out[:, [0, 2]].sum() == 0 and out[:, :, 0].sum() == 0  # neither across channels nor across frames
    assert abs(int(out[0, 1, 1, 10, 10]) - 255 / (2 * np.pi)) < 2 and abs(int(out[0, 1, 1].sum()) - 255) < 12


def test_views_are_drawn_independently():
    both = ClipViews([[RandomFlip()], [RandomFlip()]])
    weak, strong = apply(both, range(24), key="views")
    mirrored = [(torch.equal(a, b), torch.equal(a, b.flip(-1))) for a, b in zip(weak, strong, strict=True)]
    assert 5 <= sum(same for same, _ in mirrored) <= 19 and all(a != b for a, b in mirrored)
    assert torch.equal(apply(both, range(24)), weak)
    assert torch.equal(apply(both, [7, 3], key="views")[1], strong[[7, 3]])


@pytest.mark.parametrize(
    ("cfg", "key"),
    [
        (dict(type="RandomFlip", probability=2), "probability"),
        (dict(type="ClipResizedCrop", size=8, scale=(0.0, 1), ratio=(1, 1), interpolation="bilinear"), "scale"),
        (dict(type="ClipResizedCrop", size=8, scale=(1, 1), ratio=(1, 1), interpolation="bilinar"), "interpolation"),
        (dict(type="ClipMultiScaleCrop", size=0, scales=(1,), distortion=1, interpolation="bilinear"), "size"),
        (dict(type="ClipMultiScaleCrop", size=8, scales=(0.5, 1), distortion=1, interpolation="bilinear"), "scales"),
        (dict(type="ClipJitter", brightness=0, contrast=0, saturation=0, hue=0.6, probability=1), "hue"),
        (dict(type="ClipBlur", sigma=(0, 1), probability=1), "sigma"),
        (dict(type="ClipViews", views=[]), "views"),
    ],
)
def test_check_config_names_the_key(cfg, key):
    assert [k for k, _ in TRANSFORMS.get(cfg["type"]).check_config(cfg)] == [key]
