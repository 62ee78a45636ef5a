"""Text encoders that come trained: language models of transformers, and the text tower of a dual encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.errors import ConfigError, Fault, check_arguments, not_among
from perception.registry import BACKBONES, TEXT_ENCODERS
from perception.signatures import at_least
from perception.text.text_encoder import TextEncoder

POOLINGS = ("mean", "first")


@TEXT_ENCODERS.register_module()
class LanguageModel(TextEncoder):
    """A frozen language model of transformers, such as the sentence encoder ``paraphrase-MiniLM-L6-v2`` (384 wide).

    Its weights are no part of checkpoints: they are what ``name`` says. Vectors are remembered by text.

    Args:
        name: local folder, or name on the hub.
        pooling: ``mean`` over the tokens (sentence encoders) or the ``first`` token.
        max_length: tokens of a text; longer ones are cut.
        batch_size: texts at a time.
    """

    def __init__(self, name: str, pooling: str = "mean", max_length: int = 128, batch_size: int = 64) -> None:
        check_arguments("text_encoder", self.check_config, locals())
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            self.embed_dims = int(AutoConfig.from_pretrained(name).hidden_size)
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            with torch.device("cpu"):
                model = AutoModel.from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            told = f"neither a folder with a language model nor one that the hub gave: {reason}"
            raise ConfigError([Fault("text_encoder.name", name, told)]) from error
        # In a list, so that neither checkpoints nor optimisers see it.
        self._model = [model.requires_grad_(False).eval()]
        self.pooling, self.max_length, self.batch_size = pooling, max_length, batch_size
        self._known: dict[str, Tensor] = {}
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A known pooling and positive sizes."""
        if cfg["pooling"] not in POOLINGS:
            yield "pooling", not_among(cfg["pooling"], POOLINGS)
        yield from at_least(cfg, 1, "max_length", "batch_size")

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """(B, D)."""
        place: Any = self._place
        new = sorted({text for text in texts if text not in self._known}, key=len)
        model = self._model[0].to(place.device)
        for start in range(0, len(new), self.batch_size):
            some = new[start : start + self.batch_size]
            tokens = self._tokenizer(
                some, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            ).to(place.device)
            states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].to(states.dtype)
            pooled = states[:, 0] if self.pooling == "first" else (states * mask).sum(1) / mask.sum(1).clamp_min(1)
            self._known.update(zip(some, pooled.cpu(), strict=True))
        rows = [self._known[text] for text in texts]
        return torch.stack(rows).to(place.device) if rows else place.new_zeros(0, self.embed_dims)


@TEXT_ENCODERS.register_module()
class TextTower(TextEncoder):
    """The frozen text tower of a dual encoder, such as a ``CLIP`` that was trained here.

    Args:
        backbone: config of the dual encoder; with ``init_from`` it has the weights of a run or an export.
    """

    def __init__(self, backbone: dict[str, Any]) -> None:
        super().__init__()
        tower: Any = BACKBONES.build(dict(backbone))
        if not callable(getattr(tower, "embed_text", None)):
            told = f"{type(tower).__name__} has no text tower"
            raise ConfigError([Fault("text_encoder.backbone", backbone.get("type"), told)])
        self.tower = tower.requires_grad_(False).eval()
        self.embed_dims = int(tower.embed_dims)

    def train(self, mode: bool = True) -> TextTower:
        """The tower stays in eval mode."""
        super().train(mode)
        self.tower.eval()
        return self

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(B, D)."""
        return self.tower.embed_text(list(texts))
