"""What transformers over patches share, whatever the patches are cut from: blocks, final norm, pooled features.

The parts are named as in timm's ``VisionTransformer``: ``patch_embed``, ``cls_token``, ``blocks``, ``norm``.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, Fault, nearest
from perception.layers.transformer import LAYER_NORM_EPS, Block
from perception.transforms.preprocess import Batch, Preprocess


class TokenEncoder(Backbone):
    """Pre-norm transformer over a grid of tokens, of which any may be skipped.

    A subclass makes the tokens: ``tokens`` and ``grid_of``. ``build_trunk`` in its constructor makes the rest.
    """

    prefix_tokens: int
    depth: int
    out_indices: tuple[int, ...]
    blocks: nn.ModuleList
    norm: nn.LayerNorm

    def __init__(self, preprocess: Preprocess | dict[str, Any]) -> None:
        super().__init__(preprocess)

    def build_trunk(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool | str,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        """Blocks, whose stochastic depth grows linearly from 0 to ``drop_path_rate``, and the final norm."""
        self.embed_dims = embed_dim
        self.depth = depth
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias, drop_rate, drop_path_rate=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)

    @abstractmethod
    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedded patches with positions, class token first: input -> (B, P + L or K, D)."""

    @abstractmethod
    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Number of patches along every axis of the input."""

    def forward_tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm.

        Args:
            x: preprocessed input.
            keep: (B, K) ids of the patches to encode, in the order of the grid; the rest is never computed. ``None``
                encodes all.

        Returns:
            (B, P + K, D): class token first (P = 1 with one), then the patches in the order of ``keep``.
        """
        tokens = self.tokens(x, keep)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, D, *grid) at ``out_indices``; that of the last block has passed the final norm."""
        grid = self.grid_of(x)
        tokens = self.tokens(x)
        maps = []
        for index, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            tokens = block(tokens)
            if index in self.out_indices:
                normed = self.norm(tokens) if index == self.depth - 1 else tokens
                patches = normed[:, self.prefix_tokens :]
                maps.append(patches.transpose(1, 2).reshape(len(x), self.embed_dims, *grid))
        return tuple(maps)

    @torch.no_grad()
    def attention(self, x: Tensor, block: int = -1) -> Tensor:
        """What tokens attend to in a block, the mean over its heads, to be looked at.

        Args:
            x: preprocessed input.
            block: its number; negative counts from the end.

        Returns:
            (B, P + L, P + L); a row is a token that attends, and its sum is 1.
        """
        tokens = self.tokens(x)
        for earlier in self.blocks[: block % self.depth]:
            tokens = earlier(tokens)
        chosen: Any = self.blocks[block]
        tokens = chosen.norm1(tokens)
        return chosen.attn.weights(tokens, tokens).mean(dim=1)

    def token_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All tokens, class token first; pooled is the class token, or without one the mean of the patches."""
        tokens = self.forward_tokens(batch[self.modality])
        return tokens, tokens[:, 0] if self.prefix_tokens else tokens.mean(dim=1)

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features; ``block-k`` stands for any block k from 0."""
        return ("gap", "cls", "norm-gap", "block-k")

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled embedding (B, D) of the modality's field of a preprocessed batch; see the class for the features."""
        feature = feature or self.feature_choices()[0]
        last = self.last_block(feature)
        tokens = self.tokens(batch[self.modality])
        for block in self.blocks[: last + 1]:
            tokens = block(tokens)
        if feature == "gap":
            return self.norm(tokens)[:, self.prefix_tokens :].mean(dim=1)
        if feature == "cls":
            return self.norm(tokens[:, 0])
        pooled = tokens[:, self.prefix_tokens :].mean(dim=1)
        return self.norm(pooled) if feature == "norm-gap" else pooled

    def last_block(self, feature: str) -> int:
        """Index of the last block that ``feature`` needs.

        Raises:
            ConfigError: there is no such feature.
        """
        match = re.fullmatch(r"block-(\d+)", feature)
        if match and int(match[1]) < self.depth:
            return int(match[1])
        known = [c for c in self.feature_choices() if c != "block-k" and (c != "cls" or self.prefix_tokens)]
        known += [f"block-{i}" for i in range(self.depth)]
        if feature not in known:
            text = f"not a feature of this encoder of {self.depth} blocks; it has {', '.join(known)}"
            raise ConfigError([Fault("feature", feature, text, nearest(feature, known))])
        return self.depth - 1

    def unused_parts(self, feature: str | None = None) -> list[nn.Module | nn.Parameter]:
        """What the pooled feature does not pass: later blocks, and the final norm where it is read before it."""
        if feature is None or self.has_final_norm(feature):
            return []
        return [*self.blocks[self.last_block(feature) + 1 :], self.norm]

    @staticmethod
    def has_final_norm(feature: str) -> bool:
        """Whether a pooled feature has passed the final norm."""
        return feature in ("gap", "cls", "norm-gap")

    def layer_count(self) -> int:
        """Embeddings 0, block k is k + 1, then the final norm and the head."""
        return self.depth + 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter."""
        if name.startswith(("cls_token", "pos_embed", "patch_embed.")):
            return 0
        match = re.match(r"blocks\.(\d+)\.", name)
        return int(match[1]) + 1 if match else self.depth + 1


def whole_number_faults(cfg: dict[str, Any], keys: Sequence[str]) -> Iterable[tuple[str, str]]:
    """The first of ``keys`` that is no whole number of at least 1; what is computed from them makes no sense then."""
    for key in keys:
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            yield key, "must be a whole number of at least 1"
            return


def init_std_faults(cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The fault of an ``init_std`` that is no positive number."""
    if not (isinstance(cfg["init_std"], (int, float)) and cfg["init_std"] > 0):
        yield "init_std", "must be positive"


def trunk_faults(cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Faults of the arguments of ``build_trunk`` and of ``out_indices``; the whole numbers are known to be such."""
    if cfg["embed_dim"] % cfg["num_heads"]:
        fits = [h for h in range(1, cfg["embed_dim"] + 1) if cfg["embed_dim"] % h == 0]
        near = min(fits, key=lambda h: (abs(h - cfg["num_heads"]), h))
        yield "num_heads", f"does not divide embed_dim = {cfg['embed_dim']}; {near} would"
    if not (isinstance(cfg["mlp_ratio"], (int, float)) and cfg["mlp_ratio"] > 0):
        yield "mlp_ratio", "must be positive"
    for key in ("drop_rate", "drop_path_rate"):
        if not (isinstance(cfg[key], (int, float)) and 0 <= cfg[key] < 1):
            yield key, "must lie in [0, 1)"
    indices = cfg["out_indices"]
    if not indices or any(not -cfg["depth"] <= i < cfg["depth"] for i in indices):
        yield "out_indices", f"must name blocks between {-cfg['depth']} and {cfg['depth'] - 1}"
