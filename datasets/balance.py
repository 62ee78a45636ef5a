"""Labels of a data set, and classes in equal numbers by drawing the rarer ones again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception.errors import DataError


def labels_of(dataset: Any) -> np.ndarray:
    """(len(dataset),) class number of every sample.

    Raises:
        DataError: the data set does not tell them without being read.
    """
    found = next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)
    labels = None if found is None else np.asarray(found)
    count = len(dataset)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or count % len(labels):
        raise DataError(f"{type(dataset).__name__} has no 'targets' or 'labels' with one class number a sample")
    return np.repeat(labels, count // len(labels))  # several clips of a video


def class_members(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of the samples of every class, ascending; unlabelled samples (below 0) are in none."""
    known = np.flatnonzero(labels >= 0)
    return [known[labels[known] == label] for label in np.unique(labels[known])]


def balanced_order(members: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """A shuffled order in which every class comes as often as the largest one.

    Classes of that size come once, the others are drawn with replacement.

    Args:
        members: positions of the samples of every class.
        random: what is drawn from.
    """
    most = max(map(len, members))
    return random.permutation(np.concatenate([m if len(m) == most else random.choice(m, most) for m in members]))
