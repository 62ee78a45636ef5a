import cv2
import numpy as np
import pytest
import torch

from perception.datasets.driving import (
    CameraView,
    DrivingDataset,
    DrivingFrame,
    camera_matrix,
    keep_whole,
    read_picture,
    read_sweep,
)
from perception.errors import DataError
from perception.geometry.projection import project
from perception.transforms.camera_images import fit_camera, warp_camera

AHEAD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


class Two(DrivingDataset):
    """Two frames held in memory; the second has no box."""

    def __init__(self, clouds, pictures, names=("a", "b"), **options):
        super().__init__(("car",), **options)
        self.clouds, self.pictures, self.views = clouds, pictures, names

    def __len__(self):
        return len(self.clouds)

    def frame(self, index):
        views = tuple(
            CameraView(n, p, AHEAD, np.diag([50.0, 50, 1, 1]))
            for n, p in zip(self.views, self.pictures[index], strict=False)
        )
        boxes = np.array([[5.0, 0, 0, 4, 2, 1.5, 0.1]])[: 1 - index]
        return DrivingFrame(f"frame {index}", views, boxes, np.zeros(1 - index, dtype=int))

    def sweep(self, index):
        return self.clouds[index]


def clouds():
    good = np.arange(20, dtype=np.float32).reshape(5, 4)
    bad = good.copy()
    bad[1, 2], bad[3, 0] = np.nan, np.inf
    return [good, bad]


def picture(height=20, width=40):
    return np.zeros((height, width, 3), np.uint8)


def test_a_batch_has_the_agreed_keys():
    data = Two(clouds(), [[picture(), picture()]] * 2)
    batch = data.__getitems__([1, 0])
    assert batch["cams"].shape == (2, 2, 3, 20, 40) and batch["cams"].dtype == torch.uint8
    for key in ("cam2img", "lidar2cam", "img_aug"):
        assert batch[key].shape == (2, 2, 4, 4) and batch[key].dtype == torch.float32
    assert torch.equal(batch["img_aug"], torch.eye(4).expand(2, 2, 4, 4))
    assert torch.equal(batch["lidar_aug"], torch.eye(4).expand(2, 4, 4)) and batch["index"].tolist() == [1, 0]
    assert [len(b) for b in batch["boxes"]] == [0, 1] and batch["boxes"][0].shape == (0, 7)
    assert batch["box_label"][1].dtype == torch.int64 and torch.isnan(batch["velocity"][1]).all()
    assert batch["meta"]["tokens"] == ["frame 1", "frame 0"] and batch["meta"]["classes"] == ("car",)


def test_points_that_are_not_finite_are_dropped_and_counted(caplog):
    batch = Two(clouds(), [[], []], cameras=False).__getitems__([0, 1])
    assert [len(p) for p in batch["points"]] == [5, 3] and batch["meta"]["dropped_points"] == [0, 2]
    assert batch["point_id"][1].tolist() == [0, 2, 4] and torch.isfinite(batch["points"][1]).all()
    assert "cams" not in batch and batch["points"][0].dtype == torch.float32


def test_an_empty_sweep_stays_in_the_batch():
    batch = Two([np.zeros((0, 4), np.float32)], [[]], cameras=False).__getitems__([0])
    assert batch["points"][0].shape == (0, 4) and batch["meta"]["dropped_points"] == [0]


def test_cameras_alone():
    batch = Two(clouds(), [[picture(), picture()]] * 2, lidar=False).__getitems__([0])
    assert "points" not in batch and "lidar_aug" not in batch and "cams" in batch


def test_pictures_of_different_sizes_need_a_size():
    pictures = [[picture(), picture()], [picture(), picture(22, 44)]]
    with pytest.raises(DataError, match=r"20 x 40, 22 x 44.*image_size"):
        Two(clouds(), pictures).__getitems__([0, 1])
    assert Two(clouds(), pictures, image_size=(10, 20)).__getitems__([0, 1])["cams"].shape == (2, 2, 3, 10, 20)


def test_frames_with_other_cameras_are_named():
    with pytest.raises(DataError, match=r"frame 'frame 1' has the cameras \('a',\)"):
        Two(clouds(), [[picture(), picture()], [picture()]]).__getitems__([0, 1])


@pytest.mark.parametrize(
    ("lidar2cam", "cam2img", "text"),
    [
        (AHEAD * 1.2, np.eye(4), "lidar2cam of camera 'b' of frame 'frame 0': the last row"),
        (np.diag([1.0, 1, 1.2, 1]) @ AHEAD, np.eye(4), "lidar2cam of camera 'b' of frame 'frame 0' is not rigid"),
        (np.diag([1.0, -1, 1, 1]) @ AHEAD, np.eye(4), "lidar2cam of camera 'b' of frame 'frame 0' is mirrored"),
        (AHEAD * np.nan, np.eye(4), "lidar2cam of camera 'b' of frame 'frame 0' holds numbers that are not finite"),
        (AHEAD, np.diag([-5.0, 5, 1, 1]), "cam2img of camera 'b' of frame 'frame 0' is no camera matrix"),
    ],
)
def test_the_calibration_of_every_data_set_is_looked_at(lidar2cam, cam2img, text):
    class Wrong(Two):
        def frame(self, index):
            good = CameraView("a", picture(), AHEAD, np.diag([50.0, 50, 1, 1]))
            return DrivingFrame(f"frame {index}", (good, CameraView("b", picture(), lidar2cam, cam2img)))

    with pytest.raises(DataError, match=text):
        Wrong(clouds(), [[]]).__getitems__([0])


def blob(height, width, u, v, sigma=12.0):
    """A bright spot whose centre lies at (u, v), counted from the edges."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    spot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * sigma**2))
    return np.repeat(spot[..., None], 3, axis=2).round().astype(np.uint8)


def centre(image):
    """Centre of the brightness, counted from the edges."""
    weight = image[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [(64, 208), (100, 190), (128, 416), (375, 1242), (400, 1300)])
def test_the_matrix_of_a_resized_picture_is_exact(size):
    """A spot lies where the matrix says, to a twentieth of a pixel, though sizes are rounded."""
    u, v = 640.3, 250.7
    image, matrix = fit_camera(blob(375, 1242, u, v), size)
    assert image.shape == (*size, 3)
    assert np.abs(centre(image) - (matrix @ [u, v, 5, 1])[:2]).max() < 0.05
    # The asked-for scale instead of that of the rounded sizes would be visibly off somewhere.
    assert np.allclose(matrix @ [0, 375, 0, 1], [matrix[0, 3], size[0], 0, 1])  # the lower edge stays the lower edge


def test_the_matrix_of_a_warped_picture_is_exact():
    r = np.random.default_rng(0)
    for _ in range(12):
        scale, flip, angle = r.uniform(0.3, 0.6), bool(r.integers(2)), r.uniform(-0.3, 0.3)
        crop = (round(600 * scale) - 110, round(200 * scale) - 55)
        image, matrix = warp_camera(blob(375, 1242, 600.4, 200.6), scale, crop, flip, angle, (100, 260))
        assert image.shape == (100, 260, 3)
        assert np.abs(centre(image) - (matrix @ [600.4, 200.6, 5, 1])[:2]).max() < 0.05


def test_a_point_keeps_its_pixel_through_a_data_set():
    """The spot of a projected point is found again at the pixel that the whole chain gives."""
    point = np.array([[9.0, 0.4, -0.3, 0.5]], np.float32)
    cam2img = np.array([[300.0, 0, 310], [0, 300, 180], [0, 0, 1]])
    uv = project(point, AHEAD, cam2img)[0][0]

    class One(Two):
        def frame(self, index):
            return DrivingFrame("x", (CameraView("a", blob(375, 622, *uv), AHEAD, camera_matrix(cam2img, "K")),))

    batch = One([point], [[]], image_size=(120, 190)).__getitems__([0])
    found, _, mask = project(
        batch["points"][0],
        batch["lidar2cam"][0],
        batch["cam2img"][0],
        batch["img_aug"][0],
        batch["lidar_aug"][0],
        (120, 190),
    )
    assert (
        mask.all() and np.abs(centre(batch["cams"][0, 0].numpy().transpose(1, 2, 0)) - found[0, 0].numpy()).max() < 0.05
    )


def test_files_that_are_damaged_are_named(tmp_path):
    file = tmp_path / "1.bin"
    np.zeros((4, 4), np.float32).tofile(file)
    assert read_sweep(file, 4).shape == (4, 4)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"1\.bin' has 61 bytes, no multiple of 16 \(4 float32 a point\)"):
        read_sweep(file, 4)
    with pytest.raises(DataError, match=r"2\.bin' cannot be read"):
        read_sweep(tmp_path / "2.bin", 4)
    (tmp_path / "1.png").write_bytes(cv2.imencode(".png", picture())[1].tobytes()[:40])
    with pytest.raises(DataError, match=r"1\.png"):
        read_picture(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"0\.png' cannot be read"):
        read_picture(tmp_path / "0.png")


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.array([[5.0, 0, 1], [0, 5, 1], [0, 0, 1]]).T, "K is no camera matrix.*transposed"),
        (np.diag([-5.0, 5, 1]), "K is no camera matrix"),
        (np.diag([5.0, np.nan, 1]), "K must be a finite"),
        (np.zeros(9), "K must be a finite"),
    ],
)
def test_wrong_camera_matrices_are_named(matrix, text):
    with pytest.raises(DataError, match=text):
        camera_matrix(matrix, "K")


def test_incomplete_frames():
    faults = {"2": "frame '2' has no picture"}
    assert keep_whole(["1", "2", "3"], faults, "skip", "X") == ["1", "3"]
    with pytest.raises(DataError, match=r"X: 1 of 3 frames are incomplete; the first: frame '2' has no picture.*skip"):
        keep_whole(["1", "2", "3"], faults, "error", "X")
    with pytest.raises(DataError, match="X: no frame is left of 1"):
        keep_whole(["2"], faults, "skip", "X")
