"""A trained driving model under every corruption and under attack: what ``robustness`` then turns into figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import nn

from perception.datasets.base import Dataset
from perception.errors import DataError, not_among
from perception.evaluation.box_sets import BoxSet
from perception.evaluation.robustness import Robustness, Spoofing, spoofing
from perception.transforms.base import Transform
from perception.transforms.corrupt import CAMERA_LEVEL, SCENE_LEVEL, Corrupt
from perception.transforms.driving_preprocess import DrivingPreprocess
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom
from perception.transforms.spoofing import Spoof

VEHICLES = ("car", "van", "truck", "bus", "trailer", "construction_vehicle", "tram")


def scores_under(
    model: nn.Module,
    dataset: Dataset,
    metric: BaseMetric,
    settings: Mapping[Any, Transform],
    batch_size: int = 2,
    seed: int = 0,
) -> dict[Any, dict[str, float]]:
    """Figures of a task model after each of several transforms, and without any under the key ``None``.

    Every batch is read once. What counts as true is that of the clean batch: an object whose points a corruption takes
    away still has to be found.

    Args:
        model: with ``test_step``, such as a ``BEVDetector``.
        dataset: the test set, with labels.
        metric: such as a ``BEVDetectionMetric``; it is copied.
        settings: transforms by key.
        batch_size: samples at a time.
        seed: of what the transforms draw.
    """
    model.eval()
    metric.dataset_meta = {"classes": tuple(dataset.classes)}
    collected = {key: deepcopy(metric) for key in (None, *settings)}
    for batch, indices in _batches(dataset, batch_size):
        for key, own in collected.items():
            own.process(batch, _predicted(model, batch, settings.get(key), indices, seed))
    return {
        key: {f"{own.prefix}/{n}" if own.prefix else n: v for n, v in own.compute_metrics(own.results).items()}
        for key, own in collected.items()
    }


def corruptions_of(preprocess: DrivingPreprocess) -> tuple[str, ...]:
    """The corruptions that a model with this record can notice: of sweeps, of cameras and their calibration, or all."""
    lidar = SCENE_LEVEL if preprocess.point_range is not None else ()
    return (*lidar, *(CAMERA_LEVEL if preprocess.image_size is not None else ()))


def corruption_table(
    model: nn.Module,
    dataset: Dataset,
    metric: BaseMetric,
    figure: str,
    corruptions: Sequence[str] = SCENE_LEVEL,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    baseline: Robustness | None = None,
    batch_size: int = 2,
    seed: int = 0,
    **options: Any,
) -> Robustness:
    """One figure by corruption and severity.

    Args:
        model: see ``scores_under``.
        dataset: see ``scores_under``.
        metric: see ``scores_under``.
        figure: name of the figure, such as ``detection/map``.
        corruptions: names of ``Corrupt``.
        severities: rising numbers of 1 to 5. Robo3D takes three.
        baseline: the same table of another model, for mCE.
        batch_size: see ``scores_under``.
        seed: see ``scores_under``.
        options: further arguments of ``Corrupt``, such as ``forward`` and ``beams``.

    Raises:
        DataError: the metric gives no such figure.
    """
    settings = {(name, s): Corrupt(name, s, **options) for name in corruptions for s in severities}
    found = scores_under(model, dataset, metric, settings, batch_size, seed)
    if figure not in found[None]:
        raise DataError(f"the metric's figures: {figure!r} is {not_among(figure, found[None])}")
    scores = {name: [found[name, s][figure] for s in severities] for name in corruptions}
    return Robustness(found[None][figure], scores, None if baseline is None else baseline.scores, figure)


def spoofing_rates(
    model: nn.Module,
    dataset: Dataset,
    budgets: Sequence[int] = (60, 100, 200),
    labels: Sequence[int] | None = None,
    score: float = 0.3,
    radius: float = 2.0,
    batch_size: int = 2,
    seed: int = 0,
    **options: Any,
) -> dict[int, Spoofing]:
    """How often a fake vehicle in front is reported that the clean frame has not, by number of injected points.

    Args:
        model: a ``BEVDetector``.
        dataset: frames; labels give the traces that are injected, where there are any.
        budgets: numbers of points.
        labels: classes that are vehicles; ``None``: those whose names, in small letters, are among ``VEHICLES``.
        score: see ``robustness.spoofing``.
        radius: see ``robustness.spoofing``.
        batch_size: samples at a time.
        seed: of what is drawn.
        options: further arguments of ``Spoof``, such as ``distance``, ``forward`` and ``height``.

    Raises:
        DataError: no class is known to be a vehicle, and no ``labels`` are given.
    """
    if labels is None:
        labels = [place for place, name in enumerate(dataset.classes) if name.lower() in VEHICLES]
        if not labels:
            raise DataError(f"none of the classes {', '.join(dataset.classes)} is known to be a vehicle: give labels")
    model.eval()
    attacks = {budget: Spoof(budget, labels=labels, **options) for budget in budgets}
    detections: dict[int, list[dict[str, Any]]] = {budget: [] for budget in (0, *budgets)}
    places: dict[int, list[np.ndarray]] = {budget: [] for budget in budgets}
    for batch, indices in _batches(dataset, batch_size):
        detections[0] += _boxes(_predicted(model, batch, None, indices, seed))
        for budget, attack in attacks.items():
            attacked = attack(batch, SampleRandom(seed, 0, indices))
            places[budget] += list(attacked["spoof_box"].numpy())
            detections[budget] += _boxes(_predicted(model, attacked, None, indices, seed))
    sets = {budget: BoxSet.from_samples(found) for budget, found in detections.items()}
    return {b: spoofing(sets[0], sets[b], np.stack(places[b]), labels, score, radius) for b in budgets}


def _batches(dataset: Dataset, size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    for start in range(0, len(dataset), size):
        indices = np.arange(start, min(start + size, len(dataset)))
        yield dataset.__getitems__(indices.tolist()), indices


@torch.no_grad()
def _predicted(
    model: Any, batch: Batch, transform: Transform | None, indices: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    if transform is not None:
        batch = transform(batch, SampleRandom(seed, 0, indices))
    return model.test_step(batch)


def _boxes(predicted: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Columns of a ``BoxSet`` for every sample."""
    return [
        {"boxes": boxes, "label": label, "score": score}
        for part in predicted
        for boxes, label, score in zip(part["boxes"], part["labels"], part["scores"], strict=True)
    ]
