"""The Tokenizer contract: texts in, token ids and a mask out, and a record from which the same tokenizer is built."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.errors import ConfigError, DataError, Fault

_REMEMBERED = 1 << 18


class Tokenizer(ABC):
    """Base of the tokenizers, registered in ``TOKENIZERS``.

    Two tokenizers are equal where their records are.

    Attributes:
        vocab_size: number of ids; every id is below it.
        context_length: most tokens of a text, end token included.
        pad_id: id at masked places.
        end_id: id of the last token of every text.
    """

    vocab_size: int
    context_length: int
    pad_id: int
    end_id: int

    def __init__(self, context_length: int) -> None:
        faults = [Fault("tokenizer." + key, context_length, text) for key, text in _context_faults(context_length)]
        if faults:
            raise ConfigError(faults)
        self.context_length = context_length
        self._rows: dict[str, tuple[int, ...]] = {}  # captions come again in every epoch

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """All ids of a text, start and end tokens included, however many."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Plain values, ``type`` among them, from which the registry builds the same tokenizer."""

    def row(self, text: str) -> tuple[int, ...]:
        """Ids of a text, cut to ``context_length``; the end token stays."""
        found = self._rows.get(text)
        if found is None:
            if not isinstance(text, str):
                raise DataError(f"a text must be a str, not {type(text).__name__}: {text!r}")
            ids = self.encode(text)
            if len(ids) > self.context_length:
                ids = [*ids[: self.context_length - 1], self.end_id]
            if len(self._rows) >= _REMEMBERED:
                self._rows.clear()
            found = self._rows[text] = tuple(ids)
        return found

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize a batch.

        Args:
            texts: B texts.

        Returns:
            ids (B, T) int64 and mask (B, T) bool, True at tokens; T is the length of the longest, at most
            ``context_length``. Texts start at place 0, padding is at the end.
        """
        if isinstance(texts, str):
            raise DataError("a tokenizer takes a list of texts, not one str")
        rows = [self.row(text) for text in texts]
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        width = int(lengths.max(initial=1))
        mask = np.arange(width) < lengths[:, None]
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        ids[mask] = np.fromiter((i for row in rows for i in row), dtype=np.int64, count=int(lengths.sum()))
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.record() == other.record()

    def __hash__(self) -> int:
        return hash(json.dumps(self.record(), sort_keys=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, context_length={self.context_length})"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config that can be seen before it is built."""
        yield from _context_faults(cfg["context_length"])


def _context_faults(length: Any) -> Iterable[tuple[str, str]]:
    if not isinstance(length, int) or length < 2:
        yield "context_length", "must be a whole number of at least 2: one token and the end"
