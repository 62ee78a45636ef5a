"""UTF-8 bytes as tokens: every language, no vocabulary, no download."""

from __future__ import annotations

import unicodedata
from typing import Any

from perception.registry import TOKENIZERS
from perception.text.tokenizer import Tokenizer


@TOKENIZERS.register_module()
class ByteTokenizer(Tokenizer):
    """Ids 0 padding, 1 + byte, 257 the end token.

    Args:
        context_length: see ``Tokenizer``. A text that is cut may lose part of its last character.
    """

    pad_id = 0
    end_id = 257
    vocab_size = 258

    def __init__(self, context_length: int = 128) -> None:
        super().__init__(context_length)

    def encode(self, text: str) -> list[int]:
        """Ids of the bytes of the text in composed form (NFC), and the end token."""
        return [*(1 + byte for byte in unicodedata.normalize("NFC", text).encode()), self.end_id]

    def record(self) -> dict[str, Any]:
        """Nothing but the length."""
        return {"type": "ByteTokenizer", "context_length": self.context_length}
