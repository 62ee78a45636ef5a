"""Cross-modal retrieval as pure functions: ranks of both directions, recall at k, what ties leave open.

A query is a *hit* at k if at least one of its own entries is among the first k of the gallery. With b the best score
of its own entries, ``above`` the number of foreign entries that score higher and ``tied`` the number that score
exactly b, there are three readings of ties: optimistic (``above < k``), pessimistic (``above + tied < k``) and
expected, the chance of a hit if ties are broken at random. Top-k by a sort is one draw of the last.

The score matrix of M texts and N images is never held: its tiles, in float32, are counted in both directions and
dropped; see ``score_tiles``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.evaluation.score_tiles import TILE, Asks, Cells, Given, Products, cell_scores, count_tiles

TIES = ("optimistic", "pessimistic", "expected")


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
    return _both(Products(texts, images, rows), pairs, tile)


def ranks_of_scores(scores: Tensor, pairs: Tensor, tile: int = TILE) -> tuple[Ranks, Ranks]:
    """Ranks of both directions out of a score matrix ``(M, N)`` of texts and images; see ``retrieval_ranks``."""
    return _both(Given(scores), pairs, tile)


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
    source = Products(texts, images, rows)
    pairs = _checked(pairs, source)
    cells = Cells.of(source, pairs)
    scores = cell_scores(source, cells, tile)
    own = scores[cells.of_pair]
    of_texts, of_images = (Asks.of(place[cells.of_pair], own) for place in (cells.row, cells.column))
    counts = count_tiles(source, of_texts, of_images, cells, tile)
    found: dict[str, float] = {}
    for name, (above, level), side, weight in (
        ("i2t", counts.columns, 1, source.row_weight[cells.row]),
        ("t2i", counts.rows, 0, source.column_weight[cells.column]),
    ):
        again, alike = counts.cells[cells.of_pair], weight[cells.of_pair].long()
        above, level = above - alike * (again > own), level + alike * (again < own)
        query, owned = pairs[:, side].unique(return_inverse=True)
        number = torch.bincount(owned, minlength=len(query)).double()
        for k in ks:
            inside = ((k - above).double() / (level - above).double()).clamp(0, 1)
            share = torch.zeros(len(query), dtype=torch.float64, device=inside.device).index_add_(0, owned, inside)
            found[f"{name} true R@{k}"] = float((share / number).mean())
    return found


def _both(source: Any, pairs: Tensor, tile: int) -> tuple[Ranks, Ranks]:
    pairs = _checked(pairs, source)
    cells = Cells.of(source, pairs)
    scores = cell_scores(source, cells, tile)
    sides = []
    for side, places in ((1, source.column_of), (0, source.row_of)):
        query, owned = pairs[:, side].unique(return_inverse=True)
        best = torch.full((len(query),), -torch.inf, dtype=scores.dtype, device=scores.device)
        best.scatter_reduce_(0, owned, scores[cells.of_pair], "amax")
        sides.append((query, owned, best, Asks.of(places[query], best)))
    counts = count_tiles(source, sides[1][3], sides[0][3], cells, tile)
    ranks = []
    weights = source.row_weight[cells.row].long(), source.column_weight[cells.column].long()
    for (query, owned, best, _), (above, level), weight in zip(
        sides, (counts.columns, counts.rows), weights, strict=True
    ):
        # Of the cells that a query owns an entry of: which query, which cell, how many entries.
        number = len(cells.row)
        key, mine = (owned * number + cells.of_pair).unique(return_counts=True)
        whose, cell = key // number, key % number
        # What a cell holds scores the same, by definition. What the tile made of it, maybe another last bit, is taken
        # out again; no entry of a cell is above the best own score, and those that are not own tie with it.
        above = above - _sum_of(weight[cell] * (counts.cells[cell] > best[whose]), whose, len(query))
        level = level - _sum_of(weight[cell] * (counts.cells[cell] >= best[whose]), whose, len(query))
        top = scores[cell] == best[whose]
        foreign = _sum_of((weight[cell] - mine) * top, whose, len(query))
        ranks.append(Ranks(above, level - above + foreign, _sum_of(mine * top, whose, len(query)), query))
    return ranks[0], ranks[1]


def _sum_of(values: Tensor, group: Tensor, groups: int) -> Tensor:
    return torch.zeros(groups, dtype=torch.int64, device=values.device).index_add_(0, group, values)


def _checked(pairs: Tensor, source: Any) -> Tensor:
    pairs = torch.as_tensor(pairs)
    limits = torch.tensor([len(source.row_of), len(source.column_of)])
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(f"pairs (P, 2) of text and image expected, at least one; got {tuple(pairs.shape)}")
    if bool((pairs < 0).any()) or bool((pairs.cpu().amax(0) >= limits).any()):
        raise ValueError(f"a pair names a text or image beyond the {limits.tolist()} that are there")
    return pairs.long().to(source.row_of.device).unique(dim=0)
