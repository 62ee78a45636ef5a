"""The module that joins a table with an image: table tokens that read image tokens.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perception.layers.cross_attention import CrossBlock, KeysValues
from perception.layers.linear import Linear
from perception.layers.patches import take_tokens
from perception.layers.table_tokens import TABLE_NORM_EPS
from perception.layers.transformer import init_normal


@dataclass(frozen=True)
class Pairs:
    """Tables and images that are joined, and what is wanted of them.

    Attributes:
        tables: (P,) places among the tables, or a slice of them.
        images: (P,) places among the images; ``None``: all of them, in their order.
        rows: (P, K) tokens whose outputs are wanted, 0 being the class token; ``None`` wants all.
    """

    tables: Tensor | slice
    images: Tensor | None = None
    rows: Tensor | None = None


class TableImageInteraction(nn.Module):
    """Pre-norm blocks of self-attention over table tokens, cross-attention to image tokens and an MLP; a final norm.

    Image tokens are projected to the width of the table and normed; they carry no positions but those of their own
    encoder. Hidden cells take part in the self-attention here.

    Args:
        image_dim: width C of image tokens.
        table_dim: width of table tokens; projected to ``dim`` where it differs.
        dim: width D of the blocks.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs over D.
        init_std: standard deviation of the weights at the start.
    """

    def __init__(
        self,
        image_dim: int,
        table_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.image_proj = Linear(image_dim, dim)
        self.image_norm = nn.LayerNorm(dim, eps=TABLE_NORM_EPS)
        self.table_proj = Linear(table_dim, dim) if table_dim != dim else nn.Identity()
        self.blocks = nn.ModuleList(CrossBlock(dim, num_heads, mlp_ratio, eps=TABLE_NORM_EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=TABLE_NORM_EPS)
        self.apply(partial(init_normal, std=init_std))

    def forward(
        self, cells: Tensor, image: Tensor | None, rows: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Table tokens (B, N + 1, D) that have read image tokens (B, T, C).

        Args:
            cells: (B, N + 1, table_dim).
            image: (B, T, C); ``None``: there is nothing to read, and the cross-attention adds nothing.
            rows: (B, K) tokens wanted; ``None`` gives all.
            present: (B,) bool, False where a sample has no image. ``None``: all have.
        """
        if present is not None and not bool(present.any()):
            image = None
        if present is None or image is None or bool(present.all()):
            return self.together(cells, image, [Pairs(slice(None), None, rows)])[0]
        with_image, without = present.nonzero()[:, 0], (~present).nonzero()[:, 0]
        parts = []
        for places, tokens in ((with_image, image[with_image]), (without, None)):
            wanted = None if rows is None else rows[places]
            parts.append(self.together(cells[places], tokens, [Pairs(slice(None), None, wanted)])[0])
        return torch.cat(parts)[torch.cat([with_image, without]).argsort()]

    def together(self, cells: Tensor, image: Tensor | None, groups: Sequence[Pairs]) -> list[Tensor]:
        """Several groups of pairs in one pass, as ``forward`` would give them one by one.

        Shared are: keys and values of an image, however many tables read it; the self-attention of the first block of
        a table, however many images it is paired with. In the last block only what is wanted is computed.

        Args:
            cells: (M, N + 1, table_dim) tokens of all tables.
            image: (B, T, C) tokens of all images, or ``None``.
            groups: the pairs.

        Returns:
            (P, K, D) of every group, normed; K is N + 1 where all tokens are wanted.
        """
        order = sorted(range(len(groups)), key=lambda i: groups[i].images is not None)
        source = None if image is None else self.image_norm(self.image_proj(image))
        blocks: Sequence[Any] = list(self.blocks)
        x = blocks[0].look_around(self.table_proj(cells))
        parts = [x[groups[i].tables] for i in order]
        counts = [len(part) for part in parts]
        images = [groups[i].images for i in order]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        for number, block in enumerate(blocks[:-1]):
            x = block.read(x if number == 0 else block.look_around(x), _sources(block, source, counts, images))
        last = blocks[-1]
        keys_values = None if source is None else last.cross_attn.keys_values(source)
        found: list[Tensor] = [x] * len(groups)
        for run in _runs(parts=x.split(counts), rows=[groups[i].rows for i in order]):
            part, rows = run.x, run.rows
            if len(blocks) > 1:
                part = last.look_around(part, rows)
            elif rows is not None:
                part = take_tokens(part, rows)
            own = slice(run.first, run.first + len(run.counts))
            out = self.norm(last.read(part, _split_sources(keys_values, run.counts, images[own])))
            for i, piece in zip(order[own], out.split(list(run.counts)), strict=True):
                found[i] = piece
        return found

    @torch.no_grad()
    def attention(self, cells: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the class token looks at, block by block, as means over heads.

        Returns:
            (depth, B, N + 1) over table tokens, and (depth, B, T) over image tokens.
        """
        source = self.image_norm(self.image_proj(image))
        x, own, other = self.table_proj(cells), [], []
        blocks: Sequence[Any] = list(self.blocks)
        for block in blocks:
            normed = block.norm1(x)
            own.append(block.attn.weights(normed, normed[:, :1]).mean(1)[:, 0])
            x = block.look_around(x)
            keys_values = block.cross_attn.keys_values(source)
            other.append(block.cross_attn.weights(block.cross_norm(x[:, :1]), keys_values).mean(1)[:, 0])
            x = block.read(x, [(len(x), keys_values)])
        return torch.stack(own), torch.stack(other)


@dataclass(frozen=True)
class _Run:
    """Neighbouring groups of which equally many tokens are wanted."""

    first: int
    counts: tuple[int, ...]
    x: Tensor
    rows: Tensor | None


def _runs(parts: Sequence[Tensor], rows: Sequence[Tensor | None]) -> list[_Run]:
    """Groups joined as long as the number of their wanted tokens stays."""
    widths = [None if wanted is None else wanted.shape[1] for wanted in rows]
    found, first = [], 0
    for end in range(1, len(parts) + 1):
        if end < len(parts) and widths[end] == widths[first]:
            continue
        own = parts[first:end]
        wanted = [r for r in rows[first:end] if r is not None]
        found.append(
            _Run(
                first,
                tuple(len(part) for part in own),
                own[0] if len(own) == 1 else torch.cat(list(own)),
                None if not wanted else wanted[0] if len(wanted) == 1 else torch.cat(wanted),
            )
        )
        first = end
    return found


def _sources(
    block: CrossBlock, source: Tensor | None, counts: Sequence[int], images: Sequence[Tensor | None]
) -> list[tuple[int, KeysValues]] | None:
    keys_values = None if source is None else block.cross_attn.keys_values(source)
    return _split_sources(keys_values, counts, images)


def _split_sources(
    keys_values: KeysValues | None, counts: Sequence[int], images: Sequence[Tensor | None]
) -> list[tuple[int, KeysValues]] | None:
    """For ``CrossBlock.read``: groups that read the images in their order together, the others one by one."""
    if keys_values is None:
        return None
    keys, values = keys_values
    straight = sum(count for count, chosen in zip(counts, images, strict=True) if chosen is None)
    found: list[tuple[int, KeysValues]] = [(straight, keys_values)] if straight else []
    for count, chosen in zip(counts, images, strict=True):
        if chosen is not None:
            found.append((count, (keys[chosen], values[chosen])))
    return found
