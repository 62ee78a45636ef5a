"""A matrix of cosine similarities that is never held: tiles are multiplied, asked, and dropped.

Texts are rows and images columns. Equal feature rows are multiplied once and counted with their number, so that they
tie exactly: two multiplications of one pair may differ in the last bit, with the size of the tile or even with where
it lies in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE = 1024
_HASHED_ROWS = 4096


class Given:
    """Scores that exist as a matrix: every entry stands for itself."""

    def __init__(self, scores: Tensor) -> None:
        if scores.ndim != 2 or not torch.isfinite(scores).all():
            raise ValueError(f"a matrix of finite scores expected, got {tuple(scores.shape)}")
        self.scores = scores if scores.is_floating_point() else scores.double()
        self.dtype = self.scores.dtype
        self.row_of, self.column_of = (torch.arange(size, device=scores.device) for size in scores.shape)
        self.row_weight, self.column_weight = (torch.ones(size, device=scores.device) for size in scores.shape)

    def tile(self, rows: Any, columns: Any) -> Tensor:
        """Scores of some rows (slice or numbers) with some columns."""
        return self.scores[rows][:, columns]


class Products:
    """Cosine similarity of distinct rows, multiplied when a tile is asked for."""

    dtype = torch.float32

    def __init__(self, texts: Tensor, images: Tensor, rows: Tensor | None = None) -> None:
        self.texts, self.images = texts, images
        self.row_first, self.row_of, self.row_weight = distinct_rows(texts)
        if rows is not None:
            self.row_of = self.row_of[rows.to(texts.device)]
            self.row_weight = torch.bincount(self.row_of, minlength=len(self.row_first)).float()
        self.column_first, self.column_of, self.column_weight = distinct_rows(images)
        self.row_scale, self.column_scale = _inverse_norms(texts), _inverse_norms(images)

    def tile(self, rows: Any, columns: Any) -> Tensor:
        """Scores of some distinct rows (slice or numbers) with some distinct columns."""
        left, right = self.row_first[rows], self.column_first[columns]
        return (self.texts[left].float() * self.row_scale[left, None]) @ (
            self.images[right].float() * self.column_scale[right, None]
        ).T


@dataclass(frozen=True)
class Cells:
    """Where the pairs lie in the matrix of distinct rows and columns.

    Attributes:
        row: ``(c,)`` distinct row of each cell.
        column: ``(c,)`` distinct column of each cell.
        of_pair: ``(P,)`` cell of each pair.
    """

    row: Tensor
    column: Tensor
    of_pair: Tensor

    @classmethod
    def of(cls, source: Any, pairs: Tensor) -> Cells:
        """Cells of pairs ``(P, 2)`` of text and image."""
        width = len(source.column_weight)
        key, of_pair = (source.row_of[pairs[:, 0]] * width + source.column_of[pairs[:, 1]]).unique(return_inverse=True)
        return cls(key // width, key % width, of_pair)


@dataclass(frozen=True)
class Asks:
    """Questions to rows or columns: how many entries score above a threshold.

    Attributes:
        place: ``(Q,)`` the distinct row or column of each, sorted.
        level: ``(Q,)`` thresholds in that order.
        order: ``(Q,)`` number of the question that stands at each place.
    """

    place: Tensor
    level: Tensor
    order: Tensor

    @classmethod
    def of(cls, place: Tensor, level: Tensor) -> Asks:
        """Questions in any order."""
        place, order = place.sort(stable=True)
        return cls(place.contiguous(), level[order], order)

    def between(self, first: int, last: int) -> tuple[int, int]:
        """Which questions go to the rows or columns ``first`` to ``last``."""
        ends = torch.searchsorted(self.place, torch.tensor([first, last], device=self.place.device))
        return int(ends[0]), int(ends[1])

    def sorted_back(self, counts: Tensor) -> Tensor:
        """Counts in the order in which the questions were given."""
        return torch.empty_like(counts).index_copy_(0, self.order, counts).round().long()


@dataclass(frozen=True)
class Counts:
    """Entries above each question's threshold, and at or above it; and what the cells scored in their tiles."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]
    cells: Tensor


def _tiles(size: int, tile: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + tile, size)) for first in range(0, size, tile))


def cell_scores(source: Any, cells: Cells, tile: int) -> Tensor:
    """Score of every cell, by a multiplication like that of the entries that it is compared with.

    A sum in quite another order would be off by more than they differ, where all features are nearly alike.
    """
    scores = torch.empty(len(cells.row), dtype=source.dtype, device=cells.row.device)
    for first, last in _tiles(len(scores), tile):
        # Gathered into tiles, of which there are M / tile: little beside those of the matrix.
        some, place = cells.column[first:last].unique(return_inverse=True)
        scores[first:last] = source.tile(cells.row[first:last], some).gather(1, place[:, None])[:, 0]
    return scores


def count_tiles(source: Any, ask_rows: Asks, ask_columns: Asks, cells: Cells, tile: int) -> Counts:
    """Go once through the tiles of the matrix."""
    height, width = len(source.row_weight), len(source.column_weight)
    # Sums of whole numbers are exact in float32 up to 2^24.
    exact = torch.float32 if len(source.row_of) + len(source.column_of) < 2**24 else torch.float64
    row_weight, column_weight = source.row_weight.to(exact), source.column_weight.to(exact)
    rows, columns = cells.row, cells.column
    across = -(-width // tile)
    cell_tile, cell_order = ((rows // tile) * across + columns // tile).sort()
    of_rows = [torch.zeros(len(ask_rows.place), dtype=torch.float64, device=rows.device) for _ in range(2)]
    of_columns = [torch.zeros(len(ask_columns.place), dtype=torch.float64, device=rows.device) for _ in range(2)]
    values = torch.empty(len(rows), dtype=source.dtype, device=rows.device)
    # Of a tile, where so much is asked.
    room = max(min(tile, len(a.place)) * min(tile, b) for a, b in ((ask_rows, width), (ask_columns, height)))
    mask = torch.empty(room, dtype=exact, device=rows.device)
    for down, (top, bottom) in enumerate(_tiles(height, tile)):
        for right, (left, end) in enumerate(_tiles(width, tile)):
            number = torch.tensor([down * across + right, down * across + right + 1], device=rows.device)
            start, stop = torch.searchsorted(cell_tile, number).tolist()
            asked = ask_rows.between(top, bottom), ask_columns.between(left, end)
            if start == stop and all(first == last for first, last in asked):
                continue
            scores = source.tile(slice(top, bottom), slice(left, end))
            inside = cell_order[start:stop]
            values[inside] = scores[rows[inside] - top, columns[inside] - left]
            _ask(scores, ask_rows, asked[0], top, column_weight[left:end], of_rows, mask, tile)
            _ask(scores.T, ask_columns, asked[1], left, row_weight[top:bottom], of_columns, mask, tile)
    (rows_above, rows_level), (columns_above, columns_level) = of_rows, of_columns
    return Counts(
        (ask_rows.sorted_back(rows_above), ask_rows.sorted_back(rows_level)),
        (ask_columns.sorted_back(columns_above), ask_columns.sorted_back(columns_level)),
        values,
    )


def _ask(
    scores: Tensor,
    asks: Asks,
    asked: tuple[int, int],
    offset: int,
    weight: Tensor,
    totals: list[Tensor],
    mask: Tensor,
    tile: int,
) -> None:
    """Add what one tile ``scores`` (rows asked, columns counted) says to the ``totals`` of the questions."""
    for first in range(asked[0], asked[1], tile):
        last = min(first + tile, asked[1])
        place = asks.place[first:last] - offset
        whole = len(place) == len(scores) and bool((place[1:] > place[:-1]).all())
        part = scores if whole else scores[place]
        # Written as numbers, not truth values: a matrix product counts them many times faster than a sum. The layout
        # of the buffer follows that of the tile.
        upright = part.is_contiguous()
        room = mask[: part.numel()]
        above = room.view(part.shape) if upright else room.view(part.shape[1], part.shape[0]).T
        level = asks.level[first:last, None]
        for compare, total in zip((torch.gt, torch.ge), totals, strict=True):
            compare(part, level, out=above)
            total[first:last] += above @ weight


def _inverse_norms(x: Tensor) -> Tensor:
    """``(n,)`` float32; 0 for a row of zeros, which then scores 0 with everything."""
    norms = torch.cat([part.float().norm(dim=1) for part in x.split(_HASHED_ROWS)] or [x.new_zeros(0)])
    return torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(norms))


def distinct_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of ``x`` ``(n, D)`` up to equality, without a copy of them.

    Returns:
        ``(g,)`` position of the first of each group, ``(n,)`` group of each row, ``(g,)`` float32 size of each group.
        Groups are in the order in which they first appear.
    """
    random = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=torch.Generator().manual_seed(0)).to(x.device)
    codes = []
    for part in x.split(_HASHED_ROWS):
        values = part.float()
        if not torch.isfinite(values).all():
            raise ValueError("features must be finite")
        # + 0.0 makes a negative zero a positive one, which it is equal to.
        codes.append(((values + 0.0).view(torch.int32).long() * (random | 1)).sum(1))
    code = torch.cat(codes) if codes else torch.zeros(0, dtype=torch.int64, device=x.device)
    _, group = code.unique(return_inverse=True)
    groups = int(group.max()) + 1 if len(group) else 0
    rows = torch.arange(len(x), device=x.device)
    first = torch.full((groups,), len(x), device=x.device).scatter_reduce_(0, group, rows, "amin")
    # Rows of one hash that differ after all stand for themselves.
    repeated = (first[group] != rows).nonzero()[:, 0]
    strangers = [some[(x[some] != x[first[group[some]]]).any(1)] for some in repeated.split(_HASHED_ROWS)]
    alone = torch.cat(strangers) if strangers else repeated
    group[alone] = groups + torch.arange(len(alone), device=x.device)
    first = torch.cat([first, alone])
    first, order = first.sort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=x.device)
    group = place[group]
    return first, group, torch.bincount(group, minlength=len(first)).float()
