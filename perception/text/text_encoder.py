"""The TextEncoder contract: texts in, one vector a text out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception.errors import ConfigError, DataError, Fault
from perception.registry import TEXT_ENCODERS

TextFunction = Callable[[list[str]], Any]


class TextEncoder(nn.Module, ABC):
    """Base of the text encoders, registered in ``TEXT_ENCODERS``.

    Attributes:
        embed_dims: width D of a text's vector.
    """

    embed_dims: int

    @property
    def fitted(self) -> bool:
        """Whether it can encode; what is fitted to texts cannot before."""
        return True

    def fit(self, texts: Sequence[str]) -> None:
        """Take from the TRAINING texts what it needs, into buffers, so that every checkpoint holds it."""

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, D) float32, on the device of the encoder."""


class CallableEncoder(TextEncoder):
    """Any function of a list of texts as an encoder, without gradients; what it gives is remembered by text.

    Args:
        function: B texts -> (B, D) array or tensor.

    Raises:
        ConfigError: it does not give one vector a text.
    """

    def __init__(self, function: TextFunction) -> None:
        super().__init__()
        self.function = function
        self._known: dict[str, Tensor] = {}
        self.register_buffer("_place", torch.empty(0), persistent=False)  # knows the device
        try:
            self.embed_dims = self._ask(["one text", "another text"]).shape[1]
        except DataError as error:
            raise ConfigError([Fault("text_encoder", getattr(function, "__name__", function), str(error))]) from error

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Vectors of the function."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._ask(new), strict=True))
        rows = [self._known[text] for text in texts]
        place: Any = self._place
        return torch.stack(rows).to(place.device) if rows else place.new_zeros(0, self.embed_dims)

    @torch.no_grad()
    def _ask(self, texts: list[str]) -> Tensor:
        found = self.function(texts)
        values = found if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found))
        if values.ndim != 2 or len(values) != len(texts) or not values.shape[1]:
            raise DataError(f"a text encoder gives one vector a text, not {tuple(values.shape)} for {len(texts)} texts")
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise DataError(f"the vector of {texts[row]!r} is not finite")
        return values.detach().float().cpu()


def build_text_encoder(cfg: TextEncoder | Mapping[str, Any] | TextFunction) -> TextEncoder:
    """An encoder from its config, from any function of a list of texts, or as it is.

    Raises:
        ConfigError: neither of these, or a function that gives something else than vectors.
    """
    if isinstance(cfg, TextEncoder):
        return cfg
    if isinstance(cfg, Mapping):
        built: TextEncoder = TEXT_ENCODERS.build(dict(cfg))
        return built
    if callable(cfg):
        return CallableEncoder(cfg)
    text = "a text encoder is a config such as dict(type='HashingTfidf'), or a function of a list of texts"
    raise ConfigError([Fault("text_encoder", cfg, text)])
