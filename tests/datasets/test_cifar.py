"""CIFAR-10 and CIFAR-100 as torchvision reads them, from archives that are made up but laid out as the public ones."""

import hashlib
import pickle

import numpy as np
import pytest
import torchvision

from perception.datasets.cifar10 import CIFAR10
from perception.datasets.cifar100 import CIFAR100
from perception.errors import ConfigError, DataError

CASES = {  # reader -> training files, test file, file of the names, keys of labels and names
    CIFAR10: ([f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "labels", "label_names"),
    CIFAR100: (["train"], "test", "meta", "fine_labels", "fine_label_names"),
}
PER_CLASS = 10  # training images


def write(reader, folder, monkeypatch, content=None):
    """An archive with few images under its checksums: pixels (n, 3, 32, 32) and labels of training and test set.

    ``content`` replaces that of the test file after its checksum was taken.
    """
    batches, test, names, labels_key, names_key = CASES[reader]
    classes = 10 if reader is CIFAR10 else 100
    generator = np.random.default_rng(0)
    home = folder / reader.FOLDER
    home.mkdir(parents=True)
    sums, found = {}, []

    def put(name, value):
        data = pickle.dumps(value)
        sums[name] = hashlib.md5(data).hexdigest()
        (home / name).write_bytes(data)

    for parts, count in ((batches, PER_CLASS * classes), ([test], 2 * classes)):
        pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count) % classes
        for part, rows in zip(parts, np.split(np.arange(count), len(parts)), strict=True):
            others = {} if reader is CIFAR10 else {"coarse_labels": [99] * len(rows)}
            put(part, {"data": pixels[rows].reshape(-1, 3072), labels_key: labels[rows].tolist(), **others})
        found.append((pixels, labels))
    put(names, {names_key: [f"class {i}" for i in range(classes)]})
    public = getattr(torchvision.datasets, reader.READER)
    monkeypatch.setattr(public, "train_list", [[name, sums[name]] for name in batches])
    monkeypatch.setattr(public, "test_list", [[test, sums[test]]])
    monkeypatch.setattr(public, "meta", {"filename": names, "key": names_key, "md5": sums[names]})
    if content is not None:
        (home / test).write_bytes(content)
    return found


@pytest.mark.parametrize("reader", CASES)
def test_splits_are_the_archives_rows(reader, tmp_path, monkeypatch):
    (pixels, labels), (test_pixels, test_labels) = write(reader, tmp_path, monkeypatch)
    found = {split: reader(str(tmp_path), split) for split in reader.SPLITS}
    classes = 10 if reader is CIFAR10 else 100
    assert {split: len(data) for split, data in found.items()} == {
        "pretrain": 10 * classes,
        "train": 9 * classes,
        "val": classes,
        "train50000": 10 * classes,
        "test": 2 * classes,
    }
    assert np.array_equal(found["test"].images, test_pixels) and np.array_equal(found["test"].labels, test_labels)
    assert np.array_equal(found["train50000"].images, pixels) and np.array_equal(found["train50000"].labels, labels)
    assert np.array_equal(found["pretrain"].images, pixels) and found["pretrain"].labels is None
    assert np.bincount(found["val"].labels).tolist() == [1] * classes
    assert found["val"].classes == tuple(f"class {i}" for i in range(classes))
    both = [image.tobytes() for split in ("train", "val") for image in found[split].images]
    assert sorted(both) == sorted(image.tobytes() for image in pixels)
    label_of = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for image, label in zip(found["val"].images, found["val"].labels, strict=True):
        assert label_of[image.tobytes()] == label


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("reader", CASES)
def test_an_archive_with_another_checksum_is_never_unpickled(reader, tmp_path, monkeypatch):
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    write(reader, tmp_path, monkeypatch, content=trap)
    with pytest.raises(DataError, match=rf"{reader.TITLE} in .* cannot be read: .*corrupted.*Set download=True"):
        reader(str(tmp_path), "test")
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # it would have been


@pytest.mark.parametrize("reader", CASES)
def test_what_is_missing_is_named(reader, tmp_path):
    with pytest.raises(DataError, match=f"{reader.TITLE} .*download=True"):
        reader(str(tmp_path), "test")
    cfg = dict(root=str(tmp_path), split="test", download=False)
    assert reader.FOLDER in dict(reader.check_config(cfg))["root"]
    assert not list(reader.check_config({**cfg, "download": True}))
    (tmp_path / reader.FOLDER).mkdir()
    assert not list(reader.check_config(cfg))
    with pytest.raises(ConfigError, match="Did you mean 'train50000'"):
        reader(str(tmp_path), "train5000")
