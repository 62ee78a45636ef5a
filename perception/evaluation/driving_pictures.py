"""Pictures of driving scenes: a map from above, cameras with what the LiDAR and the boxes say, regions, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.checkpoint import write_bytes
from perception.errors import DataError
from perception.geometry.boxes import EDGES, bev_corners, box_corners
from perception.geometry.projection import MIN_DEPTH, cut_lines, project
from perception.geometry.transforms import homogeneous, invert, transform_points

TRUTH, PREDICTED = (60, 220, 90), (255, 120, 40)  # RGB
_BACKGROUND, _GRID, _AXES = (18, 20, 24), (44, 48, 54), (120, 120, 130)
_UNKNOWN_REGION = (70, 74, 80)
_GOLDEN = 0.61803398875
_LEAST_WIDTH = 480  # pixels of a camera's picture; lines over smaller ones would hide what they point at


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours (P, 3) uint8 from blue (``low``) over green to red (``high``)."""
    t = np.clip((np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-9), 0, 1)
    channels = [np.clip(1.5 - np.abs(4 * t - centre), 0, 1) for centre in (3, 2, 1)]
    return (255 * np.stack(channels, axis=1)).round().astype(np.uint8)


def region_colours(region: np.ndarray) -> np.ndarray:
    """Colours (P, 3) uint8 of regions (P,); neighbouring numbers look different, -1 is grey."""
    region = np.asarray(region)
    hue = (region * _GOLDEN) % 1.0
    channels = [np.clip(np.abs((hue + shift) % 1.0 * 6 - 3) - 1, 0, 1) for shift in (0, 2 / 3, 1 / 3)]
    colours = (55 + 200 * np.stack(channels, axis=1)).round().astype(np.uint8)
    colours[region < 0] = _UNKNOWN_REGION
    return colours


def map_picture(
    points: np.ndarray,
    boxes: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    region: np.ndarray | None = None,
    extent: Sequence[float] = (-50.0, -50.0, 50.0, 50.0),
    forward: str = "x",
    size: int = 800,
) -> np.ndarray:
    """The scene from above.

    Args:
        points: (P, >= 3); coloured by height, or by ``region``.
        boxes: (M, 7) true boxes, green; a line leads from the centre to the front. Those that are not finite are left
            out here and in every other picture.
        predicted: (K, 7) predicted boxes, orange.
        region: (P,) region of every point.
        extent: x_min, y_min, x_max, y_max in metres.
        forward: axis that points up in the picture: ``x`` (KITTI; y to the left) or ``y`` (nuScenes; x to the right).
        size: length of the longer side in pixels.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    import cv2

    x_min, y_min, x_max, y_max = extent
    scale = size / max(x_max - x_min, y_max - y_min)
    down, across = (x_max - x_min, y_max - y_min) if forward == "x" else (y_max - y_min, x_max - x_min)
    picture = np.full((max(round(down * scale), 1), max(round(across * scale), 1), 3), _BACKGROUND, dtype=np.uint8)

    def pixel(xy: np.ndarray) -> np.ndarray:
        if forward == "x":
            return np.stack([y_max - xy[..., 1], x_max - xy[..., 0]], axis=-1) * scale
        return np.stack([xy[..., 0] - x_min, y_max - xy[..., 1]], axis=-1) * scale

    for radius in range(10, int(max(map(abs, extent))) + 10, 10):
        centre = pixel(np.zeros(2)).round().astype(int)
        cv2.circle(picture, (int(centre[0]), int(centre[1])), round(radius * scale), _GRID, 1, cv2.LINE_AA)
    points = np.asarray(points)
    colours = ramp(points[:, 2], -2.5, 2.0) if region is None else region_colours(region)
    cell = np.floor(pixel(points[:, :2].astype(np.float64))).astype(int)
    inside = (cell >= 0).all(1) & (cell[:, 0] < picture.shape[1]) & (cell[:, 1] < picture.shape[0])
    order = np.flatnonzero(inside)[np.argsort(points[inside, 2], kind="stable")]  # what is higher covers what is lower
    dot = 3 if scale > 20 else 2 if scale > 12 else 1  # pixels: where a metre is long, single ones are hard to see
    spread = cell[order, None] + np.array(list(np.ndindex(dot, dot))) - dot // 3
    spread = spread.clip(0, (picture.shape[1] - 1, picture.shape[0] - 1))
    picture[spread[..., 1], spread[..., 0]] = colours[order, None]
    for found, colour in ((boxes, TRUTH), (predicted, PREDICTED)):
        if found is not None and len(found):
            _draw_map_boxes(picture, np.asarray(found, dtype=np.float64), pixel, colour)
    for axis, colour in (((2.0, 0.0), (255, 70, 70)), ((0.0, 2.0), (70, 255, 70))):  # x red, y green
        ends = pixel(np.array([[0.0, 0.0], axis])).round().astype(int)
        cv2.line(picture, tuple(ends[0].tolist()), tuple(ends[1].tolist()), colour, 2, cv2.LINE_AA)
    return picture


def _draw_map_boxes(picture: np.ndarray, boxes: np.ndarray, pixel: Any, colour: tuple[int, int, int]) -> None:
    import cv2

    boxes = boxes[finite_boxes(boxes)]
    corners = pixel(bev_corners(boxes))
    front = boxes[:, :2] + boxes[:, 3:4] / 2 * np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    lines = np.stack([pixel(boxes[:, :2]), pixel(front)], axis=1)
    cv2.polylines(picture, _fixed(_drawable(corners, picture)), True, colour, 1, cv2.LINE_AA, shift=4)
    cv2.polylines(picture, _fixed(_drawable(lines, picture)), False, colour, 1, cv2.LINE_AA, shift=4)


def finite_boxes(boxes: np.ndarray) -> np.ndarray:
    """(M,) bool: the boxes (M, 7) that can be drawn."""
    return np.asarray(np.isfinite(np.asarray(boxes, dtype=np.float64)).all(axis=1))


def _drawable(lines: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Those of the lines (L, n, 2) that do not go far beyond the picture: OpenCV's fixed-point numbers end."""
    return lines[(np.abs(lines) < 20 * max(picture.shape)).all(axis=(1, 2))]


def _fixed(pixels: np.ndarray) -> list[np.ndarray]:
    """Lines (L, n, 2) for OpenCV: in sixteenths of a pixel, counted from the centre of the first one."""
    return list((16 * (pixels - 0.5)).round().astype(np.int32))


def camera_picture(
    image: np.ndarray,
    lidar2cam: np.ndarray,
    cam2img: np.ndarray,
    points: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    region: np.ndarray | None = None,
    img_aug: np.ndarray | None = None,
    lidar_aug: np.ndarray | None = None,
) -> np.ndarray:
    """A camera's picture with points and boxes drawn over it.

    Args:
        image: uint8 (H, W, 3) RGB, augmented or not.
        lidar2cam: (4, 4).
        cam2img: (4, 4), (3, 4) or (3, 3).
        points: (P, >= 3) in the (augmented) LiDAR frame; red is near, blue 60 m away; or coloured by ``region``.
        boxes: (M, 7) true boxes, green; the face in front is crossed.
        predicted: (K, 7) predicted boxes, orange.
        region: (P,) region of every point.
        img_aug: (4, 4) or None.
        lidar_aug: (4, 4) or None.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    import cv2

    picture = np.ascontiguousarray(image).copy()
    width = max(1, round(picture.shape[1] / 900))
    if points is not None:
        points = np.asarray(points)
        uv, depth, mask = project(points, lidar2cam, cam2img, img_aug, lidar_aug, picture.shape[:2])
        colours = ramp(-depth, -60.0, -3.0) if region is None else region_colours(region)
        order = np.flatnonzero(mask)[np.argsort(-depth[mask], kind="stable")]  # the near covers the far
        cell = np.floor(uv[order]).astype(int)
        for dy in range(width + 1):
            for dx in range(width + 1):
                row, column = cell[:, 1] + dy - width // 2, cell[:, 0] + dx - width // 2
                keep = (row >= 0) & (row < picture.shape[0]) & (column >= 0) & (column < picture.shape[1])
                picture[row[keep], column[keep]] = colours[order][keep]
    for found, colour in ((boxes, TRUTH), (predicted, PREDICTED)):
        if found is None or not len(found):
            continue
        shown = np.asarray(found, dtype=np.float64)[finite_boxes(found)]
        lines = box_lines(shown, lidar2cam, cam2img, img_aug, lidar_aug)
        cv2.polylines(picture, _fixed(_drawable(lines, picture)), False, colour, width, cv2.LINE_AA, shift=4)
    return picture


def box_lines(
    boxes: np.ndarray,
    lidar2cam: np.ndarray,
    cam2img: np.ndarray,
    img_aug: np.ndarray | None = None,
    lidar_aug: np.ndarray | None = None,
) -> np.ndarray:
    """(L, 2, 2) pixels of both ends of all lines of boxes (M, 7), cut off where they come too near to the camera."""
    chain = np.asarray(lidar2cam, dtype=np.float64)
    if lidar_aug is not None:
        chain = chain @ invert(np.asarray(lidar_aug, dtype=np.float64))
    corners = transform_points(box_corners(boxes), chain)
    # The cross on the front face: corners 1 and 2 lie ahead, 5 and 6 above them.
    ends = corners[:, np.array((*EDGES, (1, 6), (2, 5)))].reshape(-1, 2, 3)
    offset = homogeneous(np.asarray(cam2img, dtype=np.float64))[2, 3]  # KITTI's depth is z plus this
    cut, seen = cut_lines(ends, MIN_DEPTH + 1e-6 - offset)
    uv, _, _ = project(cut[seen].reshape(-1, 3), np.eye(4), cam2img, img_aug)
    return uv.reshape(-1, 2, 2)


def scene_pictures(
    batch: Mapping[str, Any],
    sample: int = 0,
    predicted: np.ndarray | None = None,
    forward: str = "x",
    extent: Sequence[float] = (-50.0, -50.0, 50.0, 50.0),
    camera_points: bool = True,
) -> dict[str, np.ndarray]:
    """All pictures of one sample of a batch: ``map``, ``regions`` if the batch has them, and one per camera by name.

    Args:
        batch: a batch of a driving data set.
        sample: which sample of the batch.
        predicted: (K, 7) predicted boxes.
        forward: axis that points up, see ``map_picture``.
        extent: of the map, see ``map_picture``.
        camera_points: draw the points over the cameras, too. Small pictures of cameras are enlarged by a whole number.

    Raises:
        DataError: there are cameras without calibration.
    """
    fields = {key: _array(batch, key, sample) for key in ("points", "boxes", "region", "cams", "lidar_aug")}
    points = fields["points"] if fields["points"] is not None else np.zeros((0, 3), np.float32)
    pictures = {"map": map_picture(points, fields["boxes"], predicted, None, extent, forward)}
    if fields["region"] is not None:
        pictures["regions"] = map_picture(points, fields["boxes"], predicted, fields["region"], extent, forward)
    if fields["cams"] is None:
        return pictures
    names = batch.get("meta", {}).get("cameras", [f"camera {n}" for n in range(len(fields["cams"]))])
    missing = [key for key in ("lidar2cam", "cam2img") if batch.get(key) is None]
    if missing:
        raise DataError(f"pictures of cameras need {' and '.join(map(repr, missing))}; the batch holds {sorted(batch)}")
    matrices = [_array(batch, key, sample) for key in ("lidar2cam", "cam2img", "img_aug")]
    for number, name in enumerate(names):
        lidar2cam, cam2img, img_aug = (None if m is None else m[number].astype(np.float64) for m in matrices)
        assert lidar2cam is not None and cam2img is not None
        picture = fields["cams"][number].transpose(1, 2, 0)
        zoom = max(-(-_LEAST_WIDTH // picture.shape[1]), 1)
        if zoom > 1:
            picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
            img_aug = np.diag([zoom, zoom, 1.0, 1.0]) @ (np.eye(4) if img_aug is None else img_aug)
        pictures[name] = camera_picture(
            picture,
            lidar2cam,
            cam2img,
            points if camera_points else None,
            fields["boxes"],
            predicted,
            None,
            img_aug,
            fields["lidar_aug"],
        )
    return pictures


def _array(batch: Mapping[str, Any], key: str, sample: int) -> np.ndarray | None:
    return None if batch.get(key) is None else np.asarray(batch[key][sample])


def write_picture(picture: np.ndarray, file: Path) -> Path:
    """Write uint8 (H, W, 3) RGB as PNG, whole or not at all."""
    import cv2

    write_bytes(file, cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes())
    return file
