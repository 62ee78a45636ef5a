"""Folds that keep samples together which may depend on each other, such as the clips of one operation or one camera.

A random split of such samples puts parts of one scene on both sides: the figure then tells how well a model knows the
scene. Groups are dealt out whole, and so that every fold has its share of every class.
"""

from __future__ import annotations

import numpy as np

from perception.errors import DataError

_STARTS = 300
_BUDGET = 400_000  # pairs of groups looked at: large tables get fewer starts, and need fewer
_ROUNDS = 200
_SWAPPED = 400  # more groups than these are moved, but not swapped: there are too many pairs


def grouped_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Grouped, stratified folds.

    Groups are placed one by one, the largest first, then moved and swapped while that brings the classes of the folds
    closer to equal shares; the first of several starts counts in which no class of any fold is a whole sample away from
    its share, else the best one. Where every group is one sample, the first start is such a one.

    Args:
        labels: (n,) int64 class of every sample.
        groups: (n,) group of every sample, of any type that can be sorted.
        folds: number of folds k.
        seed: of the order in which equal groups are placed.

    Returns:
        (n,) int64 fold of every sample, 0 to k - 1; a group lies in one fold, no fold is empty.

    Raises:
        DataError: lengths that differ, or fewer groups than folds.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    if labels.ndim != 1 or labels.shape != groups.shape:
        raise DataError(f"labels {labels.shape} and groups {groups.shape} must be of one length")
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    if not 2 <= folds <= count:
        raise DataError(f"{folds} grouped folds of {count} groups: there must be at least 2, and no more than groups")
    classes, kind = np.unique(labels, return_inverse=True)
    table = np.zeros((count, len(classes)))
    np.add.at(table, (place, kind), 1)
    random = np.random.default_rng(seed)
    best: tuple[float, np.ndarray] | None = None
    for start in range(max(4, min(_STARTS, _BUDGET // count**2))):
        fold = _placed(table, folds, random, spread=start > 0)
        _improved(table, fold, folds)
        error, worst = _errors(table, fold, folds)
        if best is None or error < best[0] - 1e-9:
            best = error, fold
        if worst < 1:
            best = error, fold
            break
    assert best is not None
    return best[1][place]


def random_folds(labels: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Stratified folds of single samples, whatever they belong to: (n,) int64.

    Raises:
        DataError: fewer samples than folds.
    """
    return grouped_folds(labels, np.arange(len(labels)), folds, seed)


def side_of(folds: np.ndarray, fold: int, count: int, validation: bool = True) -> np.ndarray:
    """Which part of a split every sample is in: (n,) of ``test`` (its fold), ``val`` (the fold after it), ``train``.

    Args:
        folds: (n,) from ``grouped_folds``.
        fold: the one that is tested.
        count: number of folds; with validation at least 3, so that something is left to train on.
        validation: False gives the fold after it to training.
    """
    side = np.full(len(folds), "train", dtype="<U5")
    if validation:
        side[folds == (fold + 1) % count] = "val"
    side[folds == fold] = "test"
    return side


def _share(table: np.ndarray) -> np.ndarray:
    """Samples (groups, classes), weighted so that classes count alike however rare they are."""
    return table / np.sqrt(table.sum(0))


def _placed(table: np.ndarray, folds: int, random: np.random.Generator, spread: bool) -> np.ndarray:
    weighted = _share(table)
    order = random.permutation(len(table))
    size = np.square(weighted[order]).sum(1)
    if spread:  # else all starts are one where no two groups are of a size
        size = size * random.uniform(0.1, 1.0, len(size))
    order = order[np.argsort(-size, kind="stable")]
    sums = np.zeros((folds, table.shape[1]))
    sizes, held = np.zeros(folds), np.zeros(folds, dtype=np.int64)
    fold = np.zeros(len(table), dtype=np.int64)
    for number, group in enumerate(order.tolist()):
        # The sum over folds of squares grows by 2 s x + x^2: the least s x keeps the classes even.
        growth = np.round(sums @ weighted[group], 9)
        empty = held == 0
        if empty.sum() >= len(order) - number:  # the rest has to fill what is still empty
            growth = np.where(empty, growth, np.inf)
        chosen = np.lexsort((sizes, growth))[0]
        fold[group] = chosen
        sums[chosen] += weighted[group]
        sizes[chosen] += table[group].sum()
        held[chosen] += 1
    return fold


def _errors(table: np.ndarray, fold: np.ndarray, folds: int) -> tuple[float, float]:
    """What ``_improved`` makes small, and by how many samples a class of a fold is away from its share at most."""
    sums = np.zeros((folds, table.shape[1]))
    np.add.at(sums, fold, table)
    away = sums - sums.mean(0)
    return float((np.square(away) / table.sum(0)).sum()), float(np.abs(away).max())


def _improved(table: np.ndarray, fold: np.ndarray, folds: int) -> None:
    """Move and swap groups, in place, as long as the squared deviation falls."""
    weighted = _share(table)
    squares = np.square(weighted).sum(1)
    rows = np.arange(len(table))
    for _ in range(_ROUNDS):
        sums = np.zeros((folds, table.shape[1]))
        np.add.at(sums, fold, weighted)
        held = np.bincount(fold, minlength=folds)
        reach = weighted @ sums.T  # (groups, folds)
        own = reach[rows, fold]
        moves = 2 * (reach - own[:, None] + squares[:, None])
        moves[rows, fold] = 0.0
        moves[held[fold] == 1] = 0.0  # its fold would be empty
        best = np.unravel_index(int(moves.argmin()), moves.shape)
        gain, pair = float(moves[best]), None
        if len(table) <= _SWAPPED:
            there = reach[:, fold]  # (a, b): group a with the fold of b
            between = squares[:, None] + squares[None] - 2 * weighted @ weighted.T
            swaps = 2 * (there + there.T - own[:, None] - own[None] + between)
            swaps[fold[:, None] == fold[None]] = 0.0
            if swaps.min() < gain - 1e-9:
                gain = float(swaps.min())
                pair = np.unravel_index(int(swaps.argmin()), swaps.shape)
        if gain > -1e-9:
            return
        if pair is None:
            fold[best[0]] = best[1]
        else:
            fold[list(pair)] = fold[list(pair[::-1])]
