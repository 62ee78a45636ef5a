import numpy as np
import pytest
import torch
from PIL import Image

from perception.errors import CheckpointError, ConfigError, DataError
from perception.registry import PREPROCESSES
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.image_resize import resize

TWO = dict(size=(4, 6), bands=("a", "b"), mean=(0.5, 0.25), std=(0.5, 0.1))


def test_normalisation_by_hand():
    record = ImagePreprocess(**TWO)
    image = torch.zeros(1, 2, 4, 6, dtype=torch.uint8)
    image[0, :, 1, 2] = 255
    batch = {"image": image, "label": torch.tensor([3])}
    out = record(batch)
    assert out["image"].dtype == torch.float32 and out["label"] is batch["label"]
    assert batch["image"].dtype == torch.uint8  # the batch that was given is left alone
    assert out["image"][0, :, 1, 2].tolist() == pytest.approx([1.0, 7.5])
    assert out["image"][0, :, 0, 0].tolist() == pytest.approx([-1.0, -2.5])


def test_denormalize_inverts_every_value():
    record = ImagePreprocess(size=16)
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(record.denormalize(record({"image": image})["image"]), image)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.zeros(1, 2, 4, 6), "must be uint8"),
        (torch.zeros(1, 3, 4, 6, dtype=torch.uint8), "bands"),
        (torch.zeros(2, 4, 6, dtype=torch.uint8), "do not fit"),
        (torch.zeros(1, 2, 4, 5, dtype=torch.uint8), "the Preprocess record says"),
        ([torch.zeros(2, 4, 6), torch.zeros(2, 5, 6)], "different sizes"),
        (None, "needs a tensor 'image'"),
    ],
)
def test_wrong_batches_are_named(image, text):
    with pytest.raises(DataError, match=text):
        ImagePreprocess(**TWO)({"image": image})


def test_a_record_survives_the_registry_and_json_like_lists():
    record = ImagePreprocess(**TWO)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in record.record().items()}
    assert PREPROCESSES.build(plain) == record
    record.require_same(plain, "a run")
    with pytest.raises(CheckpointError, match="std"):
        record.require_same({**plain, "std": [0.5, 0.2]}, "a run")


def test_another_size_is_no_mismatch_since_backbones_resample_their_positions():
    record = ImagePreprocess(**TWO)
    record.require_same({**record.record(), "size": [8, 12]}, "a run")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(mean=(0.5,)), "mean"),
        (dict(std=(0.5, 0.0)), "std"),
        (dict(mean=(127.0, 64.0)), "mean"),
        (dict(interpolation="cubic"), "interpolation"),
        (dict(crop_fraction=0.0), "crop_fraction"),
        (dict(size=(4, 0)), "size"),
        (dict(value_scale=0.0), "value_scale"),
    ],
)
def test_impossible_records_name_the_key(changes, key):
    with pytest.raises(ConfigError, match=f"preprocess.{key}"):
        ImagePreprocess(**{**TWO, **changes})


def test_prepare_scales_and_cuts_the_centre():
    record = ImagePreprocess(size=(4, 4), interpolation="nearest")
    image = np.zeros((8, 16, 3), dtype=np.uint8)
    image[:, 4:12] = 200  # the centre square
    assert (record.prepare(image) == 200).all()
    assert record.prepare(image).shape == (3, 4, 4)
    half = ImagePreprocess(size=4, crop_fraction=0.5, interpolation="nearest")
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[2:6, 2:6] = 7
    assert (half.prepare(image) == 7).all()


def test_prepare_leaves_images_of_the_right_size_alone():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(ImagePreprocess(size=(4, 6)).prepare(image), image.transpose(2, 0, 1))
    grey = ImagePreprocess(size=(4, 6), bands=("grey",), mean=(0.5,), std=(0.5,))
    assert np.array_equal(grey.prepare(image[..., 0])[0], image[..., 0])


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((4, 6, 3)), "must be uint8"),
        (np.zeros((4, 6, 4), np.uint8), "does not fit"),
        (np.zeros((4, 6), np.uint8), "does not fit"),
        (np.zeros((0, 6, 3), np.uint8), "does not fit"),
    ],
)
def test_prepare_refuses_other_images(image, text):
    with pytest.raises(DataError, match=text):
        ImagePreprocess(size=(4, 6)).prepare(image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 20), (70, 50)])
def test_resizing_is_pillows(interpolation, size):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], kind)).astype(int)
    ours = resize(torch.from_numpy(image).permute(2, 0, 1), size, interpolation).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - expected).max() <= 1  # rounding of the weights


def test_a_record_of_another_type_names_the_way_out_and_hides_no_fault_behind_a_vocabulary():
    words = [f"word{i}" for i in range(500)]
    other = {**ImagePreprocess(size=8).record(), "type": "OtherPreprocess", "tokenizer": {"words": words}}
    with pytest.raises(CheckpointError, match="another kind of backbone") as caught:
        ImagePreprocess(size=8).require_same(other, "a run")
    assert "word499" not in str(caught.value) and "'OtherPreprocess' there" in str(caught.value)
