"""Pictures of what driving models tell of scenes: which files, which boxes, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import scenes
import torch
from tiny import DRIVING, FUSION

from perception.checkpoint import FOLDER, save_checkpoint
from perception.config import load_config, save_config
from perception.errors import ConfigError, DataError
from perception.evaluation.driving_pictures import map_picture
from perception.evaluation.predicted_scenes import MASK_COLOURS, mask_picture, write_scenes
from perception.registry import DATASETS, MODELS

_LIDAR = ["model.backbone.pillar_channels=(8,)", *(f"model.backbone.{key}channels=(8, 8, 8)" for key in ("", "neck_"))]
_TESTS = [f"test_dataloader.dataset.{key}" for key in ("count=2", "beams=16", "azimuths=128")]
_LOW = ["model.score=0.01", "model.keep=4"]


def untrained_run(folder: Path, config: str, overrides: list[str]) -> Path:
    """A run folder with random weights."""
    torch.manual_seed(0)
    cfg = load_config(config, overrides)
    save_config(cfg, folder)
    save_checkpoint(MODELS.build(dict(cfg.model)).state_dict(), folder / FOLDER / "step_00000001.pth")
    return folder


def run_of(kind: str, folder: Path) -> Path:
    """An untrained run that reads one sensor or both, or tells a map."""
    if kind == "lidar":
        return untrained_run(folder, "driving/finetune_pillars_scenes", [*_LIDAR, *_TESTS, *_LOW])
    if kind == "camera":
        return untrained_run(folder, "driving/finetune_lift-splat_scenes", [*_TESTS, *_LOW])
    if kind == "map":
        return untrained_run(folder, "driving/segmenter_pillars_scenes", [*_LIDAR, *_TESTS])
    return untrained_run(folder, FUSION["config"], [*FUSION["overrides"], *_LOW])


@pytest.mark.parametrize("kind", ["lidar", "camera", "fusion", "map"])
def test_files_of_every_kind_of_run(kind, tmp_path, capsys):
    run, out = run_of(kind, tmp_path / "run"), tmp_path / "out"
    assert scenes.main([str(run), "--samples", "1", "--threshold", "0.02", "--out", str(out)]) == 0
    more = {"lidar": (), "map": ("layer_drivable_area", "layer_ped_crossing", "layer_divider")}
    names = ["map", *more.get(kind, (f"camera_{n}" for n in range(4)))]
    assert {file.name for file in out.iterdir()} == {f"1_{name}.png" for name in names} | {"1.html"}
    assert all(cv2.imread(str(file)) is not None for file in out.glob("*.png"))
    told = capsys.readouterr().out
    assert all(str(file) in told for file in out.iterdir())
    assert ("IoU at 0.02: drivable_area" if kind == "map" else "score of at least 0.02") in told


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/bev")
def test_frames_of_kitti_with_the_camera_that_the_run_did_not_read(tmp_path, capsys):
    small = ["model.backbone.layers=(1, 1, 1)", "model.width=8", *_LIDAR, *_LOW]
    run = untrained_run(tmp_path / "run", "driving/centerpoint_pillars_kitti-frames", small)
    words = [str(run), "--samples", "0", "--set", "test_dataloader.dataset.cameras=True"]
    assert scenes.main(words) == 0
    assert {file.name for file in (run / "scenes_test").iterdir()} == {"0_map.png", "0_image_2.png", "0.html"}
    assert cv2.imread(str(run / "scenes_test" / "0_map.png")).shape == (697, 800, 3)  # 69.12 m by 79.36


def test_refusals(tmp_path):
    run = run_of("lidar", tmp_path / "run")
    with pytest.raises(DataError, match="no sample 2: 2 samples are numbered 0 to 1"):
        scenes.main([str(run), "--samples", "0", "2"])
    with pytest.raises(DataError, match="no sample -1"):
        scenes.main([str(run), "--samples", "-1"])
    assert not (run / "scenes_test").exists()
    with pytest.raises(ConfigError, match=r"no val_dataloader; --split can be train, test"):
        scenes.main([str(run), "--split", "val", "--set", "val_dataloader=None", "val_evaluator=None", "val_cfg=None"])
    cfg = load_config(DRIVING["config"], DRIVING["overrides"])
    save_config(cfg, tmp_path / "other")
    with pytest.raises(ConfigError, match="drawn for BEVDetector and BEVSegmenter, not for Pretrainer"):
        scenes.main([str(tmp_path / "other")])


def test_only_finite_boxes_above_the_threshold_are_drawn(tmp_path, monkeypatch):
    """A model that tells the truth of a scene, twice: 3 m aside with a low score, and once without a place."""
    cfg = load_config("driving/finetune_pillars_scenes", [*_LIDAR, *_TESTS])
    model, data = MODELS.build(dict(cfg.model)), DATASETS.build(dict(cfg.test_dataloader.dataset))
    true = data[0]["boxes"][0]
    aside, lost = true + torch.tensor([0.0, 3, 0, 0, 0, 0, 0]), true[:1] * float("nan")
    boxes = torch.cat([true, lost, aside])
    scores = torch.cat([torch.full((len(true) + 1,), 0.5), torch.full((len(true),), 0.49)])
    found = {"boxes": [boxes], "scores": [scores], "labels": [torch.zeros(len(boxes), dtype=torch.long)]}
    monkeypatch.setattr(model, "test_step", lambda batch: [found])
    (scene,) = write_scenes(model, data, [0], tmp_path, threshold=0.5)
    n = len(true)
    assert scene.told == (
        f"{n + 1} of {2 * n + 1} predicted boxes have a score of at least 0.5 (1 not finite, left out); {n} true boxes"
    )
    drawn = cv2.imread(str(scene.files[0]))[..., ::-1]
    points, around = data[0]["points"][0].numpy(), (-16.0, -16.0, 16.0, 16.0)  # the grid of the pillars
    assert np.array_equal(drawn, map_picture(points, true.numpy(), true.numpy(), extent=around))
    (empty,) = write_scenes(model, data, [0], tmp_path / "none", threshold=0.9)
    drawn = cv2.imread(str(empty.files[0]))[..., ::-1]
    assert np.array_equal(drawn, map_picture(points, true.numpy(), extent=around))
    assert f"1 of {n + 1} predicted boxes left out: not finite" in scene.files[-1].read_text()


def test_colours_and_sides_of_a_layer():
    truth = np.array([[0, 1, 0], [1, -1, -1]])  # two rows of y, three columns of x
    told = np.array([[False, False, True], [True, False, True]])
    nothing, missed, wrong, hit, unknown = MASK_COLOURS
    up = mask_picture(truth, told, "x", size=3)  # x up, y to the left
    assert up.tolist() == [[list(wrong), list(wrong)], [list(unknown), list(missed)], [list(hit), list(nothing)]]
    right = mask_picture(truth, told, "y", size=3)
    assert right.tolist() == [[list(hit), list(unknown), list(wrong)], [list(nothing), list(missed), list(wrong)]]
    assert mask_picture(truth, told, "y", size=7).shape == (6, 9, 3)
