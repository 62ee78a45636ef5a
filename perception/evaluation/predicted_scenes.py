"""What a trained driving model tells of single scenes, drawn beside the truth: PNGs and pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.datasets.base import Dataset
from perception.errors import DataError
from perception.evaluation.driving_page import write_page
from perception.evaluation.driving_pictures import (
    PREDICTED,
    TRUTH,
    finite_boxes,
    scene_pictures,
    write_picture,
)
from perception.tasks.bev_detector import BEVDetector
from perception.tasks.bev_segmenter import BEVSegmenter
from perception.transforms.preprocess import Batch

MASK_COLOURS = ((18, 20, 24), TRUTH, PREDICTED, (235, 235, 235), (70, 74, 80))
"""Of cells of a map's layer: neither, true alone, predicted alone, both, truth unknown (RGB)."""


@dataclass(frozen=True)
class DrawnScene:
    """A scene that was drawn.

    Attributes:
        sample: its place in the data set.
        files: what was written: PNGs, and the page as the last.
        told: what a reader should know of it, in a line.
    """

    sample: int
    files: tuple[Path, ...]
    told: str


def write_scenes(
    model: BEVDetector | BEVSegmenter,
    dataset: Dataset,
    samples: Sequence[int],
    folder: Path,
    threshold: float = 0.3,
    forward: str = "x",
    title: str = "",
) -> list[DrawnScene]:
    """Predict samples and draw them: ``<sample>_map.png``, one PNG a camera or layer, and ``<sample>.html``.

    A detector's map and cameras show true boxes in green, predicted ones in orange. A layer of a segmenter's map has a
    picture of its own, in ``MASK_COLOURS``.

    Args:
        model: trained; it is set to eval mode.
        dataset: gives whole batches; without labels the pictures show what is predicted alone.
        samples: places in the data set.
        folder: where the files go; it is made.
        threshold: lowest score of a box, lowest probability of a cell of a layer. A detector reports no box below its
            own ``score``.
        forward: axis that points up, see ``map_picture``.
        title: heading of the pages, before the name of the sample.

    Raises:
        DataError: no such sample.
    """
    for sample in samples:
        if not 0 <= sample < len(dataset):
            raise DataError(f"there is no sample {sample}: {len(dataset)} samples are numbered 0 to {len(dataset) - 1}")
    model.eval()
    return [_draw(model, dataset, sample, folder, threshold, forward, title) for sample in samples]


def _draw(
    model: BEVDetector | BEVSegmenter,
    dataset: Dataset,
    sample: int,
    folder: Path,
    threshold: float,
    forward: str,
    title: str,
) -> DrawnScene:
    batch: Batch = dataset.__getitems__([sample])
    with torch.no_grad():
        found = model.test_step(batch)[0]
    grid = model.backbone.grid
    extent = (grid.x[0], grid.y[0], grid.x[1], grid.y[1])
    boxes: dict[str, np.ndarray] | None = None
    layers: dict[str, np.ndarray] = {}
    if isinstance(model, BEVSegmenter):
        layers, told = _layers(model, batch, found["map_scores"][0].cpu().numpy(), threshold, forward)
    else:
        boxes, told = _boxes(batch, found, threshold)
    drawn = None if boxes is None else boxes["boxes"]
    pictures = scene_pictures(batch, 0, drawn, forward, extent, camera_points=False) | layers
    stems = {name: re.sub(r"\W+", "_", f"{sample}_{name}") for name in pictures}
    files = [write_picture(picture, folder / f"{stems[name]}.png") for name, picture in pictures.items()]
    token = (batch.get("meta") or {}).get("tokens", [f"sample {sample}"])[0]
    heading = f"{title}: {token}, {told}" if title else f"{token}, {told}"
    page = folder / f"{sample}.html"
    files.append(write_page(batch, page, 0, boxes, forward, heading, figures=layers, camera_points=False))
    return DrawnScene(sample, tuple(files), told)


def _boxes(batch: Batch, found: dict[str, Any], threshold: float) -> tuple[dict[str, np.ndarray], str]:
    """The boxes above a threshold as ``write_page`` takes them, and a line about them."""
    values = {
        name: found[key][0].cpu().numpy()
        for name, key in (("boxes", "boxes"), ("box_label", "labels"), ("score", "scores"))
    }
    kept = values["score"] >= threshold
    boxes = {name: value[kept] for name, value in values.items()}
    told = f"{int(kept.sum())} of {len(kept)} predicted boxes have a score of at least {threshold:g}"
    bad = int((~finite_boxes(boxes["boxes"])).sum())
    told += f" ({bad} not finite, left out)" if bad else ""
    return boxes, told + (f"; {len(batch['boxes'][0])} true boxes" if batch.get("boxes") else "; no labels")


def _layers(
    model: BEVSegmenter, batch: Batch, scores: np.ndarray, threshold: float, forward: str
) -> tuple[dict[str, np.ndarray], str]:
    """A picture of every layer by its name, and a line about them."""
    masks = batch.get("bev_mask")
    truth = np.full(scores.shape, -1) if masks is None else masks[0].cpu().numpy().astype(np.int64)
    pictures, figures = {}, []
    for name, own, score in zip(model.classes, truth, scores, strict=True):
        predicted = score >= threshold
        pictures[f"layer {name}"] = mask_picture(own, predicted, forward)
        both, either = (own == 1) & predicted, (own == 1) | (predicted & (own >= 0))
        figures.append(f"{name} {100 * both.sum() / either.sum():.0f} %" if either.any() else f"{name} -")
    return pictures, f"IoU at {threshold:g}: {', '.join(figures)}"


def mask_picture(truth: np.ndarray, predicted: np.ndarray, forward: str = "x", size: int = 480) -> np.ndarray:
    """A layer of a map, true against predicted, in ``MASK_COLOURS``.

    Args:
        truth: (Ny, Nx) 1, 0, or negative where nobody knows; those cells are grey, or orange if predicted.
        predicted: (Ny, Nx) bool.
        forward: axis that points up, see ``map_picture``.
        size: cells are drawn as whole squares, so large that the longer side has at least so many pixels.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    kind = np.where(truth < 0, np.where(predicted, 2, 4), (truth > 0) + 2 * predicted.astype(np.int64))
    # Maps have y in rows and x in columns, and the lowest of both first.
    kind = kind.T[::-1, ::-1] if forward == "x" else kind[::-1]
    side = max(-(-size // max(kind.shape)), 1)
    return np.array(MASK_COLOURS, dtype=np.uint8)[kind].repeat(side, axis=0).repeat(side, axis=1)
