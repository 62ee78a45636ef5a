"""Does the calibration fit the labels? And if not, which matrix is it?

The points inside a labelled box must land in the box's 2D label, or at least in a picture. Where they do not, the usual
mistakes are undone one by one, and the one whose undoing makes the labels fit is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from perception.errors import DataError
from perception.geometry.augmentation import lidar_matrix
from perception.geometry.boxes import count_points, legacy_to_boxes, points_in_boxes
from perception.geometry.projection import project
from perception.geometry.transforms import homogeneous, invert

SLACK = 3.0  # pixels around a 2D box
GOOD = 0.9  # mean share from which a rig counts as right
GAIN = 0.15  # by which undoing a mistake must raise the share to be named
TIE = 0.02  # mistakes that come so close cannot be told apart
_NEEDED = ("points", "boxes", "lidar2cam", "cam2img", "cams")
_SINGULAR = 1e-12  # determinant of a matrix that cannot be undone
_UPRIGHT = 0.7  # cosine between a camera's up and the LiDAR's
# x forward, y left, z up -> x right, y down, z forward
_TO_OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

Rig = dict[str, Any]


@dataclass(frozen=True)
class RigReport:
    """What ``check_rig`` found.

    Attributes:
        share: (M,) share of every box's points that land where they should; NaN for boxes without points.
        score: mean of ``share``; without 2D labels, times the share of cameras that stand upright. NaN: nothing to
            judge by.
        counts: share of boxes whose number of points is the stored one; NaN without stored numbers.
        culprits: the mistakes whose undoing explains a low score, best first; several where they cannot be told apart.
            Empty if the rig is right or nothing explains it.
        tried: score of every mistake that was undone.
    """

    share: np.ndarray
    score: float
    counts: float
    culprits: tuple[str, ...]
    tried: dict[str, float]

    @property
    def good(self) -> bool:
        """Whether the labels fit the calibration."""
        return not self.culprits and not self.score < GOOD

    def __str__(self) -> str:
        judged = int(np.isfinite(self.share).sum())
        text = f"{self.score:.3f} of the points of {judged} boxes land where they should"
        if np.isfinite(self.counts):
            text += f"; {self.counts:.2f} of the boxes hold the stored number of points"
        if self.good:
            return text
        if not self.culprits:
            return f"{text}; none of the usual mistakes explains it"
        return f"{text}; likely wrong: {' or '.join(self.culprits)} ({self.tried[self.culprits[0]]:.3f} once undone)"


def check_rig(batch: Mapping[str, Any], sample: int = 0, box2d_in: str = "original") -> RigReport:
    """Hold the calibration of one sample against its labels.

    Args:
        batch: a batch of a driving data set: ``points``, ``boxes``, ``lidar2cam``, ``cam2img``, ``cams`` and, if they
            are there, ``img_aug``, ``lidar_aug``, ``box2d`` (of the first camera, or of the camera of ``box_camera``)
            and ``num_lidar_pts`` (or in ``meta``). Without ``box2d`` points must land in some picture and cameras must
            stand upright; a turn of the whole rig about the vertical cannot be seen then.
        sample: which sample of the batch.
        box2d_in: pixels of ``box2d``: ``original``, as data sets give them, where ``img_aug`` is not judged, or
            ``augmented``: pixels of ``cams``.

    Raises:
        DataError: something that is judged is missing, there is no such sample, or a matrix holds numbers that are not
            finite or, of an augmentation, has no inverse.
    """
    if box2d_in not in ("original", "augmented"):
        raise ValueError(f"box2d_in={box2d_in!r} is neither 'original' nor 'augmented'")
    rig = _rig_of(batch, sample, box2d_in)
    share, score = _score(rig)
    tried = {name: _score(change(rig))[1] for name, change in _mistakes(rig)}
    counts, tried_counts = _count_score(rig), {}
    if np.isfinite(counts):
        tried_counts = {name: _count_score({**rig, "boxes": change(rig["boxes"])}) for name, change in _BOX_MISTAKES}
    culprits = _best(tried, score) if score < GOOD else ()
    if not culprits and tried_counts:
        culprits = _best(tried_counts, counts)
    return RigReport(share, score, counts, culprits, tried | tried_counts)


def _best(tried: Mapping[str, float], given: float) -> tuple[str, ...]:
    best = max(tried.values())
    if best <= given + GAIN:
        return ()
    return tuple(sorted((name for name in tried if tried[name] > best - TIE), key=lambda name: -tried[name]))


def _rig_of(batch: Mapping[str, Any], sample: int, box2d_in: str) -> Rig:
    told = {**batch.get("meta", {}), **batch}
    missing = [key for key in _NEEDED if told.get(key) is None]
    if missing:
        raise DataError(f"check_rig needs {' and '.join(map(repr, missing))} in the batch, which holds {sorted(batch)}")
    if not 0 <= sample < len(batch["cams"]):
        raise DataError(f"check_rig: there is no sample {sample} in a batch of {len(batch['cams'])}")

    def one(key: str) -> np.ndarray | None:
        return None if told.get(key) is None else np.asarray(told[key][sample], dtype=np.float64)

    lidar2cam = np.asarray(one("lidar2cam"))
    rig: Rig = {key: one(key) for key in ("points", "boxes", "box2d", "box_camera", "num_lidar_pts")}
    rig["points"] = rig["points"][:, :3]
    rig["lidar2cam"], rig["cam2img"] = lidar2cam, homogeneous(np.asarray(one("cam2img")))
    aug, lidar_aug = one("img_aug"), one("lidar_aug")
    rig["img_aug"] = np.broadcast_to(np.eye(4), lidar2cam.shape) if aug is None else aug
    rig["lidar_aug"] = np.eye(4) if lidar_aug is None else lidar_aug
    for key in ("lidar2cam", "cam2img", "img_aug", "lidar_aug"):
        if not np.isfinite(rig[key]).all():
            raise DataError(f"{key} of sample {sample} holds numbers that are not finite")
        if key.endswith("aug") and (np.abs(np.linalg.det(rig[key])) < _SINGULAR).any():
            raise DataError(f"{key} of sample {sample} has no inverse: an augmentation can be undone")
    rig["size"] = tuple(batch["cams"].shape[-2:])
    rig["augmented"] = rig["box2d"] is None or box2d_in == "augmented"
    inside = points_in_boxes(rig["points"], rig["boxes"])
    rig["row"], rig["box"] = np.nonzero(inside)
    return rig


def _score(rig: Rig) -> tuple[np.ndarray, float]:
    """Share per box and the score of a rig."""
    count = len(rig["boxes"])
    uv, _, mask = project(
        rig["points"][rig["row"]],
        rig["lidar2cam"],
        rig["cam2img"],
        rig["img_aug"] if rig["augmented"] else None,
        rig["lidar_aug"],
        rig["size"] if rig["box2d"] is None else None,
    )
    total = np.bincount(rig["box"], minlength=count)
    if rig["box2d"] is None:
        hit = mask.any(axis=0)
    else:
        camera = np.zeros(count, dtype=int) if rig["box_camera"] is None else rig["box_camera"].astype(int)
        own = (camera[rig["box"]], np.arange(len(rig["box"])))
        frame = rig["box2d"][rig["box"]]
        within = (uv[own] >= frame[:, :2] - SLACK) & (uv[own] <= frame[:, 2:] + SLACK)
        hit = mask[own] & within.all(axis=1)
    with np.errstate(invalid="ignore"):
        share = np.bincount(rig["box"], weights=hit, minlength=count) / total
    if not total.any():
        return share, float("nan")
    score = float(np.nanmean(share))
    if rig["box2d"] is None:
        up = rig["lidar2cam"] @ invert(rig["lidar_aug"]) @ [0, 0, 1, 0]
        score *= float((-up[:, 1] / np.linalg.norm(up[:, :3], axis=1) > _UPRIGHT).mean())
    return share, score


def _mistakes(rig: Rig) -> Iterator[tuple[str, Callable[[Rig], Rig]]]:
    """Name of a mistake, and what undoes it."""

    def on(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Rig], Rig]:
        return lambda r: {**r, key: change(r[key])}

    def transpose_rotation(matrix: np.ndarray) -> np.ndarray:
        turned = matrix.copy()
        turned[..., :3, :3] = matrix[..., :3, :3].swapaxes(-1, -2)
        return turned

    if not np.allclose(rig["lidar2cam"][..., 3, :], (0, 0, 0, 1)):
        yield "lidar2cam is transposed", on("lidar2cam", lambda m: _affine(m.swapaxes(-1, -2)))
        return  # with a last row like that it can be nothing else
    yield "lidar2cam is the inverse, cam2lidar", on("lidar2cam", _inverse_or_same)
    yield "lidar2cam has a transposed rotation", on("lidar2cam", transpose_rotation)
    yield (
        "lidar2cam ends in axes x forward, z up instead of the optical ones",
        on("lidar2cam", lambda m: _TO_OPTICAL @ m),
    )
    for degrees in (90, 180, -90):
        turn = lidar_matrix(np.deg2rad(degrees))
        name = f"the LiDAR axes of lidar2cam are turned by {-degrees} degrees against those of the points"
        yield name, on("lidar2cam", partial(_then, turn))
    yield "the LiDAR's x axis is mirrored", on("lidar2cam", partial(_then, np.diag([-1.0, 1, 1, 1])))
    yield "the LiDAR's y axis is mirrored", on("lidar2cam", partial(_then, np.diag([1.0, -1, 1, 1])))
    yield "cam2img is transposed", on("cam2img", lambda m: _affine(m.swapaxes(-1, -2)))
    yield "cam2img is the inverse", on("cam2img", _inverse_or_same)
    if not np.allclose(rig["lidar_aug"], np.eye(4)):
        yield "lidar_aug is the inverse", on("lidar_aug", _inverse_or_same)
        yield "lidar_aug is given, but the points are not augmented", on("lidar_aug", lambda m: np.eye(4))
    if rig["augmented"] and not np.allclose(rig["img_aug"], np.eye(4)):
        yield "img_aug is the inverse", on("img_aug", _inverse_or_same)
        yield "img_aug is given, but the pictures are not augmented", on("img_aug", lambda m: np.eye(4) + 0 * m)
    elif rig["augmented"]:
        yield "img_aug is missing: the pictures were resized", on("img_aug", lambda m: _resized(rig))
        mirrored = np.diag([-1.0, 1, 1, 1])
        mirrored[0, 3] = rig["size"][1]
        yield "img_aug is missing: the pictures were mirrored", on("img_aug", lambda m: mirrored + 0 * m)
    for shift in range(1, len(rig["lidar2cam"])):
        name = f"the cameras of lidar2cam are in another order than the pictures (shifted by {shift})"
        yield name, on("lidar2cam", partial(np.roll, shift=-shift, axis=0))


_BOX_MISTAKES: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("z of the boxes is of the bottom, not of the centre", lambda b: b + b[:, 5:6] / 2 * np.eye(7)[2]),
    ("length and width of the boxes are swapped", lambda b: b[:, [0, 1, 2, 4, 3, 5, 6]]),
    ("yaw of the boxes turns clockwise", lambda b: b * np.array([1, 1, 1, 1, 1, 1, -1])),
    ("boxes follow the old convention (w, l, h, yaw = -pi/2 - r)", legacy_to_boxes),
)


def _affine(matrix: np.ndarray) -> np.ndarray:
    """The matrix with a last row 0 0 0 1."""
    fixed = matrix.copy()
    fixed[..., 3, :] = (0, 0, 0, 1)
    return fixed


def _then(first: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``first``, then ``matrix``."""
    return matrix @ first


def _inverse_or_same(matrix: np.ndarray) -> np.ndarray:
    """The inverse; a singular matrix stays what it is."""
    return matrix if (np.abs(np.linalg.det(matrix)) < _SINGULAR).any() else invert(matrix)


def _resized(rig: Rig) -> np.ndarray:
    """Scales under which the principal points lie in the middle of the pictures."""
    height, width = rig["size"]
    scales = np.tile(np.eye(4), (len(rig["cam2img"]), 1, 1))
    scales[:, 0, 0] = width / (2 * rig["cam2img"][:, 0, 2])
    scales[:, 1, 1] = height / (2 * rig["cam2img"][:, 1, 2])
    return scales


def _count_score(rig: Rig) -> float:
    """Share of boxes that hold the stored number of points; NaN without stored numbers."""
    if rig["num_lidar_pts"] is None or not len(rig["boxes"]):
        return float("nan")
    return float((count_points(rig["points"], rig["boxes"]) == rig["num_lidar_pts"]).mean())
