"""Batches of P classes with K samples each, from different groups where there are enough."""

from __future__ import annotations

import numpy as np
import pytest

from perception.engine import sampler as sampler_module
from perception.engine.data import build_dataloader
from perception.engine.pk_sampler import PKSampler
from perception.errors import ConfigError, DataError


class Spoken:
    """Labels and speakers of recordings."""

    def __init__(self, labels, speakers=None):
        self.labels = np.array(labels)
        if speakers is not None:
            self.speakers = np.array(speakers)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, key):
        return int(key)


_random = np.random.default_rng(0)
# Five classes of uneven size, the last of three samples; speakers by name; six unlabelled recordings.
LABELS = np.repeat([0, 1, 2, 3, 4, -1], [40, 25, 12, 9, 3, 6])
SPEAKERS = np.array(["ann", "bob", "cy", "dee"])[_random.integers(0, 4, len(LABELS))]
SPEAKERS[LABELS == 3] = "ann"
DATA = Spoken(LABELS, SPEAKERS)


def batches(sampler, size, epoch=0):
    sampler.set_epoch(epoch)
    return np.array([int(i) for i in sampler]).reshape(-1, size)


@pytest.mark.parametrize("groups", [None, "speakers"])
def test_every_batch_holds_exactly_p_classes_of_k_samples(groups):
    sampler = PKSampler(DATA, classes=3, samples=4, groups=groups, batches=50, seed=1)
    assert len(sampler) == 600
    for batch in batches(sampler, 12):
        assert sorted(np.unique(LABELS[batch], return_counts=True)[1]) == [4, 4, 4]
        assert (LABELS[batch] >= 0).all()
        for label in set(LABELS[batch]) - {4}:  # the class of three gives one twice
            assert len(set(batch[LABELS[batch] == label])) == 4


def test_classes_and_samples_come_in_turn():
    sampler = PKSampler(DATA, classes=3, samples=4, batches=50)
    seen = batches(sampler, 12).ravel()
    counts = np.bincount(LABELS[seen])
    assert counts.tolist() == [120] * 5  # 150 places for 5 classes
    for label in range(4):
        own = np.bincount(seen, minlength=len(DATA))[label == LABELS]
        assert own.max() - own.min() <= 1


def test_samples_of_a_class_are_of_different_groups_where_there_are_enough():
    sampler = PKSampler(DATA, classes=4, samples=4, groups="speakers", batches=40)
    for batch in batches(sampler, 16):
        for label in set(LABELS[batch]):
            there = len(set(SPEAKERS[label == LABELS]))
            assert len(set(SPEAKERS[batch[LABELS[batch] == label]])) == min(4, there)


def test_the_order_is_a_function_of_seed_and_epoch_and_starts_anywhere():
    first = PKSampler(DATA, 3, 4, "speakers", seed=5)
    assert len(first) == 89 // 12 * 12
    whole = batches(first, 12, epoch=2)
    again = PKSampler(DATA, 3, 4, "speakers", seed=5)
    again.set_epoch(2, start=36)
    assert [int(i) for i in again] == whole[3:].ravel().tolist()
    assert (batches(again, 12, epoch=3) != whole).any()
    assert (batches(PKSampler(DATA, 3, 4, "speakers", seed=6), 12, epoch=2) != whole).any()


def test_ranks_share_a_batch(monkeypatch):
    whole = batches(PKSampler(DATA, 3, 4), 12)
    dealt = []
    for rank in range(2):
        monkeypatch.setattr(sampler_module, "get_dist_info", lambda rank=rank: (rank, 2))
        dealt.append(batches(PKSampler(DATA, 3, 4), 6))
    assert np.sort(np.concatenate(dealt, axis=1)).tolist() == np.sort(whole).tolist()
    with pytest.raises(DataError, match="does not divide among 2 ranks"):
        PKSampler(DATA, 3, 3)


def test_the_loader_takes_the_batch_that_the_sampler_composes():
    cfg = dict(dataset=DATA, batch_size=12, sampler=dict(type="PKSampler", classes=3, samples=4))
    assert {len(batch) for batch in build_dataloader(cfg, 0, True)} == {12}
    with pytest.raises(ConfigError, match=r"batch_size = 10: PKSampler composes batches of 12"):
        build_dataloader({**cfg, "batch_size": 10}, 0, True)
    with pytest.raises(ConfigError, match="for training alone"):
        build_dataloader(cfg, 0, False)


def test_what_cannot_be_sampled():
    with pytest.raises(DataError, match="labels of 5 classes, fewer than classes = 6"):
        PKSampler(DATA, 6, 2)
    with pytest.raises(DataError, match=r"groups = 'speaker'.*no such attribute"):
        PKSampler(DATA, 2, 2, "speaker")
    with pytest.raises(DataError, match="has no 'targets' or 'labels'"):
        PKSampler([1, 2], 2, 2)
    with pytest.raises(ConfigError, match="samples"):
        PKSampler(DATA, 2, 1)
