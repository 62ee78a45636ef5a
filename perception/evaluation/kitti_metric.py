"""KITTI's average precision in the runner's validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from perception.errors import DataError, check_arguments, not_among
from perception.evaluation.box_sets import BoxSet
from perception.evaluation.driving_metrics import SampleMetric
from perception.evaluation.kitti_score import DONT_CARE, KINDS, OVERLAPS, TYPES, kitti_score
from perception.geometry.boxes import (
    EDGES,
    kitti_camera_corners,
    kitti_camera_to_lidar,
    lidar_to_kitti_camera,
    transform_boxes,
)
from perception.geometry.projection import MIN_DEPTH, cut_lines, project
from perception.geometry.transforms import homogeneous, invert
from perception.registry import METRICS

# The rectified camera frame (x right, y down, z forward) turned into one with x forward, y left and z up.
_UPRIGHT = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
_NOWHERE = np.array([-1000.0, -1000, -1000, 1, 1, 1, 0])  # of DontCare, whose labels have no box in space


@METRICS.register_module()
class KITTIMetric(SampleMetric):
    """KITTI's average precision by class, kind of overlap and difficulty: ``kitti/3d/Car/moderate``.

    The mean over 40 recalls (R40), and as ``kitti/r11/3d/Car/moderate`` the one over 11 that was in use until 2019.
    The first figure is the moderate one in space of the first class that occurs. By the public rule, perfect
    predictions of n < 41 true boxes have an R40 of (n - 1) / 40.

    Truth is the ``KITTITruth`` in ``meta``, so that no transform changes what counts: all labels of a frame, in the
    rectified camera frame as the official figures have it. Vans count neither for nor against cars, sitting people
    likewise for pedestrians. Boxes of a model are mapped back through ``lidar_aug``. Their height in the picture, below
    which a difficulty ignores them, is that of their projection, cut at the rim of the picture.

    "Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite" (Geiger et al., 2012).

    Args:
        kinds: ``'3d'``, ``'bev'`` and ``'image'``, where the projected boxes are compared with the labelled ones.
        r11: also the figures over 11 recalls.
        prefix: first part of the names.
    """

    default_prefix = "kitti"

    def __init__(self, kinds: Sequence[str] = ("bev", "3d"), r11: bool = True, prefix: str | None = None) -> None:
        check_arguments("val_evaluator", self.check_config, locals())
        super().__init__(prefix=prefix)
        self.kinds = tuple(kinds)
        self.r11 = r11

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config."""
        if not cfg["kinds"]:
            yield "kinds", f"needs some of {', '.join(KINDS)}"
        for kind in cfg["kinds"]:
            if kind not in KINDS:
                yield "kinds", f"{kind!r} is {not_among(kind, KINDS)}"

    def records(self, batch: Any, found: dict[str, Any]) -> Iterable[Any]:
        """Boxes found and labelled rows of every sample, in the rectified camera frame.

        Raises:
            DataError: the data set is not KITTI's, a frame has no picture, or a class is none of KITTI's types.
        """
        meta = batch.get("meta") or {}
        if meta.get("kitti") is None:
            raise DataError(
                f"{type(self).__name__} needs the truncation, occlusion and ignored regions that KITTI's label files "
                f"tell (meta['kitti'] of the data set KITTI with labelled=True), but meta holds {sorted(meta)}"
            )
        own = self._types()
        for place, truth in enumerate(meta["kitti"]):
            if truth.picture_size is None:
                raise DataError(
                    f"{type(self).__name__}: frame {meta['tokens'][place]!r} has no picture, whose size decides how "
                    "much of a box is seen; put it into image_2"
                )
            rows, matrices = truth.labels, truth.calibration
            boxes = found["boxes"][place].detach().cpu().numpy().astype(np.float64)
            if batch.get("lidar_aug") is not None:
                boxes = transform_boxes(boxes, invert(batch["lidar_aug"][place].numpy().astype(np.float64)))
            boxes = lidar_to_kitti_camera(boxes, matrices.lidar2rect)
            label = found["labels"][place].cpu().numpy()
            predicted = {
                "boxes": kitti_camera_to_lidar(boxes, _UPRIGHT),
                "label": own[label] if len(label) else label,
                "score": found["scores"][place].detach().cpu().numpy(),
                "image_box": image_boxes(boxes, matrices.cam2img, truth.picture_size),
            }
            region = np.array([kind == DONT_CARE for kind in rows.kind], dtype=bool)
            true = {
                "boxes": np.where(region[:, None], _NOWHERE, kitti_camera_to_lidar(rows.camera_boxes, _UPRIGHT)),
                "label": np.array([TYPES.index(kind) for kind in rows.kind], dtype=np.int64),
                "image_box": rows.box2d,
                "truncation": rows.truncated,
                "occlusion": rows.occluded,
            }
            yield predicted, true

    def measure(self, records: list[Any]) -> dict[str, float]:
        """Average precisions in [0, 1] of what can be told.

        Raises:
            DataError: no class is one that KITTI scores, or none of their true boxes counts at any difficulty.
        """
        classes = [TYPES[place] for place in self._types()]
        overlaps = {name: OVERLAPS[name] for name in classes if name in OVERLAPS}
        if not overlaps:
            raise DataError(
                f"{type(self).__name__} scores {', '.join(OVERLAPS)}, but the data set has {', '.join(classes)}"
            )
        predictions, truth = (BoxSet.from_samples(part) for part in zip(*records, strict=True))
        score = kitti_score(predictions, truth, TYPES, overlaps, self.kinds)
        figures = score.figures()
        if not figures:
            raise DataError(f"{type(self).__name__}: no true box counts at any difficulty, nothing can be measured")
        if self.r11:
            figures |= {f"r11/{name}": value for name, value in score.named(score.r11).items()}
        kind = "3d" if "3d" in self.kinds else self.kinds[0]
        # What detectors are ranked by comes first: it is the headline of a report.
        first = [name for name in (f"{kind}/{c}/moderate" for c in score.classes) if name in figures]
        return {name: figures[name] for name in first} | figures

    def _types(self) -> np.ndarray:
        """(K,) int64: which of KITTI's types every class of the data set is."""
        classes = tuple(self.dataset_meta["classes"]) if self.dataset_meta else ()
        if not classes:
            raise DataError(f"{type(self).__name__} needs the names of the classes, the data set gives none")
        for name in classes:
            if name not in TYPES:
                raise DataError(f"{type(self).__name__}: class {name!r} is {not_among(name, TYPES)}")
        return np.array([TYPES.index(name) for name in classes], dtype=np.int64)


def image_boxes(boxes: np.ndarray, cam2img: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes in the picture around KITTI's camera boxes.

    Edges that reach behind the camera are cut where its picture ends. Pixels lie in [0, W - 1] and [0, H - 1], as in
    the label files; a box of which nothing is seen has no area.

    Args:
        boxes: (M, 7) h, w, l, x, y, z, ry in the rectified frame, metres and radians.
        cam2img: (4, 4), P2 with its fourth column.
        size: height H and width W of the picture.

    Returns:
        (M, 4) float64 left, top, right, bottom in pixels.
    """
    if not len(boxes):
        return np.zeros((0, 4))
    matrix = homogeneous(np.asarray(cam2img, dtype=np.float64))
    ends = kitti_camera_corners(np.asarray(boxes, dtype=np.float64))[:, np.array(EDGES)]  # (M, 12, 2, 3)
    ends, kept = cut_lines(ends, MIN_DEPTH + 1e-6 - matrix[2, 3])  # KITTI's depth is z plus this
    uv, _, _ = project(ends.reshape(len(boxes), -1, 3), np.eye(4), matrix)
    seen = np.repeat(kept, 2, axis=1)[..., None]
    low = np.where(seen, uv, np.inf).min(1)
    high = np.where(seen, uv, -np.inf).max(1)
    height, width = size
    limit = np.array([width - 1.0, height - 1.0])
    found = np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1)
    return np.where(seen.any(1), found, 0.0)
