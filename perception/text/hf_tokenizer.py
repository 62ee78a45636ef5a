"""Tokenizers of Hugging Face's transformers, such as XLM-R's sentence pieces."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import Any

from perception.errors import ConfigError, Fault
from perception.registry import TOKENIZERS
from perception.text.clip_tokenizer import CLEANERS
from perception.text.tokenizer import Tokenizer


@TOKENIZERS.register_module()
class HFTokenizer(Tokenizer):
    """Any fast tokenizer of transformers, with open_clip's cleaning of texts.

    Its record holds the whole definition (compressed), so that an export needs neither the folder nor the network.

    Args:
        name: local folder with ``tokenizer.json``, or name on the hub, such as ``xlm-roberta-base``.
        context_length: see ``Tokenizer``.
        clean: ``whitespace``, ``lower`` or ``canonicalize`` (lower-cased, punctuation dropped).
        strip_sep_token: write id 0 in place of the separator, as CLIPA's towers were trained.
        definition: what ``record`` wrote; the tokenizer is then built from it alone.
        pad_id: id at masked places; ``None`` is the tokenizer's own.
        end_id: id of the last token; ``None`` is the tokenizer's own.
    """

    def __init__(
        self,
        name: str,
        context_length: int = 77,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
        definition: str | None = None,
        pad_id: int | None = None,
        end_id: int | None = None,
    ) -> None:
        super().__init__(context_length)
        from open_clip.tokenizer import get_clean_fn
        from tokenizers import Tokenizer as Backend

        self.name, self.clean, self.strip_sep_token = name, clean, strip_sep_token
        self._clean = get_clean_fn(clean)
        sep_id = None
        if definition is None:
            loaded = _from_transformers(name)
            definition = pack(loaded.backend_tokenizer.to_str())
            sep_id = loaded.sep_token_id
            pad_id = loaded.pad_token_id if pad_id is None else pad_id
            own_end = loaded.eos_token_id if loaded.eos_token_id is not None else sep_id
            end_id = own_end if end_id is None else end_id
        self.definition = definition
        self._backend = Backend.from_str(unpack(definition))
        self._backend.no_padding()
        # Texts are cut here, after the special tokens of the definition have been added once.
        self._backend.no_truncation()
        if pad_id is None or end_id is None:
            key = "pad_id" if pad_id is None else "end_id"
            raise ConfigError([Fault(f"tokenizer.{key}", None, f"{name!r} does not define it: give its value")])
        self.pad_id, self.end_id = int(pad_id), int(end_id)
        self._stripped = (self.end_id if sep_id is None else int(sep_id)) if strip_sep_token else None
        self.vocab_size = int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens that the definition adds."""
        ids = self._backend.encode(self._clean(text)).ids
        if self._stripped is not None:
            ids = [0 if i == self._stripped else i for i in ids]
        return list(ids)

    def row(self, text: str) -> tuple[int, ...]:
        """Ids of a text, cut to ``context_length``; the end token, if the definition adds one, stays."""
        ids = super().row(text)
        return (*ids[:-1], 0) if self._stripped is not None and ids and ids[-1] == self._stripped else ids

    def record(self) -> dict[str, Any]:
        """Name and definition."""
        return {
            "type": "HFTokenizer",
            "name": self.name,
            "context_length": self.context_length,
            "clean": self.clean,
            "strip_sep_token": self.strip_sep_token,
            "pad_id": self.pad_id,
            "end_id": self.end_id,
            "definition": self.definition,
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A length and a cleaner that exist."""
        yield from super().check_config(cfg)
        if cfg["clean"] not in CLEANERS:
            yield "clean", f"must be one of {', '.join(CLEANERS)}"


def pack(text: str) -> str:
    """Text -> compressed, in letters that JSON can hold."""
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def unpack(packed: str) -> str:
    """Inverse of ``pack``."""
    return zlib.decompress(base64.b85decode(packed)).decode()


def _from_transformers(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            [Fault("tokenizer.name", name, f"neither a folder with a tokenizer nor one that the hub gave: {reason}")]
        ) from error
    if getattr(loaded, "backend_tokenizer", None) is None:
        raise ConfigError([Fault("tokenizer.name", name, "has no fast tokenizer (tokenizer.json), which is needed")])
    return loaded
