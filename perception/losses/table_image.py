r"""Losses of TIP.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., ECCV 2024).

* contrast: with unit embeddings :math:`z^I, z^T` and :math:`S = z^I (z^T)^T / \tau`,
  :math:`\lambda \, CE(S, I) + (1 - \lambda) \, CE(S^T, I)`;
* matching: two-way cross-entropy of pairs that belong together and of hard negatives drawn from the batch;
* reconstruction: of hidden cells, :math:`-\log p` of categories and squared error of standard scores, each averaged
  over its own hidden cells, then over the kinds of cells that there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.losses.contrastive import gather_rows, rank_and_world, sum_over_ranks

NEGATIVE_FLOOR = 1e-4
_PROBABILITY_FLOOR = 1e-8


def image_table_contrast(
    image: Tensor, table: Tensor, temperature: float = 0.1, image_weight: float = 0.5, gather: bool = False
) -> Tensor:
    """Cross-entropy of image to table, weighed ``image_weight``, and of table to image, weighed the rest.

    Args:
        image: (B, E) embeddings of length 1.
        table: (B, E) embeddings of length 1; row i belongs to image i.
        temperature: divides the cosines.
        image_weight: the lambda of the formula, in [0, 1].
        gather: contrast with the rows of all ranks, if there are several; they may hold different numbers of rows. A
            rank returns the share of its own rows; the mean over ranks, of losses as of gradients, is that of all rows.

    Returns:
        Scalar, float32 for inputs of lower precision. For equal orthonormal rows ``log(1 + (B - 1) exp(-1 / T))``.
    """
    if image.ndim != 2 or image.shape != table.shape:
        raise ValueError(f"images {tuple(image.shape)} and tables {tuple(table.shape)} must be embeddings (B, E)")
    image, table = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (image, table))
    (images, first), (tables, _) = (gather_rows(z) if gather else (z, 0) for z in (image, table))
    target = torch.arange(len(image), device=image.device) + first
    forth = F.cross_entropy(image @ tables.T / temperature, target, reduction="sum")
    back = F.cross_entropy(table @ images.T / temperature, target, reduction="sum")
    world = rank_and_world()[1] if gather else 1
    return (image_weight * forth + (1.0 - image_weight) * back) * (world / max(len(images), 1))


@torch.no_grad()
def draw_negatives(similarity: Tensor, excluded: Tensor | None = None, floor: float = NEGATIVE_FLOOR) -> Tensor:
    """For every row another column, drawn with probability ``softmax(row) + floor``, normalised; never its own.

    Args:
        similarity: (B, B) logits, B >= 2.
        excluded: (B, B) bool, columns that are not drawn either, such as equal tables. In a row where that leaves none
            they count as allowed.
        floor: positive; what every column has beside its similarity. Above 1 / B most draws are even ones.

    Returns:
        (B,) int64. The draws follow torch's global generator of the device.
    """
    if len(similarity) < 2:
        raise ValueError("negatives are drawn from the other rows of a batch: it needs at least two")
    weights = similarity.float().softmax(dim=1) + floor
    weights = weights.fill_diagonal_(0.0)
    if excluded is not None:
        allowed = weights.masked_fill(excluded, 0.0)
        weights = torch.where((allowed > 0).any(dim=1, keepdim=True), allowed, weights)
    # The first of competing exponential clocks: a column of weight 0 never wins.
    clocks = torch.empty_like(weights).exponential_().clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights / clocks).argmax(dim=1)


def same_rows(table: Tensor, missing: Tensor) -> Tensor:
    """Which rows of a preprocessed table (B, N) are equal, holes included: (B, B) bool."""
    cells = table.masked_fill(missing, float("inf"))  # no cell has this value
    return (cells[:, None] == cells[None]).all(dim=2)


@dataclass(frozen=True)
class HiddenCells:
    """Cells of a table that are hidden, in every row as many as it has been drawn.

    Attributes:
        mask: (B, N) bool.
        places: (B, K) int64 columns of the hidden cells of a row, in random order; K is the most that a row can have.
        valid: (B, K) bool; False behind the last hidden cell of a row.
    """

    mask: Tensor
    places: Tensor
    valid: Tensor


@torch.no_grad()
def draw_cells(missing: Tensor, rate: float) -> HiddenCells:
    """Cells to hide: in every row ``round(rate * n)`` of its n observed ones.

    Halves are rounded to even, as python does. The draws follow torch's global generator of the device.

    Args:
        missing: (B, N) bool, cells that cannot be chosen.
        rate: share in [0, 1].
    """
    counts = ((~missing).sum(dim=1, keepdim=True).double() * rate).round()
    order = torch.rand(missing.shape, device=missing.device).masked_fill(missing, 2.0).argsort(dim=1)
    places = order[:, : round(rate * missing.shape[1])]
    valid = torch.arange(places.shape[1], device=missing.device) < counts
    return HiddenCells(torch.zeros_like(missing).scatter(1, places, valid), places, valid)


def hidden_cell_loss(categorical: Tensor, continuous: Tensor, gather: bool = False) -> Tensor:
    """Mean over the kinds of cells that there are of the mean loss of each.

    Args:
        categorical: (M,) losses of hidden categorical cells.
        continuous: (L,) losses of hidden continuous cells.
        gather: average over the hidden cells of all ranks, if there are several, which may differ in how many they
            hide. Every rank returns the loss of all; the mean of the gradients over the ranks is its gradient.

    Returns:
        Scalar; 0 where nothing is hidden, with a gradient of 0 for what made the losses: several ranks wait for one.
    """
    sums = torch.stack([losses.float().sum() for losses in (categorical, continuous)])
    counts = sums.new_tensor([categorical.numel(), continuous.numel()])
    if gather:
        sums, counts = sum_over_ranks(torch.stack([sums, counts]), rank_and_world()[1])
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def category_losses(logits: Tensor, target: Tensor, vocabulary: str = "column") -> Tensor:
    """``-log p`` (M,) of the true categories of cells.

    Args:
        logits: (M, K) over the categories of all columns; those of other columns are minus infinity where every column
            has a softmax of its own.
        target: (M,) int64 places among all categories.
        vocabulary: ``column``, or ``global`` for one softmax over all columns' categories, with 1e-8 added to the
            probability, as TIP's public code has it.
    """
    if vocabulary == "global":
        chosen = logits.float().softmax(dim=1).gather(1, target[:, None])[:, 0]
        return -(chosen + _PROBABILITY_FLOOR).log()
    return F.cross_entropy(logits.float(), target, reduction="none")
