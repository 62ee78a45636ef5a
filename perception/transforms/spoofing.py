"""Points that a laser in an attacker's hands adds to a sweep ("Towards Robust LiDAR-based Perception in Autonomous
Driving: General Black-box Adversarial Sensor Attack and Countermeasures", Sun et al., USENIX Security 2020).

A sensor can be made to report up to about 200 points of a vehicle that is not there. What is injected is how a real
vehicle looks that is far away or hidden, moved rigidly to a place right in front.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from perception.errors import DataError, check_arguments
from perception.geometry.boxes import points_in_boxes
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.corrupt import generators
from perception.transforms.driving_preprocess import PER_POINT
from perception.transforms.lidar_corruptions import FORWARD
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

_FEWEST = 20  # points of a vehicle whose shape can be told
_SIZE = (4.2, 1.8, 1.5)  # of the vehicle that stands in where the frame shows none


@TRANSFORMS.register_module()
class Spoof(Transform):
    """Injects a fake vehicle in front of the sensor, and tells where in ``spoof_box`` (B, 7) float32.

    The trace is that of a labelled vehicle of the same frame with 20 to 200 points, turned about the sensor and moved
    along the line of sight, so that the side that was seen is the side that is shown. A frame without such a vehicle
    gets the rear and the top of a car of 4.2 x 1.8 x 1.5 m. More points than the trace has are copies with 2 cm of
    noise. Injected points have ``region`` and ``point_id`` -1; real points behind them stay.

    Args:
        points: how many are injected; the published attacks use 60, 100 and 200.
        distance: range of metres from the sensor to the middle of the vehicle.
        labels: classes, by index, of labelled boxes that are vehicles.
        forward: axis that the LiDAR looks along: ``'x'`` for KITTI, ``'y'`` for nuScenes.
        height: of the sensor above the ground in metres, for frames without a vehicle.
    """

    def __init__(
        self,
        points: int = 200,
        distance: Sequence[float] = (5.0, 10.0),
        labels: Sequence[int] = (0,),
        forward: str = "x",
        height: float = 1.73,
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.points = points
        self.distance = (float(distance[0]), float(distance[1]))
        self.labels = tuple(labels)
        self.forward = FORWARD[forward]
        self.height = height

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if cfg["points"] < 1:
            yield "points", "must be at least 1"
        if len(cfg["distance"]) != 2 or not 0 < cfg["distance"][0] <= cfg["distance"][1]:
            yield "distance", "must be a rising pair of metres above 0"
        if cfg["forward"] not in FORWARD:
            yield "forward", "must be 'x' or 'y'"

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch.

        Raises:
            DataError: the batch has no points.
        """
        if batch.get("points") is None:
            raise DataError(f"Spoof needs 'points' in the batch, which holds {sorted(batch)}")
        out: Batch = {**batch, "points": []}
        marks = [name for name in PER_POINT if name in batch]
        out |= {name: [] for name in marks}
        fake = []
        for place, generator in enumerate(generators(random)):
            points = batch["points"][place]
            trace, box = self._trace(points.numpy(), *self._vehicles(batch, place), generator)
            added, box = self._placed(trace, box, generator)
            out["points"].append(torch.cat([points, torch.from_numpy(added).to(points.dtype)]))
            for name in marks:
                out[name].append(torch.cat([batch[name][place], batch[name][place].new_full((len(added),), -1)]))
            fake.append(torch.from_numpy(box))
        out["spoof_box"] = torch.stack(fake).float()
        return out

    def _vehicles(self, batch: Batch, place: int) -> tuple[np.ndarray]:
        if batch.get("boxes") is None or batch.get("box_label") is None:
            return (np.zeros((0, 7)),)
        chosen = np.isin(batch["box_label"][place].numpy(), self.labels)
        return (batch["boxes"][place].numpy()[chosen].astype(np.float64),)

    def _trace(self, points: np.ndarray, boxes: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """Points (P, F) and box (7,) of the vehicle that is copied, where it stands."""
        inside = points_in_boxes(points, boxes)
        count = inside.sum(0)
        fit = np.flatnonzero((count >= _FEWEST) & (count <= 200))
        if len(fit):
            chosen = random.choice(fit)
            return points[inside[:, chosen]].astype(np.float64), boxes[chosen]
        length, width, tall = _SIZE
        ground = -self.height
        box = np.array([20.0, 0.0, ground + tall / 2, length, width, tall, 0.0])
        draw = random.uniform(-0.5, 0.5, (200, 2))
        roof = np.arange(200) < 50
        trace = np.zeros((200, points.shape[1]))
        trace[:, 0] = 20.0 + np.where(roof, draw[:, 0] * length, -length / 2)
        trace[:, 1] = np.where(roof, draw[:, 1], draw[:, 0]) * width
        trace[:, 2] = np.where(roof, ground + tall, box[2] + draw[:, 1] * tall)
        if points.shape[1] > 3 and len(points):
            trace[:, 3] = np.median(points[:, 3])
        return trace, box

    def _placed(self, trace: np.ndarray, box: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """The trace with the number of points wanted, and its box, in front of the sensor."""
        enough = len(trace) >= self.points
        rows = random.choice(len(trace), self.points, replace=not enough)
        added = trace[rows]
        if not enough:
            added[:, :3] += random.normal(size=(self.points, 3)) * 0.02
        turn = self.forward - math.atan2(box[1], box[0])
        way = random.uniform(*self.distance) - math.hypot(box[0], box[1])
        step = np.array([math.cos(self.forward), math.sin(self.forward)]) * way
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        added[:, :2] = added[:, :2] @ rotation.T + step
        moved = box.copy()
        moved[:2] = rotation @ box[:2] + step
        moved[6] = (box[6] + turn + math.pi) % (2 * math.pi) - math.pi
        return added, moved
