"""CLIP's byte-pair tokenizer, whose vocabulary comes with open_clip."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from perception.registry import TOKENIZERS
from perception.text.tokenizer import Tokenizer

CLEANERS = ("lower", "whitespace", "canonicalize")


@TOKENIZERS.register_module()
class CLIPTokenizer(Tokenizer):
    """Byte pairs of "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021).

    Ids 49,406 start, 49,407 end, the highest; padding is 0, which is also the id of an exclamation mark within a word:
    only the mask tells them apart.

    Args:
        context_length: see ``Tokenizer``.
        clean: ``lower`` (CLIP's), ``whitespace``, or ``canonicalize`` (lower-cased, punctuation dropped).
    """

    pad_id = 0

    def __init__(self, context_length: int = 77, clean: str = "lower") -> None:
        super().__init__(context_length)
        self.clean = clean
        self._pairs = _byte_pairs(clean)
        self.vocab_size = int(self._pairs.vocab_size)
        self.end_id = int(self._pairs.eot_token_id)

    def encode(self, text: str) -> list[int]:
        """Start token, byte pairs, end token."""
        return [self._pairs.sot_token_id, *self._pairs.encode(text), self.end_id]

    def record(self) -> dict[str, Any]:
        """The vocabulary itself is open_clip's and never changes."""
        return {"type": "CLIPTokenizer", "context_length": self.context_length, "clean": self.clean}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A length and a cleaner that exist."""
        yield from super().check_config(cfg)
        if cfg["clean"] not in CLEANERS:
            yield "clean", f"must be one of {', '.join(CLEANERS)}"


@cache
def _byte_pairs(clean: str) -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(clean=clean)
