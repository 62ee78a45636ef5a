"""The robustness tool on runs that read cameras: the table, the calibration noise, and what a model can notice."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import FUSION

from perception.cli._runs import open_run
from perception.cli.eval import trained_runner
from perception.config import load_config
from perception.engine.api import train
from perception.evaluation.corruption_runs import corruptions_of, scores_under
from perception.transforms.corrupt import CAMERA_LEVEL, SCENE_LEVEL, Corrupt
from perception.transforms.driving_preprocess import DrivingPreprocess

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("robustness", ROOT / "tools" / "robustness.py")
assert _SPEC is not None and _SPEC.loader is not None
robustness = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(robustness)


@pytest.fixture(scope="module", params=["camera", "fusion"])
def run(request, tmp_path_factory):
    """A detector after some steps, that reads cameras alone or both sensors."""
    cfg = load_config(FUSION["config"], [*FUSION["overrides"], "train_cfg.max_iters=20", "model.score=0.01"])
    if request.param == "camera":
        cfg.model.backbone.pop("lidar")
        cfg.model.backbone.update(drop_lidar=0.0, drop_camera=0.0)
    folder = tmp_path_factory.mktemp(request.param) / "seed_0"
    train(cfg, folder, seed=0)
    return folder


def test_cameras_and_calibration_of_a_run(run, capsys, tmp_path):
    """Beside itself as the baseline, every error is 100 %; the table has a row a corruption."""
    names = ["camera-gaussian", "camera-fog", "camera-dropout", "extrinsic-calibration"]
    words = [str(run), "--baseline", str(run), "--figure", "detection/bev_iou", "--severities", "1", "5"]
    picture = tmp_path / "table.png"
    more = ["--beams", "16", "--height", "1.8", "--seed", "1", "--spoof"]
    assert robustness.main([*words, "--corruptions", *names, "--picture", str(picture), *more]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names) and picture.is_file()
    assert re.search(r"mRR [\d.]+ %, mCE 100\.0 %", out)
    assert all(f"\n| {points} | " in out for points in (60, 100, 200))  # of the attack


def test_what_befalls_a_camera_changes_what_is_found(run):
    runner, _ = trained_runner(open_run(run))
    loop = runner.test_loop
    task = runner.bare_model, loop.dataloader.dataset, loop.evaluator.metrics[0]
    names = ("camera-gaussian", "camera-dropout", "extrinsic-calibration")
    settings = {name: Corrupt(name, 5) for name in names} | {"none": Corrupt("camera-fog", 0)}
    found = scores_under(*task, settings)
    figure = "detection/bev_iou"
    assert found["none"] == found[None] and found[None][figure] > 0
    assert all(found[name] != found[None] and math.isfinite(found[name][figure]) for name in names)
    assert np.isfinite([value for figures in found.values() for value in figures.values()]).all()


def test_a_model_is_tested_by_the_sensors_that_it_reads():
    around = (-8.0, -8.0, -3.0, 8.0, 8.0, 1.0)
    assert corruptions_of(DrivingPreprocess(around)) == SCENE_LEVEL
    assert corruptions_of(DrivingPreprocess(image_size=(8, 8))) == CAMERA_LEVEL
    assert corruptions_of(DrivingPreprocess(around, image_size=(8, 8))) == (*SCENE_LEVEL, *CAMERA_LEVEL)
    assert {"camera-fog", "camera-dropout", "extrinsic-spatial", "extrinsic-calibration"} <= set(CAMERA_LEVEL)
    assert not any(name.startswith("camera") for name in SCENE_LEVEL)
