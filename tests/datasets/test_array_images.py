import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from perception.datasets.base import SampleKey
from perception.datasets.digits import MEAN, STD, Digits, load_digits_uint8
from perception.datasets.images import stratified_split
from perception.errors import ConfigError


def test_digits_are_scaled_and_split_in_equal_shares():
    images, labels = load_digits_uint8()
    original = load_digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == np.uint8 and images.max() == 255
    np.testing.assert_allclose(images[:, 0] / 255 * 16, original.images, atol=0.04)
    found = {split: Digits(split) for split in ("train", "val", "test")}
    assert sum(map(len, found.values())) == 1797
    assert sorted(i.tobytes() for d in found.values() for i in d.images) == sorted(i.tobytes() for i in images)
    for split, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        expected = np.bincount(labels) * share
        assert np.abs(np.bincount(found[split].labels) - expected).max() <= 1
    assert len(Digits()) == len(found["train"]) + len(found["val"]) and Digits().labels is None
    assert MEAN[0] == pytest.approx((images / 255).mean(), abs=1e-3)
    assert STD[0] == pytest.approx((images / 255).std(), abs=1e-3)
    with pytest.raises(ConfigError, match="pretrain, train, val, test"):
        Digits("validation")


def test_a_batch_is_asked_for_by_keys_with_an_epoch():
    data = Digits("train", transforms=[dict(type="RandomCropPad", padding=1)], seed=4)
    batch = data.__getitems__([SampleKey(5, 3), SampleKey(9, 3)])
    assert batch["image"].shape == (2, 1, 8, 8) and batch["image"].dtype == torch.uint8
    assert batch["index"].tolist() == [5, 9] and batch["label"].tolist() == data.labels[[5, 9]].tolist()
    assert torch.equal(data[SampleKey(9, 3)]["image"][0], batch["image"][1])


def test_stratified_split_is_a_partition_that_a_seed_fixes():
    labels = np.array([0] * 10 + [1] * 20 + [5] * 7)
    parts = stratified_split(labels, (0.5, 0.2), seed=1)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(37))
    assert [np.unique(labels[p], return_counts=True)[1].tolist() for p in parts] == [[5, 10, 4], [2, 4, 1], [3, 6, 2]]
    assert all(np.array_equal(a, b) for a, b in zip(parts, stratified_split(labels, (0.5, 0.2), seed=1), strict=True))
    assert not np.array_equal(parts[0], stratified_split(labels, (0.5, 0.2), seed=2)[0])
