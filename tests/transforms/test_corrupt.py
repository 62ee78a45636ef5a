"""The corruption suite: what it changes, how much, and what it must leave alone."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.registry import TRANSFORMS
from perception.transforms.corrupt import CORRUPTIONS, LIDAR, SCENE_LEVEL, Corrupt
from perception.transforms.lidar_corruptions import SENSOR, Sweep, noisy_poses
from perception.transforms.lidar_weather import _fog_answer
from perception.transforms.randomness import SampleRandom

COUNT = 6000


def points(seed=0, count=COUNT, columns=4):
    """A disc of ground with walls, intensity in [0, 1]."""
    random = np.random.default_rng(seed)
    distance, azimuth = random.uniform(3, 60, count), random.uniform(-math.pi, math.pi, count)
    height = np.where(random.uniform(size=count) < 0.5, -1.7, random.uniform(-1.7, 1.5, count))
    xyz = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height], 1)
    return np.concatenate([xyz, random.uniform(0.05, 0.9, (count, columns - 3))], 1).astype(np.float32)


def batch(size=2, cameras=2):
    boxes = torch.tensor([[15.0, 2.0, -1.0, 8.0, 6.0, 3.0, 0.4], [-20.0, 5.0, -1.0, 10.0, 8.0, 3.0, 2.0]])
    generator = torch.Generator().manual_seed(1)
    sweeps = [torch.from_numpy(points(i)) for i in range(size)]
    return {
        "points": sweeps,
        "point_id": [torch.arange(COUNT) for _ in sweeps],
        "region": [torch.arange(COUNT) % 7 - 1 for _ in sweeps],
        "boxes": [boxes.clone() for _ in sweeps],
        "velocity": [torch.tensor([[3.0, 1.0], [math.nan, math.nan]]) for _ in sweeps],
        "box_label": [torch.tensor([0, 0]) for _ in sweeps],
        "cams": torch.randint(0, 256, (size, cameras, 3, 48, 64), generator=generator, dtype=torch.uint8),
        "lidar2cam": torch.eye(4).repeat(size, cameras, 1, 1),
        "index": torch.arange(size),
    }


def random_numbers(seed=0, indices=(0, 1)):
    return SampleRandom(seed, 0, np.array(indices))


def copied(value):
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return [v.clone() for v in value] if isinstance(value, list) else value.clone()


def same(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a.shape == b.shape and torch.equal(a.nan_to_num(9e9), b.nan_to_num(9e9))


def distance_to_clean(clean, sweep, ids):
    """Mean distance of the points of ``clean`` to what became of them; one that is lost counts 10 m."""
    away = torch.full((len(clean),), 10.0)
    away[ids] = (clean[ids, :3] - sweep[:, :3]).norm(dim=1).clamp(max=10)
    return away.mean().item()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_nothing_is_written_into_the_input_and_labels_stay(name):
    given = batch()
    before = copied(given)
    found = Corrupt(name, 3)(given, random_numbers())
    assert all(same(before[key], given[key]) for key in given)
    touched = {"lidar": ("points", "point_id", "region"), "camera": ("cams",), "extrinsic": ("lidar2cam",)}
    for key in given.keys() - set(touched[name.split("-")[0]]):
        assert found[key] is given[key]
    assert any(not same(found[key], given[key]) for key in touched[name.split("-")[0]])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_zero_is_the_identity_and_a_seed_gives_the_same_bytes(name):
    given = batch()
    assert Corrupt(name, 0)(given, random_numbers()) is given
    once, again = (Corrupt(name, 4)(given, random_numbers(3)) for _ in range(2))
    assert all(same(once[key], again[key]) for key in given)
    # A sample's outcome does not depend on the batch that it falls into.
    single = {key: value[1:] for key, value in given.items()}
    alone = Corrupt(name, 4)(single, random_numbers(3, indices=(1,)))
    assert all(same(alone[key], once[key][1:]) for key in given)


@pytest.mark.parametrize("name", [n for n in LIDAR if n != "empty"])
def test_the_cloud_goes_farther_away_with_severity(name):
    given = batch()
    for boxes in given["boxes"]:
        boxes[:, 3:5] = 25.0  # many points, so that shares are no small whole numbers
    away = []
    for severity in range(1, 6):
        total = 0.0
        for seed in range(3):
            found = Corrupt(f"lidar-{name}", severity)(given, random_numbers(seed))
            total += distance_to_clean(given["points"][0], found["points"][0], found["point_id"][0])
        away.append(total)
    if name == "fog":  # thin fog dims and moves nothing
        assert away == sorted(away) and away[-1] > 0
    else:
        assert all(a < b for a, b in pairwise(away)), away


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_marks_of_points_go_with_them(name):
    given = batch()
    found = Corrupt(name, 5)(given, random_numbers())
    for sweep, ids, region, clean in zip(
        found["points"], found["point_id"], found["region"], given["region"], strict=True
    ):
        assert len(sweep) == len(ids) == len(region)
        assert torch.equal(region, clean[ids])
        assert sweep.dtype == torch.float32 and sweep.isfinite().all()


@pytest.mark.parametrize("name", SENSOR)
def test_intensity_and_ring_are_left_alone(name):
    sweep = Sweep(points(columns=5), beams=32)
    found, source = SENSOR[name](sweep, 5, np.random.default_rng(0))
    assert np.array_equal(found[:, 3:], sweep.points[source, 3:])


@pytest.mark.parametrize("name", LIDAR)
def test_an_empty_sweep_and_a_frame_without_boxes_pass(name):
    nothing = Sweep(np.zeros((0, 4), dtype=np.float32))
    found, source = LIDAR[name](nothing, 5, np.random.default_rng(0))
    assert found.shape == (0, 4) and source.shape == (0,)
    if name.startswith("object-"):
        plain = Sweep(points())
        found, source = LIDAR[name](plain, 5, np.random.default_rng(0))
        assert np.array_equal(found, plain.points) and len(source) == COUNT


def test_numbers_of_the_card():
    random = np.random.default_rng(0)
    plain = Sweep(points())
    for severity, shares in enumerate(zip((30, 25, 20, 15, 10), (0.06, 0.12, 0.18, 0.24, 0.30), strict=True), 1):
        shifted, _ = SENSOR["impulse"](plain, severity, random)
        jump = np.abs(shifted - plain.points)[:, :3]
        assert (jump.max(1) > 0).sum() == COUNT // shares[0]
        assert np.abs(jump[jump.max(1) > 0] - 0.1).max() < 1e-5
        assert len(SENSOR["density"](plain, severity, random)[0]) == pytest.approx(COUNT * (1 - shares[1]), abs=1.5)
        moved = SENSOR["crosstalk"](plain, severity, random)[0] != plain.points
        assert moved.any(1).sum() == int(0.004 * severity * COUNT)
        moved = SENSOR["sunlight"](plain, severity, random)[0] != plain.points
        assert moved.any(1).sum() == int(0.01 * severity * COUNT)
        deviation = (SENSOR["gaussian"](plain, severity, random)[0] - plain.points)[:, :3].std()
        assert deviation == pytest.approx(0.02 * severity, rel=0.03)
        width = np.abs((SENSOR["uniform"](plain, severity, random)[0] - plain.points)[:, :3]).max()
        assert 0.019 * severity < width <= 0.02 * severity + 1e-5
        holes = (2, 3, 5, 7, 10)[severity - 1]
        assert len(SENSOR["cutout"](plain, severity, random)[0]) == COUNT - holes * int(0.02 * COUNT)


@pytest.mark.parametrize(("forward", "azimuth"), [("x", 0), ("y", 90)])
def test_the_field_of_view_opens_to_the_front(forward, azimuth):
    degrees = np.arange(-180, 180, 5.0)
    ring = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0 * degrees, 0 * degrees], 1) * 10
    given = {"points": [torch.from_numpy(ring.astype(np.float32))], "index": torch.tensor([0])}
    found = Corrupt("lidar-fov", 5, forward=forward)(given, random_numbers(indices=(0,)))
    kept = np.degrees(np.arctan2(found["points"][0][:, 1], found["points"][0][:, 0])).round() - azimuth
    assert sorted(kept.tolist()) == list(range(-45, 50, 5)) or sorted(kept.tolist()) == list(range(-40, 45, 5))


def test_compat_draws_what_the_public_formulas_draw():
    given = points(columns=5)
    sweep = Sweep(given, compat=True)

    def public(name):
        np.random.seed(7)
        found = given.copy()
        if name == "gaussian":
            return (found + np.random.normal(size=found.shape) * 0.06).astype("float32")
        if name == "uniform":
            return (found + np.random.uniform(-0.06, 0.06, found.shape)).astype("float32")
        if name == "fov":
            angle = np.arctan(found[:, 0] / found[:, 1]) + (found[:, 1] < 0) * np.pi + np.pi * 2
            angle = angle % (np.pi * 2)
            angle[angle > np.pi] -= np.pi * 2
            return found[(angle / np.pi * 180 >= -75) & (angle / np.pi * 180 <= 75)]
        if name == "density":
            return np.delete(found, np.random.choice(COUNT, int(0.6 * int(COUNT * 0.3)), replace=False), axis=0)
        count = {"impulse": COUNT // 20, "crosstalk": int(0.012 * COUNT), "sunlight": int(0.03 * COUNT)}[name]
        index = np.random.choice(COUNT, count, replace=False)
        if name == "impulse":
            found[index] += np.random.choice([-1, 1], size=(count, 5)) * 0.1
        else:
            found[index] += np.random.normal(size=(count, 5)) * (3.0 if name == "crosstalk" else 2.0)
        return found

    for name in ("gaussian", "uniform", "impulse", "density", "crosstalk", "sunlight", "fov"):
        ours, _ = SENSOR[name](sweep, 3, np.random.RandomState(7))
        assert ours.shape == public(name).shape, name
        assert np.abs(ours - public(name)).max() < 1e-5, name


def test_poses_are_rotations_unless_public_ones_are_asked_for():
    pose = noisy_poses(200, 0.1, 0.3, np.random.default_rng(0))
    turn = pose[:, :3, :3]
    assert np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
    assert np.abs(np.linalg.det(turn) - 1).max() < 1e-12
    angle = np.arccos((np.trace(turn, axis1=1, axis2=2) - 1) / 2)
    assert np.sqrt((angle**2).mean()) == pytest.approx(0.3 * math.sqrt(3), rel=0.1)
    public = noisy_poses(200, 0.1, 0.3, np.random.default_rng(0), compat=True)[:, :3, :3]
    assert np.abs(public @ public.transpose(0, 2, 1) - np.eye(3)).max() > 0.1


def test_an_older_sweep_shows_what_stands_farther_ahead_and_what_moves_where_it_was():
    given = batch(1)
    given["points"][0][:2, :3] = torch.tensor([[15.0, 2.0, -1.0], [40.0, -30.0, 0.0]])
    found = Corrupt("lidar-temporal", 1, speed=10.0, period=0.1)(given, random_numbers(indices=(0,)))
    # Two periods: the vehicle came 2 m forward, the first box went (0.6, 0.2) m.
    assert found["points"][0][1, :3].tolist() == pytest.approx([42.0, -30.0, 0.0], abs=1e-4)
    assert found["points"][0][0, :3].tolist() == pytest.approx([15 + 2 - 0.6, 2 - 0.2, -1.0], abs=1e-4)


def test_beams_leave_whole_lines():
    elevation = np.linspace(-0.4, 0.05, 32)
    azimuth = np.linspace(-3, 3, 50)
    grid = np.stack(np.meshgrid(elevation, azimuth, indexing="ij"), -1).reshape(-1, 2)
    xyz = np.stack([np.cos(grid[:, 1]) * 10, np.sin(grid[:, 1]) * 10, np.tan(grid[:, 0]) * 10, 0 * grid[:, 0]], 1)
    sweep = Sweep(xyz.astype(np.float32), beams=32)
    for severity, lines in ((1, 16), (3, 8), (5, 4)):
        _, source = SENSOR["beams"](sweep, severity, np.random.default_rng(0))
        rows, count = np.unique(source // 50, return_counts=True)
        assert len(rows) == pytest.approx(lines, abs=1) and (count == 50).all()


def test_rain_dims_scatters_close_by_and_loses_the_dim():
    given = batch(1)
    found = Corrupt("lidar-rain", 5)(given, random_numbers(indices=(0,)))
    ids, clean = found["point_id"][0], given["points"][0]
    before, after = clean[ids, :3].norm(dim=1), found["points"][0][:, :3].norm(dim=1)
    scattered = after < before - 1
    assert 0 < scattered.sum() < 0.1 * COUNT
    assert after[scattered].max() < math.sqrt(0.01985 / (0.9 / 120**2))  # no drop beyond is ever seen
    direction = (clean[ids, :3] / before[:, None] * (found["points"][0][:, :3] / after[:, None])).sum(1)
    assert direction.min() > 1 - 1e-5  # along the beam
    rate = math.pi * 8000e-6 / (4.1 * 7.29**-0.21) ** 3
    kept = ~scattered
    ratio = found["points"][0][kept, 3] / clean[ids[kept], 3]
    assert torch.allclose(ratio, torch.exp(-2 * rate * before[kept]), rtol=1e-4)
    assert len(ids) < COUNT


def test_fog_has_the_extinction_asked_for_and_answers_where_the_ground_is_gone():
    given = batch(1)
    found = Corrupt("lidar-fog", 5)(given, random_numbers(indices=(0,)))
    before, after = given["points"][0][:, :3].norm(dim=1), found["points"][0][:, :3].norm(dim=1)
    answered = after < before - 1e-3
    assert 0 < answered.sum() < COUNT
    assert before[answered].min() > before[~answered].max() - 0.2  # a question of the range alone
    clear = ~answered
    ratio = found["points"][0][clear, 3] / given["points"][0][clear, 3]
    assert torch.allclose(ratio, torch.exp(-0.12 * before[clear]), rtol=1e-4)
    thin = Corrupt("lidar-fog", 1)(given, random_numbers(indices=(0,)))
    assert torch.equal(thin["points"][0][:, :3], given["points"][0][:, :3])


def test_fog_answers_at_a_few_metres_and_never_behind_the_surface():
    reach, strength = _fog_answer(0.06)
    assert (reach <= np.arange(2001) * 0.1 + 1e-9).all()
    assert 2 < reach[-1] < 6 and (np.diff(strength) >= 0).all()


def test_object_corruptions_touch_the_points_in_boxes_alone():
    given = batch(1)
    x, y = given["points"][0][:, 0], given["points"][0][:, 1]
    inside = torch.zeros(COUNT, dtype=torch.bool)
    for cx, cy, _, length, width, tall, yaw in given["boxes"][0].tolist():
        u, v = (x - cx) * math.cos(yaw) + (y - cy) * math.sin(yaw), (y - cy) * math.cos(yaw) - (x - cx) * math.sin(yaw)
        high = (given["points"][0][:, 2] + 1).abs() <= tall / 2
        inside |= (u.abs() <= length / 2) & (v.abs() <= width / 2) & high
    assert 40 < inside.sum() < COUNT / 4
    for name in [n for n in LIDAR if n.startswith("object-")]:
        found = Corrupt(f"lidar-{name}", 3)(given, random_numbers(indices=(0,)))
        ids = found["point_id"][0]
        assert set(torch.arange(COUNT)[~inside].tolist()) <= set(ids.tolist()), name
        outside = ~inside[ids]
        assert torch.equal(found["points"][0][outside], given["points"][0][ids[outside]]), name
        if name == "object-density":
            assert inside.sum() - inside[ids].sum() == pytest.approx(0.3 * inside.sum().item(), abs=2)
        if name == "object-cutout":
            assert inside.sum() - inside[ids].sum() == pytest.approx(0.5 * inside.sum().item(), abs=2)


def test_objects_turn_about_their_own_axis():
    given = batch(1)
    found = Corrupt("lidar-object-rotation", 5)(given, random_numbers(indices=(0,)))
    clean, turned = given["points"][0].double(), found["points"][0].double()
    changed = (clean != turned).any(1)
    for box in given["boxes"][0].double():
        near = changed & ((clean[:, :2] - box[:2]).norm(dim=1) < 7)
        a, b = clean[near, :2] - box[:2], turned[near, :2] - box[:2]
        assert torch.allclose(a.norm(dim=1), b.norm(dim=1), atol=1e-5)
        angle = torch.atan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)).rad2deg()
        assert angle.std() < 0.01 and 8 <= angle.abs().mean() <= 10


@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n.startswith("camera-") and n != "camera-dropout"])
def test_images_change_more_with_severity(name):
    given = batch()
    smooth = torch.linspace(0, 255, 64).to(torch.uint8).expand(2, 2, 3, 48, 64).clone()
    smooth[..., 20:24, 20:24] = 255
    given["cams"] = smooth
    away = []
    for severity in (1, 3, 5):
        found = Corrupt(name, severity)(given, random_numbers())["cams"]
        assert found.dtype == torch.uint8 and found.shape == smooth.shape
        away.append((found.float() - smooth.float()).abs().mean().item())
    assert away[0] < away[1] < away[2], away


def test_dropout_blackens_as_many_cameras_as_the_severity_says():
    given = batch(cameras=6)
    for severity in range(6):
        found = Corrupt("camera-dropout", severity)(given, random_numbers())["cams"]
        black = (found == 0).flatten(2).all(2)
        assert black.sum(1).tolist() == [severity, severity]
        assert torch.equal(found[~black], given["cams"][~black])
    assert (Corrupt("camera-dropout", 5)(batch(cameras=1), random_numbers())["cams"] == 0).all()


@pytest.mark.parametrize("name", ["extrinsic-spatial", "extrinsic-calibration"])
def test_extrinsic_errors_are_rigid_and_of_the_size_of_the_card(name):
    given = batch(400, cameras=1)
    given["points"] = given["point_id"] = given["region"] = []
    found = Corrupt(name, 5)(given, random_numbers(indices=range(400)))["lidar2cam"][:, 0].double()
    turn = found[:, :3, :3]
    assert (turn @ turn.transpose(1, 2) - torch.eye(3)).abs().max() < 1e-6
    translation, rotation = (0.1, 0.01) if name.endswith("spatial") else (0.2, math.radians(2))
    assert found[:, :3, 3].std().item() == pytest.approx(translation, rel=0.1)
    angle = torch.arccos(((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    assert angle.square().mean().sqrt().item() == pytest.approx(rotation * math.sqrt(3), rel=0.1)


def test_two_in_a_row_are_independent():
    given = batch(1)
    random = random_numbers(indices=(0,))
    first = Corrupt("lidar-gaussian", 1)(given, random)
    second = Corrupt("lidar-gaussian", 1)(first, random)
    a = (first["points"][0] - given["points"][0])[:, :3].flatten()
    b = (second["points"][0] - first["points"][0])[:, :3].flatten()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match="lidar-rain needs 'points'"):
        Corrupt("lidar-rain", 1)({"index": torch.tensor([0])}, random_numbers(indices=(0,)))
    with pytest.raises(DataError, match="needs 'boxes'"):
        Corrupt("lidar-object-scale", 1)({"points": [torch.zeros(1, 4)]}, random_numbers(indices=(0,)))


def test_check_config_names_the_nearest_corruption():
    defaults = {"forward": "x", "intensity_scale": 1.0, "beams": 64, "speed": 10.0, "period": 0.1, "compat": False}
    assert not list(Corrupt.check_config({"name": "lidar-fog", "severity": 5, **defaults}))
    faults = dict(Corrupt.check_config({"name": "lidar-fogg", "severity": 6, **defaults, "forward": "z"}))
    assert set(faults) == {"name", "severity", "forward"} and "nearest is 'lidar-fog'" in faults["name"]
    assert TRANSFORMS.build({"type": "Corrupt", "name": "lidar-fog", "severity": 2}).severity == 2


def test_the_public_scene_level_table_is_complete():
    wanted = "gaussian uniform impulse density cutout crosstalk sunlight fov rain snow fog motion temporal"
    assert set(SCENE_LEVEL) == {f"lidar-{name}" for name in wanted.split()}
