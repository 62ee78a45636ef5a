"""KITTI's average precision of detections from plain arrays: in the image, from above and in space, by difficulty.

Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite, 2012; 40 recall positions after Disentangling
Monocular 3D Object Detection, 2019. The rules are those of the public evaluators in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception.errors import DataError, not_among
from perception.evaluation.box_sets import BoxSet, equal_pairs, image_overlap, match_in_turn, paired_overlap

TYPES = ("Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck", "Tram", "Misc", "DontCare")
OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
LIKE = {"Car": "Van", "Pedestrian": "Person_sitting"}  # finding one of these is neither right nor wrong
DONT_CARE = "DontCare"
KINDS = ("image", "bev", "3d")
COUNTED, IGNORED, OTHER = 0, 1, -1
_POSITIONS = 41


@dataclass(frozen=True)
class Difficulty:
    """Which true boxes must be found: taller than ``height`` pixels, at most so occluded and truncated."""

    name: str
    height: float
    occlusion: int
    truncation: float


DIFFICULTIES = (
    Difficulty("easy", 40, 0, 0.15),
    Difficulty("moderate", 25, 1, 0.3),
    Difficulty("hard", 25, 2, 0.5),
)


@dataclass(frozen=True)
class KittiScore:
    """Figures of one evaluation.

    Attributes:
        classes: C names.
        kinds: K of ``image``, ``bev`` and ``3d``, by what overlap is measured.
        precision: (C, K, 3, 41) in [0, 1] at 41 recalls from 0 to 1, the best at that recall or a higher one.
        truths: (C, 3) true boxes that must be found, by difficulty.
    """

    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    precision: np.ndarray
    truths: np.ndarray

    @property
    def r40(self) -> np.ndarray:
        """(C, K, 3) AP in [0, 1] as a mean over recalls 1/40 .. 1; NaN without a true box, where KITTI says 0."""
        return self._known(self.precision[..., 1:].mean(-1))

    @property
    def r11(self) -> np.ndarray:
        """(C, K, 3) AP in [0, 1] as a mean over recalls 0, 0.1 .. 1, in use until 2019; NaN without a true box."""
        return self._known(self.precision[..., ::4].mean(-1))

    def _known(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.truths[:, None] > 0, values, np.nan)

    def figures(self) -> dict[str, float]:
        """R40 by ``<kind>/<class>/<difficulty>`` of what can be told."""
        return self.named(self.r40)

    def named(self, values: np.ndarray) -> dict[str, float]:
        """Values (C, K, 3), such as ``r11``, by ``<kind>/<class>/<difficulty>`` where they are known."""
        return {
            f"{kind}/{name}/{difficulty.name}": float(value)
            for name, of_class in zip(self.classes, values, strict=True)
            for kind, of_kind in zip(self.kinds, of_class, strict=True)
            for difficulty, value in zip(DIFFICULTIES, of_kind, strict=True)
            if not np.isnan(value)
        }

    def table(self) -> str:
        """R40 and R11 in percent as text."""
        lines = [f"{'AP in %':24}" + "".join(f"{d.name + ' R40 (R11)':>22}" for d in DIFFICULTIES)]
        for c, name in enumerate(self.classes):
            for k, kind in enumerate(self.kinds):
                pairs = zip(100 * self.r40[c, k], 100 * self.r11[c, k], strict=True)
                cells = ("-" if np.isnan(a) else f"{a:.2f} ({b:.2f})" for a, b in pairs)
                lines.append(f"{name + ' ' + kind:24}" + "".join(f"{cell:>22}" for cell in cells))
            lines.append(f"{name + ' boxes':24}" + "".join(f"{count:22d}" for count in self.truths[c]))
        return "\n".join(lines)


def kitti_score(
    predictions: BoxSet,
    truth: BoxSet,
    types: Sequence[str] = TYPES,
    overlaps: Mapping[str, float] = OVERLAPS,
    kinds: Sequence[str] | None = None,
) -> KittiScore:
    """Score of predictions.

    Not counted as errors: finding a true box that is too hard, a van as a car or a sitting person as a pedestrian; a
    prediction lower in the image than the difficulty asks for; and, for ``image``, one that ``DontCare`` covers.

    The official figures come from boxes in the rectified camera frame. With
    ``perception.geometry.boxes.kitti_camera_to_lidar`` and the axes (z, -x, -y) as its "LiDAR", labels become boxes
    with z up there. In the LiDAR frame, which is tilted against it by up to a degree, overlaps differ slightly.
    ``KITTIMetric`` does that.

    Args:
        predictions: with ``score``, and ``image_box`` if there is one. Without it, none is too low in the image.
        truth: with ``image_box``, ``truncation`` and ``occlusion``, rows of type ``DontCare`` included.
        types: names of the labels of both.
        overlaps: the classes to score, and the IoU above which a box is found.
        kinds: some of ``image``, ``bev`` and ``3d``; None for those that the predictions have boxes for.

    Raises:
        DataError: a column is missing, or a class or label is not among the types.
    """
    predictions.needed("score", "precision is measured along it")
    for column in ("image_box", "truncation", "occlusion"):
        truth.needed(column, "KITTI's difficulty depends on it; box_overlap.overlap_score needs none")
    if kinds is None:
        kinds = KINDS if predictions.image_box is not None else KINDS[1:]
    for name in overlaps:
        if name not in types:
            raise DataError(f"class {name!r} is {not_among(name, types)}")
    for name, boxes in (("prediction", predictions), ("truth", truth)):
        if len(boxes) and not 0 <= boxes.label.min() <= boxes.label.max() < len(types):
            raise DataError(f"{name}: labels {boxes.label.min()} to {boxes.label.max()} for {len(types)} types")
    precision = np.zeros((len(overlaps), len(kinds), len(DIFFICULTIES), _POSITIONS))
    truths = np.zeros((len(overlaps), len(DIFFICULTIES)), dtype=np.int64)
    for k, kind in enumerate(kinds):
        edges = _overlapping(predictions, truth, kind, min(overlaps.values()))
        for c, (name, least) in enumerate(overlaps.items()):
            hidden = _covered(predictions, truth, types, least) if kind == "image" else np.zeros(len(predictions), bool)
            for d, difficulty in enumerate(DIFFICULTIES):
                states = _states(predictions, truth, types, name, difficulty)
                truths[c, d] = (states[1] == COUNTED).sum()
                precision[c, k, d] = _precision(predictions.needed("score", ""), edges, least, states, hidden)
    return KittiScore(tuple(overlaps), tuple(kinds), precision, truths)


Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # prediction, true box, overlap


def _overlapping(predictions: BoxSet, truth: BoxSet, kind: str, least: float) -> Edges:
    """Pairs of one sample that overlap by more than ``least``."""
    column = "image_box" if kind == "image" else "boxes"
    a, b = predictions.needed(column, "the figure in the image needs it"), truth.needed(column, "it is compared")
    empty = np.zeros(0, dtype=np.int64)
    found = [(empty, empty, np.zeros(0))]
    for i, j in equal_pairs(predictions.sample, truth.sample):
        overlap = paired_overlap(a[i], b[j], kind)
        enough = overlap > least
        found.append((i[enough], j[enough], overlap[enough]))
    i, j, overlap = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return i, j, overlap


def _covered(predictions: BoxSet, truth: BoxSet, types: Sequence[str], least: float) -> np.ndarray:
    """(M,) bool: predictions of whose image box more than the share ``least`` lies in one ``DontCare`` region."""
    covered = np.zeros(len(predictions), dtype=bool)
    if DONT_CARE not in types:
        return covered
    regions = truth.take(truth.label == list(types).index(DONT_CARE))
    a, b = (
        predictions.needed("image_box", "DontCare hides parts of it"),
        regions.needed("image_box", "it is the region"),
    )
    for i, j in equal_pairs(predictions.sample, regions.sample):
        covered[i[image_overlap(a[i], b[j], of_first=True) > least]] = True
    return covered


def _states(
    predictions: BoxSet, truth: BoxSet, types: Sequence[str], name: str, difficulty: Difficulty
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each prediction and each true box is counted, ignored, or of another class."""
    own = list(types).index(name)
    state = np.where(predictions.label == own, COUNTED, OTHER)
    if predictions.image_box is not None:
        # As in KITTI's own code, low boxes of any class are ignored: they may take a true box out of the count.
        height = np.abs(predictions.image_box[:, 3] - predictions.image_box[:, 1])
        state[height < difficulty.height] = IGNORED
    box, truncation, occlusion = (truth.needed(c, "") for c in ("image_box", "truncation", "occlusion"))
    hard = (occlusion > difficulty.occlusion) | (truncation > difficulty.truncation)
    hard |= box[:, 3] - box[:, 1] <= difficulty.height
    true_state = np.where(truth.label == own, np.where(hard, IGNORED, COUNTED), OTHER)
    if LIKE.get(name) in types:
        true_state[truth.label == list(types).index(LIKE[name])] = IGNORED
    return state, true_state


def _precision(
    score: np.ndarray, edges: Edges, least: float, states: tuple[np.ndarray, np.ndarray], hidden: np.ndarray
) -> np.ndarray:
    """(41,) precision at the recalls, made to fall."""
    state, true_state = states
    i, j, overlap = edges
    usable = (overlap > least) & (state[i] != OTHER) & (true_state[j] != OTHER)
    i, j, overlap = i[usable], j[usable], overlap[usable]
    # First every true box takes the prediction with the highest score: their scores are where precision is measured.
    match = match_in_turn(j, i, [-score[i]])
    right = (state[i[match]] == COUNTED) & (true_state[j[match]] == COUNTED)
    cuts = _cuts(score[i[match][right]], int((true_state == COUNTED).sum()))
    # Then, for every cut, it takes the one that overlaps most of those at or above it; an ignored one if nothing else.
    cut, e = np.nonzero(score[i] >= cuts[:, None])
    i, j, overlap = i[e], j[e], overlap[e]
    liking = [state[i], np.where(state[i] == COUNTED, -overlap, 0)]
    match = match_in_turn(cut * len(true_state) + j, cut * len(state) + i, liking)
    cut, i, j = cut[match], i[match], j[match]
    counted = state[i] == COUNTED
    hits = np.bincount(cut[counted & (true_state[j] == COUNTED)], minlength=len(cuts))
    # Wrong are counted predictions at or above the cut that took no true box and that no DontCare covers.
    open_score = np.sort(score[(state == COUNTED) & ~hidden])
    taken = np.bincount(cut[counted & ~hidden[i]], minlength=len(cuts))
    wrong = len(open_score) - np.searchsorted(open_score, cuts, "left") - taken
    precision = np.zeros(_POSITIONS)
    precision[: len(cuts)] = hits / np.maximum(hits + wrong, 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _cuts(scores: np.ndarray, truths: int) -> np.ndarray:
    """Up to 41 of the scores of found boxes, falling, whose recalls lie nearest to 0, 1/40, 2/40 ..."""
    scores = np.sort(scores)[::-1]
    here = np.arange(1, len(scores) + 1) / max(truths, 1)
    following = np.append(here[1:], here[-1:])
    cuts: list[float] = []
    at, wanted = 0, 0.0
    while at < len(scores):
        near = following[at:] - wanted >= wanted - here[at:]
        near[-1] = True  # the last one always counts
        at += int(near.argmax()) + 1
        cuts.append(scores[at - 1])
        wanted += 1 / (_POSITIONS - 1)
    return np.array(cuts)
