"""What recall means before a model is looked at: chance below, the ceiling of duplicate captions above.

Both are ``Ranks`` of an imagined model, so that they are read as a model's are, with ``recall(k, "expected")``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.evaluation.retrieval import Ranks

MEAN_KS = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")


def recalls(both: Sequence[Recalling], ks: Sequence[int] = MEAN_KS, ties: str = "optimistic") -> dict[str, float]:
    """Recall of both directions by name, as fractions.

    Args:
        both: image -> text and text -> image.
        ks: values of k, beside those that the mean is made of.
        ties: reading of ties.

    Returns:
        ``i2t R@k`` and ``t2i R@k`` for every k, and ``mean recall``, the plain mean of the six at 1, 5 and 10.
    """
    values = {(d, k): ranks.recall(k, ties) for d, ranks in zip(DIRECTIONS, both, strict=True) for k in (*MEAN_KS, *ks)}
    found = {f"{direction} R@{k}": values[direction, k] for direction in DIRECTIONS for k in sorted(set(ks))}
    six = [values[direction, k] for direction in DIRECTIONS for k in MEAN_KS]
    return {**found, "mean recall": sum(six) / len(six)}


def chance_ranks(pairs: Tensor, texts: int, images: int) -> tuple[Ranks, Ranks]:
    """Random scores, the same as constant ones with ties broken at random: image -> text and text -> image.

    The chance of a hit is exact for any number of captions c per image: ``1 - C(M - c, k) / C(M, k)``, and ``k / N``
    for a text of one image.

    Args:
        pairs: ``(P, 2)`` of text and image, as for ``retrieval_ranks``.
        texts: M.
        images: N.
    """
    ranks = []
    for side, gallery in ((1, texts), (0, images)):
        query, own = pairs.unique(dim=0)[:, side].unique(return_counts=True)
        ranks.append(Ranks(torch.zeros_like(own), gallery - own, own, query))
    return ranks[0], ranks[1]


def chance_closed_form(texts: int, images: int, captions: float = 5, ks: Sequence[int] = MEAN_KS) -> float:
    """Mean recall of random scores as the literature writes it: ``1/6 sum_k [1 - (1 - 5 / M)^k + k / N]``.

    It draws with replacement, so it is a little below the exact value of ``chance_ranks``.
    """
    terms = [1 - (1 - captions / texts) ** k + min(k / images, 1) for k in ks]
    return sum(terms) / (2 * len(ks))


@dataclass(frozen=True)
class BestOf:
    """Ranks of several things that a query could put first; the best counts, at each k anew.

    Attributes:
        ranks: of each candidate.
        query: ``(C,)`` int64, the query of each candidate, 0 to Q - 1.
    """

    ranks: Ranks
    query: Tensor

    def recall(self, k: int, ties: str = "expected") -> float:
        """Mean over the queries of their best candidate's chance of a hit at ``k``."""
        hits = self.ranks.hits(k, ties)
        best = torch.zeros(int(self.query.max()) + 1, dtype=hits.dtype).scatter_reduce_(0, self.query, hits, "amax")
        return float(best.mean())


Recalling = Ranks | BestOf


def duplicate_ceiling(texts: Sequence[Sequence[Hashable]]) -> tuple[BestOf, Ranks]:
    """The best that any model can reach, because equal texts cannot be told apart.

    Text -> image: a text that c images have ranks these c images first, in random order: ``min(1, k / c)``.
    Image -> text: the image ranks one of its own texts first; if w texts of the gallery read the same and m of these
    are its own, it is hit with chance ``1 - C(w - m, k) / C(w, k)``. It takes its best text.

    Args:
        texts: per image its texts, or anything that is equal where they are; images without any are left out.

    Returns:
        Image -> text and text -> image, to be read with ``recall(k, "expected")``.
    """
    named = [list(own) for own in texts if own]
    if not named:
        raise ValueError("a ceiling needs at least one text")
    everywhere = Counter(text for own in named for text in own)
    images = Counter(text for own in named for text in set(own))
    foreign, own_count, query, sharing = [], [], [], []
    for position, own in enumerate(named):
        for text, times in Counter(own).items():
            foreign.append(everywhere[text] - times)
            own_count.append(times)
            query.append(position)
        sharing += [images[text] - 1 for text in own]
    candidates = Ranks(*_columns([0] * len(foreign), foreign, own_count, query))
    of_texts = Ranks(*_columns([0] * len(sharing), sharing, [1] * len(sharing), list(range(len(sharing)))))
    return BestOf(candidates, candidates.query), of_texts


def _columns(*values: Sequence[int]) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.int64) for value in values]
