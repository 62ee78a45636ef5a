"""Transformer blocks whose tokens also read from another set of tokens, named as in BLIP and TIP.

"BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and Generation" (Li et al.,
2022); "TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.layers.attention import attend
from perception.layers.linear import Linear
from perception.layers.patches import take_tokens
from perception.layers.transformer import LAYER_NORM_EPS, Block

KeysValues = tuple[Tensor, Tensor]


class CrossAttention(nn.Module):
    """Multi-head attention from tokens (B, N, D) to a source (B, T, D).

    Keys and values are computed apart from the rest (``keys_values``), so that several sets of tokens can read from one
    source.

    Args:
        dim: width D.
        num_heads: heads; must divide ``dim``.
        kv_bias: bias of the projection to keys and values.
    """

    def __init__(self, dim: int, num_heads: int, kv_bias: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads = {num_heads} does not divide dim = {dim}")
        self.num_heads = num_heads
        self.q_proj = Linear(dim, dim)
        self.kv_proj = Linear(dim, 2 * dim, bias=kv_bias)
        self.proj = Linear(dim, dim)

    def keys_values(self, source: Tensor) -> KeysValues:
        """Keys and values (B, heads, T, d) of a source (B, T, D)."""
        keys, values = (self._heads(part) for part in self.kv_proj(source).chunk(2, dim=-1))
        return keys, values

    def forward(self, x: Tensor, source: KeysValues) -> Tensor:
        """(m B, N, D) -> (m B, N, D): m sets of tokens, one after the other, all of which read from the B sources."""
        keys, values = source
        q = self._heads(self.q_proj(x))  # (m B, heads, N, d)
        sets, tokens = len(q) // len(keys), q.shape[2]
        if sets > 1:  # one longer row of queries for every source, instead of copies of the source
            q = q.unflatten(0, (sets, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3)
        found = attend(q, keys, values)
        if sets > 1:
            found = found.unflatten(2, (sets, tokens)).permute(2, 0, 1, 3, 4).flatten(0, 1)
        return self.proj(found.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, source: KeysValues) -> Tensor:
        """What ``forward`` weighs the T values of one source a row by, to be looked at: (B, heads, N, T)."""
        q = self._heads(self.q_proj(x))
        return (q @ source[0].transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CrossBlock(Block):
    """``x + attn(norm1(x))``, then ``x + cross_attn(cross_norm(x), source)``, then ``x + mlp(norm2(x))``.

    Args:
        dim: width D of tokens and source.
        num_heads: attention heads.
        mlp_ratio: width of the hidden layer of the MLP over ``dim``.
        qkv_bias: bias of the projections to queries, keys and values of the self-attention, and to keys and values of
            the cross-attention.
        eps: of the norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias, eps=eps)
        self.cross_norm = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, num_heads, qkv_bias)

    def look_around(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """The first step, for the tokens ``rows`` (B, K) of each sample alone if given: (B, N, D) -> (B, N or K, D)."""
        normed = self.norm1(x)
        if rows is None:
            return x + self.attn(normed)
        return take_tokens(x, rows) + self.attn(normed, queries=take_tokens(normed, rows))

    def read(self, x: Tensor, sources: Sequence[tuple[int, KeysValues]] | None) -> Tensor:
        """The other two steps.

        Args:
            x: (P, N, D).
            sources: how many rows of ``x``, from the first on, read from which keys and values; see
                ``CrossAttention.forward``. ``None``: there is nothing to read.
        """
        if sources is not None:
            parts = self.cross_norm(x).split([count for count, _ in sources])
            found = [self.cross_attn(part, source) for part, (_, source) in zip(parts, sources, strict=True)]
            x = x + (found[0] if len(found) == 1 else torch.cat(found))
        return x + self.mlp(self.norm2(x))
