import numpy as np
import pytest
import torch

from perception.errors import CheckpointError, ConfigError, DataError
from perception.registry import PREPROCESSES
from perception.transforms.driving_preprocess import DrivingPreprocess
from perception.transforms.lidar_corruptions import noisy_poses

RANGE = (0.0, -2.0, -1.0, 4.0, 2.0, 1.0)
LIDAR = DrivingPreprocess(RANGE)
BOTH = DrivingPreprocess(RANGE, image_size=(2, 3))
NAN = float("nan")


def sweep():
    return torch.tensor(
        [
            [0.0, -2.0, -1.0, 10.0, 0.1],  # the lower corner is inside
            [4.0, 0.0, 0.0, 20.0, 0.2],  # an upper edge is not
            [1.0, NAN, 0.0, 30.0, 0.3],
            [1.0, 1.0, 0.0, NAN, 0.4],
            [1.0, 1.0, 0.5, 50.0, NAN],  # a column that the record does not read
        ]
    )


def cameras(**changes):
    batch = {
        "cams": torch.randint(256, (2, 4, 3, 2, 3), dtype=torch.uint8),
        "cam2img": torch.eye(4).expand(2, 4, 4, 4),
        "lidar2cam": torch.eye(4).expand(2, 4, 4, 4),
    }
    return {**batch, **changes}


def only(sample, camera, matrix):
    """Identities (2, 4, 4, 4), and one matrix of another kind."""
    found = torch.eye(4).repeat(2, 4, 1, 1)
    found[sample, camera] = matrix
    return found


def test_the_worst_pose_that_a_corruption_gives_passes():
    """Public noise on all entries of the rotation, twice, at the highest severity."""
    random = np.random.default_rng(0)
    poses = torch.from_numpy(noisy_poses(8, 0.2, 0.02, random, compat=True)).float().view(2, 4, 4, 4)
    assert torch.equal(BOTH(cameras(lidar2cam=poses))["lidar2cam"], poses)


@pytest.mark.filterwarnings("ignore:points that are not finite")
def test_points_are_cropped_with_all_that_belongs_to_them_and_counted():
    batch = {"points": [sweep(), sweep()[:1]], "region": [torch.arange(5), torch.tensor([7])]}
    batch["point_id"] = [torch.arange(5) + 10, torch.tensor([3])]
    out = LIDAR(batch)
    assert torch.equal(out["points"][0], sweep()[[0, 4], :4]) and torch.equal(out["points"][1], sweep()[:1, :4])
    assert out["region"][0].tolist() == [0, 4] and out["point_id"][0].tolist() == [10, 14]
    assert out["point_id"][1].tolist() == [3]
    assert out["dropped_points"].tolist() == [[2, 1], [0, 0]]
    assert torch.equal(out["lidar_aug"], torch.eye(4).expand(2, 4, 4))
    assert torch.equal(batch["points"][0].nan_to_num(), sweep().nan_to_num()) and "lidar_aug" not in batch


def test_points_that_are_not_finite_are_told_of():
    with pytest.warns(UserWarning, match="not finite"):
        LIDAR({"points": [sweep()]})


@pytest.mark.filterwarnings("ignore:points that are not finite")
def test_chosen_columns_and_the_scale_of_intensity():
    record = DrivingPreprocess(RANGE, ("x", "y", "z", "time"))
    torch.testing.assert_close(record({"points": [sweep()]})["points"][0][:, 3], torch.tensor([0.1, 0.4]))
    scaled = DrivingPreprocess(RANGE, intensity_scale=10)({"points": [sweep()]})["points"][0]
    assert scaled[:, 3].tolist() == [1.0, 5.0]


def test_views_without_points_beside_them():
    views = [{"points": [sweep()[:2]], "point_id": [torch.tensor([5, 6])], "lidar_aug": torch.eye(4)[None] * 2}] * 2
    out = LIDAR({"views": views, "index": torch.tensor([0])})
    assert "points" not in out and len(out["views"]) == 2
    for view in out["views"]:
        assert view["point_id"][0].tolist() == [5] and view["lidar_aug"][0, 0, 0] == 2
        assert view["dropped_points"].tolist() == [[0, 1]]


def test_an_empty_sweep_stays():
    out = LIDAR({"points": [torch.zeros(0, 5), sweep()[:1]]})
    assert [len(p) for p in out["points"]] == [0, 1]


def test_cameras_are_normalised_and_the_calibration_completed():
    batch = cameras()
    out = BOTH(batch)
    expected = (batch["cams"][1, 2, 1].float() / 255 - 0.456) / 0.224
    torch.testing.assert_close(out["cams"][1, 2, 1], expected, atol=1e-6, rtol=1e-6)
    assert batch["cams"].dtype == torch.uint8
    assert out["img_aug"].shape == (2, 4, 4, 4) and out["lidar_aug"].shape == (2, 4, 4)
    assert torch.equal(out["img_aug"][1, 3], torch.eye(4))
    assert "cams" in LIDAR({**batch, "points": [sweep()[:1]] * 2})  # left as they are


@pytest.mark.parametrize(
    ("record", "batch", "text"),
    [
        (LIDAR, {"boxes": []}, "needs 'points' or 'cams'"),
        (LIDAR, {"points": torch.zeros(2, 4)}, "list of tensors"),
        (LIDAR, {"views": [{"cams": 0}]}, "list of tensors"),
        (LIDAR, {"points": [torch.zeros(2, 4, dtype=torch.float16)]}, "sweep 0 .* must be float32"),
        (LIDAR, {"points": [torch.zeros(2, 3)]}, r"3 columns \(x, y, z\), .* reads intensity"),
        (LIDAR, {"points": [torch.zeros(2, 4), torch.zeros(2, 5)]}, r"\[4, 5\]"),
        (LIDAR, {"points": [torch.zeros(2, 4)], "region": [torch.zeros(3)]}, "'region' has .3. values"),
        (BOTH, cameras(cams=torch.zeros(2, 4, 3, 2, 3)), "uint8 tensor"),
        (BOTH, cameras(cams=torch.zeros(2, 4, 3, 5, 3, dtype=torch.uint8)), r"\(5, 3\) pixels"),
        (BOTH, {k: v for k, v in cameras().items() if k != "lidar2cam"}, "needs the calibration 'lidar2cam'"),
        (BOTH, cameras(cam2img=torch.eye(3).expand(2, 4, 3, 3)), "'cam2img' has shape"),
        (BOTH, cameras(lidar2cam=torch.full((2, 4, 4, 4), NAN)), "'lidar2cam' of camera 0 of sample 0 .* not finite"),
        (BOTH, cameras(img_aug=torch.eye(4).expand(4, 4, 4)), "'img_aug' has shape"),
        (BOTH, cameras(lidar2cam=only(1, 2, torch.diag(torch.tensor([1, 1, 1.5, 1])))), "of camera 2 .*1 is not rigid"),
        (BOTH, cameras(lidar2cam=only(1, 3, torch.diag(torch.tensor([1, -1.0, 1, 1])))), "of camera 3 .*1 is mirrored"),
        (BOTH, cameras(img_aug=only(0, 1, torch.zeros(4, 4))), "'img_aug' of camera 1 of sample 0 has no inverse"),
        (BOTH, cameras(img_aug=only(0, 1, NAN * torch.ones(4, 4))), "'img_aug' of camera 1 of sample 0 has no inverse"),
        (BOTH, cameras(lidar_aug=torch.zeros(2, 4, 4)), "'lidar_aug' of sample 0 has no inverse"),
        (LIDAR, {"points": [torch.zeros(2, 4)], "lidar_aug": torch.zeros(1, 4, 4)}, "'lidar_aug' of sample 0"),
    ],
)
def test_batches_that_do_not_fit(record, batch, text):
    with pytest.raises(DataError, match=text):
        record(batch)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"point_range": None}, "point_range"),
        ({"point_range": (0, 0, 0, 1, 1, 0)}, "point_range"),
        ({"point_features": ("x", "y", "intensity")}, "point_features"),
        ({"point_features": ("x", "y", "z", "time", "intensity")}, "point_features"),
        ({"intensity_scale": 0}, "intensity_scale"),
        ({"image_size": 256}, "image_size"),
        ({"std": (1, 1, 0)}, "std"),
        ({"mean": (1, 1)}, "mean"),
    ],
)
def test_faults_name_their_key(changes, key):
    with pytest.raises(ConfigError, match=f"model.backbone.preprocess.{key}"):
        DrivingPreprocess(**{"point_range": RANGE, **changes})


def test_a_record_survives_json_and_compares_what_weights_depend_on():
    assert PREPROCESSES.build({**BOTH.record(), "point_range": list(RANGE)}) == BOTH
    wider = DrivingPreprocess((-9.0, -9.0, -1.0, 9.0, 9.0, 1.0), image_size=(8, 8))
    BOTH.require_same(wider.record(), "weights")
    BOTH.require_same(LIDAR.record(), "a LiDAR branch")
    DrivingPreprocess(image_size=(2, 3)).require_same(BOTH.record(), "a fusion")
    with pytest.raises(CheckpointError, match="point_range"):
        LIDAR.require_same(DrivingPreprocess((0, -2, -2, 4, 2, 1)).record(), "weights")
    with pytest.raises(CheckpointError, match="intensity_scale"):
        BOTH.require_same(DrivingPreprocess(RANGE, intensity_scale=255).record(), "weights")
    with pytest.raises(CheckpointError, match="std"):
        BOTH.require_same(DrivingPreprocess(image_size=(2, 3), std=(1, 1, 1)).record(), "weights")
