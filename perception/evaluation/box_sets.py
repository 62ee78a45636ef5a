"""Boxes of many samples in flat arrays, and matching them without a loop over boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import DataError, not_among
from perception.geometry.rotated_iou import iou_3d_paired, iou_bev_paired

_PAIRS = 4_000_000  # pairs that are formed at a time
_INTEGERS = ("sample", "label", "attribute", "num_points", "occlusion")
_WIDTHS = {"boxes": 7, "velocity": 2, "image_box": 4}


@dataclass(frozen=True)
class BoxSet:
    """Predicted or true boxes of a whole set of samples, one row a box.

    Rows keep their order: where scores tie, the metrics let it decide.

    Attributes:
        sample: (M,) int64, the sample that a box belongs to.
        boxes: (M, 7) float64 x, y, z, l, w, h, yaw; metres and radians, z of the centre, z up.
        label: (M,) int64, index into the class names.
        score: (M,) confidence; predictions only.
        velocity: (M, 2) m/s along x and y, NaN where unknown.
        attribute: (M,) int64, -1 where there is none.
        num_points: (M,) LiDAR and radar points inside a true box.
        image_box: (M, 4) left, top, right, bottom in pixels.
        truncation: (M,) share of a true box that lies outside the image, 0..1.
        occlusion: (M,) KITTI's levels 0 (visible) to 3 (unknown).
    """

    sample: np.ndarray
    boxes: np.ndarray
    label: np.ndarray
    score: np.ndarray | None = None
    velocity: np.ndarray | None = None
    attribute: np.ndarray | None = None
    num_points: np.ndarray | None = None
    image_box: np.ndarray | None = None
    truncation: np.ndarray | None = None
    occlusion: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, given in self.columns().items():
            value = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
            if value.size == 0:
                value = value.reshape(0, *((_WIDTHS[name],) if name in _WIDTHS else ()))
            value = value.astype(np.float64) if name not in _INTEGERS or value.dtype.kind == "f" else value
            shape = (len(self.sample), *((_WIDTHS[name],) if name in _WIDTHS else ()))
            if value.shape != shape:
                raise DataError(f"boxes: {name} has shape {value.shape} where {shape} is needed")
            if name != "velocity" and not np.isfinite(value).all():
                rows = np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(1))
                raise DataError(f"boxes: {name} is not finite in {len(rows)} rows, first in row {rows[0]}")
            object.__setattr__(self, name, value.astype(np.int64) if name in _INTEGERS else value)

    @classmethod
    def from_samples(cls, records: Sequence[Mapping[str, Any]]) -> BoxSet:
        """One mapping a sample with the columns as keys (arrays or tensors, without ``sample``), numbered in order.

        Raises:
            DataError: a key is unknown, or some samples lack a column that others have.
        """
        known = [column.name for column in fields(cls) if column.name != "sample"]
        names = list(records[0]) if records else ["boxes", "label"]
        for number, record in enumerate(records):
            for key in record:
                if key not in known:
                    raise DataError(f"boxes of sample {number}: {key!r} is {not_among(key, known)}")
            if set(record) != set(names) or not {"boxes", "label"} <= set(record):
                raise DataError(f"boxes of sample {number} have {sorted(record)}, those of sample 0 {sorted(names)}")
        columns = {name: _joined([record[name] for record in records], name) for name in names}
        counts = [len(record["boxes"]) for record in records]
        return cls(sample=np.repeat(np.arange(len(records)), counts), **columns)

    def columns(self) -> dict[str, np.ndarray]:
        """The known columns by name."""
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def take(self, rows: np.ndarray) -> BoxSet:
        """The boxes of a mask or of indices."""
        return BoxSet(**{name: value[rows] for name, value in self.columns().items()})

    def needed(self, name: str, why: str) -> np.ndarray:
        """A column that must be there.

        Raises:
            DataError: it is not known.
        """
        value = getattr(self, name)
        if value is None:
            raise DataError(f"boxes have no column {name!r}: {why}")
        return value

    def __len__(self) -> int:
        return len(self.sample)


def _joined(parts: list[Any], name: str) -> np.ndarray:
    arrays = [part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in parts]
    width = (_WIDTHS[name],) if name in _WIDTHS else ()
    return np.concatenate([np.zeros((0, *width)), *(a.reshape(0, *width) if a.size == 0 else a for a in arrays)])


def equal_pairs(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (i, j) of all pairs with ``a[i] == b[j]``, by rising i and then j, some millions at a time."""
    order = np.argsort(b, kind="stable")
    ranked = b[order]
    first = np.searchsorted(ranked, a, "left")
    count = np.searchsorted(ranked, a, "right") - first
    part = np.cumsum(count) // _PAIRS
    for start, stop in zip(*(np.searchsorted(part, np.unique(part), side) for side in ("left", "right")), strict=True):
        i = np.repeat(np.arange(start, stop), count[start:stop])
        within = np.arange(len(i)) - np.repeat(np.cumsum(count[start:stop]) - count[start:stop], count[start:stop])
        yield i, order[first[i] + within]


def match_in_turn(who: np.ndarray, what: np.ndarray, preference: Sequence[np.ndarray]) -> np.ndarray:
    """Greedy matching: in rising order of ``who``, everyone takes the free thing that he likes best.

    All are served at once, in rounds: whoever is first in line for his favourite among the free things gets it, since
    nobody who goes before him can want it. Rounds are few, as only boxes that compete wait for each other.

    Args:
        who: (E,) int of at least 0, one row for each thing that someone would take; lower goes first.
        what: (E,) int of at least 0, the thing.
        preference: keys (E,), most important first; lower is liked better, then the lower ``what``.

    Returns:
        Indices (K,) of the rows that became matches, by rising ``who``.
    """
    rows = np.lexsort((what, *reversed(preference), who))
    taken = np.zeros(int(what.max()) + 1 if len(what) else 0, dtype=bool)
    served = np.zeros(int(who.max()) + 1 if len(who) else 0, dtype=bool)
    front = np.empty(len(taken), dtype=np.int64)
    matched = [rows[:0]]
    while len(rows):
        w, t = who[rows], what[rows]
        favourite = np.append(True, w[1:] != w[:-1])
        front[t[::-1]] = w[::-1]  # the last one written stays: the first in line
        wins = favourite & (front[t] == w)
        matched.append(rows[wins])
        taken[t[wins]] = True
        served[w[wins]] = True
        rows = rows[~(taken[t] | served[w])]
    found = np.concatenate(matched)
    return found[np.argsort(who[found], kind="stable")]


def paired_overlap(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    """(E,) intersection over union of boxes in pairs: ``bev`` and ``3d`` of (E, 7), ``image`` of (E, 4) pixels."""
    if kind == "image":
        return image_overlap(a, b)
    overlap = iou_3d_paired if kind == "3d" else iou_bev_paired
    reach = (np.linalg.norm(a[:, 3:5], axis=1) + np.linalg.norm(b[:, 3:5], axis=1)) / 2
    near = np.linalg.norm(a[:, :2] - b[:, :2], axis=1) <= reach  # boxes that cannot meet are most
    found = np.zeros(len(a))
    with torch.no_grad():
        found[near] = overlap(a[near], b[near])
    return found


def image_overlap(a: np.ndarray, b: np.ndarray, of_first: bool = False) -> np.ndarray:
    """(E,) shared area of boxes (E, 4) left, top, right, bottom over their union, or over the area of ``a``."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(1), sides.prod(1), 0.0)
    size_a, size_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    whole = size_a if of_first else size_a + size_b - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
