"""A second stream beside a first: who meets whom, and that both augmentations go on exactly where a run was cut."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from perception.config import load_config
from perception.datasets.base import SampleKey
from perception.datasets.images import ArrayImages
from perception.datasets.moving_digits import MovingDigits
from perception.datasets.paired import PARTNER, Paired
from perception.engine.data import build_dataloader
from perception.errors import ConfigError
from perception.tasks.base import BatchPreprocessor
from perception.transforms.image_preprocess import ImagePreprocess
from perception.validation import validate_config


def images(count, labels=None, size=4, **options):
    """Images whose pixels all hold their number."""
    pixels = np.stack([np.full((3, size, size), i, dtype=np.uint8) for i in range(count)])
    return ArrayImages(pixels, labels, ("a", "b") if labels is not None else (), **options)


def pair(first=6, second=4, seed=0, **options):
    return Paired([images(first, np.arange(first) % 2), images(second, **options)], seed=seed)


def keys(indices, epoch=0):
    return [SampleKey(i, epoch) for i in indices]


def test_a_batch_holds_as_many_of_both():
    data = pair()
    batch = data.__getitems__(keys([5, 0, 3]))
    assert len(data) == 6 and data.classes == ("a", "b") and data.sources == ("ArrayImages",)
    assert batch["image"][:, 0, 0, 0].tolist() == [5, 0, 3] and batch["label"].tolist() == [1, 0, 1]
    other = batch[PARTNER]
    assert "label" not in other and other["index"].tolist() == data.partners(0, np.array([5, 0, 3])).tolist()
    assert other["image"][:, 0, 0, 0].tolist() == other["index"].tolist()


@pytest.mark.parametrize(("first", "second"), [(6, 4), (4, 6), (3, 20), (20, 3)])
def test_every_round_through_the_second_set_has_each_sample_once(first, second):
    data = pair(first, second)
    seen = np.concatenate([data.partners(epoch, np.arange(first)) for epoch in range(2 * second)])
    rounds = seen[: len(seen) // second * second].reshape(-1, second)
    assert (np.sort(rounds, axis=1) == np.arange(second)).all() and len(rounds) == 2 * first
    assert len({tuple(row) for row in rounds.tolist()}) > 1  # in another order every round
    other = pair(first, second, seed=1)
    assert any((other.partners(e, np.arange(first)) != data.partners(e, np.arange(first))).any() for e in range(8))


def test_who_meets_whom_and_what_is_drawn_do_not_depend_on_the_batch():
    crop = dict(type="RandomResizedCrop", size=4, scale=(0.2, 1.0))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 9, 9), dtype=np.uint8)
    data = Paired(
        [
            ArrayImages(pixels, np.arange(6) % 2, ("a", "b"), transforms=[crop]),
            ArrayImages(pixels[:5], None, (), transforms=[crop]),
        ]
    )
    whole = pickle.loads(pickle.dumps(data)).__getitems__(keys(range(6), 3))
    part = data.__getitems__(keys([4, 1], 3))
    assert torch.equal(part["image"], whole["image"][[4, 1]])
    assert torch.equal(part[PARTNER]["image"], whole[PARTNER]["image"][[4, 1]])
    assert not torch.equal(data.__getitems__(keys([4, 1], 4))["image"], part["image"])
    # The first set's transforms do not move the second's numbers.
    plain = Paired([images(6, np.arange(6) % 2), ArrayImages(pixels[:5], None, (), transforms=[crop])])
    assert torch.equal(plain.__getitems__(keys([4, 1], 3))[PARTNER]["image"], part[PARTNER]["image"])


def test_the_same_sample_met_twice_is_augmented_anew():
    crop = dict(type="RandomResizedCrop", size=4, scale=(0.2, 0.5))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 12, 12), dtype=np.uint8)
    data = Paired([images(4, np.zeros(4, dtype=np.int64)), ArrayImages(pixels, None, (), transforms=[crop])])
    met = torch.cat([data.__getitems__(keys(range(4), epoch))[PARTNER]["image"] for epoch in (0, 1)])
    assert len({tuple(image.flatten().tolist()) for image in met}) == 8


def test_both_pass_the_preprocess_record():
    record = ImagePreprocess(size=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    (batch,) = BatchPreprocessor(record)(pair().__getitems__(keys([2])))
    for part in (batch, batch[PARTNER]):
        expected = (float(part["index"]) / 255 - 0.5) / 0.25
        assert part["image"].dtype == torch.float32 and part["image"][0, 0, 0, 0].item() == pytest.approx(expected)


def test_a_loader_gives_every_sample_of_the_first_set_the_seed_of_the_run():
    cfg = dict(
        type="Paired", datasets=[dict(type="MovingDigits", split="train", count=8), dict(type="MovingDigits", count=6)]
    )
    loader = build_dataloader(dict(dataset=cfg, batch_size=4), seed=3, training=True)
    batches = list(loader)
    assert loader.dataset.seed == 3 and sorted(i for b in batches for i in b["index"].tolist()) == list(range(8))
    assert all(len(b[PARTNER]["video"]) == 4 and "label" not in b[PARTNER] for b in batches)


def test_faults_are_named():
    with pytest.raises(ConfigError, match="two data sets, got 1"):
        Paired([images(2)])
    with pytest.raises(ConfigError, match=r"datasets\.1.*MovingDigits holds video, the first one image"):
        Paired([images(2), MovingDigits(count=4)])
    cfg = load_config("video/videomae_vit-tiny_moving-digits")
    good = dict(type="MovingDigits", count=8)
    cfg.train_dataloader.dataset = dict(type="Paired", datasets=[good, dict(type="MovingDigits", task="turns")])
    (fault,) = validate_config(cfg)
    assert fault.path == "train_dataloader.dataset.datasets.1.task"
    crop = dict(type="ClipResizedCrop", size=24)  # the record says 32
    cfg.train_dataloader.dataset = dict(type="Paired", datasets=[good, dict(good, transforms=[crop])])
    (fault,) = validate_config(cfg)
    assert fault.path == "train_dataloader.dataset.datasets.1.transforms.0.size"
