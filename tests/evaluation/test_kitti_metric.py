"""KITTI's score as a metric of a run: against direct calls of the score, and on cases worked out by hand."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.datasets.kitti import KITTI, KITTICalibration, KITTILabels, KITTITruth
from perception.errors import ConfigError, DataError
from perception.evaluation.box_sets import BoxSet, image_overlap
from perception.evaluation.kitti_metric import KITTIMetric, image_boxes
from perception.evaluation.kitti_score import OVERLAPS, TYPES, kitti_score
from perception.geometry.augmentation import lidar_matrix
from perception.geometry.boxes import kitti_camera_to_lidar, transform_boxes
from perception.registry import METRICS

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/bev")
CLASSES = ("Pedestrian", "Car")
SIZE = (375, 1242)
CAM2IMG = np.array([[700.0, 0, 600, 40], [0, 700, 180, 0.2], [0, 0, 1, 0.003], [0, 0, 0, 1]])
LEVEL = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])  # no tilt
ROLL = np.deg2rad(1.5)
TILT = np.array([[1, 0, 0, 0], [0, np.cos(ROLL), -np.sin(ROLL), 0], [0, np.sin(ROLL), np.cos(ROLL), 0], [0, 0, 0, 1.0]])


def truth_of(kind, camera_boxes, box2d=None, truncated=None, occluded=None, lidar2rect=LEVEL, size=SIZE):
    """A labelled frame; 2D boxes 60 pixels high, everything in plain view unless told."""
    count = len(kind)
    box2d = np.tile([100.0, 100, 200, 160], (count, 1)) if box2d is None else box2d
    labels = KITTILabels(
        tuple(kind),
        np.zeros(count) if truncated is None else truncated,
        np.zeros(count, dtype=np.int64) if occluded is None else occluded,
        np.asarray(box2d, dtype=np.float64).reshape(-1, 4),
        np.asarray(camera_boxes, dtype=np.float64).reshape(-1, 7),
    )
    return KITTITruth(labels, KITTICalibration(CAM2IMG, lidar2rect), size)


def row_of_cars(count, depth=12.0):
    """h, w, l, x, y, z, ry of cars that stand 3 m apart across the view."""
    x = 3.0 * (np.arange(count) - count / 2)
    one = np.ones(count)
    return np.stack([1.5 * one, 1.8 * one, 4 * one, x, 1.7 * one, depth * one, -np.pi / 2 * one], axis=1)


def say(truth, camera_boxes, label, score):
    """What a model that sees LiDAR boxes says."""
    boxes = kitti_camera_to_lidar(np.asarray(camera_boxes, dtype=np.float64), truth.calibration.lidar2rect)
    return torch.from_numpy(boxes), torch.as_tensor(label), torch.as_tensor(score, dtype=torch.float64)


def measured(truths, said, size=2, order=None, lidar_aug=None, classes=CLASSES, **options):
    metric = KITTIMetric(**options)
    metric.dataset_meta = {"classes": classes}
    order = list(range(len(truths))) if order is None else order
    for start in range(0, len(order), size):
        part = order[start : start + size]
        batch = {
            "index": torch.tensor(part),
            "meta": {"kitti": [truths[i] for i in part], "tokens": [f"{i:06d}" for i in part]},
        }
        if lidar_aug is not None:
            batch["lidar_aug"] = torch.from_numpy(lidar_aug).expand(len(part), 4, 4)
        columns = zip(*(said[i] for i in part), strict=True)
        metric.process(batch, [dict(zip(("boxes", "labels", "scores"), map(list, columns), strict=True))])
    return metric.compute_metrics(metric.results)


def test_perfect_predictions_are_perfect():
    truths = [truth_of(["Car"] * 9, row_of_cars(9, 10.0 + n)) for n in range(5)]
    said = [say(t, t.labels.camera_boxes, [1] * 9, np.linspace(1, 0.5, 9)) for t in truths]
    found = measured(truths, said, kinds=("bev", "3d"))
    names = {f"{kind}/Car/{d}" for kind in ("bev", "3d") for d in ("easy", "moderate", "hard")}
    assert set(found) == names | {f"r11/{name}" for name in names}  # no pedestrian, nothing to say
    assert list(found.values()) == pytest.approx([1.0] * len(found))
    assert next(iter(found)) == "3d/Car/moderate"  # the headline of a report


def random_frames(lidar2rect, seed=0, frames=12):
    """Frames of all types, and disturbed guesses at what stands there, in the camera frame."""
    rng = np.random.default_rng(seed)
    truths, guesses = [], []
    for _ in range(frames):
        count = 14
        camera = np.stack(
            [
                rng.uniform(1.4, 2, count),
                rng.uniform(0.6, 2, count),
                rng.uniform(0.8, 4, count),
                6.0 * (np.arange(count) % 5 - 2) + rng.normal(0, 0.5, count),
                rng.uniform(1.5, 1.9, count),
                10 + 11.0 * (np.arange(count) // 5) + rng.normal(0, 1, count),
                rng.uniform(-np.pi, np.pi, count),
            ],
            axis=1,
        )
        kind = rng.choice(TYPES, count, p=[0.35, 0.25, 0.05, 0.1, 0.1, 0.05, 0.02, 0.03, 0.05])
        corner = rng.uniform([0, 50], [1000, 200], (count, 2))
        box2d = np.concatenate([corner, corner + rng.uniform([20, 20], [150, 90], (count, 2))], axis=1)
        truncated = rng.choice([0, 0.2, 0.4, 0.6], count, p=[0.7, 0.1, 0.1, 0.1])
        occluded = rng.choice(4, count, p=[0.7, 0.1, 0.1, 0.1])
        truths.append(truth_of(kind, camera, box2d, truncated, occluded, lidar2rect))
        of = rng.integers(0, count, 18)
        moved = camera[of] + rng.normal(size=(18, 7)) * [0.05, 0.05, 0.05, 0.1, 0.05, 0.1, 0.05]
        label = np.where(rng.random(18) < 0.8, np.isin(kind[of], ["Car", "Van"]), rng.integers(0, 2, 18)).astype(int)
        guesses.append((moved, label, np.round(rng.random(18), 2)))
    return truths, guesses


def projected(camera):
    """Extents of boxes in front of the camera, corner by corner, as kitti_score is given them."""
    found = []
    for h, w, length, x, y, z, ry in camera:
        pixels = []
        for along in (-length / 2, length / 2):
            for across in (-w / 2, w / 2):
                for up in (0, h):
                    px = x + np.cos(ry) * along + np.sin(ry) * across
                    pz = z - np.sin(ry) * along + np.cos(ry) * across
                    u, v, depth = (CAM2IMG @ [px, y - up, pz, 1])[:3]
                    pixels.append([u / depth, v / depth])
        low, high = np.min(pixels, axis=0), np.max(pixels, axis=0)
        found.append(np.clip([*low, *high], 0, [1241, 374, 1241, 374]))
    return np.array(found)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_direct_call_of_the_score(seed):
    """With an untilted LiDAR its own frame has the overlaps of the camera's: nothing of the metric is needed for it."""
    truths, guesses = random_frames(LEVEL, seed)
    said = [say(t, *guess) for t, guess in zip(truths, guesses, strict=True)]
    predictions = BoxSet.from_samples(
        [
            {
                "boxes": kitti_camera_to_lidar(camera, LEVEL),
                "label": [TYPES.index(CLASSES[n]) for n in label],
                "score": score,
                "image_box": projected(camera),
            }
            for camera, label, score in guesses
        ]
    )
    truth = BoxSet.from_samples(
        [
            {
                "boxes": kitti_camera_to_lidar(t.labels.camera_boxes, LEVEL),
                "label": [TYPES.index(kind) for kind in t.labels.kind],
                "image_box": t.labels.box2d,
                "truncation": t.labels.truncated,
                "occlusion": t.labels.occluded,
            }
            for t in truths
        ]
    )
    score = kitti_score(predictions, truth, TYPES, {name: OVERLAPS[name] for name in CLASSES})
    found = measured(truths, said, kinds=("image", "bev", "3d"))
    r40 = {name: value for name, value in found.items() if not name.startswith("r11/")}
    assert r40 == pytest.approx(score.figures(), abs=1e-12)
    for c, name in enumerate(CLASSES):
        for k, kind in enumerate(score.kinds):
            for d, difficulty in enumerate(("easy", "moderate", "hard")):
                assert found[f"r11/{kind}/{name}/{difficulty}"] == pytest.approx(score.r11[c, k, d], abs=1e-12)
    assert next(iter(found)) == "3d/Pedestrian/moderate" and 0.05 < found["3d/Car/moderate"] < 0.95


def test_the_tilt_of_the_lidar_and_augmentation_change_nothing():
    truths, guesses = random_frames(LEVEL, 1)
    plain = measured(truths, [say(t, *guess) for t, guess in zip(truths, guesses, strict=True)])
    truths, guesses = random_frames(TILT @ LEVEL, 1)
    said = [say(t, *guess) for t, guess in zip(truths, guesses, strict=True)]
    tilted = measured(truths, said)
    assert tilted == pytest.approx(plain, abs=1e-9)
    matrix = lidar_matrix(rotation=0.7, scale=1.05, flip_y=True)
    moved = [(transform_boxes(boxes, torch.from_numpy(matrix)), *rest) for boxes, *rest in said]
    assert measured(truths, moved, lidar_aug=matrix) == pytest.approx(plain, abs=1e-9)
    assert measured(truths, moved) != pytest.approx(plain, abs=1e-2)


@pytest.mark.parametrize("size", [1, 5])
def test_neither_order_nor_size_of_batches_nor_repetition_changes_a_figure(size):
    truths, guesses = random_frames(LEVEL, 2)
    said = [say(t, *guess) for t, guess in zip(truths, guesses, strict=True)]
    order = [*np.random.default_rng(size).permutation(12).tolist(), 3]
    assert measured(truths, said, size, order) == measured(truths, said)


@pytest.mark.parametrize(
    ("kind", "depth", "wrong"),
    [
        (None, 20.0, 1),  # 700 x 1.5 m / 18 m = 58 pixels: a mistake
        (None, 60.0, 0),  # 18 pixels, lower than asked for
        (None, -20.0, 0),  # behind the camera
        ("Van", 20.0, 0),  # it looks like a car, though the data set has no such class
        ("Truck", 20.0, 1),
    ],
)
def test_what_counts_as_wrong(kind, depth, wrong):
    """45 cars are found; one more prediction with the highest score leaves 45 of 46 right at every recall, or all."""
    cars, extra = row_of_cars(9), row_of_cars(1, depth)
    truths = [truth_of(["Car"] * 9, cars) for _ in range(5)]
    if kind is not None:
        truths[0] = truth_of(["Car"] * 9 + [kind], np.concatenate([cars, extra]))
    said = [say(t, cars, [1] * 9, np.linspace(0.5, 0.4, 9)) for t in truths]
    said[0] = say(truths[0], np.concatenate([cars, extra]), [1] * 10, [*np.linspace(0.5, 0.4, 9), 0.9])
    found = measured(truths, said)
    # The best precision is at the last cut, and it stands for all recalls before it.
    assert found["bev/Car/hard"] == pytest.approx(45 / 46 if wrong else 1.0)


def test_boxes_in_the_picture_by_hand():
    camera = CAM2IMG.copy()
    camera[:3, 3] = 0
    # Length along x, 9.1 to 10.9 m away, from 1.7 m below the camera to 0.2 m.
    (found,) = image_boxes(np.array([[1.5, 1.8, 4.0, 0.0, 1.7, 10.0, 0.0]]), camera, SIZE)
    edges = [600 - 700 * 2 / 9.1, 180 + 700 * 0.2 / 10.9, 600 + 700 * 2 / 9.1, 180 + 700 * 1.7 / 9.1]
    assert found == pytest.approx(edges)
    beside = image_boxes(np.array([[1.5, 1.8, 4, 12.0, 1.7, 10.0, 0], [1.5, 1.8, 4, 0, 1.7, -10.0, 0]]), camera, SIZE)
    assert beside[0, [0, 2]].tolist() == [1241, 1241] and beside[1].tolist() == [0, 0, 0, 0]
    assert image_boxes(np.zeros((0, 7)), camera, SIZE).shape == (0, 4)


def test_a_box_that_reaches_behind_the_camera_covers_what_its_points_cover():
    rng = np.random.default_rng(0)
    boxes = np.stack([[1.5, 1.8, 4.5, x, 1.7, z, ry] for x, z, ry in ((2.5, 1.0, -1.5), (-3, 0.5, 0.8), (4, 0.5, 0.3))])
    for box, found in zip(boxes, image_boxes(boxes, CAM2IMG, SIZE), strict=True):
        h, w, length, x, y, z, ry = box
        along, across, up = rng.uniform(-0.5, 0.5, (3, 400_000))
        along, across = np.where(abs(along) > abs(across), np.sign(along) / 2, along), across
        px = x + np.cos(ry) * along * length + np.sin(ry) * across * w
        pz = z - np.sin(ry) * along * length + np.cos(ry) * across * w
        u, v, depth = CAM2IMG[:3] @ np.stack([px, y - (up + 0.5) * h, pz, np.ones_like(px)])
        ahead = depth > 0.1
        assert 0 < ahead.mean() < 1
        pixels = np.stack([u, v], 1)[ahead] / depth[ahead, None]
        dense = np.clip([*pixels.min(0), *pixels.max(0)], 0, [1241, 374, 1241, 374])
        assert found == pytest.approx(dense, abs=3)
        assert (found[:2] <= dense[:2] + 1e-6).all() and (found[2:] >= dense[2:] - 1e-6).all()


def test_faults_are_named():
    truth = truth_of(["Car"], row_of_cars(1))
    said = say(truth, row_of_cars(1), [1], [0.5])
    metric = KITTIMetric()
    metric.dataset_meta = {"classes": CLASSES}
    found = [{"boxes": [said[0]], "labels": [said[1]], "scores": [said[2]]}]
    with pytest.raises(DataError, match=r"meta\['kitti'\].*meta holds \['classes', 'tokens'\]"):
        metric.process({"index": torch.tensor([0]), "meta": {"classes": CLASSES, "tokens": ["a"]}}, found)
    with pytest.raises(DataError, match="frame '000000' has no picture"):
        measured([replace(truth, picture_size=None)], [said])
    with pytest.raises(DataError, match="nearest is 'Car'"):
        measured([truth], [said], classes=("Pedestrian", "car"))
    with pytest.raises(DataError, match="scores Car, Pedestrian, Cyclist, but the data set has Van, Truck"):
        measured([truth], [said], classes=("Van", "Truck"))
    with pytest.raises(DataError, match="names of the classes"):
        measured([truth], [said], classes=())
    with pytest.raises(DataError, match="no true box counts at any difficulty"):
        measured([truth_of(["Car"], row_of_cars(1), occluded=np.array([3]))], [said])
    with pytest.raises(ConfigError, match="'2d' is not one of"):
        METRICS.build({"type": "KITTIMetric", "kinds": ("2d",)})
    with pytest.raises(ConfigError, match="needs some of image, bev, 3d"):
        METRICS.build({"type": "KITTIMetric", "kinds": ()})


def test_a_frame_without_boxes_and_a_model_without_words():
    truths = [truth_of(["Car"] * 3, row_of_cars(3)), truth_of([], np.zeros((0, 7)))]
    silent = [say(t, np.zeros((0, 7)), torch.zeros(0).long(), []) for t in truths]
    assert set(measured(truths, silent).values()) == {0.0}


@needs_data
def test_projected_labels_of_real_frames_lie_where_they_are_labelled():
    """Boxes in space are wider than people in the picture; those are the low ones."""
    data = KITTI(cameras=False)
    overlaps = []
    for index in range(len(data)):
        (truth,) = data.__getitems__([index])["meta"]["kitti"]
        rows = truth.labels
        plain = np.array([kind != "DontCare" for kind in rows.kind]) & (rows.truncated == 0) & (rows.occluded == 0)
        found = image_boxes(rows.camera_boxes[plain], truth.calibration.cam2img, truth.picture_size)
        overlaps += image_overlap(found, rows.box2d[plain]).tolist()
    assert len(overlaps) > 20 and np.median(overlaps) > 0.95 and min(overlaps) > 0.65, sorted(overlaps)


@needs_data
def test_perfect_predictions_on_real_frames():
    """As many recalls as there are boxes to find, and no more, reach a precision of 1."""
    data = KITTI(cameras=False)
    batch = data.__getitems__(range(len(data)))
    found = {
        "boxes": batch["boxes"],
        "labels": batch["box_label"],
        "scores": [torch.linspace(1, 0.5, len(boxes)) for boxes in batch["boxes"]],
    }
    metric = KITTIMetric()
    metric.dataset_meta = {"classes": data.classes}
    metric.process(batch, [found])
    figures = metric.compute_metrics(metric.results)
    assert next(iter(figures)) == "3d/Car/moderate"
    rows = [truth.labels for truth in batch["meta"]["kitti"]]
    for name in data.classes:
        count = sum(
            kind == name and r.box2d[k, 3] - r.box2d[k, 1] > 25 and r.occluded[k] <= 2 and r.truncated[k] <= 0.5
            for r in rows
            for k, kind in enumerate(r.kind)
        )
        # Recalls 1/n, 2/n .. 1 lie further apart than 1/40: every score is a cut, the first one at recall 0.
        assert count and figures[f"3d/{name}/hard"] == pytest.approx((count - 1) / 40)
