import json
import math
import os

import cv2
import numpy as np
import pytest

from perception.datasets.nuscenes import CAMERAS, NuScenes
from perception.datasets.nuscenes_frame import NuScenesFrame
from perception.datasets.nuscenes_tables import scene_numbers, scenes_of_split, some_scenes
from perception.errors import ConfigError, DataError
from perception.geometry.boxes import count_points
from perception.geometry.consistency import check_rig

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/bev")
HALF = math.sqrt(0.5)
# Camera axes x right, y down, z forward in a frame of x forward, y left, z up.
OPTICAL = [0.5, -0.5, 0.5, -0.5]
VERSION = "v1.0-mini"


def tables(frames=3):
    """One scene: a vehicle drives 1 m per frame (0.5 s) along the global +x; a car drives at 6 m/s, a cone stands.

    The LiDAR sits 2 m up and is turned so that its +y looks forward; the camera is triggered 20 ms late.
    """
    t = {name: [] for name in ("scene", "sample", "sensor", "calibrated_sensor", "sample_data", "ego_pose")}
    t |= {name: [] for name in ("category", "instance", "sample_annotation")}
    t["scene"] = [dict(token="s", name="scene-0061")]
    t["sensor"] = [dict(token=f"sensor {c}", channel=c) for c in ("LIDAR_TOP", "CAM_FRONT", "RADAR_FRONT")]
    t["calibrated_sensor"] = [
        dict(
            token="cal LIDAR_TOP",
            sensor_token="sensor LIDAR_TOP",
            translation=[1.0, 0, 2],
            rotation=[HALF, 0, 0, -HALF],
            camera_intrinsic=[],
        ),
        dict(
            token="cal CAM_FRONT",
            sensor_token="sensor CAM_FRONT",
            translation=[1.5, 0, 1.5],
            rotation=OPTICAL,
            camera_intrinsic=[[20, 0, 16], [0, 20, 9], [0, 0, 1]],
        ),
        dict(
            token="cal RADAR_FRONT",
            sensor_token="sensor RADAR_FRONT",
            translation=[3.0, 0, 1],
            rotation=[1, 0, 0, 0],
            camera_intrinsic=[],
        ),
    ]
    t["category"] = [dict(token=c, name=c) for c in ("vehicle.car", "movable_object.trafficcone", "animal")]
    t["instance"] = [dict(token=f"i{n}", category_token=c["token"]) for n, c in enumerate(t["category"])]
    for n in range(frames):
        t["sample"].append(dict(token=f"f{n}", scene_token="s", timestamp=1_000_000 + 500_000 * n))
        for channel, late in (("LIDAR_TOP", 0), ("CAM_FRONT", 20_000), ("RADAR_FRONT", 0)):
            name = f"{channel} {n}"
            t["ego_pose"].append(dict(token=f"pose {name}", translation=[n + late * 2e-6, 0, 0], rotation=[1, 0, 0, 0]))
            t["sample_data"].append(
                dict(
                    token=name,
                    sample_token=f"f{n}",
                    calibrated_sensor_token=f"cal {channel}",
                    ego_pose_token=f"pose {name}",
                    filename=f"samples/{channel}/{n}.{'jpg' if 'CAM' in channel else 'bin'}",
                    timestamp=1_000_000 + 500_000 * n + late,
                    is_key_frame=True,
                    prev=f"{channel} {n - 1}" if n else "",
                )
            )
        for i, (place, size, count) in enumerate(
            (
                ([20.0 + 3 * n, 1, 0.8], [1.9, 4.6, 1.6], 7),
                ([12.0, -2, 0.4], [0.4, 0.4, 0.8], 0),
                ([9.0, 0, 0.3], [0.5, 1, 0.6], 2),
            )
        ):
            t["sample_annotation"].append(
                dict(
                    token=f"a{i} {n}",
                    sample_token=f"f{n}",
                    instance_token=f"i{i}",
                    translation=place,
                    size=size,
                    rotation=[math.cos(0.1), 0, 0, math.sin(0.1)],
                    num_lidar_pts=count,
                    num_radar_pts=0,
                    prev=f"a{i} {n - 1}" if n else "",
                    next=f"a{i} {n + 1}" if n < frames - 1 else "",
                )
            )
    return t


def write(root, content=None, frames=3):
    (root / VERSION).mkdir(parents=True, exist_ok=True)
    for name, rows in (content or tables(frames)).items():
        (root / VERSION / f"{name}.json").write_text(json.dumps(rows))
    for channel in ("LIDAR_TOP", "CAM_FRONT"):
        (root / "samples" / channel).mkdir(parents=True, exist_ok=True)
    for n in range(frames):
        # A point 10 m ahead of the sensor, one on the vehicle, and one above the car; intensity, ring.
        cloud = [[0, 10, 0, 50, 3], [0.5, -0.5, -1, 60, 4], [-1, 19 + 2 * n, -1.2, 70, 5]]
        np.array(cloud, np.float32).tofile(root / f"samples/LIDAR_TOP/{n}.bin")
        cv2.imwrite(str(root / f"samples/CAM_FRONT/{n}.jpg"), np.zeros((18, 32, 3), np.uint8))


def build(root, **options):
    return NuScenes(**dict(split="mini_train", version=VERSION, views=("CAM_FRONT",), root=str(root)) | options)


def test_boxes_and_velocities_by_hand(tmp_path):
    write(tmp_path)
    data = build(tmp_path)
    assert data.tokens == ["f0", "f1", "f2"] and data.ignored == {"animal": 3, "without points": 3}
    batch = data.__getitems__([1])
    # The sensor is at global (2, 0, 2) and its axes are x right, y forward; the car at (23, 1, 0.8) heads 0.2 rad to
    # the left of forward: yaw pi/2 + 0.2. It moves 6 m in 1 s.
    assert np.allclose(batch["boxes"][0], [[-1, 21, -1.2, 4.6, 1.9, 1.6, math.pi / 2 + 0.2]], atol=1e-6)
    assert np.allclose(batch["velocity"][0], [[0, 6]], atol=1e-6) and batch["box_label"][0].tolist() == [0]
    assert batch["meta"]["scene"] == ["scene-0061"] and batch["meta"]["num_lidar_pts"][0].tolist() == [7]
    assert np.allclose(batch["meta"]["lidar2global"][0] @ [-1, 21, -1.2, 1], [23, 1, 0.8, 1])
    assert np.allclose(batch["meta"]["ego"][0], [0, -1, -2])  # the rear axle: 1 m behind, 2 m below
    everything = build(tmp_path, valid_only=False, classes=("traffic_cone",)).__getitems__([0])
    assert np.allclose(everything["boxes"][0][0, :3], [2, 11, -1.6], atol=1e-6) and len(everything["boxes"][0]) == 1


def test_velocities_at_the_ends_and_of_single_boxes(tmp_path):
    write(tmp_path)
    data = build(tmp_path)
    assert np.allclose([data.frame(i).velocity[0] for i in (0, 2)], [[0, 6], [0, 6]], atol=1e-9)
    write(tmp_path / "one", tables(1), 1)
    assert np.isnan(build(tmp_path / "one").frame(0).velocity).all()
    slow = tables()
    for number, row in enumerate(slow["sample"]):
        row["timestamp"] = 1_000_000 + 1_600_000 * number  # too far apart on one side, in reach of two
    write(tmp_path / "slow", slow)
    found = [build(tmp_path / "slow").frame(i).velocity[0] for i in range(3)]
    assert np.isnan(found[0]).all() and np.isnan(found[2]).all() and np.isnan(found[1]).all()
    for number, row in enumerate(slow["sample"]):
        row["timestamp"] = 1_000_000 + 1_400_000 * number
    write(tmp_path / "slow", slow)
    assert np.allclose(build(tmp_path / "slow").frame(1).velocity[0], [0, 6 / 2.8])


def test_sweeps_are_moved_to_the_key_frame_with_their_age(tmp_path):
    write(tmp_path)
    points = build(tmp_path, sweeps=1).__getitems__([2])["points"][0].numpy()
    key = [[0, 10, 0, 50, 0], [0.5, -0.5, -1, 60, 0], [-1, 23, -1.2, 70, 0]]
    # The vehicle went on by 1 m: what was 10 m ahead is 9 m ahead. The point on the vehicle itself is left out.
    assert np.allclose(points, [*key, [0, 9, 0, 50, 0.5], [-1, 20, -1.2, 70, 0.5]], atol=1e-5)
    assert len(build(tmp_path, sweeps=9).sweep(2)) == 3 + 2 * 2 and len(build(tmp_path, sweeps=9).sweep(0)) == 3
    assert np.isclose(build(tmp_path, sweeps=9).sweep(2)[-1, 4], 1.0) and len(build(tmp_path, sweeps=0).sweep(2)) == 3


def test_cameras_include_the_motion_between_the_triggers(tmp_path):
    write(tmp_path)
    batch = build(tmp_path).__getitems__([0])
    # LiDAR at (1, 0, 2); the camera at (1.5 + 0.04, 0, 1.5) when it is triggered, 0.54 m ahead and 0.5 m below.
    expected = [[1, 0, 0, 0], [0, 0, -1, -0.5], [0, 1, 0, -0.54], [0, 0, 0, 1]]
    assert np.allclose(batch["lidar2cam"][0, 0], expected, atol=1e-6)
    assert np.allclose(batch["cam2img"][0, 0], [[20, 0, 16, 0], [0, 20, 9, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert batch["cams"].shape == (1, 1, 3, 18, 32) and batch["meta"]["cameras"] == ["CAM_FRONT"]


def test_missing_pictures_and_cameras(tmp_path):
    write(tmp_path)
    with pytest.raises(
        DataError, match=r"3 of 3 frames are incomplete; the first: key frame 'f0' has no CAM_FRONT_LEFT"
    ):
        build(tmp_path, views=CAMERAS)
    (tmp_path / "samples/CAM_FRONT/1.jpg").unlink()
    with pytest.raises(DataError, match=r"key frame 'f1' has no samples/CAM_FRONT/1\.jpg"):
        build(tmp_path)
    assert build(tmp_path, on_missing="skip").tokens == ["f0", "f2"] and len(build(tmp_path, cameras=False)) == 3


def test_damaged_tables_are_named(tmp_path):
    for change, text in (
        (lambda t: t["sample_data"][0].pop("filename"), r"sample_data\.json', record 0: lacks filename"),
        (lambda t: t.update(instance=[]), "no record 'i0' in the table 'instance'"),
        (lambda t: t.update(scene={"token": 1}), r"scene\.json' must be a list of records"),
        (lambda t: t["sample_annotation"][1].update(rotation=[0, 0, 0, 0]), "w, x, y, z"),
    ):
        content = tables()
        change(content)
        write(tmp_path, content)
        with pytest.raises(DataError, match=text):
            build(tmp_path)
    (tmp_path / VERSION / "sample.json").write_text("[{")
    with pytest.raises(DataError, match=r"scene\.json|sample\.json' is no valid JSON"):
        build(tmp_path)
    (tmp_path / VERSION / "scene.json").unlink()
    with pytest.raises(DataError, match=r"scene\.json' cannot be read.*nuScenes by Motional"):
        build(tmp_path)


def test_names_are_checked(tmp_path):
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"split = 'trian'.*not a split of v1\.0-mini"):
        build(tmp_path, split="trian")
    with pytest.raises(DataError, match=r"no scene 'scene-61'.*'scene-0061'"):
        build(tmp_path, split=["scene-61"])
    with pytest.raises(ConfigError, match=r"nearest is 'pedestrian'"):
        build(tmp_path, classes=("pedestrain",))
    with pytest.raises(ConfigError, match=r"nearest is 'v1\.0-mini'"):
        build(tmp_path, version="v1-mini")
    assert len(build(tmp_path, split=["scene-0061"])) == len(build(tmp_path, split="all")) == 3


def test_configs_are_checked(tmp_path):
    write(tmp_path)

    def faults(**change):
        cfg = dict(
            split="mini_train",
            version=VERSION,
            sweeps=9,
            fraction=1.0,
            views=CAMERAS,
            classes=("car",),
            root=str(tmp_path),
        )
        return dict(NuScenes.check_config(cfg | change))

    assert faults() == {}
    assert "nearest is 'CAM_FRONT'" in faults(views=("CAM_FRNT",))["views"] and "sweeps" in faults(sweeps=-1)
    assert "nearest is 'pedestrian'" in faults(classes=("pedestrain",))["classes"]
    assert "v1.0-trainval/sample.json" in faults(version="v1.0-trainval", split="train")["root"]
    assert "nuScenes by Motional" in faults(version="v1.0-trainval", split="train")["root"]
    with pytest.raises(ConfigError, match=r"'train' .*|split = 'train'"):
        faults(split="train")
    given = dict(repeat=0, views=("CAM_TOP",), root=str(tmp_path))
    assert [key for key, _ in NuScenesFrame.check_config(given)] == ["repeat", "views", "root", "root"]


def test_official_splits():
    """700 train, 150 val and 150 test scenes; 8 and 2 of mini."""
    names = scene_numbers("1-1110")
    val = scenes_of_split("val", "v1.0-trainval", names)
    assert len(val) == 150 and {"scene-0003", "scene-0103", "scene-0916", "scene-1073"} <= set(val)
    assert not set(val) & set(scenes_of_split("train", "v1.0-trainval", names))
    mini = [f"scene-{n:04d}" for n in (61, 103, 553, 655, 757, 796, 916, 1077, 1094, 1100)]
    assert scenes_of_split("mini_val", "v1.0-mini", mini) == ["scene-0103", "scene-0916"]
    assert len(scenes_of_split("mini_train", "v1.0-mini", mini)) == 8
    assert scene_numbers("3 12-14") == ["scene-0003", "scene-0012", "scene-0013", "scene-0014"]


def test_shares_of_scenes_are_nested_and_repeat():
    names = scene_numbers("1-100")
    tenth, half = some_scenes(names, 0.1, 0), some_scenes(names, 0.5, 0)
    assert len(tenth) == 10 and set(tenth) < set(half) and tenth == some_scenes(names, 0.1, 0)
    assert tenth != some_scenes(names, 0.1, 1) and half == sorted(half)
    assert some_scenes(names, 1.0, 3) == names and len(some_scenes(names, 0.001, 0)) == 1
    assert some_scenes([], 0.5, 0) == []


@needs_data
def test_the_real_frame():
    """Figures of the data's README, and of the card: the numbers of points in 88 % of 69 boxes are reproduced."""
    data = NuScenesFrame(repeat=3)
    assert len(data) == 3 and data.classes[0] == "car" and sum(data.ignored.values()) == 1
    batch = data.__getitems__([0, 2])
    assert batch["cams"].shape == (2, 6, 3, 900, 1600) and batch["points"][0].shape == (34688, 5)
    assert (batch["points"][0][:, 4] == 0).all() and batch["points"][0][:, 3].max() <= 255
    rows = json.loads((data.folder / "frame.json").read_text())["boxes_lidar"]
    boxes, stored = np.array([row["box"] for row in rows]), np.array([row["num_lidar_pts"] for row in rows])
    reproduced = count_points(data.sweep(0), boxes) == stored
    assert len(rows) == 69 and reproduced.mean() >= 0.88
    boxes[:, 2] += boxes[:, 5] / 2  # were z of the bottom
    assert (count_points(data.sweep(0), boxes) == stored).mean() < 0.21
    report = check_rig(batch)
    assert report.good and report.score > 0.99 and report.counts >= 0.88
    valid = NuScenesFrame(valid_only=True, cameras=False)
    assert valid.ignored["without points"] > 0 and len(valid.frame(0).boxes) < 68


@needs_data
def test_wrong_matrices_of_the_real_frame_are_named():
    batch = NuScenesFrame(image_size=(256, 704)).__getitems__([0])
    assert check_rig(batch).good
    inverse = {**batch, "lidar2cam": np.linalg.inv(batch["lidar2cam"].double())}
    assert "lidar2cam is the inverse, cam2lidar" in check_rig(inverse).culprits
    bottom = {
        **batch,
        "boxes": [boxes - boxes[:, 5:6] / 2 * np.eye(7)[2].astype("float32") for boxes in batch["boxes"]],
    }
    assert check_rig(bottom).culprits == ("z of the boxes is of the bottom, not of the centre",)


@needs_data
def test_the_frame_refuses_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"'CAM_FRNT' is not one of .*nearest is 'CAM_FRONT'"):
        NuScenesFrame(views=("CAM_FRNT",))
    with pytest.raises(DataError, match=r"frame\.json' does not exist"):
        NuScenesFrame(root=str(tmp_path))
    (tmp_path / "frame.json").write_text("{}")
    with pytest.raises(DataError, match="lacks token, lidar, cameras, categories, boxes_lidar"):
        NuScenesFrame(root=str(tmp_path))
