"""The nuScenes detection score from plain arrays: average precision, true positive errors, mAP and NDS.

nuScenes: A multimodal dataset for autonomous driving, 2020, with the numbers of its public evaluator (configuration
detection_cvpr_2019). It needs neither the database nor result files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perception.errors import DataError
from perception.evaluation.box_sets import BoxSet, equal_pairs, match_in_turn

# Name -> largest distance from the ego vehicle in metres.
RANGES = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
CLASSES = tuple(RANGES)
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # metres between centres that still count as found
ERRORS = ("translation", "scale", "orientation", "velocity", "attribute")
# Errors that a class does not have: a cone looks alike from everywhere, neither it nor a barrier moves.
UNDEFINED = {"traffic_cone": ("orientation", "velocity", "attribute"), "barrier": ("velocity", "attribute")}
HALF_TURN = ("barrier",)  # front and back look alike
IN_RACKS = ("bicycle", "motorcycle")

_ERROR_DISTANCE = 2.0
_MIN_RECALL, _MIN_PRECISION = 0.1, 0.1
_AP_WEIGHT = 5
_RECALLS = np.linspace(0, 1, 101)
_FIRST = round(100 * _MIN_RECALL) + 1

Curve = tuple[np.ndarray, np.ndarray]  # precision and score at the recalls


@dataclass(frozen=True)
class NuScenesScore:
    """Figures of one evaluation.

    Attributes:
        classes: C names.
        ap: (C, 4) average precision in [0, 1] by ``DISTANCES``.
        errors: (C, 5) by ``ERRORS``: metres, 1 - IoU, radians, m/s, 1 - accuracy. NaN where a class has no such error.
        truths: (C,) true boxes that were counted.
        predictions: (C,) predicted boxes that were counted.
        official: means over all classes, one without a true box counting as AP 0 and errors 1, as the official
            evaluator does; otherwise over the classes that have true boxes.
        dropped: boxes left out before matching, by reason, such as ``truth_out_of_range``.
    """

    classes: tuple[str, ...]
    ap: np.ndarray
    errors: np.ndarray
    truths: np.ndarray
    predictions: np.ndarray
    official: bool
    dropped: dict[str, int]

    @property
    def counted(self) -> np.ndarray:
        """(C,) bool: classes that the means are over."""
        return np.full(len(self.classes), True) if self.official else self.truths > 0

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a true box."""
        return tuple(name for name, count in zip(self.classes, self.truths, strict=True) if not count)

    @property
    def mean_ap(self) -> float:
        """MAP: mean over distances and classes."""
        return float(self.ap.mean(1)[self.counted].mean())

    @property
    def mean_errors(self) -> dict[str, float]:
        """Mean true positive errors over the classes that have them; NaN where none has."""
        values = self.errors[self.counted]
        known = ~np.isnan(values)
        sums, counts = np.where(known, values, 0).sum(0), known.sum(0)
        return {n: float(s / c) if c else float("nan") for n, s, c in zip(ERRORS, sums, counts, strict=True)}

    @property
    def nds(self) -> float:
        """NDS: (5 mAP + sum of max(0, 1 - error)) / 10; an error that no class has is left out with its weight."""
        scores = [max(0.0, 1.0 - error) for error in self.mean_errors.values() if not np.isnan(error)]
        return (_AP_WEIGHT * self.mean_ap + sum(scores)) / (_AP_WEIGHT + len(scores))

    def figures(self) -> dict[str, float]:
        """Flat numbers for logs: ``nds``, ``map``, ``error/<name>`` and ``ap/<class>``."""
        found = {"nds": self.nds, "map": self.mean_ap}
        found |= {f"error/{name}": value for name, value in self.mean_errors.items()}
        return found | {f"ap/{name}": float(value) for name, value in zip(self.classes, self.ap.mean(1), strict=True)}

    def table(self) -> str:
        """The figures as text, and over which classes the means are."""
        lines = [f"{'class':22}{'boxes':>7}{'AP':>8}" + "".join(f"{name[:6]:>8}" for name in ERRORS)]
        for name, count, ap, errors in zip(self.classes, self.truths, self.ap.mean(1), self.errors, strict=True):
            cells = "".join(f"{'-':>8}" if np.isnan(e) else f"{e:8.3f}" for e in errors)
            lines.append(f"{name:22}{count:7d}{ap:8.4f}{cells}")
        mean = "".join(f"{'-':>8}" if np.isnan(e) else f"{e:8.3f}" for e in self.mean_errors.values())
        lines.append(f"{'mean':22}{self.truths.sum():7d}{self.mean_ap:8.4f}{mean}")
        lines.append(f"NDS {self.nds:.4f}")
        if self.absent:
            how = (
                "count as AP 0 and errors 1" if self.official else "are left out of the means (not the official score)"
            )
            lines.append(f"no true box of {', '.join(self.absent)}: they {how}")
        lines += [f"left out, {reason.replace('_', ' ')}: {count}" for reason, count in self.dropped.items() if count]
        return "\n".join(lines)


def nuscenes_score(
    predictions: BoxSet,
    truth: BoxSet,
    classes: Sequence[str] = CLASSES,
    ego: ArrayLike | None = None,
    racks: BoxSet | None = None,
    ranges: Mapping[str, float] | None = None,
    official: bool = True,
    max_boxes: int | None = 500,
) -> NuScenesScore:
    """Score of predictions. The official figures come from boxes in the global frame of all samples of a split.

    Any frame with z up that differs from it by a rigid motion for each sample gives the same, but for the frame's tilt.

    Args:
        predictions: with ``score``; ``velocity`` and ``attribute`` where known. Unknown velocities are left out of the
            velocity error, as officially; an unknown attribute is a wrong one.
        truth: with ``velocity`` (NaN unknown), ``attribute`` (-1: none, left out) and ``num_points`` where known.
        classes: names of the labels. Only the ten names of ``CLASSES`` have official ranges and rules.
        ego: (S, >= 2) x and y of the ego vehicle by sample; None if it is the origin.
        racks: bicycle racks, ``sample`` and ``boxes``: bicycles and motorcycles centred in one are not counted.
        ranges: largest distance from the ego vehicle by class in metres; None for ``RANGES``. Classes without a range
            are counted at any distance.
        official: what the means are over; see ``NuScenesScore``. Velocities or attributes that the truth has no column
            for are errors of 1 officially; otherwise NDS is taken without them.
        max_boxes: most predictions allowed for a sample.

    Raises:
        DataError: scores are missing or negative, a size is not positive, a sample has too many predictions, a label is
            not among the classes, a sample has no row of ``ego``, or ``official=False`` and there is no true box.
    """
    score = predictions.needed("score", "nuScenes ranks predictions by it")
    if (score < 0).any():
        raise DataError(
            f"{int((score < 0).sum())} predictions have a score below 0; nuScenes needs scores of at least 0"
        )
    if max_boxes is not None and len(predictions):
        numbers, counts = np.unique(predictions.sample, return_counts=True)
        if counts.max() > max_boxes:
            at = numbers[counts.argmax()]
            raise DataError(f"sample {at} has {counts.max()} predictions, nuScenes allows {max_boxes}: keep the best")
    dropped: dict[str, int] = {}
    kept = []
    for name, boxes in (("prediction", predictions), ("truth", truth)):
        _check(name, boxes, classes)
        boxes, reasons = counted_boxes(boxes, classes, ego, racks, RANGES if ranges is None else ranges)
        dropped |= {f"{name}_{reason}": count for reason, count in reasons.items()}
        kept.append(boxes)
    predictions, truth = kept
    truths = np.bincount(truth.label, minlength=len(classes))
    if not official and not truths.any():
        raise DataError("no true box is left to measure the predictions with")
    skipped = () if official else tuple(name for name in ("velocity", "attribute") if getattr(truth, name) is None)
    ap, errors = _measure(predictions, truth, tuple(classes), truths, skipped)
    found = np.bincount(predictions.label, minlength=len(classes))
    return NuScenesScore(tuple(classes), ap, errors, truths, found, official, dropped)


def counted_boxes(
    boxes: BoxSet,
    classes: Sequence[str],
    ego: ArrayLike | None = None,
    racks: BoxSet | None = None,
    ranges: Mapping[str, float] = RANGES,
) -> tuple[BoxSet, dict[str, int]]:
    """Boxes that the score counts, and how many were left out by reason; arguments as for ``nuscenes_score``."""
    limit = np.array([ranges.get(name, np.inf) for name in classes])
    places = None if ego is None else np.asarray(ego, dtype=np.float64)
    if places is not None and len(boxes) and not 0 <= boxes.sample.min() <= boxes.sample.max() < len(places):
        samples = f"{boxes.sample.min()} to {boxes.sample.max()}"
        raise DataError(f"boxes of samples {samples}, but ego has {len(places)} rows")
    offset = boxes.boxes[:, :2] - (0 if places is None else places[boxes.sample, :2])
    inside = np.sqrt((offset**2).sum(1)) < limit[boxes.label]
    seen = np.full(len(boxes), True) if boxes.num_points is None else boxes.num_points != 0
    parked = np.full(len(boxes), False)
    if racks is not None:
        can_park = np.array([name in IN_RACKS for name in classes])[boxes.label] & inside & seen
        for i, j in equal_pairs(boxes.sample, racks.sample):
            i, j = i[can_park[i]], j[can_park[i]]
            held = racks.boxes[j]
            x, y, z = (boxes.boxes[i, :3] - held[:, :3]).T
            cos, sin = np.cos(held[:, 6]), np.sin(held[:, 6])
            local = np.abs(np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1))
            parked[i[(local <= held[:, 3:6] / 2).all(1)]] = True
    reasons = {
        "out_of_range": int((~inside).sum()),
        "without_points": int((inside & ~seen).sum()),
        "in_bicycle_racks": int(parked.sum()),
    }
    return boxes.take(inside & seen & ~parked), reasons


def _check(name: str, boxes: BoxSet, classes: Sequence[str]) -> None:
    if len(boxes) and not 0 <= boxes.label.min() <= boxes.label.max() < len(classes):
        wrong = boxes.label[(boxes.label < 0) | (boxes.label >= len(classes))]
        raise DataError(f"{name}: label {wrong[0]} is none of the {len(classes)} classes {', '.join(classes)}")
    flat = ~(boxes.boxes[:, 3:6] > 0).all(1)
    if flat.any():
        row = np.flatnonzero(flat)[0]
        raise DataError(f"{name}: {int(flat.sum())} boxes have a size of 0 or less, first in row {row}")


def _measure(
    predictions: BoxSet, truth: BoxSet, classes: tuple[str, ...], truths: np.ndarray, skipped: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision (C, 4) and errors (C, 5)."""
    # Officially, a list sorted by (score, index) is read backwards: of equal scores the later box goes first.
    ranks = np.lexsort((np.arange(len(predictions)), predictions.needed("score", "it ranks them")))[::-1]
    predictions = predictions.take(ranks)
    score = predictions.needed("score", "it ranks them")
    rank, row, distance = _neighbours(predictions, truth, len(classes))
    ap, errors = np.zeros((len(classes), len(DISTANCES))), np.full((len(classes), len(ERRORS)), np.nan)
    for column, limit in enumerate(DISTANCES):
        close = np.flatnonzero(distance < limit)
        match = close[match_in_turn(rank[close], row[close], [distance[close]])]
        hit = np.zeros(len(predictions), dtype=bool)
        hit[rank[match]] = True
        curves = [_curve(hit[mine], score[mine], int(truths[c])) for c, mine in _by_class(predictions.label, classes)]
        for label, curve in enumerate(curves):
            if curve is not None:
                ap[label, column] = np.maximum(curve[0][_FIRST:] - _MIN_PRECISION, 0).mean() / (1 - _MIN_PRECISION)
        if limit == _ERROR_DISTANCE:
            values = _box_errors(predictions.take(rank[match]), truth.take(row[match]), distance[match], classes)
            for label, mine in _by_class(truth.label[row[match]], classes):
                for number in (
                    n for n, e in enumerate(ERRORS) if e not in (*skipped, *UNDEFINED.get(classes[label], ()))
                ):
                    errors[label, number] = _mean_error(values[mine, number], score[rank[match][mine]], curves[label])
    return ap, errors


def _by_class(label: np.ndarray, classes: tuple[str, ...]) -> Iterator[tuple[int, np.ndarray]]:
    return ((number, label == number) for number in range(len(classes)))


def _neighbours(predictions: BoxSet, truth: BoxSet, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of one sample and class less than the largest match distance apart: prediction, truth, metres."""
    empty = np.zeros(0, dtype=np.int64)
    found = [(empty, empty, np.zeros(0))]
    keys = (boxes.sample * count + boxes.label for boxes in (predictions, truth))
    for i, j in equal_pairs(*keys):
        distance = np.sqrt(((predictions.boxes[i, :2] - truth.boxes[j, :2]) ** 2).sum(1))
        close = distance < max(DISTANCES)
        found.append((i[close], j[close], distance[close]))
    rank, row, metres = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rank, row, metres


def _box_errors(found: BoxSet, true: BoxSet, distance: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(K, 5) errors of matched boxes; NaN where one cannot be told."""
    sizes, true_sizes = found.boxes[:, 3:6], true.boxes[:, 3:6]
    shared = np.minimum(sizes, true_sizes).prod(1)
    scale = 1 - shared / (sizes.prod(1) + true_sizes.prod(1) - shared)
    period = np.where(np.isin(np.asarray(classes), HALF_TURN), np.pi, 2 * np.pi)[true.label]
    turn = np.abs((true.boxes[:, 6] - found.boxes[:, 6] + period / 2) % period - period / 2)
    unknown = np.full((len(found), 2), np.nan)
    speed = (unknown if v is None else v for v in (found.velocity, true.velocity))
    velocity = np.sqrt((np.subtract(*speed) ** 2).sum(1))
    attribute = np.full(len(found), np.nan)
    if true.attribute is not None:
        guess = np.full(len(found), -1) if found.attribute is None else found.attribute
        attribute = np.where(true.attribute < 0, np.nan, (guess != true.attribute).astype(np.float64))
    return np.stack([distance, scale, turn, velocity, attribute], axis=1)


def _curve(hit: np.ndarray, score: np.ndarray, truths: int) -> Curve | None:
    """Precision and score (101,) at recalls 0, 0.01 .. 1, 0 beyond the recall that is reached; None without a match."""
    if not hit.any():
        return None
    hits = np.cumsum(hit).astype(np.float64)
    precision, recall = hits / np.arange(1, len(hit) + 1), hits / truths
    return np.interp(_RECALLS, recall, precision, right=0), np.interp(_RECALLS, recall, score, right=0)


def _mean_error(values: np.ndarray, scores: np.ndarray, curve: Curve | None) -> float:
    """Running mean of the errors of matches in score order, read at the scores of recalls above 0.1 and averaged."""
    if curve is None:
        return 1.0
    at = curve[1]
    reached = np.flatnonzero(at)
    last = reached[-1] if len(reached) else 0
    if last < _FIRST:
        return 1.0
    known = ~np.isnan(values)
    count = np.cumsum(known)
    if not known.any():
        running = np.ones(len(values))
    else:
        running = np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count > 0)
    resampled = np.interp(at[::-1], scores[::-1], running[::-1])[::-1]
    return float(resampled[_FIRST : last + 1].mean())
