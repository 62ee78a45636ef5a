"""The Preprocess record of images with texts: what ``ImagePreprocess`` does, and tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from perception.errors import CheckpointError, ConfigError, DataError, Fault
from perception.registry import PREPROCESSES, TOKENIZERS
from perception.transforms.image_preprocess import VIEWS, ImagePreprocess
from perception.transforms.preprocess import Batch


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class ImageTextPreprocess(ImagePreprocess):
    """``ImagePreprocess``, and texts turned into tokens. Images alone and texts alone work too.

    Attributes:
        tokenizer: config or instance of a tokenizer. The record holds all that is needed to build it again, such as
            the words of a fitted vocabulary.
    """

    tokenizer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer is None:
            raise ConfigError([Fault("model.backbone.preprocess.tokenizer", None, "a record of texts needs one")])
        if isinstance(self.tokenizer, dict):
            object.__setattr__(self, "tokenizer", TOKENIZERS.build(dict(self.tokenizer)))

    def __call__(self, batch: Batch) -> Batch:
        """As the base's, and ``text``, a list of B texts, becomes three fields.

        ``text`` int64 (B, T) and ``text_mask`` bool (B, T), T the length of the longest text, and ``text_hash`` int64
        (B,), equal exactly where the texts are. They go to the device of the images.
        """
        texts = batch.get("text")
        has_images = batch.get(self.modality) is not None or batch.get(VIEWS) is not None
        out = super().__call__(batch) if has_images or texts is None else dict(batch)
        if texts is None:
            return out
        if isinstance(texts, (str, Tensor)):
            raise DataError(f"raw texts must be a list of str, not {type(texts).__name__}")
        images = batch.get(self.modality)
        if has_images and images is not None and len(images) != len(texts):
            raise DataError(f"a batch of {len(images)} images came with {len(texts)} texts")
        device = _device_of(out, self.modality)
        ids, mask = self.tokenizer(texts)
        out["text"] = ids.to(device, non_blocking=True)
        out["text_mask"] = mask.to(device, non_blocking=True)
        out["text_hash"] = hash_texts(texts).to(device, non_blocking=True)
        return out

    def record(self) -> dict[str, Any]:
        """Plain values; the tokenizer's own record is among them."""
        values = {name: getattr(self, name) for name in self.field_names() if name != "tokenizer"}
        return {"type": type(self).__name__, **values, "tokenizer": self.tokenizer.record()}

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's; where tokenizers differ, the message says in what, not the whole vocabularies."""
        theirs = other.get("tokenizer")
        mine = self.tokenizer.record()
        if isinstance(theirs, dict):
            keys = [k for k in sorted({*theirs, *mine}) if _plain(theirs.get(k)) != _plain(mine.get(k))]
            if keys:
                lines = "\n".join(f"  - tokenizer.{k}: {_told(theirs.get(k), mine.get(k))}" for k in keys)
                raise CheckpointError(
                    f"{source} was trained with another tokenizer than this config asks for:\n{lines}\n"
                    "Set model.backbone.preprocess.tokenizer to the recorded values."
                )
            other = {**other, "tokenizer": mine}
        super().require_same(other, source)


def hash_texts(texts: Sequence[str]) -> Tensor:
    """63 bits of the BLAKE2 digest of every text: int64 (B,), the same in every process and on every machine."""
    return torch.tensor([_hash(text) for text in texts], dtype=torch.int64)


@lru_cache(maxsize=1 << 18)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _device_of(batch: Batch, modality: str) -> torch.device:
    images = batch.get(modality)
    if images is None and batch.get(VIEWS):
        images = batch[VIEWS][0]
    return images.device if isinstance(images, Tensor) else torch.device("cpu")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _told(theirs: Any, mine: Any) -> str:
    if isinstance(theirs, (list, tuple)) and isinstance(mine, (list, tuple)):
        pairs = zip(theirs, mine, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(mine)))
        first = [repr(values[place]) if place < len(values) else "nothing" for values in (theirs, mine)]
        return (
            f"{len(theirs)} entries there, {len(mine)} here; they part at entry {place}: "
            f"{first[0]} there, {first[1]} here"
        )
    return f"{_short(repr(theirs))} there, {_short(repr(mine))} here"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]}... ({len(text)} characters)"
