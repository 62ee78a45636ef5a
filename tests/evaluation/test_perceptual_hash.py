import time

import numpy as np
import pytest
import torch

from perception.evaluation.perceptual_hash import hamming, hash_thumbnails, near_pairs, thumbnails, turned


def by_definition(grey):
    """The hash of a 32 x 32 picture by the double sum of the DCT-II and a sort."""
    low = np.zeros((8, 8))
    place = np.arange(32)
    for v in range(8):
        for u in range(8):
            wave = np.outer(np.cos(np.pi * v * (2 * place + 1) / 64), np.cos(np.pi * u * (2 * place + 1) / 64))
            low[v, u] = (grey.astype(np.float64) * wave).sum()
    values = sorted(low.ravel())
    median = (values[31] + values[32]) / 2
    return sum(1 << (8 * v + u) for v in range(8) for u in range(8) if low[v, u] > median)


def smooth(rng, count, side=40):
    """Pictures with large and small shapes."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 6, 6)))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255).round().byte()


def test_the_hash_is_what_its_definition_says():
    pictures = np.random.default_rng(0).uniform(0, 255, (20, 32, 32)).astype(np.float32)
    assert hash_thumbnails(pictures).tolist() == [by_definition(picture) for picture in pictures]


def test_thumbnails_are_area_averages_of_the_luminance():
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (2, 3, 64, 96), dtype=np.uint8))
    grey = (image.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).numpy()
    expected = grey.reshape(2, 32, 2, 32, 3).mean((2, 4))
    np.testing.assert_allclose(thumbnails(image), expected, atol=1e-3)
    apart = thumbnails([image[0], image[1, :, :48, :50]])
    np.testing.assert_allclose(apart[0], expected[0], atol=1e-3)
    # 48 rows onto 32: an output row is one and a half input rows
    column = np.arange(48, dtype=np.float32).repeat(50).reshape(1, 1, 48, 50)
    rows = thumbnails(torch.from_numpy(column))[0, :, 0]
    np.testing.assert_allclose(rows[:2], [(0 + 0.5 * 1) / 1.5, (0.5 * 1 + 2) / 1.5], atol=1e-5)
    bands = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 33, 33)  # four bands: their mean
    np.testing.assert_allclose(thumbnails(bands), 1.5, atol=1e-5)


def test_the_hash_bears_size_brightness_and_contrast():
    image = smooth(np.random.default_rng(2), 50, side=64)
    before = hash_thumbnails(thumbnails(image))
    smaller = torch.nn.functional.avg_pool2d(image.float(), 2).round().byte()
    assert hamming(before, hash_thumbnails(thumbnails(smaller))).max() <= 2
    brighter = (image.float() * 0.9 + 20).round().byte()
    assert hamming(before, hash_thumbnails(thumbnails(brighter))).max() <= 2
    others = hamming(before[:, None], before[None])[~np.eye(50, dtype=bool)]
    assert others.min() > 8 and 28 < others.mean() < 36  # chance is 32


def test_hamming_counts_bits():
    a = np.array([0, 0b1011, 2**64 - 1, 1 << 63], dtype=np.uint64)
    b = np.array([0, 0b0001, 0, 0], dtype=np.uint64)
    assert hamming(a, b).tolist() == [0, 2, 64, 1]
    assert hamming(a[:, None], b[None]).shape == (4, 4)


@pytest.mark.parametrize("threshold", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("size", [(300, 200), (3000, 2500)])
def test_near_pairs_equal_a_comparison_of_all(threshold, size):
    rng = np.random.default_rng(threshold)
    a, b = (rng.integers(0, 2**64, n, dtype=np.uint64) for n in size)
    for i in range(60):  # plant neighbours at every distance up to 11, some twice
        flips = rng.choice(64, i % 12, replace=False).astype(np.uint64)
        b[i] = a[i // 2] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    rows, columns, distance = near_pairs(a, b, threshold)
    everything = np.stack([hamming(value, b) for value in a])
    expected = np.argwhere(everything <= threshold)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == list(map(tuple, expected.tolist()))
    assert np.array_equal(distance, everything[rows, columns]) and (np.diff(distance) >= 0).all()


def test_near_pairs_of_nothing():
    none, one = np.zeros(0, dtype=np.uint64), np.ones(1, dtype=np.uint64)
    assert all(len(part) == 0 for pair in ((none, one), (one, none), (one, ~one)) for part in near_pairs(*pair, 2))


def test_large_sets_take_moments():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**64, 100_000, dtype=np.uint64), rng.integers(0, 2**64, 10_000, dtype=np.uint64)
    b[:50] = a[:50] ^ np.uint64(1 << 40)
    start = time.process_time()
    rows, columns, distance = near_pairs(a, b, 2)
    assert time.process_time() - start < 3 and len(rows) == 50 and (rows == columns).all() and (distance == 1).all()


def test_the_eight_turns():
    pictures = np.random.default_rng(3).uniform(size=(2, 32, 32)).astype(np.float32)
    found = turned(pictures)
    assert len(found) == 8 and np.array_equal(found[0], pictures)
    assert len({picture[0].tobytes() for picture in found}) == 8
    assert any(np.array_equal(picture, pictures.transpose(0, 2, 1)) for picture in found)
