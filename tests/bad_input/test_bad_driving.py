"""Bad calibrations, boxes and sweeps: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_runs import FRAMES, FUSION, POINTS, SHORT, train

from perception.cli import main

CALIBRATION = {
    "P2": "700 0 600 44 0 700 180 0.2 0 0 1 0.0027",
    "R0_rect": "1 0 0 0 1 0 0 0 1",
    "Tr_velo_to_cam": "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27",
}
AHEAD = "Car 0 0 0 560 150 640 250 1.5 1.8 4.0 {x} 1.7 12.0 -1.57"  # x metres to the right of the camera


def frames(
    root: Path, count: int = 2, rows: tuple[str, ...] = (AHEAD.format(x=0),), **changed: str | None
) -> list[str]:
    """KITTI frames of a car's points, with changed rows of the calibration; returns what makes a run of 2 steps."""
    random = np.random.default_rng(0)
    for part in ("calib", "image_2", "label_2", "velodyne"):
        (root / "training" / part).mkdir(parents=True, exist_ok=True)
    given = {**CALIBRATION, **changed}
    for name in (f"training/{{}}/{i:06d}" for i in range(count)):
        calibration = "\n".join(f"{key}: {value}" for key, value in given.items() if value is not None)
        (root / f"{name.format('calib')}.txt").write_text(calibration)
        (root / f"{name.format('label_2')}.txt").write_text("\n".join(rows))
        cv2.imwrite(str(root / f"{name.format('image_2')}.png"), np.zeros((375, 1242, 3), np.uint8))
        points = random.uniform((10, -1, -1.6, 0), (14, 1, -0.2, 1), (200, 4)).astype(np.float32)
        points.tofile(root / f"{name.format('velodyne')}.bin")
    sets = [f"{part}_dataloader.dataset.root={root}" for part in ("train", "val", "test")]
    return ["train", FRAMES, "--out", "run", "--set", "train_cfg.max_iters=2", *sets]


def scalars() -> list[dict[str, float]]:
    return [json.loads(line) for line in Path("run/seed_0/scalars.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Tr_velo_to_cam": None}, ["no row 'Tr_velo_to_cam'", "it has P2, R0_rect"]),
        ({"P2": None}, ["no row 'P2'"]),
        ({"Tr_velo_to_cam": "0 -1.1 0 0 0 0 -1 -0.08 1 0 0 -0.27"}, ["Tr_velo_to_cam", "is not rigid"]),
        ({"R0_rect": "1 0 0 0 1 0.2 0 0 1"}, ["R0_rect", "is not rigid"]),
        ({"Tr_velo_to_cam": "0 1 0 0 0 0 -1 -0.08 1 0 0 -0.27"}, ["Tr_velo_to_cam", "is mirrored"]),
        ({"P2": "700 0 600 44 0 700 180 0.2 0 0 0 0"}, ["P2", "is no camera matrix"]),
    ],
)
def test_calibrations_that_are_missing_or_wrong(fails, tmp_path, changed, words):
    message = fails(*frames(tmp_path / "kitti", **changed), code=1)
    assert all(word in message for word in ["000000.txt", *words]), message


def test_a_camera_without_its_picture(fails, tmp_path, capfd):
    command = frames(tmp_path / "kitti")
    (tmp_path / "kitti/training/image_2/000001.png").unlink()
    message = fails(*command, code=1)
    assert "1 of 2 frames are incomplete" in message and "no picture image_2/000001.png" in message
    assert "on_missing='skip' leaves them out" in message
    skipping = [f"{part}_dataloader.dataset.on_missing=skip" for part in ("train", "val", "test")]
    assert main([*command, *skipping, "train_dataloader.batch_size=1", "--overwrite"]) == 0
    assert "left out 1 of 2 frames are incomplete" in "".join(capfd.readouterr())
    (tmp_path / "kitti/training/image_2/000000.png").write_bytes(b"no picture")
    message = fails(*command, *skipping, "--overwrite", code=1)
    assert "000000.png" in message


def test_a_fusion_without_pictures(fails):
    small = [f"{part}_dataloader.dataset.count=4" for part in ("train", "val", "test")]
    message = fails("train", FUSION, "--out", "run", "--set", *small, "train_dataloader.dataset.cameras=False", code=1)
    assert "the camera branch reads 'cams'" in message and "drop_camera" in message


@pytest.mark.parametrize("name", ["car", "Palm"])
def test_a_box_of_a_class_that_nobody_knows(fails, tmp_path, name):
    row = AHEAD.format(x=0).replace("Car", name)
    message = fails(*frames(tmp_path / "kitti", rows=(AHEAD.format(x=0), row)), code=1)
    assert "000000.txt', row 2" in message and f"'{name}' is no type of KITTI" in message
    assert name != "car" or "Did you mean 'Car'?" in message


def test_classes_of_another_data_set(fails, tmp_path):
    message = fails(*frames(tmp_path / "kitti"), "model.classes=('Car', 'Pedestrain')", code=1)
    assert "Car, Pedestrian, Cyclist" in message and "Pedestrain" in message


def test_what_sweeps_and_boxes_lack_is_counted_and_training_goes_on(tmp_path, monkeypatch, capfd):
    """An empty sweep, points that are not finite, a frame without boxes, a box beyond the range."""
    monkeypatch.chdir(tmp_path)
    command = frames(tmp_path / "kitti", count=4)
    data = tmp_path / "kitti/training"
    (data / "velodyne/000000.bin").write_bytes(b"")
    points = np.fromfile(data / "velodyne/000001.bin", np.float32).reshape(-1, 4)
    points[[3, 8, 9], [0, 1, 3]] = np.nan, np.inf, -np.inf
    points.tofile(data / "velodyne/000001.bin")
    (data / "label_2/000002.txt").write_text("")
    (data / "label_2/000003.txt").write_text(AHEAD.format(x=60))  # 60 m to the right; the map ends at 39.68
    scales = ["train_dataloader.dataset.in_image=False", "train_dataloader.batch_size=4"]
    assert main([*command, *scales]) == 0
    told = " ".join("".join(capfd.readouterr()).split())
    assert "000000: the sweep holds no point; it stays in the batch" in told
    assert "000001: dropped 3 of 200 points: not finite" in told
    lines = [line for line in scalars() if "loss" in line]
    assert lines and all(line["boxes_dropped"] == 1 and np.isfinite(line["loss"]) for line in lines)


def test_sweeps_with_nothing_to_contrast(tmp_path, monkeypatch):
    """A LiDAR of one shot sees no region, and mostly nothing at all: the losses are 0 and training goes on."""
    monkeypatch.chdir(tmp_path)
    blind = ["dataset.beams=1", "dataset.azimuths=1", "dataset.count=8"]
    overrides = [*(f"train_dataloader.{key}" for key in blind), "evaluation={}"]
    assert main([*train(POINTS, *overrides)]) == 0
    losses = [line["loss"] for line in scalars() if "loss" in line]
    assert losses and all(np.isfinite(losses))
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 2


def test_a_record_of_other_points_is_refused(fails):
    short = ["train_dataloader.dataset.count=4", "evaluation={}"]
    assert main(["train", POINTS, "--out", "points", "--set", *SHORT, *short]) == 0
    tuning = ["train", "driving/finetune_pillars_scenes", "--out", "run", "--set", "model.backbone.init_from=points"]
    message = fails(*tuning, "model.backbone.preprocess.intensity_scale=255", code=1)
    assert "intensity_scale" in message and "points" in message
    message = fails(*tuning, "model.backbone.cell=(1.0, 1.0)", "--overwrite", code=1)
    assert "cell" in message
