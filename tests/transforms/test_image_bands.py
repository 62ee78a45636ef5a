"""The image record beyond RGB of 8 bits: bands by name, wide values, clipping, resizing on the device, views."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from perception.errors import CheckpointError, ConfigError, DataError
from perception.transforms.image_preprocess import ImagePreprocess, band_order
from perception.transforms.image_resize import INTERPOLATIONS, resize

S2 = dict(size=4, bands=("B04", "B08"), mean=(0.1, 0.2), std=(0.5, 0.25), value_scale=10000.0)


def wide(dtype=torch.uint16, bands=2, size=4):
    values = torch.arange(bands * size * size).view(1, bands, size, size) * 100
    return values.to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int16, torch.int32, torch.float32])
def test_wide_values_are_normalised_by_hand_and_left_as_they_were(dtype):
    image = wide(dtype)
    before = image.clone()
    out = ImagePreprocess(**S2)({"image": image})["image"]
    assert out.dtype == torch.float32 and torch.equal(image, before)
    assert out[0, 0, 0, 1].item() == pytest.approx((100 / 10000 - 0.1) / 0.5)
    assert out[0, 1, 3, 3].item() == pytest.approx((3100 / 10000 - 0.2) / 0.25, rel=1e-5)


def test_values_of_the_wrong_width_are_refused_both_ways():
    with pytest.raises(DataError, match="must be uint16, int16, int32 or float32"):
        ImagePreprocess(**S2)({"image": torch.zeros(1, 2, 4, 4, dtype=torch.uint8)})
    with pytest.raises(DataError, match="must be uint8"):
        ImagePreprocess(**{**S2, "value_scale": 255.0})({"image": wide()})


def test_the_normalisations_of_the_benchmark_are_records():
    raw = torch.tensor([[10.0, 500.0], [2750.0, 9000.0]])[None, None]
    common = dict(size=2, bands=("x",))

    def apply(**values):
        return ImagePreprocess(**common, **values)({"image": raw})["image"]

    torch.testing.assert_close(apply(mean=(0,), std=(1,), value_scale=1e4), raw / 1e4)  # divide
    m, s, low, high = 1354.4, 245.7, 10.0, 9000.0
    torch.testing.assert_close(apply(mean=(m / 1e4,), std=(s / 1e4,), value_scale=1e4), (raw - m) / s)
    torch.testing.assert_close(apply(mean=(m,), std=(s,), value_scale=1.0), (raw - m) / s)  # in the raw unit
    minmax = apply(mean=(low / 1e4,), std=((high - low) / 1e4,), value_scale=1e4)
    torch.testing.assert_close(minmax, (raw - low) / (high - low))
    seco = apply(mean=(0,), std=(1,), value_scale=2750.0, clip=(0, 1))
    torch.testing.assert_close(seco, (raw / 2750).clamp(0, 1))


def test_bands_are_selected_and_ordered_by_name():
    image = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 4) * 1000
    record = ImagePreprocess(**{**S2, "mean": (0, 0), "std": (1, 1)})
    for names in (("B08", "B03", "B04", "B02"), ("b8", "green", "red", "blue"), ("nir", "B3", "B4", "B2")):
        out = record({"image": image, "meta": {"bands": names}})["image"]
        assert out[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.0])
    same = record({"image": image[:, :2], "meta": {"bands": ("B04", "B08")}})["image"]
    assert torch.equal(same, record({"image": image[:, :2]})["image"])
    assert torch.equal(image[0, :, 0, 0], torch.arange(4.0) * 1000)


def test_eurosat_files_keep_b8a_last_and_weights_expect_it_after_b08():
    file = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
    weights = (*file[:8], "B8A", *file[8:12])
    assert band_order(weights, file) == (0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("B04", "B05"), "no band 'B08', only B04, B05"),
        (("B04", "B08", "B4"), "names a band twice"),
        (("B4", "B08A"), "did you mean 'B08A'"),
    ],
)
def test_missing_bands_are_named(names, text):
    with pytest.raises(DataError, match=text):
        ImagePreprocess(**S2)({"image": wide(bands=len(names)), "meta": {"bands": names}})


def test_a_batch_without_names_must_have_the_right_number_of_bands():
    with pytest.raises(DataError, match="do not fit"):
        ImagePreprocess(**S2)({"image": wide(bands=3)})


# Resizing.


def corners(image, size):
    """Bilinear interpolation whose corner pixels are those of the source, by its formula."""
    rows = np.linspace(0, image.shape[0] - 1, size[0])
    columns = np.linspace(0, image.shape[1] - 1, size[1])
    out = np.empty(size)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            top, left = min(int(y), image.shape[0] - 2), min(int(x), image.shape[1] - 2)
            dy, dx = y - top, x - left
            patch = image[top : top + 2, left : left + 2]
            out[i, j] = np.array([1 - dy, dy]) @ patch @ np.array([1 - dx, dx])
    return out


@pytest.mark.parametrize("size", [(9, 12), (3, 4), (5, 7)])
def test_aligned_corners_follow_the_formula_and_are_not_antialiased(size):
    image = torch.rand(2, 5, 7)
    found = resize(image, size, "bilinear-corners")
    for band in range(2):
        np.testing.assert_allclose(found[band].numpy(), corners(image[band].double().numpy(), size), atol=1e-6)
    assert torch.equal(resize(image, (5, 7), "bilinear-corners"), image)  # the same size is the same image


def test_unaligned_corners_are_the_usual_ones():
    image = torch.rand(1, 2, 6, 6)
    expected = F.interpolate(image, size=(4, 9), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(resize(image, (4, 9), "bilinear"), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.float32])
def test_every_type_is_scaled_in_its_own_range(interpolation, dtype):
    values = torch.zeros(1, 8, 8)
    values[:, :, 4:] = 250.0
    out = resize(values.to(dtype), (16, 16), interpolation)
    assert out.dtype == dtype and out.shape == (1, 16, 16)
    assert out.float()[0, :, 0].max() <= 1 and abs(out.float()[0, :, -1] - 250).max() <= 1
    if dtype != torch.float32 and dtype != torch.int16:
        assert out.float().max() <= torch.iinfo(dtype).max and out.float().min() >= 0


def test_nearest_takes_the_pixel_at_the_centre():
    image = torch.arange(6).to(torch.uint16).view(1, 1, 6)
    assert resize(image, (1, 3), "nearest").flatten().tolist() == [1, 3, 5]
    exact = F.interpolate(torch.arange(35.0).view(1, 1, 5, 7), size=(8, 3), mode="nearest-exact")
    assert torch.equal(resize(torch.arange(35.0).view(1, 5, 7), (8, 3), "nearest"), exact[0])


@pytest.mark.parametrize("interpolation", ["bilinear-corners", "bilinear", "bicubic"])
def test_standardising_and_resizing_commute(interpolation):
    raw = torch.rand(2, 2, 6, 6) * 10000
    record = ImagePreprocess(**{**S2, "size": 15}, interpolation=interpolation, resize=True)
    scale, shift = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1), torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)
    first = (resize(raw, (15, 15), interpolation) / 10000 - shift) / scale
    torch.testing.assert_close(record({"image": raw})["image"], first, atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="resize=True"):
        ImagePreprocess(**{**S2, "size": 15})({"image": raw})


def test_a_users_image_of_16_bits_is_prepared():
    record = ImagePreprocess(**S2)
    image = np.full((8, 6, 2), 40000, dtype=np.uint16)
    assert record.prepare(image).dtype == np.uint16 and (record.prepare(image) == 40000).all()
    assert record.prepare(image.astype(np.float64)).dtype == np.float32
    with pytest.raises(DataError, match="not uint8"):
        record.prepare(image.astype(np.uint8))


# Views.


def test_views_of_any_size_are_normalised_and_the_image_stays_the_first_of_them():
    record = ImagePreprocess(size=8)
    views = [torch.randint(256, (2, 3, s, s), dtype=torch.uint8) for s in (8, 8, 4)]
    out = record({"views": views, "image": views[0]})
    assert out["image"] is out["views"][0] and [v.shape[-1] for v in out["views"]] == [8, 8, 4]
    for raw, cooked in zip(views, out["views"], strict=True):
        size = {**record.record(), "size": raw.shape[-1]}
        size.pop("type")
        assert torch.equal(cooked, ImagePreprocess(**size)({"image": raw})["image"])
    assert all(view.dtype == torch.uint8 for view in views)
    apart = record({"views": views[1:], "image": views[0]})
    assert torch.equal(apart["image"], out["image"]) and len(apart["views"]) == 2
    assert "image" not in record({"views": views})
    named = record({"views": [v.flip(1) for v in views], "meta": {"bands": ("blue", "green", "red")}})
    assert torch.equal(named["views"][2], out["views"][2])
    with pytest.raises(DataError, match="uint8"):
        record({"views": [views[0].float()]})


# Records of different age.


def test_a_record_from_before_a_field_existed_has_its_default():
    old = {k: v for k, v in ImagePreprocess(size=8).record().items() if k not in ("clip", "resize")}
    ImagePreprocess(size=8).require_same(old, "an old run")
    with pytest.raises(CheckpointError, match="clip"):
        ImagePreprocess(size=8, clip=(0, 1)).require_same(old, "an old run")


def test_pictures_of_wide_values_fill_the_range_of_8_bits():
    record = ImagePreprocess(**S2)
    cooked = record({"image": torch.tensor([0.0, 5100.0, 10000.0, 12000.0]).expand(1, 2, 4, 4).contiguous()})["image"]
    assert record.denormalize(cooked)[0, 0, 0].tolist() == [0, 130, 255, 255]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(clip=(1, 0)), "clip"),
        (dict(clip=(1,)), "clip"),
        (dict(bands=("B04", "red")), "bands"),
        (dict(interpolation="bilinear_corners"), "interpolation"),
        (dict(mean=(1200.0, 900.0)), "mean"),
    ],
)
def test_impossible_records_of_bands_name_the_key(changes, key):
    with pytest.raises(ConfigError, match=f"preprocess.{key}"):
        ImagePreprocess(**{**S2, **changes})
