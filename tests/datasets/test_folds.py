"""Grouped folds against what they promise, on tables that can be divided evenly and on random ones."""

import numpy as np
import pytest

from perception.datasets.folds import grouped_folds, random_folds, side_of
from perception.errors import DataError


def away(labels, folds, count):
    """By how many samples a class of a fold differs from its share, at most."""
    return max(
        abs((folds[labels == c] == f).sum() - (labels == c).sum() / count)
        for c in np.unique(labels)
        for f in range(count)
    )


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_on_two_sides(seed):
    random = np.random.default_rng(seed)
    labels, groups = random.integers(0, 3, 120), random.integers(0, 17, 120).astype(str)
    folds = grouped_folds(labels, groups, 5, seed)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups)) and set(folds) == set(range(5))
    for fold in range(5):
        side = side_of(folds, fold, 5)
        seen = [set(groups[side == name]) for name in ("train", "val", "test")]
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
        assert sum(map(len, seen)) == len(set(groups)) and all(seen)
        assert set(side_of(folds, fold, 5, validation=False)) == {"train", "test"}
    assert np.array_equal(folds, grouped_folds(labels, groups, 5, seed))


@pytest.mark.parametrize("seed", range(10))
def test_classes_are_within_a_sample_of_their_share_where_the_groups_allow_it(seed):
    # Four folds of 20 and 10 samples, each cut into 5 groups at random and shuffled: an even division exists.
    random = np.random.default_rng(seed)
    labels, groups = [], []
    for fold in range(4):
        own = random.permutation([0] * 20 + [1] * 10)
        for number, part in enumerate(np.split(own, np.sort(random.choice(np.arange(1, 30), 4, replace=False)))):
            labels += part.tolist()
            groups += [f"{fold}.{number}"] * len(part)
    order = random.permutation(len(labels))
    labels, groups = np.array(labels)[order], np.array(groups)[order]
    assert away(labels, grouped_folds(labels, groups, 4), 4) < 1


@pytest.mark.parametrize("seed", range(5))
def test_single_samples_are_dealt_out_evenly(seed):
    labels = (np.random.default_rng(seed).random(203) < 0.15).astype(int)
    assert away(labels, random_folds(labels, 5, seed), 5) < 1
    assert not np.array_equal(random_folds(labels, 5, 0), random_folds(labels, 5, 1))


def test_no_fold_is_empty_when_there_are_as_many_groups():
    labels, groups = np.array([0] * 50 + [1] * 3), np.array([0] * 50 + [1, 2, 3])
    assert sorted(np.unique(grouped_folds(labels, groups, 4)[[0, 50, 51, 52]])) == [0, 1, 2, 3]


def test_errors():
    with pytest.raises(DataError, match="5 grouped folds of 3 groups"):
        grouped_folds(np.zeros(6), np.array([0, 0, 1, 1, 2, 2]), 5)
    with pytest.raises(DataError, match="one length"):
        grouped_folds(np.zeros(6), np.zeros(5), 2)
