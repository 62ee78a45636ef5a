import numpy as np
import pytest
import torch

from perception.errors import ConfigError, DataError
from perception.registry import TRANSFORMS
from perception.transforms.image_augment import RandomCropPad, RandomErasing, RandomFlip, RandomResizedCrop
from perception.transforms.image_randaugment import OPERATIONS, RandAugment
from perception.transforms.randomness import SampleRandom

CONFIGS = [
    dict(type="RandomFlip"),
    dict(type="RandomCropPad", padding=3, mode="reflect"),
    dict(type="RandomResizedCrop", size=(12, 10)),
    dict(type="RandomErasing", probability=0.5),
    dict(type="RandAugment"),
    dict(type="Albumentations", operations=[dict(name="RandomBrightnessContrast", p=0.9), dict(name="Transpose")]),
]


def images(n=40, size=(16, 16), bands=3):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, bands, *size), dtype=np.uint8))


def apply(transform, rows, seed=0, epoch=0, pool=None):
    rows = np.asarray(rows)
    batch = {"image": (images() if pool is None else pool)[rows], "index": torch.from_numpy(rows)}
    return transform(batch, SampleRandom(seed, epoch, rows))["image"]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: cfg["type"])
def test_a_sample_depends_on_seed_epoch_and_index_alone(cfg):
    transform = TRANSFORMS.build(dict(cfg))
    whole = apply(transform, range(40))
    assert whole.dtype == torch.uint8 and len(whole) == 40
    assert torch.equal(apply(transform, [31, 2, 17]), whole[[31, 2, 17]])
    assert torch.equal(apply(TRANSFORMS.build(dict(cfg)), range(40)), whole)
    assert not torch.equal(apply(transform, range(40), epoch=1), whole)
    assert not torch.equal(apply(transform, range(40), seed=1), whole)


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: cfg["type"])
def test_the_batch_that_is_given_is_left_alone(cfg):
    batch = {"image": images(), "label": torch.arange(40)}
    out = TRANSFORMS.build(dict(cfg))(batch, SampleRandom(0, 0, np.arange(40)))
    assert torch.equal(batch["image"], images()) and out["label"] is batch["label"]


def test_flip_mirrors_about_half_of_the_images():
    whole, originals = apply(RandomFlip(), range(40)), images()
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(whole, originals, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(whole, originals, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and 10 <= sum(mirrored) <= 30
    ragged = RandomFlip()({"image": list(originals)}, SampleRandom(0, 0, np.arange(40)))["image"]
    assert torch.equal(torch.stack(ragged), whole)
    assert torch.equal(apply(RandomFlip(1.0), range(40)), originals.flip(-1))


def test_crop_pad_shifts_by_every_offset():
    pool = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    pool[:, 0, 2, 2] = 255
    out = apply(RandomCropPad(padding=2), range(2000), pool=pool)
    where = out.view(2000, 25).argmax(1)
    assert (out.view(2000, 25).amax(1) == 255).all()
    assert len(where.unique()) == 25  # 5 x 5 shifts, the dot always stays inside


def test_resized_crop_windows_follow_the_recipe():
    crop, n = RandomResizedCrop(8, scale=(0.2, 0.6), ratio=(0.5, 2.0)), 4000
    heights, widths = np.full(n, 100), np.full(n, 200)
    top, left, rows, columns = crop.windows(heights, widths, SampleRandom(0, 0, np.arange(n))).T
    assert (top >= 0).all() and (top + rows <= 100).all() and (left >= 0).all() and (left + columns <= 200).all()
    share, ratio = rows * columns / 20000, columns / rows
    assert 0.19 < share.min() < 0.23 and 0.55 < share.max() < 0.61
    assert ratio.min() > 0.49 and ratio.max() < 2.04
    reach = [top[rows == r].max() / (100 - r) for r in np.unique(rows[rows < 60])]
    assert np.mean(reach) > 0.7  # windows come to the far edge


def test_resized_crop_that_never_fits_takes_the_largest_centred_window():
    crop = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    windows = crop.windows(np.array([10, 40, 20]), np.array([40, 10, 20]), SampleRandom(0, 0, np.arange(3)))
    assert windows.tolist() == [[0, 15, 10, 10], [15, 0, 10, 10], [0, 0, 20, 20]]


def test_resized_crop_takes_images_of_different_sizes():
    ragged = [torch.full((3, 9 + i, 20 - i), 10 * i, dtype=torch.uint8) for i in range(5)]
    out = RandomResizedCrop(8)({"image": ragged}, SampleRandom(0, 0, np.arange(5)))["image"]
    assert out.shape == (5, 3, 8, 8)
    assert all((out[i] == 10 * i).all() for i in range(5))  # constant images stay constant
    with pytest.raises(DataError, match="RandomCropPad needs images of one size"):
        RandomCropPad()({"image": ragged}, SampleRandom(0, 0, np.arange(5)))


def test_erasing_replaces_one_rectangle_within_the_range_of_areas():
    pool = torch.full((500, 1, 32, 32), 255, dtype=torch.uint8)
    erasing = RandomErasing(0.5, area=(0.1, 0.3), mean=(0.2,), std=(0.1,))
    changed = (apply(erasing, range(500), pool=pool) != 255).view(500, 32, 32)
    hit = changed.flatten(1).any(1)
    assert 200 < hit.sum() < 300
    for mask in changed[hit]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        assert 0.06 < mask.float().mean() < 0.36


def test_randaugment_has_the_fifteen_operations_and_all_change_images_within_bounds():
    assert len(OPERATIONS) == 15
    image = images(1)[0].numpy()
    unchanged = RandAugment(probability=0.0)
    assert torch.equal(apply(unchanged, range(4)), images()[:4])
    with pytest.raises(DataError, match="RGB"):
        apply(RandAugment(), range(4), pool=images(4, bands=1))
    strong = RandAugment(magnitude=10, magnitude_std=0.0, num_ops=1, probability=1.0)
    outcomes = {strong._one(image, np.random.default_rng(i)).tobytes() for i in range(300)}
    assert len(outcomes) >= 22  # 15 operations, 9 of them in two directions; some leave noise unchanged


def test_albumentations_faults_are_named():
    with pytest.raises(ConfigError, match="GaussianBlur"):
        TRANSFORMS.build(dict(type="Albumentations", operations=[dict(name="GausianBlur")]))
    cfg = dict(operations=[dict(name="GausianBlur")])
    assert "GaussianBlur" in next(iter(TRANSFORMS.get("Albumentations").check_config(cfg)))[1]
    floats = TRANSFORMS.build(dict(type="Albumentations", operations=[dict(name="Normalize")]))
    with pytest.raises(DataError, match="uint8"):
        apply(floats, [0])


@pytest.mark.parametrize(
    ("cfg", "key"),
    [
        (dict(type="RandomFlip", probability=2), "probability"),
        (dict(type="RandomCropPad", padding=-1, mode="constant"), "padding"),
        (dict(type="RandomResizedCrop", size=8, scale=(0.0, 1), ratio=(1, 1), interpolation="bicubic"), "scale"),
    ],
)
def test_check_config_names_the_key(cfg, key):
    assert [k for k, _ in TRANSFORMS.get(cfg["type"]).check_config(cfg)] == [key]
