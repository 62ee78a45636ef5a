import os

import cv2
import numpy as np
import pytest
import torch

from perception.datasets.cifar_small import CIFARSmall, FashionMNIST900
from perception.errors import ConfigError, DataError

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/image_small")


def write(folder, images=30, classes=3, **changes):
    """The layout of the real files with grey squares: image i is filled with the value 8 * i."""
    streams = [cv2.imencode(".jpg", np.full((8, 8, 3), (0, 4 * i, 8 * i), np.uint8))[1] for i in range(images)]
    arrays = dict(
        jpeg_bytes=np.concatenate(streams),
        offsets=np.cumsum([0, *map(len, streams)]),
        labels=(np.arange(images) % classes).astype(np.uint8),
        classes=np.array(["ant", "bee", "cat"][:classes]),
    )
    arrays |= changes
    np.savez(folder / "cifar10_train20000.npz", **arrays)
    np.savez(folder / "splits.npz", cifar_fit_idx=np.arange(3, 20), cifar_val_idx=np.arange(3))
    return arrays


def test_rows_decode_to_rgb_in_the_order_of_the_split(tmp_path):
    write(tmp_path)
    data = CIFARSmall("train", root=str(tmp_path))
    batch = data.fetch(np.array([0, 16, 4]))
    assert len(data) == 17 and data.classes == ("ant", "bee", "cat")
    assert batch["image"].shape == (3, 3, 8, 8) and batch["image"].dtype == torch.uint8
    for image, row in zip(batch["image"], [3, 19, 7], strict=True):
        expected = torch.tensor([8 * row, 4 * row, 0]).float()  # red, green, blue
        assert (image.float().mean((1, 2)) - expected).abs().max() <= 3  # JPEG is lossy
    assert batch["label"].tolist() == [0, 1, 1] and batch["index"].tolist() == [0, 16, 4]


def test_pretraining_split_has_no_labels(tmp_path):
    write(tmp_path)
    data = CIFARSmall("pretrain", root=str(tmp_path))
    assert len(data) == 30 and "label" not in data.fetch(np.arange(2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(labels=np.full(30, 3, np.uint8)), "label 3 of row 0 is out of range: 3 classes"),
        (dict(labels=np.zeros(29, np.uint8)), r"labels of shape \(29,\) for 30 images"),
        (dict(labels=np.zeros(30)), "not integers"),
        (dict(offsets=np.arange(31)), "offsets do not rise"),
        (dict(jpeg_bytes=np.array([{}], dtype=object)), "pickled objects"),
    ],
)
def test_damaged_files_are_named(tmp_path, changes, text):
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=text) as error:
        CIFARSmall("pretrain", root=str(tmp_path))
    assert "cifar10_train20000.npz" in str(error.value)


def test_damaged_images_are_named(tmp_path):
    arrays = write(tmp_path)
    broken = arrays["jpeg_bytes"].copy()
    broken[arrays["offsets"][4] : arrays["offsets"][5]] = 0
    write(tmp_path, jpeg_bytes=broken)
    with pytest.raises(DataError, match=r"image 4 of .*cifar10_train20000\.npz"):
        CIFARSmall("pretrain", root=str(tmp_path))


def test_missing_files_and_rows_out_of_range(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        CIFARSmall("train", root=str(tmp_path / "nowhere"))
    cfg = dict(split="train", per_class=None, split_seed=0, root=str(tmp_path))
    assert [key for key, _ in CIFARSmall.check_config(cfg)] == ["root", "root"]
    write(tmp_path)
    assert not list(CIFARSmall.check_config(cfg))
    np.savez(tmp_path / "splits.npz", cifar_fit_idx=np.array([1, 30]))
    with pytest.raises(DataError, match="row 30 is out of range"):
        CIFARSmall("train", root=str(tmp_path))
    with pytest.raises(DataError, match="lacks the arrays"):
        CIFARSmall("val", root=str(tmp_path))


def test_splits_that_do_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        CIFARSmall("trian", root=str(tmp_path))
    with pytest.raises(ConfigError, match=r"\(5, 25, 50\)"):
        CIFARSmall("lowshot", per_class=7, root=str(tmp_path))
    with pytest.raises(ConfigError, match="only for 'lowshot'"):
        CIFARSmall("train", per_class=5, root=str(tmp_path))


@needs_data
def test_real_cifar_splits():
    sizes = {"train": 4500, "val": 500, "test": 1000}
    found = {split: CIFARSmall(split) for split in sizes}
    for split, size in sizes.items():
        assert len(found[split]) == size and found[split].images.shape[1:] == (3, 32, 32)
        assert np.bincount(found[split].labels).tolist() == [size // 10] * 10
    assert found["train"].classes[9] == "truck"
    both = {image.tobytes() for image in np.concatenate([found["train"].images, found["val"].images])}
    assert len(both) == 5000
    for count in (5, 25, 50):
        few = CIFARSmall("lowshot", per_class=count, split_seed=2)
        assert np.bincount(few.labels).tolist() == [count] * 10
        assert {image.tobytes() for image in few.images} <= both


@needs_data
def test_real_fashion_splits():
    found = {split: FashionMNIST900(split) for split in FashionMNIST900.SPLITS}
    assert {split: len(data) for split, data in found.items()} == {"train": 450, "val": 150, "test": 300, "all": 900}
    assert found["val"].images.shape == (150, 1, 28, 28)
    assert np.bincount(found["test"].labels).tolist() == [30] * 10
    parts = np.concatenate([found[split].images for split in ("train", "val", "test")])
    assert sorted(i.tobytes() for i in parts) == sorted(i.tobytes() for i in found["all"].images)
