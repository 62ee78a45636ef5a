"""Pictures of what an encoder of tables with images looks at."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from perception.pretext.pictures import colour, three_band
from perception.transforms.preprocess import Batch

_SIDE = 128  # pixels of an image
_LINE = 14  # pixels of a column's line
_WIDTH = 260  # pixels of the part with the columns
_TEXT = (cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)
_BAR, _HOLE = (59, 82, 139), (200, 200, 200)


@torch.no_grad()
def attention_picture(backbone: Any, batch: Batch, count: int) -> np.ndarray:
    """Rows of an image, the same lit where the joint class token looks, and a bar for every column of the table.

    Shown is the mean over the heads of the last block of ``TableImageEncoder.interaction``. Bars are scaled to the
    longest of a row; missing cells are named in grey.

    Args:
        backbone: a ``TableImageEncoder``.
        batch: preprocessed batch with images and a table.
        count: samples to show.

    Returns:
        uint8 (H, W, 3).
    """
    own = {key: batch[key][:count] for key in ("image", "table", "table_missing")}
    columns, places = (weights[-1].float().cpu() for weights in backbone.attention(own))
    shown = three_band(backbone.preprocess.denormalize(own["image"]).cpu().numpy())
    names = [column.name for column in backbone.preprocess.columns]
    height = max(_SIDE, _LINE * len(names)) + 4
    rows = []
    for i, image in enumerate(shown):
        pixels = cv2.resize(image.transpose(1, 2, 0), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
        canvas = np.full((height, 2 * _SIDE + 8 + _WIDTH, 3), 255, dtype=np.uint8)
        canvas[:_SIDE, :_SIDE] = pixels
        canvas[:_SIDE, _SIDE + 4 : 2 * _SIDE + 4] = _lit(pixels, places[i], own["image"].shape[-2:])
        _bars(canvas[:, 2 * _SIDE + 8 :], columns[i].numpy(), names, own["table_missing"][i].cpu().numpy())
        rows.append(canvas)
    return np.concatenate(rows)


def _lit(pixels: np.ndarray, weights: torch.Tensor, size: torch.Size) -> np.ndarray:
    """Pixels mixed with the colour of the weight of their place; a class token before the places is left out."""
    ratio = size[1] / size[0]
    rows = int((len(weights) / ratio) ** 0.5)
    columns = len(weights) // rows
    grid = weights[len(weights) - rows * columns :].view(1, 1, rows, columns)
    smooth = F.interpolate(grid, (_SIDE, _SIDE), mode="bilinear", align_corners=False)[0, 0].numpy()
    return (0.5 * pixels + 0.5 * colour(smooth)).astype(np.uint8)


def _bars(canvas: np.ndarray, weights: np.ndarray, names: list[str], missing: np.ndarray) -> None:
    part = np.zeros((canvas.shape[0], canvas.shape[1], 3), dtype=np.uint8) + 255
    longest = max(float(weights.max()), 1e-12)
    for j, name in enumerate(names):
        top = j * _LINE + 2
        length = round((_WIDTH - 130) * float(weights[j]) / longest)
        cv2.putText(part, name[:20], (0, top + _LINE - 4), *_TEXT)
        cv2.rectangle(part, (125, top + 2), (125 + length, top + _LINE - 3), _HOLE if missing[j] else _BAR, -1)
    canvas[:] = part
