r"""Objects as peaks of a bird's-eye-view heatmap.

"Center-based 3D Object Detection and Tracking" (Yin, Zhou and Kraehenbuehl, CVPR 2021).

Every box is the peak of a Gaussian at the cell of its centre, and a code of ten numbers that a detector reads at that
cell: the place within the cell (x, y), the height z, log(l, w, h), (sin yaw, cos yaw) and the velocity (x, y).

Heatmap loss, with p the sigmoid clipped to [1e-4, 1 - 1e-4] and y the target:

.. math::
    L = -\frac{1}{\max(1, n)} \sum \begin{cases} (1 - p)^2 \log p & y = 1 \\
        (1 - y)^4 p^2 \log(1 - p) & \text{else} \end{cases}

where n counts the cells with y = 1. Two objects of one class in one cell share a peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.grid import BEVGrid
from perception.geometry.transforms import wrap_angle

CODE = 8  # numbers of a box without its velocity
LOG_SIZE = (-3.0, 4.0)  # a predicted side lies between 5 cm and 55 m whatever the network says
ROOTS = ("cornernet", "exact")


@dataclass(frozen=True)
class CentreTargets:
    """What the head of one group of classes shall give for a batch. M boxes of the batch lie on the grid.

    Attributes:
        heatmap: (B, K, Ny, Nx) in [0, 1].
        sample: (M,) int64, place in the batch.
        row: (M,) int64, cell along y.
        column: (M,) int64, cell along x.
        code: (M, 8) or, with velocities, (M, 10) floats, NaN where unknown.
    """

    heatmap: Tensor
    sample: Tensor
    row: Tensor
    column: Tensor
    code: Tensor


def gaussian_radius(length: Tensor, width: Tensor, overlap: float = 0.1, roots: str = "cornernet") -> Tensor:
    """How far, in cells, corners may move so that the moved box still overlaps the true one by ``overlap``.

    The smallest of three cases: one corner moves in and one out, both move in, both move out.

    Args:
        length: (M,) in cells.
        width: (M,) in cells; the two may be swapped.
        overlap: intersection over union in (0, 1).
        roots: ``'cornernet'`` takes the roots of the first public code ("CornerNet", Law and Deng, ECCV 2018), which
            all detectors of this family kept: (b + root) / 2 in all three cases. The first two are the wrong roots, so
            that the third alone decides, 2 * overlap times as large as it should be. ``'exact'`` solves the three
            equations; the second case then decides for small overlaps.

    Returns:
        (M,) floats.
    """
    around, area = length + width, length * width
    one = (around, area * (1 - overlap) / (1 + overlap), 1.0)
    both_in = (2 * around, area * (1 - overlap), 4.0)
    both_out = (-2 * overlap * around, area * (overlap - 1), 4 * overlap)
    found = []
    for place, (b, c, a) in enumerate((one, both_in, both_out)):
        root = (b * b - 4 * a * c).clamp_min(0).sqrt()
        if roots == "cornernet":
            found.append((b + root) / 2)
        else:
            found.append((b - root if place < 2 else b + root) / (2 * a))
    return torch.stack(found).amin(0)


def draw_gaussians(plane: Tensor, row: Tensor, column: Tensor, radius: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Peaks of height 1 with sigma = (2 r + 1) / 6, cut off at a square of r cells; the higher one where they meet.

    Args:
        plane: (M,) int64, plane that each peak is drawn on.
        row: (M,) int64.
        column: (M,) int64.
        radius: (M,) int64, in cells.
        shape: planes, rows and columns of the outcome.

    Returns:
        (planes, rows, columns) float32.
    """
    planes, rows, columns = shape
    canvas = torch.zeros(planes * rows * columns, device=plane.device)
    if not len(plane):
        return canvas.view(shape)
    step = torch.arange(-int(radius.max()), int(radius.max()) + 1, device=plane.device)
    sigma = (2 * radius.float() + 1) / 6
    value = torch.exp(-(step[:, None] ** 2 + step**2) / (2 * sigma.view(-1, 1, 1) ** 2))
    near = step.abs() <= radius[:, None]  # (M, D)
    y, x = row[:, None] + step, column[:, None] + step
    y_in, x_in = near & (y >= 0) & (y < rows), near & (x >= 0) & (x < columns)
    value = value * (y_in[:, :, None] & x_in[:, None])
    place = plane.view(-1, 1, 1) * rows + y.clamp(0, rows - 1)[:, :, None]
    place = place * columns + x.clamp(0, columns - 1)[:, None]
    return canvas.scatter_reduce_(0, place.flatten(), value.flatten(), "amax").view(shape)


def encode_boxes(boxes: Tensor, grid: BEVGrid, velocity: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells and codes of boxes.

    Args:
        boxes: (M, 7) x, y, z, l, w, h, yaw.
        grid: grid of the head's map.
        velocity: (M, 2) in m/s, NaN where unknown; ``None`` for codes without velocity.

    Returns:
        Row (M,), column (M,), whether the box can be learned (M,) and code (M, 8 or 10). A box cannot if its centre
        lies outside the grid, if a number of it is not finite or if a side is not positive.
    """
    row, column, inside = grid.index(boxes[:, :2])
    usable = inside & boxes.isfinite().all(1) & (boxes[:, 3:6] > 0).all(1)
    start = boxes.new_tensor([grid.x[0], grid.y[0]])
    place = (boxes[:, :2] - start) / boxes.new_tensor(grid.cell) - torch.stack([column, row], 1)
    yaw = boxes[:, 6:7]
    parts = [place, boxes[:, 2:3], boxes[:, 3:6].log(), yaw.sin(), yaw.cos()]
    return row, column, usable, torch.cat(parts if velocity is None else [*parts, velocity], 1)


def decode_boxes(code: Tensor, row: Tensor, column: Tensor, grid: BEVGrid) -> tuple[Tensor, Tensor | None]:
    """Boxes (..., 7) and velocities (..., 2), if the code has them, of codes (..., 8 or 10) at cells (...)."""
    cell, start = code.new_tensor(grid.cell), code.new_tensor([grid.x[0], grid.y[0]])
    centre = start + (torch.stack([column, row], -1) + code[..., :2]) * cell
    size = code[..., 3:6].clamp(*LOG_SIZE).exp()
    yaw = wrap_angle(torch.atan2(code[..., 6:7], code[..., 7:8]))
    boxes = torch.cat([centre, code[..., 2:3], size, yaw], -1)
    return boxes, code[..., CODE:] if code.shape[-1] > CODE else None


def centre_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    grid: BEVGrid,
    count: int,
    velocity: Sequence[Tensor] | None = None,
    overlap: float = 0.1,
    min_radius: int = 2,
    roots: str = "cornernet",
) -> CentreTargets:
    """Targets of a batch.

    Args:
        boxes: B tensors (M_b, 7).
        labels: B tensors (M_b,) int64 in [0, count); other boxes are none of this head's.
        grid: grid of the head's map.
        count: classes K of the head.
        velocity: B tensors (M_b, 2), NaN where unknown; ``None`` for codes without velocity.
        overlap: see ``gaussian_radius``.
        min_radius: smallest radius in cells.
        roots: see ``gaussian_radius``.
    """
    every, label = torch.cat(list(boxes)), torch.cat(list(labels))
    sizes = torch.tensor([len(b) for b in boxes], device=label.device)
    sample = torch.repeat_interleave(torch.arange(len(boxes), device=label.device), sizes)
    speed = None if velocity is None else torch.cat(list(velocity)).to(every.dtype)
    row, column, usable, code = encode_boxes(every, grid, speed)
    chosen = usable & (label >= 0) & (label < count)
    sample, label, row, column, code = (v[chosen] for v in (sample, label, row, column, code))
    sides = every[chosen, 3:5] / every.new_tensor(grid.cell)
    radius = gaussian_radius(sides[:, 0], sides[:, 1], overlap, roots).long().clamp_min(min_radius)
    shape = (len(boxes) * count, *grid.shape)
    heatmap = draw_gaussians(sample * count + label, row, column, radius, shape)
    return CentreTargets(heatmap.view(len(boxes), count, *grid.shape), sample, row, column, code)


def heatmap_focal_loss(logits: Tensor, target: Tensor, clip: float = 1e-4) -> Tensor:
    """Penalty-reduced focal loss of this module's head, in float32.

    Args:
        logits: (B, K, Ny, Nx), before the sigmoid.
        target: (B, K, Ny, Nx) in [0, 1].
        clip: distance that probabilities keep from 0 and 1; beyond it there is no gradient.

    Returns:
        Scalar, the sum over cells over the number of peaks (at least 1).
    """
    p = logits.float().sigmoid().clamp(clip, 1 - clip)
    peak = target == 1
    present = (1 - p).square() * p.log()
    absent = (1 - target).pow(4) * p.square() * (1 - p).log()
    return -torch.where(peak, present, absent).sum() / peak.sum().clamp_min(1)


def box_l1_loss(prediction: Tensor, target: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Weighted L1 distance of codes, in float32, summed over numbers and averaged over boxes.

    Args:
        prediction: (M, C) read at the boxes' cells.
        target: (M, C); a number that is NaN counts nothing and sends no gradient.
        weights: C weights; ``None``: 1 for the box, 0.2 for the velocity.

    Returns:
        Scalar; 0 with a graph for M = 0.
    """
    if weights is None:
        weights = [1.0] * CODE + [0.2] * (target.shape[1] - CODE)
    known = ~target.isnan()
    distance = (prediction.float() - target.nan_to_num().float()).abs() * known
    return (distance * distance.new_tensor(list(weights))).sum() / (len(target) + 1e-4)
