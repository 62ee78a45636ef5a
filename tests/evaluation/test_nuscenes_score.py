"""The nuScenes score against a box-by-box reading of its definition, and against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.evaluation.box_sets import BoxSet, equal_pairs, match_in_turn
from perception.evaluation.nuscenes_score import CLASSES, DISTANCES, ERRORS, RANGES, NuScenesScore, nuscenes_score

CAR, PEDESTRIAN, BICYCLE, CONE, BARRIER = (
    CLASSES.index(n) for n in ("car", "pedestrian", "bicycle", "traffic_cone", "barrier")
)


def random_truth(seed: int, samples: int = 12, each: int = 24, classes: int = 10, grid: float | None = None) -> BoxSet:
    rng = np.random.default_rng(seed)
    count = samples * each
    centre = rng.uniform(-20, 20, (count, 3)) * [1, 1, 0.05]
    if grid:
        centre = np.round(centre / grid) * grid
    velocity = rng.normal(size=(count, 2))
    velocity[rng.random(count) < 0.2] = np.nan
    return BoxSet(
        sample=np.repeat(np.arange(samples), each),
        boxes=np.concatenate([centre, rng.uniform(0.5, 5, (count, 3)), rng.uniform(-3.1, 3.1, (count, 1))], axis=1),
        label=rng.integers(0, classes, count),
        velocity=velocity,
        attribute=rng.integers(-1, 8, count),
        num_points=rng.integers(0, 9, count),
    )


def guesses(truth: BoxSet, seed: int, decimals: int = 1, grid: float | None = None) -> BoxSet:
    """Disturbed copies of true boxes, some of them twice, with many equal scores."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, len(truth), int(1.3 * len(truth))))
    assert truth.velocity is not None and truth.attribute is not None
    boxes = truth.boxes[rows] + rng.normal(size=(len(rows), 7)) * [0.8, 0.8, 0.2, 0.1, 0.1, 0.1, 0.4]
    boxes[:, 3:6] = np.abs(boxes[:, 3:6]) + 0.1
    if grid:
        boxes[:, :2] = np.round(boxes[:, :2] / grid) * grid
    return BoxSet(
        sample=truth.sample[rows],
        boxes=boxes,
        label=truth.label[rows],
        velocity=truth.velocity[rows] + rng.normal(size=(len(rows), 2)),
        attribute=np.where(rng.random(len(rows)) < 0.3, rng.integers(-1, 8, len(rows)), truth.attribute[rows]),
        score=np.round(rng.random(len(rows)), decimals),
    )


def perfect(truth: BoxSet) -> BoxSet:
    return replace(truth, num_points=None, score=np.linspace(1, 0.5, len(truth)))


def complete_truth() -> BoxSet:
    """Three boxes of every class, all known, all in range."""
    count = 3 * len(CLASSES)
    x = np.arange(count) % 10 - 5.0
    boxes = np.stack([2 * x, np.arange(count) / 2, 0 * x, 2 + 0 * x, 1 + 0 * x, 1 + 0 * x, x / 3], axis=1)
    return BoxSet(
        np.arange(count) % 4, boxes, np.arange(count) % 10, velocity=np.ones((count, 2)), attribute=np.zeros(count)
    )


def by_hand(predictions: BoxSet, truth: BoxSet, classes: int, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP (C, 4) and errors (C, 5), one box after the other."""
    ranges = list(RANGES.values())

    def counted(boxes: BoxSet) -> list[int]:
        kept = []
        for i in range(len(boxes)):
            away = math.dist(boxes.boxes[i, :2], ego[boxes.sample[i]])
            if away < ranges[boxes.label[i]] and (boxes.num_points is None or boxes.num_points[i] != 0):
                kept.append(i)
        return kept

    p, t = counted(predictions), counted(truth)
    ap, errors = np.zeros((classes, 4)), np.full((classes, 5), np.nan)
    for label in range(classes):
        mine = [i for i in t if truth.label[i] == label]
        ranked = sorted((predictions.score[i], k, i) for k, i in enumerate(p) if predictions.label[i] == label)[::-1]
        skipped = {CONE: (2, 3, 4), BARRIER: (3, 4)}.get(label, ())
        for column, limit in enumerate(DISTANCES):
            free, hits, matches = set(mine), [], []
            for score, _, i in ranked:
                here = [j for j in mine if j in free and truth.sample[j] == predictions.sample[i]]
                nearest = min(here, key=lambda j: math.dist(truth.boxes[j, :2], predictions.boxes[i, :2]), default=None)
                hit = nearest is not None and math.dist(truth.boxes[nearest, :2], predictions.boxes[i, :2]) < limit
                hits.append(hit)
                if hit:
                    free.remove(nearest)
                    matches.append((score, i, nearest))
            recalls = np.linspace(0, 1, 101)
            if matches:
                found = np.cumsum(hits)
                precision = np.interp(recalls, found / len(mine), found / np.arange(1, len(hits) + 1), right=0)
                ap[label, column] = np.clip(precision[11:] - 0.1, 0, None).mean() / 0.9
            if limit != 2.0:
                continue
            for number in range(5):
                if number in skipped:
                    continue
                errors[label, number] = 1.0
                if not matches:
                    continue
                scores = np.interp(recalls, found / len(mine), [s for s, _, _ in ranked], right=0)
                last = max((k for k in range(101) if scores[k] != 0), default=0)
                if last < 11:
                    continue
                values = [one_error(number, predictions, i, truth, j, label) for _, i, j in matches]
                running = []
                for k in range(len(values)):
                    known = [v for v in values[: k + 1] if not math.isnan(v)]
                    running.append(sum(known) / len(known) if known else 0.0)
                if all(math.isnan(v) for v in values):
                    running = [1.0] * len(values)
                curve = np.interp(scores[::-1], [s for s, _, _ in matches][::-1], running[::-1])[::-1]
                errors[label, number] = curve[11 : last + 1].mean()
    return ap, errors


def one_error(number: int, predictions: BoxSet, i: int, truth: BoxSet, j: int, label: int) -> float:
    a, b = predictions.boxes[i], truth.boxes[j]
    if number == 0:
        return math.dist(a[:2], b[:2])
    if number == 1:
        shared = math.prod(min(x, y) for x, y in zip(a[3:6], b[3:6], strict=True))
        return 1 - shared / (math.prod(a[3:6]) + math.prod(b[3:6]) - shared)
    if number == 2:
        period = math.pi if label == BARRIER else 2 * math.pi
        turn = (b[6] - a[6]) % period
        return min(turn, period - turn)
    if number == 3:
        return math.hypot(*(predictions.velocity[i] - truth.velocity[j]))
    if truth.attribute[j] < 0:
        return math.nan
    return float(predictions.attribute[i] != truth.attribute[j])


@pytest.mark.parametrize(
    ("seed", "classes", "grid", "decimals"), [(0, 10, None, 1), (1, 10, 1.0, 1), (2, 3, 0.5, 2), (3, 1, None, 6)]
)
def test_equals_the_definition(seed: int, classes: int, grid: float | None, decimals: int) -> None:
    truth = random_truth(seed, classes=classes, grid=grid)
    predictions = guesses(truth, seed + 10, decimals, grid)
    ego = np.random.default_rng(seed).uniform(-40, 40, (12, 2))  # so that some boxes are out of range
    score = nuscenes_score(predictions, truth, ego=ego)
    ap, errors = by_hand(predictions, truth, 10, ego)
    assert np.abs(score.ap - ap).max() < 1e-9
    assert np.array_equal(np.isnan(errors), np.isnan(score.errors)) and np.nanmax(np.abs(score.errors - errors)) < 1e-9
    assert score.dropped["truth_without_points"] > 0 and score.dropped["truth_out_of_range"] > 0
    assert 0.02 < score.mean_ap < 0.9  # the case is neither empty nor trivial
    mean = np.nanmean(errors, axis=0)
    assert score.nds == pytest.approx((5 * ap.mean() + np.maximum(0, 1 - mean).sum()) / 10, abs=1e-9)


def test_perfect_predictions_score_one() -> None:
    truth = complete_truth()
    score = nuscenes_score(perfect(truth), truth)
    assert score.mean_ap == pytest.approx(1, abs=1e-12) and score.nds == pytest.approx(1, abs=1e-12)
    assert np.nanmax(score.errors) == 0 and not score.absent


def test_a_missing_class_costs_its_share_officially_and_nothing_otherwise() -> None:
    truth = complete_truth()
    truth = truth.take(truth.label != CAR)
    official = nuscenes_score(perfect(truth), truth)
    assert official.absent == ("car",) and official.mean_ap == pytest.approx(0.9)
    # Translation and scale are means over 10 classes, orientation over 9, velocity and attribute over 8.
    expected = [1 / 10, 1 / 10, 1 / 9, 1 / 8, 1 / 8]
    assert list(official.mean_errors.values()) == pytest.approx(expected)
    assert official.nds == pytest.approx((5 * 0.9 + sum(1 - e for e in expected)) / 10)
    assert "no true box of car: they count as AP 0" in official.table()
    present = nuscenes_score(perfect(truth), truth, official=False)
    assert present.mean_ap == pytest.approx(1) and present.nds == pytest.approx(1)
    assert "no true box of car: they are left out" in present.table()


def test_a_repeated_prediction_costs_precision_only() -> None:
    truth = complete_truth()
    once = perfect(truth)
    twice = once.take(np.repeat(np.arange(len(once)), 2))
    score = nuscenes_score(twice, truth)
    assert np.nanmax(score.errors) == 0  # the copies match nothing
    # Hits and misses alternate: at the k-th of 3 hits, precision is k / (2 k - 1); read at recalls 0.11 .. 1, with a
    # drop right after the first two hits, at recalls 1/3 and 2/3, that numpy takes from the later point.
    recall, precision = np.array([1, 1, 2, 2, 3, 3]) / 3, np.array([1, 1 / 2, 2 / 3, 1 / 2, 3 / 5, 1 / 2])
    curve = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)
    expected = (curve[11:] - 0.1).mean() / 0.9
    assert np.allclose(score.ap, expected) and expected < 1


def single(x: float, score: float = 0.9, label: int = CAR, **columns: object) -> BoxSet:
    record = {"boxes": np.array([[x, 0, 0, 4, 2, 1.5, 0.0]]), "label": [label], "score": [score], **columns}
    return BoxSet.from_samples([record])


def no_score(boxes: BoxSet) -> BoxSet:
    return replace(boxes, score=None)


def test_errors_worked_out_by_hand() -> None:
    truth = no_score(single(10.0, velocity=[[1.0, 0.0]], attribute=[2]))
    shifted = BoxSet.from_samples(
        [
            {
                "boxes": np.array([[10.9, 0, 7.0, 4, 1, 1.5, 0.5]]),
                "label": [CAR],
                "score": [0.4],
                "velocity": [[1, 2]],
                "attribute": [1],
            }
        ]
    )
    score = nuscenes_score(shifted, truth, official=False)
    assert score.ap[CAR].tolist() == pytest.approx([0, 1, 1, 1])  # 0.9 m away; the height does not matter
    assert score.errors[CAR].tolist() == pytest.approx([0.9, 0.5, 0.5, 2.0, 1.0])
    assert score.nds == pytest.approx((5 * 0.75 + 0.1 + 0.5 + 0.5 + 0 + 0) / 10)  # above 1 costs 1
    figures = score.figures()
    assert figures["map"] == pytest.approx(0.75) and figures["error/velocity"] == pytest.approx(2.0)


def test_half_a_turn_is_no_error_for_a_barrier() -> None:
    for label, expected in ((BARRIER, 0.0), (CAR, math.pi)):
        turned = single(5.0, label=label)
        turned.boxes[0, 6] = math.pi
        score = nuscenes_score(turned, no_score(single(5.0, label=label)))
        assert score.errors[label, ERRORS.index("orientation")] == pytest.approx(expected)


def test_unknown_velocities_are_left_out_and_unknown_attributes_are_wrong() -> None:
    truth = no_score(single(5.0, velocity=[[1.0, 1.0]], attribute=[0]))
    blind = nuscenes_score(single(5.0, velocity=[[np.nan, 0.0]]), truth)
    assert blind.errors[CAR, 3:].tolist() == [1.0, 1.0]
    bare = no_score(single(5.0))
    assert nuscenes_score(single(5.0), bare).errors[CAR, 3:].tolist() == [1.0, 1.0]
    own = nuscenes_score(single(5.0), bare, official=False)  # own data without velocities: NDS of the rest
    assert np.isnan(own.errors[CAR, 3:]).all() and own.nds == pytest.approx(1.0)


def test_of_equal_scores_the_later_box_goes_first() -> None:
    truth = no_score(single(10.0))
    near, far = single(10.1, 0.5), single(11.5, 0.5)

    def joined(*parts: BoxSet) -> BoxSet:
        return BoxSet(**{name: np.concatenate([p.columns()[name] for p in parts]) for name in parts[0].columns()})

    assert nuscenes_score(joined(near, far), truth).errors[CAR, 0] == pytest.approx(1.5)
    assert nuscenes_score(joined(far, near), truth).errors[CAR, 0] == pytest.approx(0.1)


def test_ranges_ego_and_bicycle_racks() -> None:
    truth = no_score(single(45.0, label=PEDESTRIAN))
    assert nuscenes_score(single(45.0, label=PEDESTRIAN), truth).dropped["truth_out_of_range"] == 1
    assert nuscenes_score(single(45.0, label=PEDESTRIAN), truth, ego=[[10.0, 0.0]]).ap[PEDESTRIAN, 0] == pytest.approx(
        1
    )
    assert nuscenes_score(single(45.0, label=PEDESTRIAN), truth, ranges={}).ap[PEDESTRIAN, 0] == pytest.approx(1)
    rack = BoxSet(np.zeros(1), np.array([[5.0, 0, 0, 1, 6, 1, math.pi / 2]]), np.zeros(1))
    for x, label, parked in ((7.5, BICYCLE, 1), (8.5, BICYCLE, 0), (7.5, CAR, 0)):  # turned, it reaches from 2 to 8 m
        score = nuscenes_score(single(x, label=label), no_score(single(x, label=label)), racks=rack)
        assert score.dropped["truth_in_bicycle_racks"] == score.dropped["prediction_in_bicycle_racks"] == parked
        assert score.ap[label, 0] == pytest.approx(1 - parked)


def test_nothing_found_and_nothing_there() -> None:
    truth = complete_truth()
    nothing = BoxSet(np.zeros(0), np.zeros((0, 7)), np.zeros(0), score=np.zeros(0))
    score = nuscenes_score(nothing, truth)
    assert score.mean_ap == 0 and score.nds == 0
    empty = nuscenes_score(perfect(truth), truth.take(np.zeros(0, dtype=int)))
    assert empty.nds == 0 and len(empty.absent) == 10
    with pytest.raises(DataError, match="no true box"):
        nuscenes_score(perfect(truth), truth.take(np.zeros(0, dtype=int)), official=False)


def test_bad_input_is_named() -> None:
    truth = complete_truth()
    good = perfect(truth)
    with pytest.raises(DataError, match="no column 'score'"):
        nuscenes_score(truth, truth)
    with pytest.raises(DataError, match="below 0"):
        nuscenes_score(replace(good, score=-good.score), truth)
    with pytest.raises(DataError, match=r"sample 0 has 8 predictions, nuScenes allows 5"):
        nuscenes_score(good, truth, max_boxes=5)
    with pytest.raises(DataError, match="label 10 is none"):
        nuscenes_score(replace(good, label=good.label + 1), truth)
    flat = good.boxes.copy()
    flat[4, 5] = 0
    with pytest.raises(DataError, match="1 boxes have a size of 0 or less, first in row 4"):
        nuscenes_score(replace(good, boxes=flat), truth)
    with pytest.raises(DataError, match="score is not finite in 1 rows, first in row 2"):
        replace(good, score=np.where(np.arange(len(good)) == 2, np.nan, good.score))
    for column in ("label", "sample", "attribute"):
        with pytest.raises(DataError, match=f"{column} is not finite in {len(good)} rows"):
            replace(good, **{column: np.full(len(good), np.nan)})
    with pytest.raises(DataError, match="boxes of samples 0 to 3, but ego has 2 rows"):
        nuscenes_score(good, truth, ego=np.zeros((2, 2)))
    with pytest.raises(DataError, match="label has shape"):
        BoxSet(np.zeros(2), np.zeros((2, 7)), np.zeros(3))
    with pytest.raises(DataError, match="nearest is 'label'"):
        BoxSet.from_samples([{"boxes": np.zeros((1, 7)), "labels": [0]}])
    with pytest.raises(DataError, match="sample 1"):
        BoxSet.from_samples([{"boxes": np.zeros((1, 7)), "label": [0]}, {"boxes": np.zeros((1, 7))}])


def test_samples_become_flat_arrays() -> None:
    records = [
        {"boxes": torch.ones(2, 7), "label": torch.tensor([1, 2]), "score": torch.tensor([0.5, 0.25])},
        {"boxes": torch.zeros(0, 7), "label": torch.zeros(0, dtype=torch.int64), "score": torch.zeros(0)},
        {"boxes": np.ones((1, 7)), "label": [3], "score": [1]},
    ]
    found = BoxSet.from_samples(records)
    assert found.sample.tolist() == [0, 0, 2] and found.label.tolist() == [1, 2, 3]
    assert found.score is not None and found.score.tolist() == [0.5, 0.25, 1.0] and found.boxes.shape == (3, 7)
    assert len(BoxSet.from_samples([])) == 0


def test_pairs_and_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.array([3, 1, 1, 7]), np.array([1, 3, 1, 5])
    expected = [(i, j) for i in range(4) for j in range(4) if a[i] == b[j]]
    whole = [(int(i), int(j)) for part in equal_pairs(a, b) for i, j in zip(*part, strict=True)]
    assert whole == expected
    monkeypatch.setattr("perception.evaluation.box_sets._PAIRS", 2)
    parts = list(equal_pairs(a, b))
    assert len(parts) > 1
    assert [(int(i), int(j)) for part in parts for i, j in zip(*part, strict=True)] == expected
    rng = np.random.default_rng(0)
    for _ in range(30):
        who, what = np.unique(rng.integers(0, 12, (60, 2)), axis=0).T
        liking = rng.integers(0, 3, len(who))  # with ties
        taken: dict[int, int] = {}
        for person in range(12):
            wishes = sorted((liking[k], what[k], k) for k in range(len(who)) if who[k] == person)
            for _, thing, k in wishes:
                if thing not in taken:
                    taken[thing] = k
                    break
        assert sorted(taken.values()) == sorted(match_in_turn(who, what, [liking]).tolist())


def test_a_whole_validation_split_is_quick() -> None:
    import time

    truth = random_truth(0, samples=600, each=31)
    predictions = guesses(truth, 1, decimals=6)
    start = time.perf_counter()
    score = nuscenes_score(predictions, truth)
    assert isinstance(score, NuScenesScore) and time.perf_counter() - start < 5  # a tenth of the split; 0.1 s alone
