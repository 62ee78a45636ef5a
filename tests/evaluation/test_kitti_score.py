"""KITTI's average precision against a box-by-box reading of its rules, and on cases worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from perception.errors import DataError
from perception.evaluation.box_overlap import overlap_score
from perception.evaluation.box_sets import BoxSet, image_overlap, paired_overlap
from perception.evaluation.kitti_score import DIFFICULTIES, KINDS, OVERLAPS, TYPES, kitti_score
from perception.geometry.rotated_iou import iou_3d, iou_bev

CAR, PEDESTRIAN, VAN, DONT_CARE = (TYPES.index(n) for n in ("Car", "Pedestrian", "Van", "DontCare"))
CASES = {"plain": {}, "ties": {"decimals": 1}, "coarse": {"grid": 10.0, "decimals": 1}, "crowded": {"found": 25}}


def random_sets(
    seed: int, frames: int = 15, true: int = 10, found: int = 14, decimals: int = 4, grid: float = 0.0
) -> tuple[BoxSet, BoxSet]:
    """Predictions that are disturbed true boxes, some of another class, over boxes of all types."""
    rng = np.random.default_rng(seed)

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.round(values / grid) * grid if grid else values

    truths, predictions = [], []
    for _ in range(frames):
        corner = rng.uniform([0, 50], [1000, 200], (true, 2))
        boxes = np.concatenate([rng.uniform(-10, 10, (true, 3)) * [1, 1, 0.1], rng.uniform(1, 4, (true, 4))], axis=1)
        label = rng.choice(len(TYPES), true, p=[0.4, 0.15, 0.15, 0.1, 0.05, 0.02, 0.02, 0.01, 0.1])
        image = rounded(np.concatenate([corner, corner + rng.uniform([20, 15], [150, 120], (true, 2))], axis=1))
        truths.append(
            {
                "boxes": boxes,
                "label": label,
                "image_box": image,
                "truncation": rng.choice([0, 0.15, 0.2, 0.4, 0.6], true, p=[0.5, 0.2, 0.1, 0.1, 0.1]),
                "occlusion": rng.choice(4, true, p=[0.7, 0.1, 0.1, 0.1]),
            }
        )
        of = rng.integers(0, true, found)
        guess = np.where((label[of] > 2) | (rng.random(found) < 0.2), rng.integers(0, 3, found), label[of])
        disturbed = boxes[of] + rng.normal(size=(found, 7)) * [0.15, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1]
        moved = image[of] + rounded(rng.normal(size=(found, 4)) * 6) * rng.integers(0, 2, (found, 1))
        predictions.append(
            {"boxes": disturbed, "label": guess, "image_box": moved, "score": np.round(rng.random(found), decimals)}
        )
    return BoxSet.from_samples(predictions), BoxSet.from_samples(truths)


def by_hand(predictions: BoxSet, truth: BoxSet, kind: str, name: str, difficulty: int) -> tuple[np.ndarray, int]:
    """Precision at 41 recalls and the number of boxes to find."""
    height, occluded, truncated = [(40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5)][difficulty]
    least = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}[name]
    similar = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(name)
    frames = []
    for frame in np.unique(truth.sample):
        t, p = truth.take(truth.sample == frame), predictions.take(predictions.sample == frame)
        must, may = [], []
        for k in range(len(t)):
            kind_of = TYPES[t.label[k]]
            _, top, _, bottom = t.image_box[k]
            hard = t.occlusion[k] > occluded or t.truncation[k] > truncated or bottom - top <= height
            if kind_of == name and not hard:
                must.append(k)
            elif kind_of in (name, similar):
                may.append(k)
        low = [k for k in range(len(p)) if p.image_box[k, 3] - p.image_box[k, 1] < height]
        own = [k for k in range(len(p)) if TYPES[p.label[k]] == name and k not in low]
        if kind == "image":
            rows, columns = np.repeat(p.image_box, len(t), axis=0), np.tile(t.image_box, (len(p), 1))
            overlap = image_overlap(rows, columns).reshape(len(p), len(t))
        else:
            overlap = {"bev": iou_bev, "3d": iou_3d}[kind](p.boxes, t.boxes)
        hidden = set()
        for k in own:
            for c in np.flatnonzero(t.label == DONT_CARE):
                (l1, t1, r1, b1), (l2, t2, r2, b2) = p.image_box[k], t.image_box[c]
                shared = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
                if kind == "image" and shared / ((r1 - l1) * (b1 - t1)) > least:
                    hidden.add(k)
        frames.append((p.score, overlap, sorted(must + may), set(must), own, low, hidden))

    found_scores = []
    for score, overlap, truths, must, own, low, _ in frames:
        used: set[int] = set()
        for k in truths:
            free = [d for d in sorted(own + low) if d not in used and overlap[d, k] > least]
            if free:
                best = max(free, key=lambda d: score[d])
                used.add(best)
                if k in must and best in own:
                    found_scores.append(score[best])
    total = sum(len(frame[3]) for frame in frames)
    cuts, wanted = [], 0.0
    ranked = sorted(found_scores, reverse=True)
    for n, value in enumerate(ranked):
        here, after = (n + 1) / total, (n + 2) / total
        if n == len(ranked) - 1 or after - wanted >= wanted - here:
            cuts.append(value)
            wanted += 1 / 40
    precision = np.zeros(41)
    for number, cut in enumerate(cuts):
        right = wrong = 0
        for score, overlap, truths, must, own, low, hidden in frames:
            used = set()
            for k in truths:
                fit = [d for d in own if d not in used and score[d] >= cut and overlap[d, k] > least]
                spare = [d for d in low if d not in used and score[d] >= cut and overlap[d, k] > least]
                if fit:
                    best = max(fit, key=lambda d: overlap[d, k])
                    right += k in must
                    used.add(best)
                elif spare:
                    used.add(spare[0])
            wrong += sum(score[d] >= cut and d not in used and d not in hidden for d in own)
        precision[number] = right / (right + wrong)
    return np.array([precision[n:].max() for n in range(41)]), total


@pytest.mark.parametrize("case", CASES)
def test_equals_the_rules(case: str) -> None:
    predictions, truth = random_sets(len(case), **CASES[case])
    score = kitti_score(predictions, truth)
    assert score.kinds == KINDS and score.classes == tuple(OVERLAPS)
    for c, name in enumerate(score.classes):
        for d in range(len(DIFFICULTIES)):
            for k, kind in enumerate(score.kinds):
                expected, total = by_hand(predictions, truth, kind, name, d)
                assert score.truths[c, d] == total
                assert np.abs(score.precision[c, k, d] - expected).max() < 1e-12, (name, kind, d)
                if total:
                    assert score.r40[c, k, d] == pytest.approx(sum(expected[1:]) / 40)
                    assert score.r11[c, k, d] == pytest.approx(sum(expected[::4]) / 11)
    assert 0.05 < np.nanmean(score.r40) < 0.8


def cars(xs: list[float], label: int = CAR, height: float = 50.0, **columns: object) -> dict[str, object]:
    """A row of cars 10 m and 100 pixels apart; ``xs`` in metres."""
    x = np.array(xs, dtype=float)
    zero = np.zeros_like(x)
    left = 10 * x
    return {
        "boxes": np.stack([x, zero, zero, zero + 4, zero + 2, zero + 1.5, zero], axis=1),
        "label": np.full(len(x), label),
        "image_box": np.stack([left, zero + 100, left + 60, zero + 100 + height], axis=1),
        **columns,
    }


def true_cars(xs: list[float], **columns: object) -> dict[str, object]:
    zero = np.zeros(len(xs))
    return cars(xs, **({"truncation": zero, "occlusion": zero} | columns))  # type: ignore[arg-type]


def test_perfect_predictions() -> None:
    places = [10.0 * n for n in range(60)]
    truth = BoxSet.from_samples([true_cars(places)])
    score = kitti_score(BoxSet.from_samples([cars(places, score=np.linspace(1, 0.1, 60))]), truth)
    assert np.allclose(score.r40[0], 1) and np.allclose(score.r11[0], 1)
    assert np.isnan(score.r40[1:]).all() and score.truths.tolist() == [[60] * 3, [0] * 3, [0] * 3]
    assert score.figures() == {f"{k}/Car/{d}": 1.0 for k in KINDS for d in ("easy", "moderate", "hard")}
    assert "100.00 (100.00)" in score.table()


def test_few_boxes_reach_few_recalls() -> None:
    """Of 4 cars, 2 are found and then something else: the public rule puts cuts at recalls 0 and 1/40 only."""
    truth = BoxSet.from_samples([true_cars([0, 10, 20, 30])])
    found = BoxSet.from_samples([cars([0, 10, 55], score=[0.9, 0.8, 0.7])])
    score = kitti_score(found, truth)
    assert score.precision[0, 1, 0].tolist() == [1, 1] + [0] * 39
    assert score.r40[0, 1, 0] == pytest.approx(1 / 40) and score.r11[0, 1, 0] == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        (true_cars([10], label=VAN), 0),  # a van is no car, but looks like one
        (true_cars([10], occlusion=[3.0]), 0),  # too hidden to be asked for
        (true_cars([10], truncation=[0.9]), 0),
        (true_cars([10], height=25.0), 0),  # a box of exactly the height is too low
        (true_cars([10], label=TYPES.index("Truck")), 1),
        (true_cars([10], label=DONT_CARE), None),  # hides what lies in it from the figure in the image alone
    ],
)
def test_what_is_ignored(other: dict[str, object], wrong: int | None) -> None:
    places = [100.0 + 10 * n for n in range(40)]
    rows = {k: np.concatenate([np.asarray(a), np.asarray(other[k])]) for k, a in true_cars(places).items()}
    record = cars([*places, 10.0], score=[*np.linspace(0.5, 0.1, 40), 0.9])
    record["image_box"] = rows["image_box"]
    score = kitti_score(BoxSet.from_samples([record]), BoxSet.from_samples([rows]))
    for kind, precision in zip(KINDS, score.precision[0, :, 2], strict=True):
        extra = int(kind != "image") if wrong is None else wrong
        assert precision[0] == pytest.approx(40 / (40 + extra)), kind  # the best is at the lowest cut


def test_low_predictions_are_ignored() -> None:
    places = [10.0 * n for n in range(40)]
    truth = BoxSet.from_samples([true_cars(places)])
    record = cars([*places, 900.0], score=[*np.linspace(0.5, 0.1, 40), 0.9])
    record["image_box"][-1, 3] = 130.0  # type: ignore[index]
    easy, moderate, _ = kitti_score(BoxSet.from_samples([record]), truth).precision[0, 1]
    assert easy[0] == 1.0  # 30 pixels are below 40
    assert moderate[0] == pytest.approx(40 / 41)
    del record["image_box"]
    blind = kitti_score(BoxSet.from_samples([record]), truth)
    assert blind.kinds == ("bev", "3d") and blind.precision[0, 0, 0, 0] == pytest.approx(40 / 41)


def test_bad_input_is_named() -> None:
    predictions, truth = random_sets(0, frames=2)
    with pytest.raises(DataError, match="'score'"):
        kitti_score(replace(predictions, score=None), truth)
    with pytest.raises(DataError, match="'occlusion'"):
        kitti_score(predictions, replace(truth, occlusion=None))
    with pytest.raises(DataError, match="nearest is 'Cyclist'"):
        kitti_score(predictions, truth, overlaps={"cyclist": 0.5})
    with pytest.raises(DataError, match="for 3 types"):
        kitti_score(predictions, truth, types=("Car", "Pedestrian", "Cyclist"))
    with pytest.raises(DataError, match="'image_box'"):
        kitti_score(replace(predictions, image_box=None), truth, kinds=("image",))
    nothing = predictions.take(np.zeros(0, dtype=int))
    assert np.nanmax(kitti_score(nothing, truth).r40) == 0


def test_overlaps_in_pairs() -> None:
    predictions, truth = random_sets(1, frames=1)
    i, j = (axis.ravel() for axis in np.indices((len(predictions), len(truth))))
    for kind, matrix in (("bev", iou_bev), ("3d", iou_3d)):
        found = paired_overlap(predictions.boxes[i], truth.boxes[j], kind)
        expected = matrix(predictions.boxes, truth.boxes)
        assert np.allclose(found, expected.ravel(), atol=1e-12) and (found > 0.3).sum() > 3
    a, b = np.array([[0.0, 0, 4, 2]] * 3), np.array([[2.0, 1, 6, 3], [4, 0, 8, 2], [0, 0, 2, 2]])
    assert image_overlap(a, b).tolist() == pytest.approx([2 / 14, 0, 0.5])
    assert image_overlap(b, a, of_first=True).tolist() == pytest.approx([2 / 8, 0, 1])


def test_average_precision_at_an_overlap() -> None:
    truth = BoxSet.from_samples([cars([0, 10, 20]), cars([0])])
    found = BoxSet.from_samples(
        # A shift of 1 m of 4 leaves an overlap of 3 / 5; of 2 m, 1 / 3.
        [cars([1, 0.5, 50, 12], score=[0.9, 0.8, 0.7, 0.6]), cars([0], score=[0.5])]
    )
    # By score: right, repeated, wrong, (wrong at 0.5 | right at 0.3), right -> precisions 1, 2/5 | 1, 1/2, 3/5.
    # The precision at recall 2/4 is raised to that of recall 3/4.
    for kind in ("bev", "3d"):
        assert overlap_score(found, truth, ["Car"], 0.5, kind).ap.tolist() == pytest.approx([(1 + 2 / 5) / 4])
        assert overlap_score(found, truth, ["Car"], 0.3, kind).ap.tolist() == pytest.approx([(1 + 3 / 5 + 3 / 5) / 4])


def test_it_takes_the_best_free_box() -> None:
    """Two predictions between two cars: the second gets what is left, though it overlaps the other more."""
    truth = BoxSet.from_samples([cars([0, 2])])
    found = BoxSet.from_samples([cars([0.2, 0.4], score=[0.9, 0.8])])
    assert overlap_score(found, truth, ["Car"], 0.4).ap.tolist() == pytest.approx([1.0])
