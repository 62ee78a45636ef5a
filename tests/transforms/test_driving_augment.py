import inspect
import math

import numpy as np
import pytest
import torch

from perception.errors import ConfigError, DataError
from perception.geometry.boxes import points_in_boxes
from perception.geometry.projection import project
from perception.transforms import driving_augment
from perception.transforms.driving_augment import AugmentCameras, AugmentPoints, TwoViews, normal
from perception.transforms.randomness import SampleRandom

AHEAD = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def batch(samples=3, seed=0):
    """Sweeps of 400 points round ten boxes each, two cameras with a bright spot where a certain point is seen."""
    g = np.random.default_rng(seed)
    boxes = np.concatenate(
        [
            g.uniform(-20, 20, (samples, 10, 2)),
            g.uniform(-1, 1, (samples, 10, 1)),
            g.uniform(1, 5, (samples, 10, 3)),
            g.uniform(-3, 3, (samples, 10, 1)),
        ],
        axis=2,
    )
    points = np.repeat(boxes[..., :3], 40, axis=1) + g.normal(0, 1.2, (samples, 400, 3))
    points = np.concatenate([points, g.random((samples, 400, 1))], axis=2).astype(np.float32)
    velocity = np.stack([np.cos(boxes[..., 6]), np.sin(boxes[..., 6])], axis=2)
    velocity[0, 2] = np.nan
    lists = {"boxes": boxes.astype(np.float32), "points": points, "velocity": velocity.astype(np.float32)}
    out = {key: [torch.from_numpy(x) for x in value] for key, value in lists.items()}
    out["region"] = [torch.arange(400) // 40 for _ in range(samples)]
    out["point_id"] = [torch.arange(400) for _ in range(samples)]
    out["box_label"] = [torch.zeros(10, dtype=torch.int64)] * samples
    out["lidar_aug"] = torch.eye(4).repeat(samples, 1, 1)
    return out | {"index": torch.arange(samples)}


def random(indices=(0, 1, 2), seed=5, epoch=1):
    return SampleRandom(seed, epoch, np.array(indices))


def test_points_boxes_and_matrix_move_together():
    before = batch()
    after = AugmentPoints()(before, random())
    for i in range(3):
        expected = (
            before["points"][i][:, :3].double() @ after["lidar_aug"][i, :3, :3].double().T
            + after["lidar_aug"][i, :3, 3]
        )
        assert torch.allclose(after["points"][i][:, :3].double(), expected, atol=1e-5)
        assert torch.equal(after["points"][i][:, 3], before["points"][i][:, 3])
        masks = [points_in_boxes(b["points"][i].double(), b["boxes"][i].double()) for b in (before, after)]
        assert masks[0].sum() > 100 and (masks[0] != masks[1]).sum() <= 2  # float32 at a face
        scale = float(torch.linalg.det(after["lidar_aug"][i, :3, :3].double()).abs()) ** (1 / 3)
        heading = torch.stack([after["boxes"][i][:, 6].cos(), after["boxes"][i][:, 6].sin()], 1)
        known = ~torch.isnan(after["velocity"][i][:, 0])
        assert torch.allclose(after["velocity"][i][known], (scale * heading)[known], atol=1e-4)
    assert torch.isnan(after["velocity"][0][2]).all() and torch.equal(before["lidar_aug"], batch()["lidar_aug"])


def test_the_outcome_depends_on_the_sample_alone():
    """Not on the batch that a sample falls into; another epoch draws anew."""
    whole, picked = batch(), {k: v[1:2] for k, v in batch().items()}
    for transform in (AugmentPoints(shuffle=True), TwoViews(drop=(0.0, 0.5))):
        first, alone = transform(whole, random()), transform(picked, random((1,)))
        pairs = [(first, alone)] if "views" not in first else list(zip(first["views"], alone["views"], strict=True))
        for a, b in pairs:
            assert torch.equal(a["points"][1], b["points"][0]) and torch.equal(a["lidar_aug"][1], b["lidar_aug"][0])
            assert torch.equal(a["region"][1], b["region"][0])
    again = AugmentPoints()(whole, random(epoch=2))
    assert not torch.allclose(again["lidar_aug"], AugmentPoints()(whole, random())["lidar_aug"])


def test_ranges_are_kept():
    n = 4000
    many = SampleRandom(0, 0, np.arange(n))
    clouds = {"points": [torch.tensor([[1.0, 0, 0, 0]])] * n}
    m = AugmentPoints(30, (0.8, 1.3), 0.0, 0.0, 0.25)(clouds, many)["lidar_aug"].double().numpy()
    scale = np.abs(np.linalg.det(m[:, :3, :3])) ** (1 / 3)
    mirrored = np.linalg.det(m[:, :3, :3]) < 0
    angle = np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0]))
    assert 0.8 <= scale.min() < 0.81 and 1.29 < scale.max() <= 1.3001 and (m[:, :3, 3] == 0).all()
    assert 29 < np.abs(angle).max() <= 30.0001 and abs(mirrored.mean() - 0.25) < 0.03
    shift = AugmentPoints(0, (1, 1), 0.5, 0, 0)(clouds, SampleRandom(0, 0, np.arange(n)))["lidar_aug"][:, :3, 3]
    assert np.abs(shift.mean(0)).max() < 0.04 and np.abs(shift.std(0) - 0.5).max() < 0.03
    draws = normal(SampleRandom(1, 0, np.arange(20000)))
    assert abs((draws**4).mean() - 3) < 0.25 and np.isfinite(draws).all()


def test_augmentations_compose():
    twice = AugmentPoints()(AugmentPoints()(batch(), random()), random(seed=9))
    for i in range(3):
        back = (twice["points"][i][:, :3] - twice["lidar_aug"][i, :3, 3]) @ torch.linalg.inv(
            twice["lidar_aug"][i, :3, :3]
        ).T
        assert torch.allclose(back, batch()["points"][i][:, :3], atol=1e-4)


def test_shuffled_points_keep_their_names():
    after = AugmentPoints(0, (1, 1), 0, 0, 0, shuffle=True)(batch(), random())
    for i in range(3):
        order = after["point_id"][i]
        assert not torch.equal(order, torch.arange(400)) and torch.equal(order.sort().values, torch.arange(400))
        assert torch.allclose(after["points"][i], batch()["points"][i][order], atol=1e-6)
        assert torch.equal(after["region"][i], batch()["region"][i][order])


def test_two_views_correspond_point_by_point():
    given = batch()
    after = TwoViews(drop=(0.0, 0.4), translation=0.5, flip_y=0.5)(given, random())
    assert len(after["views"]) == 2 and not {"points", "region", "point_id", "lidar_aug"} & set(after)
    kept = TwoViews(keep_sweep=True)(given, random())
    assert torch.equal(kept["points"][0], given["points"][0]) and len(kept["views"]) == 2
    for view in after["views"]:
        for i in range(3):
            ids, m = view["point_id"][i], view["lidar_aug"][i].double()
            assert 230 < len(ids) <= 400 and (ids.diff() > 0).all()
            original = (view["points"][i][:, :3].double() - m[:3, 3]) @ torch.linalg.inv(m[:3, :3]).T
            assert torch.allclose(original, given["points"][i][ids, :3].double(), atol=1e-4)
            assert torch.equal(view["region"][i], given["region"][i][ids])
    a, b = after["views"]
    assert not torch.allclose(a["lidar_aug"], b["lidar_aug"]) and len(a["points"][0]) != len(b["points"][0])
    plain = TwoViews()(given, random())["views"][0]
    assert all(len(cloud) == 400 for cloud in plain["points"])


def test_empty_sweeps_and_no_boxes_pass():
    empty = {"points": [torch.zeros(0, 4)], "boxes": [torch.zeros(0, 7)], "velocity": [torch.zeros(0, 2)]}
    for transform in (AugmentPoints(shuffle=True), TwoViews(drop=(0.0, 0.3))):
        out = transform(empty, random((0,)))
        clouds = [view["points"] for view in out["views"]] if "views" in out else [out["points"]]
        assert all(cloud[0].shape == (0, 4) for cloud in clouds) and out["boxes"][0].shape == (0, 7)


def spots(samples=2, cameras=3, size=(90, 160)):
    """Each picture has one spot at the pixel of the point (10, a, b) of its own."""
    g = np.random.default_rng(1)
    target = np.stack(
        [
            np.full((samples, cameras), 10.0),
            g.uniform(-3, 3, (samples, cameras)),
            g.uniform(-1.5, 1, (samples, cameras)),
        ],
        -1,
    )
    k = torch.tensor([[100.0, 0, 80, 0], [0, 100, 45, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).expand(samples, cameras, 4, 4)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    u, v = 80 - 10 * target[..., 1], 45 - 10 * target[..., 2]
    image = 255 * np.exp(-((columns - u[..., None, None]) ** 2 + (rows - v[..., None, None]) ** 2) / (2 * 5.0**2))
    cams = torch.from_numpy(np.repeat(image[:, :, None], 3, axis=2).round().astype(np.uint8))
    return {"cams": cams, "cam2img": k, "lidar2cam": AHEAD.expand(samples, cameras, 4, 4)}, torch.from_numpy(target)


def test_pictures_and_matrix_move_together():
    """The spot lies where the chain of matrices projects its point: to a tenth of a pixel, for every camera."""
    given, target = spots()
    after = AugmentCameras((48, 96), (0.6, 0.8), (0.0, 0.1), 10.0, 0.5)(given, random((0, 1)))
    assert after["cams"].shape == (2, 3, 3, 48, 96) and after["cams"].dtype == torch.uint8
    uv, _, mask = project(target[:, :, None], given["lidar2cam"], given["cam2img"], after["img_aug"], size=(48, 96))
    rows, columns = np.mgrid[:48, :96] + 0.5
    seen = 0
    for b in range(2):
        for n in range(3):
            weight = after["cams"][b, n, 0].double().numpy()
            u, v = uv[b, n, 0].tolist()
            if mask[b, n, 0] and 14 < u < 82 and 14 < v < 34:  # the whole spot lies in the picture
                seen += 1
                centre = ((weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum())
                assert abs(centre[0] - u) < 0.1 and abs(centre[1] - v) < 0.1
    assert seen >= 3 and len({tuple(m.flatten().tolist()) for m in after["img_aug"].flatten(0, 1)}) == 6


def test_cameras_depend_on_the_sample_alone():
    given, _ = spots()
    transform = AugmentCameras((48, 96), (0.6, 0.8))
    whole, alone = transform(given, random((4, 7))), transform({k: v[1:] for k, v in given.items()}, random((7,)))
    assert torch.equal(whole["cams"][1], alone["cams"][0]) and torch.equal(whole["img_aug"][1], alone["img_aug"][0])


def test_the_settings_for_tests_are_fixed():
    given = {"cams": torch.zeros(1, 1, 3, 900, 1600, dtype=torch.uint8)}
    matrix = AugmentCameras(scale=(0.48, 0.48), rotation=0, flip=0, centre=True)(given, random((0,)))["img_aug"][0, 0]
    # 432 x 768, cut to 256 x 704: 176 rows of sky, 32 columns on both sides.
    expected = [[0.48, 0, 0, -32], [0, 0.48, 0, -176], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert torch.allclose(matrix, torch.tensor(expected), atol=1e-6)
    twice = AugmentCameras(scale=(0.48, 0.48), rotation=0, flip=1, centre=True)(
        {**given, "img_aug": torch.diag(torch.tensor([2.0, 2, 1, 1])).view(1, 1, 4, 4)}, random((0,))
    )["img_aug"][0, 0]
    assert torch.allclose(
        twice, torch.tensor([[-0.96, 0, 0, 704 + 32], [0, 0.96, 0, -176], [0, 0, 1, 0], [0, 0, 0, 1]])
    )


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match=r"AugmentPoints needs 'points'.*lidar=True"):
        AugmentPoints()({}, random())
    with pytest.raises(DataError, match=r"AugmentCameras needs 'cams'.*cameras=True"):
        AugmentCameras()({}, random())
    with pytest.raises(DataError, match="TwoViews needs 'points'"):
        TwoViews()({}, random())
    with pytest.raises(DataError, match="AugmentCameras needs 'cams'"):
        AugmentCameras()({"cams": None}, random())
    short = {**batch(), "region": [torch.zeros(5, dtype=torch.int64)] * 3}
    with pytest.raises(DataError, match=r"'region' has \[5, 5, 5\] values a sweep, .* \[400, 400, 400\] points"):
        TwoViews(drop=(0.1, 0.2))(short, random())


def test_labels_that_nobody_knows_are_left_alone():
    found = AugmentPoints(shuffle=True)({**batch(), "boxes": None, "region": None}, random())
    assert found["boxes"] is None and found["region"] is None
    moved = AugmentPoints()({**batch(), "velocity": None}, random())
    assert moved["velocity"] is None and not torch.equal(moved["boxes"][0], batch()["boxes"][0])


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("AugmentPoints", dict(scale=(1.1, 0.9)), "scale"),
        ("AugmentPoints", dict(rotation=-1.0), "rotation"),
        ("AugmentPoints", dict(flip_x=2.0), "flip_x"),
        ("AugmentPoints", dict(translation=-0.1), "translation"),
        ("TwoViews", dict(drop=(0.0, 1.0)), "drop"),
        ("AugmentCameras", dict(size=(0, 10)), "size"),
        ("AugmentCameras", dict(bottom=(0.5, 0.1)), "bottom"),
        ("AugmentCameras", dict(flip=-0.1), "flip"),
        ("AugmentCameras", dict(scale=(0.0, 1.0)), "scale"),
        ("AugmentCameras", dict(rotation=math.inf), "rotation"),
    ],
)
def test_configs_are_checked(name, change, key):
    cls = getattr(driving_augment, name)
    defaults = {k: p.default for k, p in inspect.signature(cls).parameters.items()}
    assert not list(cls.check_config(defaults))
    assert [found for found, _ in cls.check_config(defaults | change)] == [key]
    with pytest.raises(ConfigError, match=f"transforms.*{key}"):
        cls(**change)
