"""open_clip's transformer blocks, computed by our faster ways from the same modules and parameters.

Where a tower keeps a single token in the end (the class token, the end of a text), its last block computes that token
alone: all tokens give keys and values, one asks, and one passes the output projection and the MLP. Everything here is
a pure function of open_clip's modules, equal to their own ``forward`` up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception.layers.attention import attend
from perception.layers.linear import linear

QUICK = 1.702


def run_blocks(
    transformer: Any, x: Tensor, causal: bool = False, rows: Tensor | None = None, last: int | None = None
) -> Tensor:
    """Tokens through the blocks of an open_clip ``Transformer``.

    Args:
        transformer: the module with ``resblocks``.
        x: (B, N, D).
        causal: tokens look only at those before them and at themselves.
        rows: (B,) place of the one token of every sample that is wanted.
        last: index of the last block to run; ``None`` runs all.

    Returns:
        (B, N, D), or with ``rows`` (B, 1, D).
    """
    blocks = list(transformer.resblocks)[: None if last is None else last + 1]
    saving = transformer.grad_checkpointing and x.requires_grad
    for index, block in enumerate(blocks):
        wanted = rows if index == len(blocks) - 1 else None
        step = partial(run_block, block, causal=causal, rows=wanted)
        x = checkpoint(step, x, use_reentrant=False) if saving else step(x)
    if rows is not None and not blocks:
        return take_rows(x, rows)
    return x


def run_block(block: Any, x: Tensor, causal: bool = False, rows: Tensor | None = None) -> Tensor:
    """One block: (B, N, D) -> (B, N, D), or with ``rows`` (B,) the (B, 1, D) of those places."""
    if not is_plain(block):
        mask = None if not causal else x.new_full((x.shape[1],) * 2, float("-inf")).triu_(1)
        x = block(x, attn_mask=mask)
        return x if rows is None else take_rows(x, rows)
    attended = _attention(block.attn, block.ln_1(x), causal, rows)
    if rows is not None:
        x = take_rows(x, rows)
    x = x + block.ls_1(attended)
    hidden = activate(block.mlp.gelu, _linear(block.mlp.c_fc, block.ln_2(x)))
    return x + block.ls_2(_linear(block.mlp.c_proj, hidden))


def is_plain(block: nn.Module) -> bool:
    """Whether a block is open_clip's usual one (self-attention by ``MultiheadAttention``, no extra norms)."""
    attention = getattr(block, "attn", None)
    return isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None


def _attention(attn: Any, x: Tensor, causal: bool, rows: Tensor | None) -> Tensor:
    batch, length, dim = x.shape
    heads = attn.num_heads
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if rows is None:
        qkv = linear(x, weight, bias).view(batch, length, 3, heads, dim // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(q, k, v, causal=causal)
    else:
        q = linear(take_rows(x, rows), weight[:dim], None if bias is None else bias[:dim])
        q = q.view(batch, 1, heads, dim // heads).transpose(1, 2)
        kv = linear(x, weight[dim:], None if bias is None else bias[dim:]).view(batch, length, 2, heads, dim // heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = (torch.arange(length, device=x.device) <= rows[:, None])[:, None, None] if causal else None
        mixed = attend(q, k, v, mask)
    return _linear(attn.out_proj, mixed.transpose(1, 2).reshape(batch, -1, dim))


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """(B, N, D) at the places ``rows`` (B,) -> (B, 1, D)."""
    batch, length, dim = x.shape
    starts = torch.arange(0, batch * length, length, device=x.device)
    return x.reshape(-1, dim).index_select(0, starts + rows)[:, None]


def activate(module: nn.Module, x: Tensor) -> Tensor:
    """GELU, or ``x sigmoid(1.702 x)`` where the module is open_clip's ``QuickGELU``, by torch's fused SiLU."""
    if type(module).__name__ == "QuickGELU":
        return F.silu(x * QUICK) * (1 / QUICK)
    return module(x)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def block_index(name: str, parts: Iterable[str] = ("resblocks",)) -> int | None:
    """Number after the first of ``parts`` in a parameter's name, such as 3 in ``transformer.resblocks.3.ln_1.bias``."""
    words = name.split(".")
    for place, word in enumerate(words[:-1]):
        if word in parts and words[place + 1].isdigit():
            return int(words[place + 1])
    return None
