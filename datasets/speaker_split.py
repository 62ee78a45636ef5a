"""Splits in which nobody speaks twice, and an order of regions in which neighbours stay together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from perception.errors import DataError


def speaker_disjoint_split(
    labels: np.ndarray,
    speakers: np.ndarray | None,
    parts: Sequence[float],
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Disjoint row numbers such that no speaker is in two parts and every class is in every part.

    Classes with the fewest speakers come first. Each of their speakers, in random order, goes to a part that lacks the
    class, else to the one that is furthest below its share of the class's speakers.

    Args:
        labels: (n,) int.
        speakers: (n,) speakers, or other groups, such as cities. A random split without them would measure how well
            speakers are recognised.
        parts: share of every part but the last, which takes what is left.
        seed: seed of the order of speakers.
        classes: names of the labels for messages.

    Returns:
        ``len(parts) + 1`` sorted arrays that together hold every row once.

    Raises:
        DataError: there are no speakers, or too few of a class: all such classes are named.
    """
    if speakers is None:
        raise DataError(
            "a split needs speakers: with the same voices in training and test, accuracy on varieties says how well "
            "voices are recognised"
        )
    shares = np.array([*parts, 1.0 - sum(parts)])
    if len(shares) < 2 or not (shares > 0).all():
        raise DataError(f"shares of a split must be positive and add up to less than 1, not {list(parts)}")
    people, person = np.unique(np.asarray(speakers), return_inverse=True)
    kinds, kind = np.unique(np.asarray(labels), return_inverse=True)
    has = np.zeros((len(people), len(kinds)), dtype=bool)
    has[person, kind] = True
    names = [str(k) if classes is None else classes[int(k)] for k in kinds]
    few = [f"{names[k]!r} has {count}" for k, count in enumerate(has.sum(0)) if count < len(shares)]
    if few:
        text = ", ".join(few)
        raise DataError(f"{len(shares)} parts need as many speakers of every class, but {text}: drop or merge these")
    order = np.random.default_rng(seed).permutation(len(people))
    place = np.full(len(people), -1)
    for k in np.argsort(has.sum(0), kind="stable"):
        mine = order[has[order, k]]
        count = np.bincount(place[mine][place[mine] >= 0], minlength=len(shares))
        for speaker in mine[place[mine] < 0]:
            missing = shares * len(mine) - count
            missing[count == 0] += len(mine)  # first of all, every part gets one
            place[speaker] = int(missing.argmax())
            count[place[speaker]] += 1
    lacking = [
        f"{names[k]!r} in part {p}"
        for k in range(len(kinds))
        for p in range(len(shares))
        if not (has[:, k] & (place == p)).any()
    ]
    if lacking:
        raise DataError(
            f"speakers of several classes leave no speaker for {', '.join(lacking)}: try another split_seed"
        )
    return [np.flatnonzero(place[person] == p) for p in range(len(shares))]


def require_disjoint(parts: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse given splits in which a speaker occurs twice.

    Args:
        parts: speakers of the rows of every part.
        source: name of the file for the message.

    Raises:
        DataError: naming the first speakers and their parts.
    """
    homes: dict[str, list[str]] = {}
    for name, speakers in parts.items():
        for speaker in np.unique(speakers):
            homes.setdefault(str(speaker), []).append(name)
    twice = [f"{speaker!r} in {' and '.join(names)}" for speaker, names in homes.items() if len(names) > 1]
    if twice:
        raise DataError(f"{source}: {len(twice)} speakers are in more than one split: {', '.join(twice[:3])}")


def geographic_order(classes: Sequence[str], neighbours: Mapping[str, Sequence[str]]) -> list[int]:
    """Positions of ``classes`` in an order in which neighbours are close, for confusion matrices.

    Connected regions follow each other by the second eigenvector of the graph's Laplacian ("A spectral algorithm for
    seriation and the consecutive ones problem", Atkins et al., 1998), groups without a common border by their first
    name. Of both directions, the one that begins with the name earlier in the alphabet is taken.

    Args:
        classes: names of the regions.
        neighbours: regions that border on a region; one direction is enough.

    Raises:
        DataError: a neighbour is no class.
    """
    from scipy.sparse.csgraph import connected_components

    at = {name: i for i, name in enumerate(classes)}
    joined = np.zeros((len(classes), len(classes)))
    for name, others in neighbours.items():
        for other in others:
            if name not in at or other not in at:
                unknown = name if name not in at else other
                raise DataError(f"neighbours of {name!r}: {unknown!r} is no class; there are {', '.join(classes)}")
            if name != other:
                joined[at[name], at[other]] = joined[at[other], at[name]] = 1
    _, group = connected_components(joined, directed=False)
    found: list[list[int]] = []
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        rows = rows[np.argsort([classes[int(i)] for i in rows], kind="stable")]
        if len(rows) > 2:
            part = joined[np.ix_(rows, rows)]
            _, vectors = np.linalg.eigh(np.diag(part.sum(0)) - part)
            rows = rows[np.argsort(vectors[:, 1].round(9), kind="stable")]
            if classes[int(rows[-1])] < classes[int(rows[0])]:
                rows = rows[::-1]
        found.append(rows.tolist())
    return [i for rows in sorted(found, key=lambda rows: min(classes[i] for i in rows)) for i in rows]
