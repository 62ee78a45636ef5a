"""Classes in equal numbers, by drawing the rarer ones again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
