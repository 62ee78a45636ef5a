import base64
import json
import os
import re

import cv2
import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.evaluation.driving_page import write_page
from perception.evaluation.driving_pictures import (
    PREDICTED,
    TRUTH,
    box_lines,
    camera_picture,
    map_picture,
    ramp,
    region_colours,
    scene_pictures,
    write_picture,
)

AHEAD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
K = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])
BOX = np.array([[10.0, 0, 0, 4, 2, 1.5, 0]])


def coloured(picture, colour):
    return (picture.astype(int) == colour).all(-1)


def test_colours():
    assert ramp(np.array([-9.0, 0, 5, 10, 99]), 0, 10).tolist() == [
        [0, 0, 128],
        [0, 0, 128],
        [128, 255, 128],
        [128, 0, 0],
        [128, 0, 0],
    ]
    colours = region_colours(np.array([-1, 0, 1, 2, 3]))
    assert colours[0].tolist() == [70, 74, 80] and len({tuple(c) for c in colours.tolist()}) == 5
    apart = np.abs(colours[1:, None].astype(int) - colours[None, 1:]).sum(-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 60 and len(region_colours(np.zeros(0, int))) == 0


def test_the_map_has_forward_up_and_left_on_the_left():
    point = np.array([[30.0, 10, 9, 0]])
    red = map_picture(point, extent=(-50, -50, 50, 50), size=100)
    assert coloured(red, (128, 0, 0)).nonzero() == (np.array([20]), np.array([40]))  # x = 30: row 20; y = 10: column 40
    turned = map_picture(point, extent=(-50, -50, 50, 50), size=100, forward="y")
    assert coloured(turned, (128, 0, 0)).nonzero() == (np.array([40]), np.array([80]))
    assert map_picture(point, extent=(0, -40, 70, 40), size=160).shape == (140, 160, 3)
    assert map_picture(point, extent=(0, -40, 70, 40), size=160, forward="y").shape == (160, 140, 3)


def test_points_are_larger_where_metres_are_and_the_high_cover_the_low():
    points = np.array([[1.0, -1, 9], [1, -1.04, -9], [2, 2, 9]])  # the first two in neighbouring columns; a corner
    picture = map_picture(points, extent=(-2, -2, 2, 2), size=100)
    red, blue = coloured(picture, (128, 0, 0)), coloured(picture, (0, 0, 128))
    assert red.sum() == 9 + 4 and red[24:27, 74:77].all() and red[:2, :2].all()
    assert blue.sum() == 3 and blue[24:27, 77].all()
    assert coloured(map_picture(points[:1], extent=(-3, -3, 3, 3), size=100), (128, 0, 0)).sum() == 4


def test_points_on_the_edge_of_the_map():
    edge = np.array([[50.0, 50, 9], [-50, -50, 9], [-49.9, -49.9, 9], [60, 0, 9]])
    picture = map_picture(edge, extent=(-50, -50, 50, 50), size=100)
    # x = 50, y = 50 is the upper left corner; x = y = -50 lies just outside.
    assert coloured(picture, (128, 0, 0)).nonzero()[0].tolist() == [0, 99]


def test_the_map_shows_boxes_in_two_colours():
    none = np.zeros((0, 4))
    empty = map_picture(none, extent=(0, -20, 40, 20), size=400)
    aside = BOX + np.array([0, 8, 0, 0, 0, 0, 0])
    for middle, colour, given in ((200, TRUTH, (BOX, None)), (120, PREDICTED, (None, aside))):
        picture = map_picture(none, *given, extent=(0, -20, 40, 20), size=400)
        rows, columns = (picture != empty).any(-1).nonzero()
        # Length 4 m from x = 8 to 12, width 2 m, 10 px a metre, lines of one or two pixels.
        assert np.abs(np.array([rows.min(), rows.max()]) - (279.5, 319.5)).max() <= 1.5
        assert np.abs(np.array([columns.min(), columns.max()]) - (middle - 10.5, middle + 9.5)).max() <= 1.5
        strongest = picture[rows, columns].max(0)
        assert (np.argsort(strongest) == np.argsort(colour)).all()
    assert np.array_equal(
        map_picture(none, np.zeros((0, 7)), np.zeros((0, 7)), extent=(0, -20, 40, 20), size=400), empty
    )


def test_points_lie_on_their_pixels_and_the_near_cover_the_far():
    points = np.array([[10.0, 2, 1], [3, 0.6, 0.3], [-10, 2, 1], [np.nan, 0, 0]])  # the first two share pixel (60, 35)
    picture = camera_picture(np.zeros((90, 160, 3), np.uint8), AHEAD, K, points)
    rows, columns = picture.any(-1).nonzero()
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(35, 60), (36, 60), (35, 61), (36, 61)}
    assert picture[35, 60].tolist() == ramp(np.array([-3.0]), -60, -3)[0].tolist()


def test_the_lines_of_a_box_end_at_its_corners():
    lines = box_lines(BOX, AHEAD, K)
    assert lines.shape == (14, 2, 2)  # twelve edges and the cross of the front
    near, far = 100 / 8, 100 / 12
    ends = {(round(80 + s * d, 6), round(45 + t * 0.75 * d, 6)) for d in (near, far) for s in (-1, 1) for t in (-1, 1)}
    assert {tuple(np.round(p, 6)) for p in lines.reshape(-1, 2)} == ends
    cross = lines[12:].reshape(-1, 2)
    assert np.allclose(np.abs(cross - [80, 45]), [far, 0.75 * far])


def test_boxes_around_and_behind_the_camera_are_cut():
    around = np.array([[0.0, 0.5, 0, 8, 2, 1.5, 0.2]])
    lines = box_lines(around, AHEAD, K)
    assert 0 < len(lines) < 14 and np.isfinite(lines).all()
    assert len(box_lines(BOX * [-1, 1, 1, 1, 1, 1, 1], AHEAD, K)) == 0
    picture = camera_picture(np.zeros((90, 160, 3), np.uint8), AHEAD, K, None, around)
    assert picture.shape == (90, 160, 3)
    # An edge that starts behind the camera runs along the same line in the picture as its visible part.
    wall = np.array([[5.0, 3, 0, 20, 0.2, 2, 0]])
    front = box_lines(wall * [1, 1, 1, 0, 1, 1, 1] + [4.0, 0, 0, 12, 0, 0, 0], AHEAD, K)
    whole = box_lines(wall, AHEAD, K)

    def slopes(found):
        d = found[:4, 1] - found[:4, 0]
        return np.round(np.unique(np.round(np.abs(d[:, 1] / np.where(d[:, 0] == 0, np.inf, d[:, 0])), 6)), 4)

    assert set(slopes(front)) & set(slopes(whole))


def batch():
    g = np.random.default_rng(0)
    points = np.concatenate([g.uniform(-20, 20, (500, 3)) * [1, 1, 0.1], g.random((500, 1))], 1).astype(np.float32)
    return {
        "points": [torch.from_numpy(points)],
        "boxes": [torch.from_numpy(BOX).float()],
        "box_label": [torch.tensor([1])],
        "region": [torch.arange(500) % 7 - 1],
        "cams": torch.zeros(1, 2, 3, 90, 160, dtype=torch.uint8),
        "lidar2cam": torch.from_numpy(AHEAD).float().expand(1, 2, 4, 4),
        "cam2img": torch.eye(4).expand(1, 2, 4, 4) * torch.tensor([100.0, 100, 1, 1])[:, None],
        "img_aug": torch.eye(4).expand(1, 2, 4, 4),
        "lidar_aug": torch.eye(4)[None],
        "meta": {"classes": ("car", "</script><b>"), "cameras": ["left & front", "right"]},
    }


def test_all_pictures_of_a_scene(tmp_path):
    pictures = scene_pictures(batch())
    assert list(pictures) == ["map", "regions", "left & front", "right"]
    assert all(p.dtype == np.uint8 and p.ndim == 3 and p.any() for p in pictures.values())
    file = write_picture(pictures["map"], tmp_path / "deep/map.png")
    assert np.array_equal(cv2.imread(str(file))[..., ::-1], pictures["map"])
    lidar = {k: v for k, v in batch().items() if k in ("points", "boxes")}
    assert list(scene_pictures(lidar)) == ["map"]
    cameras = {k: v for k, v in batch().items() if k not in ("points", "region", "boxes", "box_label", "lidar_aug")}
    assert list(scene_pictures(cameras)) == ["map", "left & front", "right"]
    with pytest.raises(DataError, match="pictures of cameras need 'lidar2cam'; the batch holds"):
        scene_pictures({**batch(), "lidar2cam": None})


def data_of(page):
    return json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE).group(1))


def test_the_page_stands_alone(tmp_path):
    predicted = {"boxes": BOX * np.array([1, 1, 1, 1, 1, 1, 0.5]), "box_label": np.array([0]), "score": np.array([0.9])}
    page = write_page(batch(), tmp_path / "scene.html", predicted=predicted, title="A <scene>").read_text()
    assert "A &lt;scene&gt;" in page and "left &amp; front" in page and "500 points" in page
    assert page.count("</script>") == 1 and "@" not in re.sub(r"base64,[^\"]*", "", page.split("<script>")[0])
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    data = data_of(page)
    xyz = np.frombuffer(base64.b64decode(data["xyz"]), "<i2").reshape(-1, 3) * data["step"]
    assert np.abs(xyz - batch()["points"][0][:, :3].numpy()).max() <= 0.0051
    inside = (np.abs(batch()["points"][0][:, :3].numpy() - BOX[0, :3]) <= BOX[0, 3:6] / 2).all(1).sum()
    assert data["truth"][0]["t"] == f"</script><b>, 4.0 x 2.0 x 1.5 m, {inside} points"
    assert data["predicted"][0]["t"].startswith("car, 4.0 x") and data["predicted"][0]["t"].endswith("score 0.90")
    assert data["truth"][0]["f"] == [12.0, 0.0]


def test_a_page_of_many_points_says_that_it_shows_some(tmp_path):
    page = write_page(batch(), tmp_path / "scene.html", most_points=150).read_text()
    assert "500 points, every 4th of them shown" in page
    assert len(base64.b64decode(data_of(page)["xyz"])) == 125 * 6


def test_boxes_that_are_not_finite_are_left_out_and_counted(tmp_path):
    """The second of three true boxes and the first of two predicted ones: names and scores stay with their boxes."""
    true = np.concatenate([BOX, BOX * np.nan, BOX + np.array([0, 5, 0, 0, 0, 0, 0])])
    given = {**batch(), "boxes": [torch.from_numpy(true).float()], "box_label": [torch.tensor([1, 1, 0])]}
    endless = BOX.copy()
    endless[0, 6] = np.inf
    boxes = np.concatenate([endless, BOX])
    predicted = {"boxes": boxes, "box_label": np.array([1, 0]), "score": np.array([0.2, 0.9])}
    page = write_page(given, tmp_path / "scene.html", predicted=predicted).read_text()
    assert "500 points; 1 of 3 true boxes left out: not finite; 1 of 2 predicted boxes left out: not finite<" in page
    data = data_of(page)
    assert [box["m"] for box in data["truth"]] == [[10.0, 0.0], [10.0, 5.0]]
    assert [box["t"].split(",")[0] for box in data["truth"]] == ["</script><b>", "car"]
    assert len(data["predicted"]) == 1 and data["predicted"][0]["t"].endswith("score 0.90")
    assert "left out" not in write_page(batch(), tmp_path / "whole.html").read_text()
    for name, picture in scene_pictures(given, predicted=boxes).items():
        kept = {**given, "boxes": [torch.from_numpy(true[[0, 2]]).float()]}
        assert np.array_equal(picture, scene_pictures(kept, predicted=BOX)[name])
    far = BOX * [1e12, 1, 1, 1, 1, 1, 1]  # OpenCV counts in 32 bits
    none = np.zeros((0, 4))
    assert np.array_equal(map_picture(none, far), map_picture(none))


def test_small_pictures_of_cameras_are_enlarged_with_what_is_drawn_over_them():
    """Box edges lie at three times the pixels that they have in the picture of 160 pixels; points can be left out."""
    given = {**batch(), "points": [torch.zeros(0, 4)]}
    large = scene_pictures(given)["right"]
    assert large.shape == (270, 480, 3)
    lines = box_lines(BOX, AHEAD, batch()["cam2img"][0, 0].numpy())
    rows, columns = large.any(-1).nonzero()
    low, high = 3 * lines.reshape(-1, 2).min(0).clip(0), 3 * lines.reshape(-1, 2).max(0)
    assert np.abs([columns.min() - low[0], rows.min() - low[1]]).max() <= 2
    assert np.abs([columns.max() - high[0], rows.max() - high[1]]).max() <= 2
    assert np.array_equal(scene_pictures(batch(), camera_points=False)["right"], large)
    assert not np.array_equal(scene_pictures(batch())["right"], large)


def test_a_page_of_an_empty_scene(tmp_path):
    empty = {"points": [torch.zeros(0, 4)], "boxes": [torch.zeros(0, 7)]}
    page = write_page(empty, tmp_path / "scene.html").read_text()
    assert "0 points" in page and data_of(page)["truth"] == [] and data_of(page)["region"] is None


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/bev")
def test_points_of_a_real_car_are_drawn_inside_its_label():
    """The pixels that change when only a car's own points are drawn lie in the car's 2D label."""
    from perception.datasets.kitti import KITTI
    from perception.geometry.boxes import points_in_boxes

    data = KITTI(["000008"])
    found = data.__getitems__([0])
    points, boxes = found["points"][0].numpy(), found["boxes"][0].numpy()
    image = found["cams"][0, 0].permute(1, 2, 0).numpy()
    matrices = found["lidar2cam"][0, 0].double().numpy(), found["cam2img"][0, 0].double().numpy()
    for number in range(len(boxes)):
        own = points[points_in_boxes(points, boxes[number : number + 1])[:, 0]]
        rows, columns = (camera_picture(image, *matrices, own) != image).any(-1).nonzero()
        left, top, right, bottom = found["box2d"][0][number].tolist()
        assert len(rows) > 20
        assert columns.min() >= left - 4 and columns.max() <= right + 4
        assert rows.min() >= top - 4 and rows.max() <= bottom + 4
