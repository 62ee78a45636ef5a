import cv2
import numpy as np
import pytest
import torch

from perception.datasets.image_folder import ImageFolder
from perception.errors import ConfigError, DataError


def write(path, colour=(10, 20, 30), size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((*size, 3), np.uint8)
    image[:] = colour[::-1]  # OpenCV writes blue first
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def classes(tmp_path):
    for name, value in (("dog", 100), ("cat", 50)):
        for i in range(10):
            write(tmp_path / name / f"{i}.png", (value, value + i, 0), (12 + i, 16))
    return tmp_path


def test_sub_folders_are_classes_in_sorted_order(classes):
    (classes / "cat" / "notes.txt").write_text("not an image")
    data = ImageFolder(str(classes), size=(6, 8))
    batch = data.fetch(np.array([3, 17]))
    assert len(data) == 20 and data.classes == ("cat", "dog")
    assert batch["image"].shape == (2, 3, 6, 8) and batch["image"].dtype == torch.uint8
    assert batch["image"][:, :, 0, 0].tolist() == [[50, 53, 0], [100, 107, 0]]  # RGB
    assert batch["label"].tolist() == [0, 1] and batch["index"].tolist() == [3, 17]


def test_flat_folders_are_unlabelled_and_labels_can_be_left_out(classes):
    flat = ImageFolder(str(classes / "cat"), size=6)
    assert len(flat) == 10 and flat.classes == () and "label" not in flat.fetch(np.arange(2))
    assert "label" not in ImageFolder(str(classes), size=6, labels=False).fetch(np.arange(2))


def test_without_size_a_crop_makes_the_batch(classes):
    ragged = ImageFolder(str(classes)).fetch(np.arange(3))["image"]
    assert [tuple(image.shape) for image in ragged] == [(3, 12, 16), (3, 13, 16), (3, 14, 16)]
    cropped = ImageFolder(str(classes), transforms=[dict(type="RandomResizedCrop", size=8)])
    assert cropped.__getitems__([0, 1, 2])["image"].shape == (3, 3, 8, 8)


def test_grey(classes):
    assert ImageFolder(str(classes), size=6, grey=True).fetch(np.arange(2))["image"].shape == (2, 1, 6, 6)


def test_shares_and_sub_folders_as_splits(classes):
    parts = {split: ImageFolder(str(classes), split=split, size=6) for split in ("train", "val", "test")}
    assert {s: len(d) for s, d in parts.items()} == {"train": 14, "val": 2, "test": 4}
    assert sorted(f for d in parts.values() for f in d.files) == sorted(ImageFolder(str(classes), size=6).files)
    assert np.bincount(parts["test"].targets).tolist() == [2, 2]
    write(classes / "shots" / "train" / "x" / "1.png")
    write(classes / "shots" / "val" / "x" / "1.png")
    assert len(ImageFolder(str(classes / "shots"), split="train", size=6)) == 1
    with pytest.raises(DataError, match="no sub-folder"):
        ImageFolder(str(classes / "shots"), split="holdout")


def test_empty_missing_and_mixed_folders(classes):
    (classes / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        ImageFolder(str(classes / "empty"))
    with pytest.raises(DataError, match=r"there is .*cat"):
        ImageFolder(str(classes / "cats"))
    write(classes / "stray.png")
    with pytest.raises(DataError, match="both images"):
        ImageFolder(str(classes))
    defaults = dict(split=None, on_error="raise", crop_fraction=1.0)
    assert "holds no image" in dict(ImageFolder.check_config({**defaults, "root": str(classes / "empty")}))["root"]
    assert "does not exist" in dict(ImageFolder.check_config({**defaults, "root": str(classes / "cats")}))["root"]
    assert not list(ImageFolder.check_config({**defaults, "root": str(classes)}))


@pytest.mark.parametrize(("suffix", "text"), [(".jpg", "truncated JPEG"), (".png", "truncated PNG")])
def test_truncated_images_are_named_or_left_out(tmp_path, suffix, text, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}{suffix}"), noise)
    cut = tmp_path / f"1{suffix}"
    cut.write_bytes(cut.read_bytes()[:-400])
    with pytest.raises(DataError, match=rf"1\{suffix}.* is a {text}"):
        ImageFolder(str(tmp_path), size=8).fetch(np.arange(3))
    data = ImageFolder(str(tmp_path), size=8, on_error="skip")
    assert len(data) == 2 and data.skipped == [cut] and len(data.fetch(np.arange(2))["image"]) == 2


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    (tmp_path / "b.png").write_bytes(b"")
    for row, name in enumerate("ab"):
        with pytest.raises(DataError, match=rf"{name}\.png.*cannot be decoded"):
            ImageFolder(str(tmp_path), size=8).fetch(np.array([row]))
    with pytest.raises(DataError, match="none of the 2 images"):
        ImageFolder(str(tmp_path), size=8, on_error="skip")
    with pytest.raises(ConfigError, match="skip"):
        ImageFolder(str(tmp_path), on_error="ignore")
