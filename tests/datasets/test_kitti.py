import os

import cv2
import numpy as np
import pytest

from perception.datasets.kitti import KITTI, read_calibration, read_labels
from perception.datasets.kitti_raw import KITTIRaw, KITTISequence
from perception.errors import ConfigError, DataError
from perception.geometry.boxes import box_corners
from perception.geometry.projection import project
from perception.registry import DATASETS
from perception.validation import validate_config

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/bev")
P2 = "P2: 700 0 600 44 0 700 180 0.2 0 0 1 0.0027"
R0 = "R0_rect: 1 0 0 0 1 0 0 0 1"
TR = "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27"
CAR = "Car 0.10 1 -1.5 100 150 200 250 1.5 1.8 4.0 2.0 1.7 10.0 -1.57"
IGNORED = "DontCare -1 -1 -10 10 20 30 40 -1 -1 -1 -1000 -1000 -1000 -10"


def write(
    root,
    name="000000",
    calib=(P2, R0, TR),
    labels=(CAR, IGNORED),
    points=30,
    image=True,
    folder="velodyne",
    part="training",
):
    for sub in ("calib", "image_2", "label_2", folder):
        (root / part / sub).mkdir(parents=True, exist_ok=True)
    (root / part / "calib" / f"{name}.txt").write_text("\n".join(calib) + "\n\n")
    if labels is not None:
        (root / part / "label_2" / f"{name}.txt").write_text("\n".join(labels) + "\n")
    if image:
        cv2.imwrite(str(root / part / "image_2" / f"{name}.png"), np.zeros((37, 124, 3), np.uint8))
    np.random.default_rng(0).normal(0, 5, (points, 4)).astype(np.float32).tofile(root / part / folder / f"{name}.bin")


def test_a_frame_by_hand(tmp_path):
    write(tmp_path, labels=(CAR, "Van 0 0 0 1 2 3 4 1 1 1 1 1 1 0", IGNORED))
    data = KITTI(root=str(tmp_path))
    batch = data.__getitems__([0])
    assert data.classes == ("Car", "Pedestrian", "Cyclist") and data.ignored == {"Van": 1, "DontCare": 1}
    # Camera (2, 1.7, 10) of the bottom: forward 10 + 0.27, left -2, up -1.7 - 0.08 + 1.5 / 2.
    assert np.allclose(batch["boxes"][0], [[10.27, -2, -1.03, 4.0, 1.8, 1.5, 1.57 - np.pi / 2]], atol=1e-5)
    assert batch["box_label"][0].tolist() == [0] and batch["box2d"][0].tolist() == [[100, 150, 200, 250]]
    assert batch["meta"]["dont_care"][0].tolist() == [[10, 20, 30, 40]] and batch["meta"]["occluded"][0].tolist() == [1]
    assert np.allclose(batch["cam2img"][0, 0][:3, 3], [44, 0.2, 0.0027]) and batch["cams"].shape == (1, 1, 3, 37, 124)
    assert batch["points"][0].shape == (30, 4)
    (truth,) = batch["meta"]["kitti"]  # for the evaluation: all rows, vans that are no label included
    assert truth.labels.kind == ("Car", "Van", "DontCare") and truth.picture_size == (37, 124)
    assert truth.labels.box2d[0].tolist() == [100, 150, 200, 250] and truth.calibration.cam2img[0, 3] == 44


def test_a_frame_without_a_picture_has_no_size_and_a_broken_one_is_named(tmp_path):
    write(tmp_path, image=False)
    data = KITTI(root=str(tmp_path), cameras=False)
    assert data.__getitems__([0])["meta"]["kitti"][0].picture_size is None
    (tmp_path / "training/image_2/000000.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000000\.png' cannot be read"):
        data.__getitems__([0])


def test_an_empty_label_file_is_a_frame_without_boxes(tmp_path):
    write(tmp_path, labels=())
    batch = KITTI(root=str(tmp_path)).__getitems__([0])
    assert batch["boxes"][0].shape == (0, 7) and len(batch["box_label"][0]) == 0 and batch["box2d"][0].shape == (0, 4)


def test_splits_parts_and_folders(tmp_path):
    (
        write(tmp_path, "000000"),
        write(tmp_path, "000001", folder="velodyne_reduced"),
        write(tmp_path, "000002", labels=None),
    )
    write(tmp_path, "000007", labels=None, part="testing")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/val.txt").write_text("000001\n")
    assert KITTI(root=str(tmp_path)).names == ["000000", "000001"]
    assert KITTI(root=str(tmp_path), labelled=False).names == ["000000", "000001", "000002"]
    assert KITTI("val", root=str(tmp_path)).names == ["000001"]
    assert KITTI(["000002"], labelled=False, root=str(tmp_path)).names == ["000002"]
    testing = KITTI(part="testing", labelled=False, root=str(tmp_path))
    assert testing.names == ["000007"] and "boxes" not in testing.__getitems__([0])
    with pytest.raises(DataError, match="nearest is 'val'"):
        KITTI("vall", root=str(tmp_path))


def test_points_of_the_picture_only(tmp_path):
    write(tmp_path, points=2000)
    whole, seen = KITTI(root=str(tmp_path)).sweep(0), KITTI(root=str(tmp_path), in_image=True).sweep(0)
    u = 700 * -whole[:, 1] + 600 * (whole[:, 0] - 0.27) + 44
    v = 700 * (-whole[:, 2] - 0.08) + 180 * (whole[:, 0] - 0.27) + 0.2
    w = whole[:, 0] - 0.27 + 0.0027
    kept = (w > 0.1) & (u >= 0) & (u < 124 * w) & (v >= 0) & (v < 37 * w)
    assert 0 < len(seen) < len(whole) and np.array_equal(seen, whole[kept])


@pytest.mark.parametrize(
    ("calib", "text"),
    [
        ((P2, R0), r"000000\.txt' has no row 'Tr_velo_to_cam'; it has P2, R0_rect"),
        ((P2, R0, "Tr_velo_to_cam: 0 -1 0"), r"Tr_velo_to_cam of '.*000000\.txt' has 3 numbers, not 12"),
        ((P2, R0, TR.replace("0 -1 0 0", "0 -1.2 0 0")), "Tr_velo_to_cam of .* is not rigid"),
        ((P2, R0, TR.replace("0 -1 0 0", "0 1 0 0")), "Tr_velo_to_cam of .* is mirrored.*left-handed"),
        ((P2, "R0_rect: 1 0 0 0 1 0 0 0 2", TR), "R0_rect of .* is not rigid"),
        ((P2.replace("700 0", "-700 0"), R0, TR), "P2 of .* is no camera matrix"),
    ],
)
def test_wrong_calibrations_are_named(tmp_path, calib, text):
    write(tmp_path, calib=calib)
    with pytest.raises(DataError, match=text):
        KITTI(root=str(tmp_path)).__getitems__([0])


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (CAR.replace("Car", "car"), r"000000\.txt', row 2: 'car' is no type of KITTI\. Did you mean 'Car'"),
        (CAR.replace("Car", "palm"), "'palm' is no type of KITTI.*another data set"),
        (CAR.replace("1.8", "0"), "row 2: sizes must be positive"),
        (CAR.replace("1.8", "nan"), "row 2: sizes must be positive and all numbers finite"),
        (CAR.replace("1.8", "wide"), "holds something that is no number"),
        ("Car 0 0 0", "row 2: 4 columns, not 15"),
    ],
)
def test_wrong_labels_are_named(tmp_path, row, text):
    write(tmp_path, labels=(CAR, row))
    with pytest.raises(DataError, match=text):
        KITTI(root=str(tmp_path))


def test_missing_files(tmp_path):
    write(tmp_path, "000000"), write(tmp_path, "000001", image=False)
    with pytest.raises(DataError, match=r"1 of 2 frames are incomplete; the first: frame '000001' has no picture"):
        KITTI(root=str(tmp_path))
    assert KITTI(root=str(tmp_path), on_missing="skip").names == ["000000"]
    assert KITTI(root=str(tmp_path), cameras=False).names == ["000000", "000001"]
    (tmp_path / "training/velodyne/000001.bin").unlink()
    with pytest.raises(DataError, match=r"no sweep 000001\.bin in velodyne or velodyne_reduced or velodyne_fov"):
        KITTI(root=str(tmp_path), cameras=False)
    (tmp_path / "training/calib/000000.txt").unlink()
    with pytest.raises(DataError, match=r"no calibration calib/000000\.txt"):
        KITTI(["000000"], root=str(tmp_path))
    with pytest.raises(DataError, match="KITTI Vision Benchmark Suite"):
        KITTI(root=str(tmp_path / "nowhere"))


def test_configs_are_checked(tmp_path):
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"'Pedestrain' is not one of .*nearest is 'Pedestrian'"):
        KITTI(classes=("Car", "Pedestrain"), root=str(tmp_path))

    def faults(**change):
        dataset = dict(type="KITTI", root=str(tmp_path)) | change
        return " ".join(
            map(str, validate_config({"train_dataloader": dict(batch_size=1, dataset=dataset)}, training=False))
        )

    assert faults() == ""
    assert "train_dataloader.dataset.classes" in faults(classes=("car",)) and "nearest is 'Car'" in faults(
        classes=("car",)
    )
    assert "on_missing" in faults(on_missing="ignore") and "image_size" in faults(image_size=(0, 5))
    assert "dataset.split" in faults(split="trian") and "cameras" in faults(cameras=False, lidar=False)
    assert "KITTI Vision Benchmark Suite" in faults(root=str(tmp_path / "none"))


def write_raw(root, date="2011_09_26", drive="0005", frames=3, pictures=("image_02",)):
    day = root / date
    folder = day / f"{date}_drive_{drive}_sync"
    (folder / "velodyne_points/data").mkdir(parents=True)
    (day / "calib_velo_to_cam.txt").write_text(
        "calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\ndelta_f: 0 0\n"
    )
    (day / "calib_cam_to_cam.txt").write_text(
        "R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 700 0 600 44 0 700 180 0.2 0 0 1 0.0027\n"
        "P_rect_03: 700 0 600 -340 0 700 180 2.2 0 0 1 0.0027\n"
    )
    for number in range(frames):
        np.zeros((5, 4), np.float32).tofile(folder / f"velodyne_points/data/{number:010d}.bin")
        for view in pictures:
            (folder / view / "data").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / view / "data" / f"{number:010d}.png"), np.zeros((10, 20, 3), np.uint8))
    return folder


def test_raw_drives(tmp_path):
    write_raw(tmp_path), write_raw(tmp_path, "2011_09_28", pictures=("image_02", "image_03"))
    data = KITTIRaw(root=str(tmp_path))
    assert len(data) == 6 and data.names[3] == "2011_09_28_drive_0005_sync/0000000000" and data.classes == ()
    batch = data.__getitems__([0, 5])
    assert batch["cams"].shape == (2, 1, 3, 10, 20) and "boxes" not in batch and batch["points"][0].shape == (5, 4)
    assert np.allclose(batch["lidar2cam"][0, 0], [[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])
    both = KITTIRaw(["2011_09_28_drive_0005_sync"], views=("image_02", "image_03"), step=2, root=str(tmp_path))
    assert len(both) == 2 and np.allclose(both.__getitems__([0])["cam2img"][0, :, 0, 3], [44, -340])


def test_raw_drives_that_are_incomplete(tmp_path):
    folder = write_raw(tmp_path)
    with pytest.raises(DataError, match=r"no picture of image_03"):
        KITTIRaw(views=("image_02", "image_03"), root=str(tmp_path))
    with pytest.raises(DataError, match="nearest is '2011_09_26_drive_0005_sync'"):
        KITTIRaw(["2011_09_26_drive_0006_sync"], root=str(tmp_path))
    (folder / "image_02/data/0000000001.png").unlink()
    with pytest.raises(DataError, match="1 of 3 frames are incomplete"):
        KITTIRaw(root=str(tmp_path))
    assert len(KITTIRaw(root=str(tmp_path), on_missing="skip")) == 2
    with pytest.raises(ConfigError, match="'image_2' is not one of image_02"):
        KITTIRaw(views=("image_2",), root=str(tmp_path))
    (tmp_path / "2011_09_26/calib_velo_to_cam.txt").unlink()
    with pytest.raises(DataError, match=r"calib_velo_to_cam\.txt' does not exist"):
        KITTIRaw(root=str(tmp_path))


def test_configs_of_raw_drives_are_checked(tmp_path):
    write_raw(tmp_path)

    def faults(cls, **change):
        cfg = dict(root=str(tmp_path), drives=None, views=("image_02",), step=1, split="train", test_frames=4)
        return dict(cls.check_config(cfg | change))

    assert faults(KITTIRaw) == {}
    assert list(faults(KITTIRaw, views=("image_2",), step=0, image_size=(0, 1))) == ["image_size", "views", "step"]
    assert (
        "nearest is '2011_09_26_drive_0005_sync'" in faults(KITTIRaw, drives=["2011_09_26_drive_0006_sync"])["drives"]
    )
    with pytest.raises(DataError, match="KITTI Vision Benchmark Suite, raw data"):
        faults(KITTIRaw, root=str(tmp_path / "none"))
    assert "calib.txt is not in" in faults(KITTISequence)["root"]
    assert "below the number of frames" in faults(KITTISequence)["test_frames"]
    with pytest.raises(ConfigError, match="'train'"):
        faults(KITTISequence, split="trian")


@needs_data
def test_the_packed_drive():
    train, test = KITTISequence(), KITTISequence("test")
    assert len(train) == 12 and len(test) == 4 and test.names == [f"{n:010d}" for n in (24, 26, 28, 30)]
    batch = test.__getitems__([3])
    raw = np.load(train.folder / "0000000030.npz")
    assert np.allclose(batch["points"][0][:, :3], raw["xyz_i16"] * 0.005, atol=1e-6)
    assert np.allclose(batch["points"][0][:, 3], raw["reflectance_u8"] / 100) and batch["cams"].shape == (
        1,
        1,
        3,
        375,
        1242,
    )
    with pytest.raises(ConfigError, match="test_frames"):
        KITTISequence(test_frames=16)


@needs_data
def test_the_real_frames():
    """Figures of the data's README: points, labels without DontCare, two calibrations, three sizes."""
    types = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
    data = KITTI(classes=types)
    assert data.names == [f"{n:06d}" for n in (0, 1, 2, 3, 4, 5, 8, 134, 2155, 7347)]
    assert [len(data.frame(i).boxes) for i in range(10)] == [1, 3, 2, 1, 2, 1, 6, 15, 13, 5]
    assert [len(data.sweep(i)) for i in (0, 1, 2, 3, 6)] == [115384, 120268, 126891, 18911, 17238]
    focal = {round(float(data.calibration(i).cam2img[0, 0]), 2) for i in range(10)}
    assert focal == {707.05, 721.54} and set(data.ignored) == {"DontCare"}
    batch = KITTI(labelled=False, image_size=(96, 320)).__getitems__(range(13))
    assert batch["cams"].shape == (13, 1, 3, 96, 320) and "boxes" not in batch
    fov = KITTI(in_image=True).sweep(1)
    assert len(fov) < 21000  # as many as the files that were cut to the picture


def boxes_and_their_points(data):
    """Of every labelled box with points: frame, box, 2D box, its points in the frame of the box, and their pixels."""
    for index in range(len(data)):
        frame, calibration, points = data.frame(index), data.calibration(index), data.sweep(index)
        uv, _, mask = project(points, calibration.lidar2rect, calibration.cam2img)
        for box, extent in zip(frame.boxes, frame.box2d, strict=True):
            x, y, z, length, w, h, yaw = box
            turned = (points[:, 0] - x + 1j * (points[:, 1] - y)) * np.exp(-1j * yaw)
            inside = (abs(turned.real) <= length / 2) & (abs(turned.imag) <= w / 2) & (abs(points[:, 2] - z) <= h / 2)
            if inside.any():
                local = np.stack([turned.real, turned.imag, points[:, 2] - z], 1)[inside]
                yield data.names[index], box, extent, local, np.where(mask[inside, None], uv[inside], np.inf)


def within(uv, extent, slack=3.0):
    """Which pixels lie in a 2D box with so many pixels around it."""
    return ((uv >= extent[:2] - slack) & (uv <= extent[2:] + slack)).all(1)


@needs_data
def test_points_of_labelled_boxes_fall_into_their_2d_boxes():
    """3 px of slack. The lowest box of all frames is 88 of 91 = 0.967, the next 63 of 64; all others are whole."""
    data = KITTI(classes=("Car", "Van", "Truck", "Pedestrian", "Cyclist", "Misc"), cameras=False)
    shares, standing = [], []
    for _, box, extent, local, uv in boxes_and_their_points(data):
        hit = within(uv, extent)
        shares.append((hit.mean(), len(hit)))
        above = local[:, 2] > 0.06 - box[5] / 2
        standing.append(hit[above].mean() if above.any() else 1.0)
    low = sorted(shares)[:3]
    assert len(shares) == 47 and low[0] == (88 / 91, 91) and low[1] == (63 / 64, 64) and low[2][0] == 1.0
    # Without what lies within 6 cm of the bottom face, the ground, 63 of 64 is the lowest.
    assert min(standing) >= 63 / 64 - 0.001 and sorted(standing)[1] == 1.0


@needs_data
def test_why_one_pedestrian_has_three_points_beside_its_2d_box():
    """The ground: a scan line runs on through the foot of the 3D box, which reaches 13 px beyond the 2D label."""
    data = KITTI(["000134"], classes=("Pedestrian",), cameras=False)
    found = list(boxes_and_their_points(data))
    _, box, extent, local, uv = min(found, key=lambda f: within(f[3 + 1], f[2]).mean())
    missed = ~within(uv, extent)
    assert missed.sum() == 3 and data.labels(0).occluded[11] == 0
    assert (uv[missed, 1] < extent[3]).all() and (uv[missed, 0] - extent[2] > 3).all()  # to the right of it alone
    assert (local[missed, 2] + box[5] / 2 < 0.06).all()  # 5 cm above the bottom face ...
    points = data.sweep(0)
    row = points[(abs(points[:, 0] - 18.67) < 0.05) & (points[:, 2] < -1.5)]
    beside = row[(row[:, 1] > 8.6) & (row[:, 1] < 9.15)]  # ... the same scan line, on the street beside the box
    inside = local[missed, 2] + box[2]
    assert len(beside) >= 7 and abs(beside[:, 2].mean() - inside.mean()) < 0.02
    corners = box_corners(box[None])[0]
    calibration = data.calibration(0)
    reach = project(corners, calibration.lidar2rect, calibration.cam2img)[0][:, 0].max()
    assert 12 < reach - extent[2] < 14  # the label was drawn around what is seen


def test_they_are_registered():
    for name in ("KITTI", "KITTIRaw", "KITTISequence", "NuScenes", "NuScenesFrame"):
        assert DATASETS.get(name).modality == "driving"


def test_helpers_name_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt' cannot be read"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"none\.txt' does not exist"):
        read_calibration(tmp_path / "none.txt")
