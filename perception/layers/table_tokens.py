"""Cells of a mixed table as tokens, and the encoder over them.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024): missing cells
are an input of their own, not something to fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from perception.layers.transformer import Block, init_normal

TABLE_NORM_EPS = 1e-5  # the public weights' own


class TableTokens(nn.Module):
    """Tokens (B, N + 1, D) of tables (B, N), class token first.

    Categorical cells look up one matrix of all columns' categories, column j from row ``K_1 + ... + K_(j-1)`` on.
    Continuous cells pass ONE linear map from 1 to D that all their columns share. A hidden cell is one learned token,
    the same in every column. A learned vector of the column is added, then comes a LayerNorm.

    Args:
        categories: number of categories K of every categorical column; these columns come first.
        continuous: number of continuous columns.
        dim: width D.
        drop_rate: dropout of the tokens.
    """

    cat_offsets: Tensor

    def __init__(self, categories: Sequence[int], continuous: int, dim: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        sizes = [max(1, int(size)) for size in categories]  # a column without a single value keeps code 0
        self.categorical, self.continuous = len(sizes), int(continuous)
        offsets = [sum(sizes[:j]) for j in range(len(sizes))]
        self.register_buffer("cat_offsets", torch.tensor(offsets, dtype=torch.long), persistent=False)
        self.cat_embed = nn.Embedding(sum(sizes), dim) if sizes else None
        self.con_proj = nn.Linear(1, dim) if continuous else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.column_embed = nn.Embedding(self.columns + 1, dim)
        self.norm = nn.LayerNorm(dim, eps=TABLE_NORM_EPS)
        self.drop = nn.Dropout(drop_rate)

    @property
    def columns(self) -> int:
        """Number of columns N."""
        return self.categorical + self.continuous

    def forward(self, table: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Tokens of ``table`` (B, N) float; what stands in a cell that is ``hidden`` (B, N) bool has no influence."""
        if hidden is not None:
            table = table.masked_fill(hidden, 0.0)  # a NaN there would spoil the gradients of all others
        parts = []
        if self.cat_embed is not None:
            parts.append(self.cat_embed(table[:, : self.categorical].long() + self.cat_offsets))
        if self.con_proj is not None:
            parts.append(self.con_proj(table[:, self.categorical :, None]))
        cells = torch.cat(parts, dim=1)
        if hidden is not None:
            cells = torch.where(hidden[:, :, None], self.mask_token.to(cells.dtype), cells)
        elif torch.is_grad_enabled():
            # A gradient of 0 for the token that nobody read: other ranks may have holes, and wait for it.
            cells = cells + 0.0 * self.mask_token.to(cells.dtype)
        tokens = torch.cat([self.cls_token.to(cells.dtype).expand(len(cells), -1, -1), cells], dim=1)
        return self.drop(self.norm(tokens + self.column_embed.weight))


class TableBlocks(nn.Module):
    """Pre-norm blocks over the tokens of a table, without a final norm.

    A hidden cell is read by itself alone; it reads itself and all cells that are not hidden. So the outputs of the
    class token and of visible cells depend neither on what is hidden nor on the token that stands for it.

    Args:
        dim: width D.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs over D.
        drop_rate: dropout after attention and in the MLPs.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, mlp_ratio, qkv_bias=False, drop_rate=drop_rate, eps=TABLE_NORM_EPS)
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N + 1, D) and cells hidden (B, N) bool -> (B, N + 1, D)."""
        mask = None if hidden is None else may_look(hidden)
        for block in self.blocks:
            tokens = block(tokens, mask=mask)
        return tokens


def may_look(hidden: Tensor) -> Tensor:
    """Who may look at whom, for ``Attention``: hidden cells (B, N) bool -> (B, 1, N + 1, N + 1), class token first.

    Every token looks at itself and at the class token, so that a row without a single visible cell has something, too.
    """
    seen = torch.cat([hidden.new_ones(len(hidden), 1), ~hidden], dim=1)
    itself = torch.eye(seen.shape[1], dtype=torch.bool, device=hidden.device)
    return (seen[:, None, :] | itself)[:, None]


def init_table_tokens(module: TableTokens, std: float = 0.02) -> None:
    """Start of the tokens: linear maps and embeddings N(0, std), class and mask token the same, truncated at 2."""
    module.apply(partial(init_normal, std=std))
    nn.init.trunc_normal_(module.cls_token, std=std)
    nn.init.trunc_normal_(module.mask_token, std=std)
