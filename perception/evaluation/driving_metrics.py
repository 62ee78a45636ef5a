"""Metrics of detectors and map models in the runner's validation and test.

They take a RAW batch and the predictions of ``BEVDetector`` and ``BEVSegmenter``, keep what they need by sample, and
measure at the end. Samples are told by ``index``: repeated ones count once, and neither the order of the batches nor
their size nor the number of processes changes a figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from perception.errors import DataError, check_arguments, not_among
from perception.evaluation.bev_iou import THRESHOLDS, BEVIoU, threshold_counts
from perception.evaluation.box_overlap import KINDS, overlap_score
from perception.evaluation.box_sets import BoxSet
from perception.evaluation.nuscenes_score import nuscenes_score
from perception.geometry.boxes import count_points
from perception.geometry.transforms import transform_points
from perception.registry import METRICS

_MOST = 500  # boxes of a sample that nuScenes allows


class SampleMetric(BaseMetric):
    """Base of metrics that keep one record a sample and measure all of them together."""

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the records of one batch."""
        for found in data_samples:
            index = data_batch.get("index")
            if index is None:
                raise DataError(
                    f"{type(self).__name__} tells samples by 'index', but the batch holds {sorted(data_batch)}"
                )
            self.results += zip(index.tolist(), self.records(data_batch, found), strict=True)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics of the collected records of all processes, without their prefix.

        Raises:
            DataError: nothing was collected.
        """
        if not results:
            raise DataError(f"{type(self).__name__} saw no sample: nothing can be measured")
        return self.measure([record for _, record in sorted(dict(results).items())])

    def records(self, batch: Any, found: dict[str, Any]) -> Iterable[Any]:
        """One record for every sample of a RAW batch and what the model found in it."""
        raise NotImplementedError

    def measure(self, records: list[Any]) -> dict[str, float]:
        """Values by name from the records of all samples, in the order of their index."""
        raise NotImplementedError


@METRICS.register_module()
class BEVDetectionMetric(SampleMetric):
    """nuScenes' score and average precision by overlap: ``detection/map``, ``detection/nds``, ``detection/bev_ap50``.

    ``bev_ap50`` is the mean over classes of the average precision at an overlap of 0.5 seen from above (``3d_ap50``
    of volumes), ``bev_ap50/<class>`` that of a class, ``bev_iou`` the mean over true boxes of the best overlap with a
    prediction of their class. ``map``, ``nds`` and ``error/<name>`` follow nuScenes, with classes that do not occur
    left out of the means. Ranges are measured from the vehicle's origin, ``meta['ego']``, as officially; from the LiDAR
    where a data set does not tell it. Attributes and bicycle racks are not known here, and boxes stay in the frame of
    the LiDAR: the official figure of a release comes from ``perception.evaluation.nuscenes_score`` in the global frame.

    True boxes with fewer than ``min_points`` points of the batch inside do not count. Batches without points count all.

    Args:
        overlaps: least overlaps of a hit.
        kinds: ``'bev'``, ``'3d'`` or both.
        nuscenes: also nuScenes' score.
        min_points: see above; 0 counts all.
        prefix: first part of the names.
    """

    default_prefix = "detection"

    def __init__(
        self,
        overlaps: Sequence[float] = (0.5,),
        kinds: Sequence[str] = ("bev",),
        nuscenes: bool = True,
        min_points: int = 1,
        prefix: str | None = None,
    ) -> None:
        check_arguments("val_evaluator", self.check_config, locals())
        super().__init__(prefix=prefix)
        self.overlaps, self.kinds = tuple(overlaps), tuple(kinds)
        self.nuscenes = nuscenes
        self.min_points = min_points

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config."""
        if any(not 0 < overlap <= 1 for overlap in cfg["overlaps"]):
            yield "overlaps", "must lie in (0, 1]"
        for kind in cfg["kinds"]:
            if kind not in KINDS:
                yield "kinds", f"{kind!r} is {not_among(kind, KINDS)}"
        if cfg["min_points"] < 0:
            yield "min_points", "must not be negative"

    def records(self, batch: Any, found: dict[str, Any]) -> Iterable[Any]:
        """Boxes found, true boxes and the place of the vehicle of every sample."""
        for key in ("boxes", "box_label"):
            if batch.get(key) is None:
                raise DataError(f"{type(self).__name__} needs {key!r}, but the batch holds {sorted(batch)}")
        for place in range(len(batch["boxes"])):
            predicted = {name: found[key][place].cpu().numpy() for name, key in _PREDICTED.items() if key in found}
            true = {name: batch[key][place].numpy() for name, key in _TRUE.items()}
            true["velocity"] = _velocity(batch, place)
            if batch.get("points") is not None:
                true["num_points"] = count_points(batch["points"][place].numpy(), true["boxes"])
            known = true["label"] >= 0
            yield predicted, {name: value[known] for name, value in true.items()}, _ego(batch, place)

    def measure(self, records: list[Any]) -> dict[str, float]:
        """Average precisions, mean overlaps, nuScenes' figures.

        Raises:
            DataError: no true box counts, or the data set gives no names of classes.
        """
        classes = tuple(self.dataset_meta["classes"]) if self.dataset_meta else ()
        if not classes:
            raise DataError(f"{type(self).__name__} needs the names of the classes, the data set gives none")
        found_boxes, true_boxes, ego = zip(*records, strict=True)
        predictions, truth = BoxSet.from_samples(found_boxes), BoxSet.from_samples(true_boxes)
        least = self.min_points if truth.num_points is not None else 0
        kept = truth if not least else truth.take(truth.needed("num_points", "") >= least)
        if not len(kept):
            raise DataError(f"{type(self).__name__}: no true box counts, nothing can be measured")
        found: dict[str, float] = {}
        for kind in self.kinds:
            for overlap in self.overlaps:
                score = overlap_score(predictions, truth, classes, overlap, kind, least)
                name = f"{kind}_ap{round(100 * overlap)}"
                found[name] = score.mean_ap
                found |= {f"{name}/{c}": float(v) for c, v in zip(classes, score.ap, strict=True) if np.isfinite(v)}
                found[f"{kind}_iou"] = score.mean_overlap
        if self.nuscenes:
            kept = replace(kept, num_points=None)  # min_points has decided
            if np.isnan(kept.needed("velocity", "")).all():
                kept = replace(kept, velocity=None)  # no velocity is known: there is no such error
            figures = nuscenes_score(_best(predictions), kept, classes, np.stack(ego), official=False).figures()
            # What detectors are compared by comes first: it is the headline of a report.
            ordered = {"map": figures["map"], **figures, **found}
            found = {name: value for name, value in ordered.items() if np.isfinite(value)}
        return found


_PREDICTED = {"boxes": "boxes", "label": "labels", "score": "scores", "velocity": "velocity"}
_TRUE = {"boxes": "boxes", "label": "box_label"}


def _velocity(batch: Any, place: int) -> np.ndarray:
    """(M, 2) velocities of a sample, NaN where the batch has none."""
    if batch.get("velocity") is None:
        return np.full((len(batch["boxes"][place]), 2), np.nan)
    return batch["velocity"][place].numpy()


def _ego(batch: Any, place: int) -> np.ndarray:
    """(2,) x and y of the vehicle's origin in the frame of the boxes; the LiDAR's where it is not told."""
    told = (batch.get("meta") or {}).get("ego")
    if told is None:
        return np.zeros(2)
    origin = np.asarray(told[place], dtype=np.float64)[None]
    if batch.get("lidar_aug") is not None:
        origin = transform_points(origin, batch["lidar_aug"][place].numpy().astype(np.float64))
    return origin[0, :2]


def _best(predictions: BoxSet) -> BoxSet:
    """The best 500 predictions of every sample, in their order."""
    score = predictions.needed("score", "it ranks them")
    order = np.lexsort((np.arange(len(score)), -score, predictions.sample))
    start = np.searchsorted(predictions.sample[order], predictions.sample[order])
    return predictions.take(np.sort(order[np.arange(len(order)) - start < _MOST]))


@METRICS.register_module()
class BEVMapMetric(SampleMetric):
    """IoU of map classes: ``map/miou@0.5``, ``map/miou@best``, ``map/iou@0.5/<class>`` ...

    Counts are summed over the whole set. ``best`` takes the threshold of every class from the set that is measured,
    as BEVFusion reports it, which is optimistic; ``threshold/<class>`` says which that was. ``picked`` takes
    thresholds from elsewhere, such as those that a test on the training set gave: ``map/miou@picked``.

    Args:
        picked: thresholds by class, out of 0.35, 0.4 .. 0.65.
        prefix: first part of the names.
    """

    default_prefix = "map"

    def __init__(self, picked: Mapping[str, float] | None = None, prefix: str | None = None) -> None:
        check_arguments("val_evaluator", self.check_config, locals())
        super().__init__(prefix=prefix)
        self.picked = None if picked is None else dict(picked)
        self._layers: tuple[str, ...] = ()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config."""
        for name, threshold in (cfg["picked"] or {}).items():
            if threshold not in THRESHOLDS:
                yield "picked", f"{threshold} of {name!r} is {not_among(threshold, THRESHOLDS)}"

    def records(self, batch: Any, found: dict[str, Any]) -> Iterable[Any]:
        """Counts (T, K, 3) of every sample."""
        masks = batch.get("bev_mask")
        if masks is None:
            raise DataError(f"{type(self).__name__} needs 'bev_mask', but the batch holds {sorted(batch)}")
        self._layers = tuple((batch.get("meta") or {}).get("map_classes") or ()) or self._layers
        scores = found["map_scores"]
        masks = masks.to(scores.device)
        return threshold_counts(scores, masks.clamp_min(0), valid=masks >= 0).numpy()

    def measure(self, records: list[Any]) -> dict[str, float]:
        """IoU by class and threshold."""
        counts = torch.from_numpy(np.sum(records, axis=0))
        names = self._names(counts.shape[1])
        score = BEVIoU(names, counts=counts)
        found = score.figures()
        found |= {f"threshold/{name}": THRESHOLDS[int(i)] for name, i in zip(names, score.best()[1], strict=True)}
        if self.picked is not None:
            missing = [name for name in names if name not in self.picked]
            if missing:
                raise DataError(f"{type(self).__name__}: no threshold is picked for {', '.join(missing)}")
            at = {f"iou@picked/{name}": float(score.at(self.picked[name])[k]) for k, name in enumerate(names)}
            found |= at | {"miou@picked": float(np.nanmean(list(at.values())))}
        return found

    def _names(self, count: int) -> tuple[str, ...]:
        """Names of the layers: those of the map, else those of the data set if it has as many, else numbers."""
        if len(self._layers) == count:
            return self._layers
        classes = tuple(self.dataset_meta["classes"]) if self.dataset_meta else ()
        return classes if len(classes) == count else tuple(str(k) for k in range(count))
