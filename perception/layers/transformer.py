"""Pre-norm transformer blocks ("An Image is Worth 16x16 Words", Dosovitskiy et al., 2021), named as in timm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.layers.attention import attend
from perception.layers.linear import Linear, linear

LAYER_NORM_EPS = 1e-6


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample ("Deep Networks with Stochastic Depth", Huang et al., 2016).

    Args:
        rate: probability of dropping; the branches that stay are scaled by ``1 / (1 - rate)``.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"rate={self.rate}"


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, D).

    Args:
        dim: width D.
        num_heads: heads; must divide ``dim``.
        qkv_bias: bias of the query, key and value projection; ``'qv'`` learns ``q_bias`` and ``v_bias`` and leaves the
            key's at zero (BEiT, VideoMAE).
        drop_rate: dropout after the output projection.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool | str = True, drop_rate: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads = {num_heads} does not divide dim = {dim}")
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=bool(qkv_bias) and qkv_bias != "qv")
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        self.proj = Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(
        self, x: Tensor, last: int | None = None, mask: Tensor | None = None, queries: Tensor | None = None
    ) -> Tensor:
        """Attend from all tokens, or from the ``last`` ones or from ``queries`` only, to all tokens.

        Args:
            x: (B, N, D).
            last: number of tokens at the end that attend.
            mask: bool, broadcast to (B, heads, queries, N), True where a query may look; each looks at something.
            queries: (B, K, D), what attends instead, such as some of the tokens.

        Returns:
            (B, Q, D), Q being N, ``last`` or K.
        """
        if last is not None:
            queries = x[:, x.shape[1] - last :]
        q, k, v = self._split(x, queries)
        x = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.drop(self.proj(x))

    def weights(self, x: Tensor, queries: Tensor) -> Tensor:
        """What ``forward`` weighs the tokens ``x`` (B, N, D) by for ``queries`` (B, K, D), to be looked at.

        Returns:
            (B, heads, K, N); the sum over N is 1.
        """
        q, k, _ = self._split(x, queries)
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)

    def _split(self, x: Tensor, queries: Tensor | None) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, heads, N or K, d)."""
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self._bias()
        if queries is None:
            parts = linear(x, weight, bias).chunk(3, dim=-1)
        else:
            q = linear(queries, weight[:dim], None if bias is None else bias[:dim])
            parts = (q, *linear(x, weight[dim:], None if bias is None else bias[dim:]).chunk(2, dim=-1))
        return tuple(part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)

    def _bias(self) -> Tensor | None:
        if self.q_bias is None or self.v_bias is None:
            return self.qkv.bias
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them: (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Token by token."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``.

    Args:
        dim: width D.
        num_heads: attention heads.
        mlp_ratio: width of the hidden layer of the MLP over ``dim``.
        qkv_bias: bias of the query, key and value projection; see ``Attention``.
        drop_rate: dropout after the attention projection and in the MLP.
        drop_path_rate: probability of dropping each residual branch of a sample.
        eps: of the norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool | str = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qkv_bias, drop_rate)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, last: int | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); with ``last`` only the output of that many last tokens is computed and returned.

        ``mask`` says where attention may look, see ``Attention``.
        """
        attended = self.attn(self.norm1(x), last, mask)
        if last is not None:
            x = x[:, x.shape[1] - last :]
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))


@torch.no_grad()
def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Initialisation of BERT (Devlin et al., 2019): Linear and Embedding N(0, std), bias 0; LayerNorm 1 and 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def init_transformer(module: nn.Module) -> None:
    """Initialisation of He et al. (MAE, 2022) for one module: Linear xavier-uniform, bias 0; LayerNorm 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
