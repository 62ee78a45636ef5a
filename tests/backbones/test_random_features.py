import numpy as np
import pytest
import torch

from perception.backbones.random_features import MOSAIKS, RCF, ImageStatistics, unit_patches, zca_filters, zca_matrix
from perception.datasets.images import ArrayImages
from perception.errors import ConfigError, DataError
from perception.registry import BACKBONES


def images(count=5, channels=3, height=9, width=7, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 4 - 1


def tiles(count=20, channels=3, size=8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return ArrayImages(pixels, np.zeros(count, dtype=np.int64), ["all"])


def rcf(seed=0, **changes):
    torch.manual_seed(seed)
    return RCF(**{"features": 12, **changes})


def record(size, channels=3):
    bands = tuple(f"x{i}" for i in range(channels))
    mean, std = (0.0,) * channels, (1.0,) * channels
    return dict(type="ImagePreprocess", size=size, bands=bands, mean=mean, std=std)


def test_statistics_are_mean_std_max_min_in_that_order():
    x = images(channels=2)
    found = ImageStatistics(2).encode({"image": x})
    pixels = x.double().numpy().reshape(5, 2, -1)
    expected = [pixels.mean(2), pixels.std(2, ddof=1), pixels.max(2), pixels.min(2)]
    assert found.shape == (5, 8) and np.allclose(found, np.concatenate(expected, 1), atol=1e-6)


def test_a_shift_moves_all_statistics_but_the_deviation():
    x = images()
    model = ImageStatistics()
    moved = model.encode({"image": x + 2.5}) - model.encode({"image": x})
    expected = torch.tensor([2.5] * 3 + [0.0] * 3 + [2.5] * 6).expand(5, -1)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_statistics_of_a_single_pixel_are_finite():
    found = ImageStatistics(1).encode({"image": torch.full((2, 1, 1, 1), 3.0)})
    assert found.tolist() == [[3.0, 0.0, 3.0, 3.0]] * 2


def test_rcf_equals_the_sums_written_out():
    model, x = rcf(), images(count=2)
    weight, pixels = model.weight.double().numpy(), x.double().numpy()
    expected = np.zeros((2, 12))
    for n in range(2):
        for d in range(6):
            u = [
                (pixels[n, :, r : r + 3, c : c + 3] * weight[d]).sum() - 1.0 for r in range(9 - 2) for c in range(7 - 2)
            ]
            expected[n, d] = np.mean([max(v, 0) for v in u])
            expected[n, 6 + d] = np.mean([max(-v, 0) for v in u])  # relu(1 - conv), not relu(-conv - 1)
    assert np.allclose(model.encode({"image": x}), expected, atol=1e-5)


def test_both_signs_differ_by_the_mean_response():
    model, x = rcf(), images()
    positive, negative = model.encode({"image": x}).chunk(2, dim=1)
    torch.testing.assert_close(positive - negative, model.responses(x).mean((2, 3)), atol=1e-5, rtol=0)


def test_one_image_keeps_two_dimensions_and_batches_do_not_matter(monkeypatch):
    model, x = rcf(), images()
    assert model.encode({"image": x[:1]}).shape == (1, 12)
    whole = model.encode({"image": x})
    monkeypatch.setattr("perception.backbones.random_features._CHUNK_VALUES", 1)
    torch.testing.assert_close(model.encode({"image": x}), whole, atol=1e-5, rtol=0)
    (maps,) = model(x)
    torch.testing.assert_close(maps.mean((2, 3)), whole, atol=1e-5, rtol=0)


def test_the_seed_decides_the_filters_zero_included():
    assert torch.equal(rcf(0).weight, rcf(0).weight) and torch.equal(rcf(1).weight, rcf(1).weight)
    assert not torch.equal(rcf(0).weight, rcf(1).weight)
    assert torch.equal(rcf(1).weight, torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1)))
    assert not list(rcf().parameters()) and list(rcf().state_dict()) == ["weight"]


def test_whitened_patches_are_uncorrelated_for_full_rank_and_no_bias():
    patches = torch.randn(400, 27, generator=torch.Generator().manual_seed(0)).double() @ torch.randn(27, 27).double()
    patches = patches / patches.norm(dim=1, keepdim=True)
    white = patches @ zca_matrix(patches, bias=0.0)
    torch.testing.assert_close(white.T @ white / 400, torch.eye(27).double(), atol=1e-4, rtol=0)


def test_filters_are_whitened_twice():
    raw = torch.rand(50, 12, generator=torch.Generator().manual_seed(0))
    unit = unit_patches(raw)
    second_moment = unit.T @ unit / 50
    expected = unit @ torch.linalg.inv(second_moment + 1e-3 * torch.eye(12).double())
    torch.testing.assert_close(zca_filters(raw).double(), expected, atol=1e-4, rtol=1e-4)


def test_flat_patches_stay_zero():
    assert unit_patches(torch.full((2, 9), 7.0)).abs().max() == 0
    norms = unit_patches(torch.rand(4, 9)).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4).double())


def test_patches_come_from_the_preprocessed_training_images():
    data = tiles()
    model = MOSAIKS(features=40, preprocess=record(8)).fit(data, seed=3)
    generator, patches = np.random.default_rng(3), []
    for _ in range(20):  # as the reference draws
        image, row, column = generator.integers(0, 20), generator.integers(0, 8 - 3), generator.integers(0, 8 - 3)
        patches.append(data.images[image, :, row : row + 3, column : column + 3].ravel() / 255)
    patches = torch.from_numpy(np.array(patches)).float()
    torch.testing.assert_close(model.weight.flatten(1), zca_filters(patches), atol=1e-4, rtol=1e-4)
    again = MOSAIKS(features=40, preprocess=record(8)).fit(data, seed=3)
    assert torch.equal(model.weight, again.weight)
    assert not torch.equal(model.weight, again.fit(data, seed=0).weight)


def test_an_unfitted_mosaiks_says_so_and_fitted_weights_travel():
    model = MOSAIKS(features=8, preprocess=record(8))
    raw = tiles().fetch(np.arange(4))
    with pytest.raises(DataError, match="no filters yet: call fit"):
        model.embed(raw)
    other = MOSAIKS(features=8, preprocess=record(8)).fit(tiles())
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.embed(raw), other.embed(raw))


def test_small_images_and_bad_values_are_named():
    with pytest.raises(DataError, match="2 x 9 pixels are smaller than the filters of 3"):
        rcf().encode({"image": torch.zeros(1, 3, 2, 9)})
    with pytest.raises(ConfigError, match="features = 7: must be even"):
        RCF(features=7)
    with pytest.raises(ConfigError, match=r"zca_bias = 0: must be positive"):
        MOSAIKS(zca_bias=0)
    with pytest.raises(ConfigError, match="in_channels"):
        ImageStatistics(in_channels=0)


@pytest.mark.parametrize("kind", ["ImageStatistics", "RCF", "MOSAIKS"])
def test_they_are_backbones_of_any_number_of_channels(kind):
    torch.manual_seed(0)
    model = BACKBONES.build(dict(type=kind, in_channels=5, preprocess=record(8, 5)))
    data = tiles(channels=5)
    if kind == "MOSAIKS":
        model.fit(data)
    raw = data.fetch(np.arange(3))
    found = model.embed(raw)
    assert found.shape == (3, model.embed_dims) and found.isfinite().all()
    assert model(model.preprocess(raw)["image"])[-1].shape[0] == 3
