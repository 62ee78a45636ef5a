"""Made-up driving scenes as a data set: boxes, pictures and points agree to the last matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.datasets.driving_scenes import DrivingScenes
from perception.errors import ConfigError
from perception.registry import DATASETS

SMALL = dict(count=6, extent=32.0, beams=16, azimuths=180, camera_size=(32, 64))


def test_a_batch_has_the_fields_of_the_contract() -> None:
    batch = DrivingScenes(**SMALL, map_cell=1.0).__getitems__([0, 3])
    assert [p.shape[1] for p in batch["points"]] == [4, 4] and batch["points"][0].dtype == torch.float32
    assert batch["cams"].shape == (2, 4, 3, 32, 64) and batch["cams"].dtype == torch.uint8
    for name in ("cam2img", "lidar2cam", "img_aug"):
        assert batch[name].shape == (2, 4, 4, 4) and batch[name].dtype == torch.float32
    assert torch.equal(batch["lidar_aug"], torch.eye(4).repeat(2, 1, 1))
    assert batch["bev_mask"].shape == (2, 3, 64, 64) and set(batch["bev_mask"].unique().tolist()) == {0, 1}
    assert batch["meta"]["map_range"] == (-32, -32, -5, 32, 32, 5)
    for boxes, label, velocity in zip(batch["boxes"], batch["box_label"], batch["velocity"], strict=True):
        assert boxes.shape == (len(label), 7) and velocity.shape == (len(label), 2) and label.max() <= 2
    assert batch["index"].tolist() == [0, 3]


def test_points_project_onto_what_the_cameras_show() -> None:
    """A point on a box has the box's colour where it falls into a picture: matrices, rays and pixels agree."""
    scenes = DrivingScenes(count=4, camera_size=(96, 192))
    hits = total = 0
    for index in range(4):
        batch, world = scenes.__getitems__([index]), scenes.world(index)
        points = batch["points"][0].double().numpy()
        for number in np.flatnonzero(world.boxes[:, 3] > 4):  # large enough to have points far from its edges
            x, y, z, length, width, height, yaw = world.boxes[number]
            q = points[:, :3] - [x, y, z]
            along = q[:, 0] * np.cos(yaw) + q[:, 1] * np.sin(yaw)
            across = q[:, 1] * np.cos(yaw) - q[:, 0] * np.sin(yaw)
            on_side = (np.abs(along) < 0.4 * length) & (np.abs(np.abs(across) - width / 2) < 0.1)
            for point in points[on_side & (np.abs(q[:, 2]) < 0.35 * height)]:
                for camera in range(4):
                    seen = batch["lidar2cam"][0, camera].double().numpy() @ [*point[:3], 1]
                    u, v, w, _ = batch["cam2img"][0, camera].double().numpy() @ seen
                    column, row = int(u // w) if w > 0 else -1, int(v // w) if w > 0 else -1
                    if w > 0.1 and 0 <= column < 192 and 0 <= row < 96:
                        pixel = batch["cams"][0, camera, :, row, column].numpy().astype(float)
                        own = world.colour[number]
                        cosine = pixel @ own / np.linalg.norm(pixel) / np.linalg.norm(own)
                        hits, total = hits + (cosine > 0.97), total + 1
    assert total > 300 and hits / total > 0.9


def test_scenes_repeat_and_splits_differ() -> None:
    first, again = DrivingScenes(**SMALL), DrivingScenes(**SMALL, cameras=False)
    again.__getitems__([1, 2])
    assert torch.equal(first.__getitems__([2])["points"][0], again.__getitems__([2])["points"][0])
    other = DrivingScenes(split="test", **SMALL)
    assert first.world(2).boxes.shape != other.world(2).boxes.shape or not np.allclose(
        first.world(2).boxes, other.world(2).boxes
    )


def test_hidden_boxes_are_counted() -> None:
    scenes = DrivingScenes(**SMALL, min_points=40)
    shown = sum(len(scenes.__getitems__([i])["boxes"][0]) for i in range(6))
    all_boxes = sum(scenes.world(i).labelled for i in range(6))
    assert 0 < shown < all_boxes and sum(scenes.ignored.values()) == all_boxes - shown


def test_a_fraction_keeps_the_first_scenes() -> None:
    assert len(DrivingScenes(count=20, fraction=0.1)) == 2
    few, all_of_them = DrivingScenes(**SMALL, fraction=0.5), DrivingScenes(**SMALL)
    assert torch.equal(few.__getitems__([2])["points"][0], all_of_them.__getitems__([2])["points"][0])


def test_sensors_can_be_left_out() -> None:
    assert "cams" not in DrivingScenes(**SMALL, cameras=False).__getitems__([0])
    assert "points" not in DrivingScenes(**SMALL, lidar=False).__getitems__([0])
    assert "boxes" not in DrivingScenes(**SMALL, labelled=False).__getitems__([0])


def test_faults_are_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)beams.*fraction.*map_cell"):
        DrivingScenes(beams=0, fraction=2.0, map_cell=0.7)
    with pytest.raises(ConfigError, match="train"):
        DATASETS.build(dict(type="DrivingScenes", split="trian"))
