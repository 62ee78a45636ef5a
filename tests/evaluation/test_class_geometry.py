"""Figures of classes against counts made by hand, scikit-learn and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from perception.errors import DataError
from perception.evaluation.class_geometry import (
    bootstrap_over_groups,
    centroid_cosines,
    class_f1,
    class_order,
    confusion_counts,
    cross_group_knn,
    macro_f1,
    silhouette,
)


def test_f1_of_classes_counts_those_that_are_never_predicted_as_zero():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    counts = confusion_counts(labels, predicted, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    f1 = class_f1(counts)
    np.testing.assert_allclose(f1[:3], [4 / 5, 4 / 6, 0.0])
    assert math.isnan(f1[3])  # no such sample, never predicted
    assert macro_f1(counts) == pytest.approx((4 / 5 + 4 / 6) / 3)
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))


def test_cosines_of_class_means_are_about_their_common_mean():
    x = np.array([[101.0, 0.0], [103.0, 0.0], [98.0, 0.0], [100.0, 2.0], [100.0, -2.0]])
    # Means (102, 0), (98, 0), (100, 0): about (100, 0) the first two are opposite, the third has no direction.
    cosines = centroid_cosines(x, np.array([0, 0, 1, 3, 3]), 4)
    np.testing.assert_allclose(cosines[np.ix_([0, 1, 3], [0, 1, 3])], [[1, -1, 0], [-1, 1, 0], [0, 0, 0]], atol=1e-12)
    assert np.isnan(cosines[2]).all()


def test_neighbours_of_the_same_group_are_left_out():
    random = np.random.default_rng(0)
    x, labels, groups = random.normal(size=(60, 4)), random.integers(0, 3, 60), random.integers(0, 5, 60)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = 0
    for i in range(60):
        others = [j for j in range(60) if groups[j] != groups[i]]
        near = sorted(others, key=lambda j: -unit[i] @ unit[j])[:5]
        votes = np.bincount(labels[near], minlength=3)
        right += int(votes.argmax() == labels[i])
    found, possible = cross_group_knn(x, labels, groups, 5, chunk=7)
    assert found == right / 60 and possible == 60
    # Every speaker lies apart: with him as a neighbour all would be right, without him all are wrong.
    apart = np.repeat(np.eye(4), 3, axis=0) + 0.01 * np.tile(np.eye(4)[[1, 0, 3, 2]], (3, 1))
    speakers, said = np.repeat(np.arange(4), 3), np.repeat([0, 1, 0, 1], 3)
    assert cross_group_knn(apart, said, speakers, 3)[0] < 0.5
    assert cross_group_knn(apart, np.repeat([0, 1, 2, 2], 3), speakers, 3)[1] == 6  # two classes have one speaker each
    with pytest.raises(ValueError, match="two groups"):
        cross_group_knn(x, labels, np.zeros(60), 5)


def test_few_others_are_fewer_neighbours():
    x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    # Of the third sample two others are of another group, of the others one.
    assert cross_group_knn(x, np.array([0, 0, 0]), np.array([7, 7, 8]), 10) == (1.0, 3)
    assert cross_group_knn(x, np.array([0, 0, 1]), np.array([7, 7, 8]), 10) == (0.0, 0)


def test_silhouette_is_its_definition():
    x, labels = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]]), np.array([0, 0, 1, 1])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = 1 - unit @ unit.T
    own, other = [d[0, 1], d[1, 0], d[2, 3], d[3, 2]], [d[i, [2, 3] if i < 2 else [0, 1]].mean() for i in range(4)]
    expected = np.mean([(b - a) / max(a, b) for a, b in zip(own, other, strict=True)])
    assert silhouette(x, labels) == pytest.approx(expected)


def test_groups_are_drawn_whole():
    # One group is all right, the other all wrong: half the samples, and no interval can say more.
    labels = np.tile([0, 1], 20)
    groups = np.repeat([0, 1], 20)
    predicted = np.where(groups == 0, labels, 1 - labels)
    found = bootstrap_over_groups(labels, predicted, groups, 2, resamples=400)
    assert found.accuracy == (0.5, 0.0, 1.0) and found.macro_f1 == (0.5, 0.0, 1.0) and found.groups == 2
    assert bootstrap_over_groups(labels, predicted, groups, 2, resamples=400) == found
    # The same over many groups of one is narrow, and has the width of a binomial.
    alone = bootstrap_over_groups(labels, predicted, np.arange(40), 2, resamples=4000)
    assert alone.accuracy[1] == pytest.approx(0.5 - 1.96 * math.sqrt(0.25 / 40), abs=0.03)
    # A resample's macro-F1 is that of its samples.
    random = np.random.default_rng(0)
    times = random.multinomial(2, [0.5, 0.5], size=400)
    rows = [np.concatenate([np.flatnonzero(groups == g).repeat(n) for g, n in enumerate(t)]) for t in times]
    values = [f1_score(labels[r], predicted[r], average="macro", zero_division=0) for r in rows]
    np.testing.assert_allclose(found.macro_f1[1:], np.quantile(values, [0.025, 0.975]))


def test_the_order_names_every_class_once():
    assert class_order(["south", "north", "west"], ["north", "west", "south"]) == [1, 2, 0]
    assert class_order(["a", "b"], None) == [0, 1]
    for wrong in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(DataError, match="every class once"):
            class_order(["a", "b"], wrong)
