import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.geometry.augmentation import image_matrix, lidar_matrix
from perception.geometry.boxes import box_corners, kitti_camera_corners, kitti_camera_to_lidar
from perception.geometry.projection import cut_lines, project, unproject
from perception.geometry.transforms import transform_points

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/bev")
BEV = Path(os.environ.get("PERCEPTION_DATA", "")) / "bev"
KITTI = BEV / "kitti/training"
# A camera that looks along the LiDAR's +x from 0.3 m above it, 100 px focal length.
AHEAD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0.3], [1, 0, 0, 0], [0, 0, 0, 1]])
K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])


def kitti_calib(frame):
    lines = (line.split() for line in (KITTI / f"calib/{frame}.txt").read_text().splitlines() if line.strip())
    values = {words[0].rstrip(":"): np.array(words[1:], dtype=np.float64) for words in lines}
    return values["P2"].reshape(3, 4), values["R0_rect"].reshape(3, 3), values["Tr_velo_to_cam"].reshape(3, 4)


def kitti_matrices(frame):
    p2, r0, tr = kitti_calib(frame)
    lidar2rect = np.eye(4)
    lidar2rect[:3] = r0 @ tr
    return p2, lidar2rect


def kitti_points(frame):
    folder = "velodyne" if (KITTI / f"velodyne/{frame}.bin").is_file() else "velodyne_fov"
    return np.fromfile(KITTI / f"{folder}/{frame}.bin", dtype=np.float32).reshape(-1, 4)


def nuscenes_frame():
    frame = json.loads((BEV / "nuscenes_frame/frame.json").read_text())
    points = np.fromfile(BEV / "nuscenes_frame/LIDAR_TOP.bin", dtype=np.float32).reshape(-1, 5)
    cameras = frame["cameras"].values()
    return points, np.array([c["lidar2cam"] for c in cameras]), np.array([c["cam2img"] for c in cameras])


def test_by_hand():
    points = np.array([[10.0, 1, 0.3], [10, 0, 1.3], [-10, 0, 0], [0.1, 0, 0], [0.11, 0, 0.3], [10, 6, 0.3]])
    uv, depth, mask = project(points, AHEAD, K, size=(80, 100))
    assert np.allclose(uv[:2], [[40, 40], [50, 30]]) and np.allclose(depth, [10, 10, -10, 0.1, 0.11, 10])
    assert mask.tolist() == [True, True, False, False, True, False]  # 0.1 m is not beyond 0.1 m; -10 px is outside
    assert np.allclose(uv[5], [-10, 40]) and np.array_equal(uv[2], [0, 0])


def test_the_last_pixel_is_in_and_the_edge_is_out():
    edge = np.array([[1.0, 0.5, 0.3], [1, -0.5, 0.3], [1, -0.4999, 0.3]])  # u = 0, 100, 99.99
    assert project(edge, AHEAD, K, size=(80, 100))[2].tolist() == [True, False, True]


def test_behind_nan_and_infinite_points_get_no_pixel():
    r = np.random.default_rng(0)
    points = r.normal(0, 20, (500, 3))
    points[:5] = [[np.nan, 0, 0], [np.inf, 0, 0], [0, -np.inf, 1], [5, np.nan, 0], [0, 0, 0]]
    aug = image_matrix(0.5, (3, 4), True, 0.1, (40, 50))
    for given in (points, torch.from_numpy(points)):
        uv, depth, mask = project(given, AHEAD, K, img_aug=aug, size=(40, 50))
        assert np.isfinite(uv).all() and np.isfinite(depth).all()
        behind = ~(points[:, 0] > 0.1)
        assert not mask[behind].any() and (uv[behind] == 0).all() and not mask[:5].any()


def test_empty_input():
    uv, depth, mask = project(np.zeros((0, 4), np.float32), AHEAD, K, size=(80, 100))
    assert uv.shape == (0, 2) and depth.shape == mask.shape == (0,) and uv.dtype == np.float32 and mask.dtype == bool


def test_batches_broadcast():
    r = np.random.default_rng(1)
    points = torch.from_numpy(r.normal(0, 20, (2, 1, 30, 3)))
    lidar2cam = torch.from_numpy(np.stack([AHEAD, AHEAD @ lidar_matrix(2.0), AHEAD @ lidar_matrix(-2.0)])).expand(
        2, 3, 4, 4
    )
    lidar_aug = torch.from_numpy(lidar_matrix(np.array([0.3, -0.4]), np.array([0.9, 1.1])))[:, None]
    uv, depth, mask = project(points, lidar2cam, torch.from_numpy(K), lidar_aug=lidar_aug, size=(80, 100))
    assert uv.shape == (2, 3, 30, 2) and depth.shape == mask.shape == (2, 3, 30)
    for b in range(2):
        for n in range(3):
            one = project(points[b, 0], lidar2cam[b, n], K, lidar_aug=lidar_aug[b, 0], size=(80, 100))
            assert torch.allclose(uv[b, n], one[0]) and torch.equal(mask[b, n], one[2])


def test_gradients_are_finite():
    points = torch.tensor([[10.0, 1, 0], [-1, 0, 0], [0, 0, 0], [float("nan"), 0, 0]], requires_grad=True)
    uv, depth, _ = project(points, AHEAD, K)
    (uv.sum() + depth.sum()).backward()
    assert torch.isfinite(points.grad).all() and (points.grad[1:, 1] == 0).all() and points.grad[0, 1] == -10


def test_augmented_points_project_to_augmented_pixels():
    """project(augmented) == A_img(project(original)) for random augmentations of both."""
    r = np.random.default_rng(2)
    points = r.uniform((3, -20, -2), (60, 20, 3), (400, 3))
    uv, depth, _ = project(points, AHEAD, K)
    for _ in range(20):
        lidar = lidar_matrix(r.uniform(-1.5, 1.5), r.uniform(0.9, 1.1), r.normal(0, 0.5, 3), *r.integers(0, 2, 2) > 0)
        image = image_matrix(
            r.uniform(0.3, 0.6), r.uniform(0, 20, 2), bool(r.integers(2)), r.uniform(-0.1, 0.1), (40, 50)
        )
        expected = np.stack([uv[:, 0], uv[:, 1], depth, np.ones(400)], axis=1) @ image.T
        moved = transform_points(points, lidar)
        found, found_depth, _ = project(moved, AHEAD, K, image, lidar)
        assert np.abs(found - expected[:, :2]).max() < 1e-9 and np.abs(found_depth - depth).max() < 1e-12
        assert np.abs(unproject(found, found_depth, AHEAD, K, image, lidar) - moved).max() < 1e-9
        narrow = project(moved.astype(np.float32), AHEAD, K, image, lidar)[0]
        assert np.abs(narrow - expected[:, :2]).max() < 1e-3


@needs_data
@pytest.mark.parametrize("frame", ["000001", "000008", "000134"])
def test_kitti_frames_against_the_steps_of_the_devkit(frame):
    """Velodyne -> reference camera -> rectified camera -> image, one step at a time."""
    p2, r0, tr = kitti_calib(frame)
    points = kitti_points(frame)[:, :3].astype(np.float64)
    reference = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ tr.T
    rectified = (r0 @ reference.T).T
    pixels = np.concatenate([rectified, np.ones((len(points), 1))], axis=1) @ p2.T
    _, lidar2rect = kitti_matrices(frame)
    assert np.abs(transform_points(points, lidar2rect) - rectified).max() < 1e-10
    uv, depth, mask = project(points, lidar2rect, p2)
    expected = pixels[mask, :2] / pixels[mask, 2:]
    assert np.abs(uv[mask] / expected - 1).max() < 1e-6 and np.abs(depth - pixels[:, 2]).max() < 1e-9
    # w is the rectified depth plus P2[2, 3].
    assert np.abs(depth - rectified[:, 2] - p2[2, 3]).max() < 1e-12 and p2[2, 3] > 1e-3
    assert np.array_equal(mask, pixels[:, 2] > 0.1)


@needs_data
@pytest.mark.parametrize("frame", ["000001", "000008", "000134"])
def test_kitti_box_corners_in_pixels(frame):
    """Corners of the label's own box and of the LiDAR box land within a few pixels of each other and of the label."""
    p2, lidar2rect = kitti_matrices(frame)
    rows = [line.split() for line in (KITTI / f"label_2/{frame}.txt").read_text().splitlines()]
    rows = np.array([r[1:15] for r in rows if r[0] != "DontCare"], dtype=np.float64)
    h, w, length, x, y, z, ry = (rows[:, i] for i in range(7, 14))
    corners = kitti_camera_corners(rows[:, 7:14])
    for i in range(len(rows)):  # the devkit's own lists of corners, turned and moved
        xs = length[i] / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
        ys = h[i] * np.array([0, 0, 0, 0, -1, -1, -1, -1])
        zs = w[i] / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
        c, s = np.cos(ry[i]), np.sin(ry[i])
        turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.stack([xs, ys, zs])
        assert np.abs(corners[i] - turned.T - [x[i], y[i], z[i]]).max() < 1e-12
    whole = (rows[:, 0] == 0) & (rows[:, 12] > 5)  # not cut off by the image's edge
    ours = box_corners(kitti_camera_to_lidar(rows[whole, 7:14], lidar2rect))
    uv = project(ours.reshape(-1, 3), lidar2rect, p2)[0].reshape(-1, 8, 2)
    extent = np.concatenate([uv.min(1), uv.max(1)], axis=1)
    assert np.abs(extent - rows[whole, 3:7]).mean() < 4 and len(extent)


@needs_data
def test_nuscenes_cameras_against_the_steps_of_the_devkit():
    """Turn, move, multiply by the intrinsics, divide by the third row; six cameras at once."""
    points, lidar2cam, cam2img = nuscenes_frame()
    uv, depth, mask = project(points[:, :3].astype(np.float64), lidar2cam, cam2img, size=(900, 1600))
    assert uv.shape == (6, len(points), 2)
    for n in range(6):
        cloud = points[:, :3].astype(np.float64).T
        cloud = lidar2cam[n, :3, :3] @ cloud + lidar2cam[n, :3, 3:]
        view = cam2img[n] @ cloud
        front = view[2] > 0.1
        assert np.abs(uv[n][front] - (view[:2] / view[2]).T[front]).max() < 1e-9 * np.abs(uv[n]).max()
        assert np.abs(depth[n] - cloud[2]).max() < 1e-9
        x, y = (view[:2] / view[2])[:, front]
        assert mask[n].sum() == ((x >= 0) & (x < 1600) & (y >= 0) & (y < 900)).sum() > 2000
    narrow, _, _ = project(torch.from_numpy(points), torch.from_numpy(lidar2cam), torch.from_numpy(cam2img))
    assert np.abs(narrow.numpy()[mask] - uv[mask]).max() < 3e-4 and narrow.dtype == torch.float32


@needs_data
def test_round_trips_on_the_real_frames():
    """Below 1e-9 m in float64 and 1e-4 m in float32 for every point deeper than 0.1 m."""
    points, lidar2cam, cam2img = nuscenes_frame()
    p2, lidar2rect = kitti_matrices("000001")
    for cloud, to_cam, to_img, in_view in (
        (points, lidar2cam, cam2img, (900, 1600)),
        (kitti_points("000001"), lidar2rect[None], p2[None], (375, 1242)),
    ):
        wide = cloud[:, :3].astype(np.float64)
        uv, depth, _ = project(wide, to_cam, to_img)
        found = unproject(uv, depth, to_cam, to_img)
        front = depth > 0.1
        assert np.abs(found - wide)[front].max() < 1e-9
        uv, depth, mask = project(cloud, to_cam, to_img, size=in_view)
        assert np.abs(unproject(uv, depth, to_cam, to_img) - cloud[:, :3])[mask].max() < 1e-4 and mask.any()


def test_lines_are_cut_where_they_come_too_near():
    ends = np.array(
        [
            [[0.0, 0.0, 2.0], [4.0, 2.0, 6.0]],  # ahead
            [[0.0, 0.0, -1.0], [4.0, 8.0, 3.0]],  # z = 1 half way
            [[4.0, 8.0, 3.0], [0.0, 0.0, -1.0]],
            [[1.0, 2.0, 0.5], [3.0, 4.0, 0.5]],  # nearer altogether
        ]
    )
    cut, kept = cut_lines(ends, 1.0)
    assert kept.tolist() == [True, True, True, False]
    np.testing.assert_allclose(cut[0], ends[0])
    np.testing.assert_allclose(cut[1], [[2.0, 4.0, 1.0], [4.0, 8.0, 3.0]])
    np.testing.assert_allclose(cut[2], [[4.0, 8.0, 3.0], [2.0, 4.0, 1.0]])
    np.testing.assert_allclose(cut[3], ends[3])
