"""The detector that overfits ten real KITTI frames, and what corruptions do to it."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from perception.config import load_config, plain
from perception.engine.api import train
from perception.evaluation.box_overlap import overlap_score
from perception.evaluation.box_sets import BoxSet
from perception.evaluation.corruption_runs import corruption_table
from perception.evaluation.driving_metrics import BEVDetectionMetric
from perception.geometry.boxes import count_points
from perception.registry import DATASETS, MODELS
from perception.validation import validate_config

NAME = "driving/centerpoint_pillars_kitti-frames"
needs_data = pytest.mark.skipif(
    "PERCEPTION_DATA" not in os.environ, reason="PERCEPTION_DATA is not set: no KITTI frames"
)


def test_the_config_has_no_faults_and_names_those_of_its_data():
    assert validate_config(load_config(NAME), data_sets=False) == []
    wrong = validate_config(load_config(NAME, ["model.preset=waymo", "model.peak=2"]), data_sets=False)
    assert [fault.path for fault in wrong] == ["model.preset"]


@needs_data
def test_a_step_on_real_frames_has_finite_losses_and_gradients():
    cfg = plain(load_config(NAME))
    torch.manual_seed(0)
    model = MODELS.build(cfg["model"]).train()
    assert model.backbone.grid.cell == (0.64, 0.64)
    batch = DATASETS.build(cfg["train_dataloader"]["dataset"]).__getitems__([0, 8])
    losses = model(*model.data_preprocessor(batch, True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_frames_are_learned_by_heart_and_corruptions_cost(tmp_path):
    cfg = load_config(NAME, ["train_cfg.max_iters=200"])  # enough for this seed, not for all
    summary = train(cfg, tmp_path / "run", seed=0)
    assert summary["metrics"]["test"]["detection/bev_ap50"] >= 0.9

    from perception.cli._pictures import read_scalars
    from perception.cli._runs import open_run
    from perception.cli.eval import trained_runner

    # Lines are means over ten steps, so that the first one lies below the very start.
    curve = [line["loss"] for line in read_scalars(tmp_path / "run" / "scalars.jsonl") if "loss" in line]
    assert len(curve) == 20 and curve[-1] < 0.1 * curve[0], curve

    runner, _ = trained_runner(open_run(tmp_path / "run"))
    model, data = runner.bare_model, runner.test_loop.dataloader.dataset
    truth, found = [], []
    with torch.no_grad():
        for start in range(0, len(data), 2):
            batch = data.__getitems__(range(start, min(start + 2, len(data))))
            (said,) = model.eval().test_step(batch)
            for points, boxes, label in zip(batch["points"], batch["boxes"], batch["box_label"], strict=True):
                truth.append({"boxes": boxes, "label": label, "num_points": count_points(points, boxes)})
            for boxes, label, score in zip(said["boxes"], said["labels"], said["scores"], strict=True):
                found.append({"boxes": boxes, "label": label, "score": score})
    sets = BoxSet.from_samples(found), BoxSet.from_samples(truth)
    seen = overlap_score(*sets, data.classes, min_points=30)
    assert seen.mean_overlap > 0.7

    table = corruption_table(model, data, BEVDetectionMetric(nuscenes=False), "detection/bev_ap50")
    means = np.array(table.by_severity)
    assert (np.diff(means) < 0.005).all() and means[-1] < means[0] - 0.05, table.table()
