"""Words by their hash, weighted by how rare they are: text features without a download or a vocabulary.

Hashing: "Feature Hashing for Large Scale Multitask Learning" (Weinberger et al., 2009). A word w adds
``sign(w) * (1 + log count)`` or ``sign(w) * count`` at the place ``hash(w) mod D``; place d is then multiplied by
``idf_d = log((1 + n) / (1 + n_d)) + 1``, n training texts of which n_d fill it, and the vector is given length 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.errors import ConfigError, check_arguments
from perception.registry import TEXT_ENCODERS
from perception.signatures import at_least
from perception.text.text_encoder import TextEncoder
from perception.text.words import words_of

_REMEMBERED = 1 << 16


@TEXT_ENCODERS.register_module()
class HashingTfidf(TextEncoder):
    """TF-IDF of hashed words; the default where there is no network.

    The inverse document frequencies are fitted to the training texts alone and lie in a buffer, so every checkpoint
    holds them. Words that no training text has keep the weight of the rarest. A text without words is a zero vector.

    Args:
        dim: places D; several words may share one.
        ngrams: also hash up to so many words in a row.
        sublinear: count a word that comes c times as ``1 + log c`` instead of c.
    """

    idf: Tensor
    documents: Tensor

    def __init__(self, dim: int = 384, ngrams: int = 1, sublinear: bool = False) -> None:
        check_arguments("text_encoder", self.check_config, locals())
        super().__init__()
        self.embed_dims, self.ngrams, self.sublinear = dim, ngrams, sublinear
        self.register_buffer("idf", torch.ones(dim))
        self.register_buffer("documents", torch.zeros((), dtype=torch.long))
        self._rows: dict[str, tuple[list[int], list[float]]] = {}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive sizes."""
        yield from at_least(cfg, 1, "dim", "ngrams")

    @property
    def fitted(self) -> bool:
        """Whether ``fit`` has seen texts, in this run or in the one that the weights come from."""
        return bool(self.documents > 0)

    @torch.no_grad()
    def fit(self, texts: Sequence[str]) -> None:
        """Count in how many texts every place is filled.

        Raises:
            ConfigError: no text has a word.
        """
        filled = self.counts(texts) != 0
        if not bool(filled.any()):
            raise ConfigError(f"none of the {len(texts)} training texts has a word: TF-IDF has nothing to count")
        count = filled.sum(0, dtype=torch.float64)
        self.idf.copy_(torch.log((1 + len(texts)) / (1 + count)) + 1)
        self.documents.fill_(len(texts))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(B, D), rows of length 1 or 0.

        Raises:
            ConfigError: it was never fitted.
        """
        if not self.fitted:
            raise ConfigError(
                "HashingTfidf was never fitted: training does that on the training texts; outside of it call fit(texts)"
            )
        return torch.nn.functional.normalize(self.counts(texts) * self.idf, dim=1, eps=1e-12)

    def counts(self, texts: Sequence[str]) -> Tensor:
        """Signed counts (B, D) float32."""
        out = torch.zeros(len(texts), self.embed_dims)
        for row, text in zip(out, texts, strict=True):
            places, values = self._row(text)
            row.index_add_(0, torch.tensor(places, dtype=torch.long), torch.tensor(values))
        return out.to(self.idf.device)

    def _row(self, text: str) -> tuple[list[int], list[float]]:
        found = self._rows.get(text)
        if found is None:
            from sklearn.utils import murmurhash3_32

            words = words_of(text)
            parts = Counter(
                " ".join(words[i : i + n]) for n in range(1, self.ngrams + 1) for i in range(len(words) - n + 1)
            )
            hashes = [int(murmurhash3_32(word, seed=0)) for word in parts]
            sizes = torch.tensor(list(parts.values()), dtype=torch.float32)
            sizes = 1 + sizes.log() if self.sublinear else sizes
            signs = [1.0 if value >= 0 else -1.0 for value in hashes]
            if len(self._rows) >= _REMEMBERED:
                self._rows.clear()
            places = [abs(value) % self.embed_dims for value in hashes]
            found = places, [sign * size for sign, size in zip(signs, sizes.tolist(), strict=True)]
            self._rows[text] = found
        return found
