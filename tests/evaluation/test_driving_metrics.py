"""Metrics of driving models: against a loop over boxes, and independent of how samples come."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.errors import ConfigError, DataError
from perception.evaluation.box_overlap import average_precision, overlap_score
from perception.evaluation.box_sets import BoxSet
from perception.evaluation.driving_metrics import BEVDetectionMetric, BEVMapMetric
from perception.geometry.augmentation import lidar_matrix
from perception.geometry.boxes import transform_boxes
from perception.geometry.rotated_iou import iou_bev
from perception.registry import METRICS

CLASSES = ("car", "pedestrian", "bus")


def boxes(count, seed, spread=20.0):
    random = np.random.default_rng(seed)
    low, high = [-spread, -spread, -1.5, 3, 1.5, 1.2, -math.pi], [spread, spread, -0.5, 5, 2.2, 2, math.pi]
    return torch.from_numpy(random.uniform(low, high, (count, 7)).astype(np.float32))


def sample(index, count=8, noise=0.5, seed=0):
    """A frame, and predictions near its boxes, some far off and some doubled."""
    truth = boxes(count, seed + index, spread=1.0)
    truth[:, 0] += 10 * torch.arange(count) - 35.0  # none overlaps another
    random = torch.Generator().manual_seed(seed + index)
    jitter = torch.randn(count, 7, generator=random) * torch.tensor([1, 1, 0.2, 0.3, 0.2, 0.2, 0.2]) * noise
    found = torch.cat([truth + jitter, truth[:2] + jitter[:2] * 2, boxes(3, 1000 + seed + index)])
    found[:, 3:6] = found[:, 3:6].clamp_min(0.2)
    labels = torch.arange(count) % 2
    return {
        "truth": truth,
        "box_label": labels,
        "velocity": torch.full((count, 2), math.nan),
        "found": found,
        "labels": torch.cat([labels, labels[:2], torch.tensor([0, 1, 2])]),
        "scores": torch.rand(len(found), generator=random).round(decimals=1),  # ties
        "index": index,
        # One point in the middle of every box but the first.
        "points": torch.cat([truth[1:, :3], torch.zeros(count - 1, 1)], 1),
    }


def as_batch(samples):
    batch = {
        "boxes": [s["truth"] for s in samples],
        "box_label": [s["box_label"] for s in samples],
        "velocity": [s["velocity"] for s in samples],
        "points": [s["points"] for s in samples],
        "index": torch.tensor([s["index"] for s in samples]),
    }
    found = {
        "boxes": [s["found"] for s in samples],
        "labels": [s["labels"] for s in samples],
        "scores": [s["scores"] for s in samples],
    }
    return batch, [found]


def measured(samples, size=2, **options):
    metric = BEVDetectionMetric(**options)
    metric.dataset_meta = {"classes": CLASSES}
    for start in range(0, len(samples), size):
        metric.process(*as_batch(samples[start : start + size]))
    return metric.compute_metrics(metric.results)


def reference_ap(samples, label, threshold, min_points=1):
    """Loop over the predictions of all samples by falling score."""
    rows = []
    for place, s in enumerate(samples):
        for n in torch.nonzero(s["labels"] == label).flatten().tolist():
            rows.append((-s["scores"][n].item(), place, n))
    free, total, void = {}, 0, {}
    for place, s in enumerate(samples):
        for t in torch.nonzero(s["box_label"] == label).flatten().tolist():
            free[place, t] = True
            void[place, t] = t == 0 and min_points > 0  # the first box has no point
            total += not void[place, t]
    hits = []
    for _, place, n in sorted(rows):
        s = samples[place]
        overlap = iou_bev(s["found"][n : n + 1], s["truth"])[0]
        open_ = [
            (void[place, t], -overlap[t].item(), t)
            for (p, t), is_free in free.items()
            if p == place and is_free and overlap[t] >= threshold
        ]
        if not open_:
            hits.append(False)
            continue
        is_void, _, t = min(open_)
        free[place, t] = False
        if not is_void:
            hits.append(True)
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k in range(len(hits)) if hits[k]) / total


SAMPLES = [sample(i) for i in range(7)]


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_average_precision_equals_a_loop_over_predictions(threshold):
    found = measured(SAMPLES, overlaps=(threshold,))
    wanted = [reference_ap(SAMPLES, label, threshold) for label in (0, 1)]
    name = f"bev_ap{round(threshold * 100)}"
    assert [found[f"{name}/car"], found[f"{name}/pedestrian"]] == pytest.approx(wanted, abs=1e-9)
    assert found[name] == pytest.approx(np.mean(wanted), abs=1e-9)
    assert 0.1 < found[name] < 0.95
    assert f"{name}/bus" not in found  # no true bus: nothing to say


def test_mean_overlap_equals_the_best_of_every_true_box():
    best = []
    for s in SAMPLES:
        overlap = iou_bev(s["truth"], s["found"])
        overlap[s["box_label"][:, None] != s["labels"]] = 0
        best += overlap.max(1).values[1:].tolist()  # the first has no point
    assert measured(SAMPLES)["bev_iou"] == pytest.approx(np.mean(best), abs=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_neither_order_nor_size_of_batches_nor_repetition_changes_a_figure(size):
    plain = measured(SAMPLES, kinds=("bev", "3d"))
    order = np.random.default_rng(size).permutation(7)
    mixed = [SAMPLES[i] for i in order] + [SAMPLES[0]]
    assert measured(mixed, size, kinds=("bev", "3d")) == plain


def test_perfect_predictions_are_perfect():
    perfect = [{**s, "found": s["truth"], "labels": s["box_label"], "scores": torch.ones(8)} for s in SAMPLES]
    found = measured(perfect, overlaps=(0.5, 0.99), kinds=("bev", "3d"))
    # Boxes without a point do not count, so finding them is no error in AP by overlap; nuScenes has no such rule.
    assert [found[name] for name in ("bev_ap50", "bev_ap99", "3d_ap50")] == pytest.approx([1.0] * 3, abs=1e-6)
    assert found["map"] < 1
    assert found["bev_iou"] == pytest.approx(1.0, abs=1e-6)
    everything = measured(perfect, min_points=0)
    assert everything["map"] == pytest.approx(1.0) and everything["nds"] == pytest.approx(1.0)
    assert "error/velocity" not in everything  # none is known
    assert next(iter(everything)) == "map"  # the headline of a report


def test_one_doubled_prediction_lowers_precision_alone():
    truth = BoxSet(np.zeros(2), boxes(2, 3), np.zeros(2))
    once = BoxSet(np.zeros(2), truth.boxes, np.zeros(2), score=[0.9, 0.8])
    twice = BoxSet(np.zeros(3), truth.boxes[[0, 0, 1]], np.zeros(3), score=[0.9, 0.85, 0.8])
    assert overlap_score(once, truth, ["car"]).ap[0] == 1
    # Hits at ranks 1 and 3: precision 1 and 2/3.
    doubled = overlap_score(twice, truth, ["car"])
    assert doubled.ap[0] == pytest.approx((1 + 2 / 3) / 2)
    assert doubled.overlap[0] == pytest.approx(1.0)


def test_average_precision_by_hand():
    assert average_precision(np.array([True, False, True, True]), 4) == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)
    assert average_precision(np.zeros(0, dtype=bool), 3) == 0


def test_no_prediction_at_all_gives_zero_and_no_nan():
    empty = {"found": torch.zeros(0, 7), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    found = measured([{**s, **empty} for s in SAMPLES])
    assert found["bev_ap50"] == 0 and found["map"] == 0 and found["bev_iou"] == 0
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("turn", [0.0, 0.5])
def test_ranges_are_measured_from_the_vehicle(turn):
    """Of two cars 49.5 m before and behind the LiDAR, that behind is within 50 m of the rear axle 0.9 m behind it."""
    matrix = torch.from_numpy(lidar_matrix(rotation=turn)).float()
    truth = torch.tensor([[49.5, 0, -1, 4, 2, 1.5, 0], [-49.5, 0, -1, 4, 2, 1.5, 0]])
    there = transform_boxes(truth, matrix)
    for ego, found, score in (
        (None, there, 1.0),
        (None, there[1:], 0.5),  # half of them is found
        ([-0.9, 0, -1.8], there, 1.0),
        ([-0.9, 0, -1.8], there[1:], 1.0),  # the one before it does not count
        ([0.9, 0, -1.8], there[1:], 0.0),
    ):
        one = {**SAMPLES[0], "truth": there, "box_label": torch.zeros(2).long(), "velocity": torch.zeros(2, 2)}
        one |= {"found": found, "labels": torch.zeros(len(found)).long(), "scores": torch.ones(len(found))}
        batch, said = as_batch([one])
        metric = BEVDetectionMetric(min_points=0)
        metric.dataset_meta = {"classes": CLASSES}
        meta = {} if ego is None else {"ego": [np.array(ego)]}
        metric.process({**batch, "meta": meta, "lidar_aug": matrix[None]}, said)
        figures = metric.compute_metrics(metric.results)
        assert figures["bev_ap50"] == pytest.approx(len(found) / 2)  # knows no ranges
        # Up to recall 0.5 the precision is 1: 40 of the 90 recalls above 0.1.
        assert figures["map"] == pytest.approx({1.0: 1.0, 0.5: 40 / 90, 0.0: 0.0}[score])


def test_unlabelled_boxes_do_not_count():
    less = [{**s, "box_label": s["box_label"].clone()} for s in SAMPLES]
    for s in less:
        s["box_label"][3] = -1
    cut = [{**s, **{k: s[k][torch.arange(8) != 3] for k in ("truth", "box_label", "velocity")}} for s in SAMPLES]
    assert measured(less) == measured(cut)


def test_more_than_500_predictions_are_cut_to_the_best():
    many = {**SAMPLES[0]}
    many["found"] = torch.cat([boxes(600, 9), SAMPLES[0]["truth"]])
    many["labels"] = torch.cat([torch.zeros(600).long(), SAMPLES[0]["box_label"]])
    many["scores"] = torch.cat([torch.linspace(0.01, 0.5, 600), torch.ones(8)])
    assert measured([many], min_points=0)["map"] > 0.99


def test_faults_are_named():
    with pytest.raises(DataError, match="no sample"):
        BEVDetectionMetric().compute_metrics([])
    batch, found = as_batch(SAMPLES[:1])
    metric = BEVDetectionMetric()
    with pytest.raises(DataError, match="'index'"):
        metric.process({k: v for k, v in batch.items() if k != "index"}, found)
    with pytest.raises(DataError, match="'boxes'"):
        metric.process({"index": batch["index"]}, found)
    metric.process(batch, found)
    with pytest.raises(DataError, match="classes"):
        metric.compute_metrics(metric.results)
    for options in ({}, {"nuscenes": False}):
        metric = BEVDetectionMetric(**options)
        metric.dataset_meta = {"classes": CLASSES}
        metric.process({**batch, "box_label": [torch.full_like(v, -1) for v in batch["box_label"]]}, found)
        with pytest.raises(DataError, match="no true box counts"):
            metric.compute_metrics(metric.results)
    with pytest.raises(ConfigError, match="kinds"):
        METRICS.build({"type": "BEVDetectionMetric", "kinds": ("image",)})


def maps(seed=0, size=6):
    random = np.random.default_rng(seed)
    truth = torch.from_numpy(random.integers(-1, 2, (size, 3, 10, 12)).astype(np.float32))
    scores = (truth.clamp_min(0) * 0.4 + torch.from_numpy(random.uniform(0, 0.6, truth.shape)).float()).clamp(0, 1)
    return truth, scores


def map_figures(truth, scores, order, size=2, **options):
    metric = BEVMapMetric(**options)
    metric.dataset_meta = {"classes": CLASSES}
    for part in np.array_split(order, range(size, len(order), size)):
        rows = torch.from_numpy(part)
        metric.process({"bev_mask": truth[rows], "index": rows}, [{"map_scores": scores[rows]}])
    return metric.compute_metrics(metric.results)


def test_map_iou_equals_sets_of_cells_and_does_not_depend_on_batches():
    truth, scores = maps()
    found = map_figures(truth, scores, np.arange(6))
    assert map_figures(truth, scores, np.array([3, 1, 5, 0, 2, 4, 3]), 3) == found
    best = []
    for k, name in enumerate(CLASSES):
        known = truth[:, k] >= 0
        iou = {}
        for threshold in (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65):
            said, is_so = scores[:, k][known] >= threshold, truth[:, k][known] == 1
            iou[threshold] = ((said & is_so).sum() / (said | is_so).sum()).item()
        assert found[f"iou@0.5/{name}"] == pytest.approx(iou[0.5], abs=1e-6)
        assert found[f"iou@best/{name}"] == pytest.approx(max(iou.values()), abs=1e-6)
        assert iou[found[f"threshold/{name}"]] == max(iou.values())
        best.append(max(iou.values()))
    assert found["miou@best"] == pytest.approx(np.mean(best), abs=1e-6)


def test_layers_have_the_names_of_the_map_not_those_of_as_many_boxes():
    truth, scores = maps()
    metric = BEVMapMetric()
    metric.dataset_meta = {"classes": CLASSES}
    batch = {"bev_mask": truth, "index": torch.arange(6), "meta": {"map_classes": ("road", "crossing", "divider")}}
    metric.process(batch, [{"map_scores": scores}])
    found = metric.compute_metrics(metric.results)
    assert {name.partition("/")[2] for name in found if "/" in name} == {"road", "crossing", "divider"}
    assert found["iou@0.5/crossing"] == map_figures(truth, scores, np.arange(6))["iou@0.5/pedestrian"]


def test_thresholds_can_be_picked_elsewhere():
    truth, scores = maps(1)
    on_train = map_figures(*maps(2), np.arange(6))
    picked = {name: on_train[f"threshold/{name}"] for name in CLASSES}
    found = map_figures(truth, scores, np.arange(6), picked=picked)
    assert found["miou@picked"] <= found["miou@best"]
    half = map_figures(truth, scores, np.arange(6), picked=dict.fromkeys(CLASSES, 0.5))
    assert half["miou@picked"] == pytest.approx(half["miou@0.5"])
    with pytest.raises(ConfigError, match=r"0\.42"):
        BEVMapMetric(picked={"car": 0.42})
    with pytest.raises(DataError, match="pedestrian, bus"):
        map_figures(truth, scores, np.arange(6), picked={"car": 0.5})
