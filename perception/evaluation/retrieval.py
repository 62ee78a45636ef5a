"""Cross-modal retrieval as pure functions: ranks of both directions, recall at k, what ties leave open.

A query is a *hit* at k if at least one of its own entries is among the first k of the gallery. With b the best score
of its own entries, ``above`` the number of foreign entries that score higher and ``tied`` the number that score
exactly b, there are three readings of ties: optimistic (``above < k``), pessimistic (``above + tied < k``) and
expected, the chance of a hit if ties are broken at random. Top-k by a sort is one draw of the last.

The score matrix of M texts and N images is never held: tiles of it are multiplied in float32, counted in both
directions and dropped. Equal feature rows are multiplied once and counted with their number, so that equal captions
tie exactly whatever the tile size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TIES = ("optimistic", "pessimistic", "expected")
TILE = 1024
_FEW_TILES = 64  # so few that multiplying all of them twice costs nothing
_HASHED_ROWS = 4096


@dataclass(frozen=True)
class Ranks:
    """Where the best own entry of each query stands in its gallery.

    Attributes:
        above: ``(Q,)`` int64, foreign entries with a higher score than the best own one.
        tied: ``(Q,)`` int64, foreign entries with exactly its score.
        own: ``(Q,)`` int64, own entries with exactly that score, at least 1.
        query: ``(Q,)`` int64, which texts or images the queries are; those that own nothing are left out.
    """

    above: Tensor
    tied: Tensor
    own: Tensor
    query: Tensor

    def __len__(self) -> int:
        return len(self.above)

    def hits(self, k: int, ties: str = "optimistic") -> Tensor:
        """``(Q,)`` float64: 1 or 0, and with ``ties='expected'`` the chance of a hit at ``k``."""
        if ties == "expected":
            return 1 - miss_chance(self.tied, self.own, k - self.above)
        return (self._rank(ties) < k).double()

    def recall(self, k: int, ties: str = "optimistic") -> float:
        """Share of queries with a hit at ``k``."""
        if not len(self):
            raise ValueError("recall of no queries is undefined")
        return float(self.hits(k, ties).mean())

    def median(self, ties: str = "optimistic") -> float:
        """Median rank of the best own entry, counted from 1; for ``expected`` of its expected rank."""
        if ties == "expected":
            # The first of o own among e foreign entries in random order comes after e / (o + 1) of these.
            rank = self.above.double() + self.tied.double() / (self.own.double() + 1)
        else:
            rank = self._rank(ties).double()
        return float(rank.quantile(0.5)) + 1

    def _rank(self, ties: str) -> Tensor:
        if ties not in TIES:
            raise ValueError(f"ties must be one of {', '.join(TIES)}, got {ties!r}")
        return self.above + self.tied if ties == "pessimistic" else self.above


def miss_chance(foreign: Tensor, own: Tensor, draws: Tensor | int) -> Tensor:
    """Chance that ``draws`` of ``foreign + own`` entries in random order hold no own one: ``C(e, t) / C(e + o, t)``.

    Args:
        foreign: ``(Q,)`` int64 entries e.
        own: ``(Q,)`` int64 entries o.
        draws: t, one number or ``(Q,)``; not positive means no draw, which misses for certain.

    Returns:
        ``(Q,)`` float64.
    """
    draws = torch.as_tensor(draws, device=foreign.device).expand(foreign.shape)
    e, o, chance = foreign.double(), own.double(), torch.ones_like(foreign, dtype=torch.float64)
    # min() rather than all draws: with more draws than foreign entries the product has met its zero.
    last = int(torch.minimum(draws, foreign + 1).max()) if len(foreign) else 0
    for drawn in range(last):
        chance = torch.where(draws > drawn, chance * ((e - drawn).clamp_min(0) / (e + o - drawn).clamp_min(1)), chance)
    return chance


def owner_pairs(owner: Tensor) -> Tensor:
    """Pairs ``(M, 2)`` of (text, image) where text j belongs to image ``owner[j]``."""
    return torch.stack([torch.arange(len(owner), device=owner.device), owner.long()], dim=1)


def retrieval_ranks(
    texts: Tensor, images: Tensor, pairs: Tensor, rows: Tensor | None = None, tile: int = TILE
) -> tuple[Ranks, Ranks]:
    """Ranks of both directions by cosine similarity.

    Images without a text stay in the gallery of the texts, but are no queries; nor are texts without an image.

    Args:
        texts: ``(M, D)`` features, normalised or not.
        images: ``(N, D)`` features.
        pairs: ``(P, 2)`` int64, which text belongs to which image: ``owner_pairs(owner)`` where each has one.
        rows: ``(M,)`` int64: text j has the features ``texts[rows[j]]``. So repeated captions need be held only once.
        tile: rows and columns of a tile; beside the features, three tiles of float32 are the memory that it takes.

    Returns:
        Ranks of image -> text and of text -> image.

    Raises:
        ValueError: shapes or pairs that do not fit, or features that are not finite.
    """
    if texts.ndim != 2 or images.ndim != 2 or texts.shape[1] != images.shape[1]:
        raise ValueError(f"features (M, D) and (N, D) expected, got {tuple(texts.shape)} and {tuple(images.shape)}")
    return _both(_Products(texts, images, rows), pairs, tile)


def ranks_of_scores(scores: Tensor, pairs: Tensor, tile: int = TILE) -> tuple[Ranks, Ranks]:
    """Ranks of both directions out of a score matrix ``(M, N)`` of texts and images; see ``retrieval_ranks``."""
    return _both(_Given(scores), pairs, tile)


def true_recall(
    texts: Tensor,
    images: Tensor,
    pairs: Tensor,
    ks: Sequence[int],
    rows: Tensor | None = None,
    tile: int = TILE,
) -> dict[str, float]:
    """Mean share of its own entries that a query finds among the first k: *another figure* than recall at k.

    Ties are broken at random (expected value). CLIP_benchmark computes this and then asks whether it is above 0.

    Returns:
        ``i2t true R@k`` and ``t2i true R@k`` by name, as fractions.
    """
    source = _Products(texts, images, rows)
    pairs = _checked(pairs, source)
    scores = _own_scores(source, pairs, tile)
    of_texts, of_images = source.row_of[pairs[:, 0]], source.column_of[pairs[:, 1]]
    counts = _count(source, _Asks.of(of_texts, scores), _Asks.of(of_images, scores), pairs, tile)
    found: dict[str, float] = {}
    for name, (above, level), side in (("i2t", counts.columns, 1), ("t2i", counts.rows, 0)):
        # A pair ties with itself, even where its two multiplications differ in the last bit.
        above, level = above - (counts.pairs > scores).long(), level + (counts.pairs < scores).long()
        query, owned = pairs[:, side].unique(return_inverse=True)
        number = torch.bincount(owned, minlength=len(query)).double()
        for k in ks:
            inside = ((k - above).double() / (level - above).double()).clamp(0, 1)
            share = torch.zeros(len(query), dtype=torch.float64, device=inside.device).index_add_(0, owned, inside)
            found[f"{name} true R@{k}"] = float((share / number).mean())
    return found


class _Given:
    """Scores that exist as a matrix: every entry stands for itself."""

    def __init__(self, scores: Tensor) -> None:
        if scores.ndim != 2 or not torch.isfinite(scores).all():
            raise ValueError(f"a matrix of finite scores expected, got {tuple(scores.shape)}")
        self.scores = scores if scores.is_floating_point() else scores.double()
        self.dtype = self.scores.dtype
        self.row_of, self.column_of = (torch.arange(size, device=scores.device) for size in scores.shape)
        self.row_weight, self.column_weight = (torch.ones(size, device=scores.device) for size in scores.shape)

    def tile(self, rows: Any, columns: Any) -> Tensor:
        return self.scores[rows][:, columns]


class _Products:
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
        left, right = self.row_first[rows], self.column_first[columns]
        return (self.texts[left].float() * self.row_scale[left, None]) @ (
            self.images[right].float() * self.column_scale[right, None]
        ).T


@dataclass(frozen=True)
class _Asks:
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
    def of(cls, place: Tensor, level: Tensor) -> _Asks:
        place, order = place.sort(stable=True)
        return cls(place.contiguous(), level[order], order)

    def between(self, first: int, last: int) -> tuple[int, int]:
        ends = torch.searchsorted(self.place, torch.tensor([first, last], device=self.place.device))
        return int(ends[0]), int(ends[1])

    def sorted_back(self, counts: Tensor) -> Tensor:
        return torch.empty_like(counts).index_copy_(0, self.order, counts).round().long()


@dataclass(frozen=True)
class _Counts:
    """Entries above each question's threshold, and at or above it; and what the pairs scored in their tiles."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]
    pairs: Tensor


def _both(source: Any, pairs: Tensor, tile: int) -> tuple[Ranks, Ranks]:
    pairs = _checked(pairs, source)
    scores = _own_scores(source, pairs, tile)
    sides = []
    for side, places in ((1, source.column_of), (0, source.row_of)):
        query, owned = pairs[:, side].unique(return_inverse=True)
        best = torch.full((len(query),), -torch.inf, dtype=scores.dtype, device=scores.device)
        best.scatter_reduce_(0, owned, scores, "amax")
        sides.append((query, owned, best, _Asks.of(places[query], best)))
    counts = _count(source, sides[1][3], sides[0][3], pairs, tile)
    ranks = []
    for (query, owned, best, _), (above, level) in zip(sides, (counts.columns, counts.rows), strict=True):
        # An own entry never counts as foreign, not even where two multiplications differ in the last bit.
        above = above - _sum_of(counts.pairs > best[owned], owned, len(query))
        level = level - _sum_of(counts.pairs >= best[owned], owned, len(query))
        own = _sum_of(scores == best[owned], owned, len(query))
        ranks.append(Ranks(above, level - above, own, query))
    return ranks[0], ranks[1]


def _sum_of(hits: Tensor, group: Tensor, groups: int) -> Tensor:
    return torch.zeros(groups, dtype=torch.int64, device=hits.device).index_add_(0, group, hits.long())


def _checked(pairs: Tensor, source: Any) -> Tensor:
    pairs = torch.as_tensor(pairs)
    limits = torch.tensor([len(source.row_of), len(source.column_of)])
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(f"pairs (P, 2) of text and image expected, at least one; got {tuple(pairs.shape)}")
    if bool((pairs < 0).any()) or bool((pairs.cpu().amax(0) >= limits).any()):
        raise ValueError(f"a pair names a text or image beyond the {limits.tolist()} that are there")
    return pairs.long().to(source.row_of.device).unique(dim=0)


def _tiles(size: int, tile: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + tile, size)) for first in range(0, size, tile))


def _own_scores(source: Any, pairs: Tensor, tile: int) -> Tensor:
    """``(P,)`` scores of the pairs, by the same multiplication as those that they are compared with.

    A sum in another order would differ in the last bits, which matters where all features are alike.
    """
    rows, columns = source.row_of[pairs[:, 0]], source.column_of[pairs[:, 1]]
    height, width = len(source.row_weight), len(source.column_weight)
    if -(-height // tile) * -(-width // tile) <= _FEW_TILES:
        nothing = _Asks(rows[:0], source.row_weight[:0], rows[:0])
        return _count(source, nothing, nothing, pairs, tile).pairs
    scores = torch.empty(len(pairs), dtype=source.dtype, device=rows.device)
    for first, last in _tiles(len(pairs), tile):
        # Gathered into tiles, of which there are M / tile: little beside those of the matrix.
        some, place = columns[first:last].unique(return_inverse=True)
        part = source.tile(rows[first:last], some)
        scores[first:last] = part.gather(1, place[:, None])[:, 0]
    return scores


def _count(source: Any, ask_rows: _Asks, ask_columns: _Asks, pairs: Tensor, tile: int) -> _Counts:
    """Go once through the tiles of the matrix."""
    height, width = len(source.row_weight), len(source.column_weight)
    # Sums of whole numbers are exact in float32 up to 2^24.
    exact = torch.float32 if len(source.row_of) + len(source.column_of) < 2**24 else torch.float64
    row_weight, column_weight = source.row_weight.to(exact), source.column_weight.to(exact)
    rows, columns = source.row_of[pairs[:, 0]], source.column_of[pairs[:, 1]]
    across = -(-width // tile)
    pair_tile, pair_order = ((rows // tile) * across + columns // tile).sort()
    of_rows = [torch.zeros(len(ask_rows.place), dtype=torch.float64, device=rows.device) for _ in range(2)]
    of_columns = [torch.zeros(len(ask_columns.place), dtype=torch.float64, device=rows.device) for _ in range(2)]
    values = torch.empty(len(pairs), dtype=source.dtype, device=rows.device)
    # Of a tile, where so much is asked.
    room = max(min(tile, len(a.place)) * min(tile, b) for a, b in ((ask_rows, width), (ask_columns, height)))
    mask = torch.empty(room, dtype=exact, device=rows.device)
    for down, (top, bottom) in enumerate(_tiles(height, tile)):
        for right, (left, end) in enumerate(_tiles(width, tile)):
            number = torch.tensor([down * across + right, down * across + right + 1], device=rows.device)
            start, stop = torch.searchsorted(pair_tile, number).tolist()
            asked = ask_rows.between(top, bottom), ask_columns.between(left, end)
            if start == stop and all(first == last for first, last in asked):
                continue
            scores = source.tile(slice(top, bottom), slice(left, end))
            inside = pair_order[start:stop]
            values[inside] = scores[rows[inside] - top, columns[inside] - left]
            _ask(scores, ask_rows, asked[0], top, column_weight[left:end], of_rows, mask, tile)
            _ask(scores.T, ask_columns, asked[1], left, row_weight[top:bottom], of_columns, mask, tile)
    (rows_above, rows_level), (columns_above, columns_level) = of_rows, of_columns
    return _Counts(
        (ask_rows.sorted_back(rows_above), ask_rows.sorted_back(rows_level)),
        (ask_columns.sorted_back(columns_above), ask_columns.sorted_back(columns_level)),
        values,
    )


def _ask(
    scores: Tensor,
    asks: _Asks,
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
