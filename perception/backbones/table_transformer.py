"""A transformer over the columns of mixed tables with missing cells.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor

from perception.backbones.table_base import TableBackbone
from perception.backbones.token_encoder import init_std_faults, whole_number_faults
from perception.errors import check_arguments
from perception.layers.table_tokens import TableBlocks, TableTokens, init_table_tokens
from perception.layers.transformer import init_normal
from perception.registry import BACKBONES
from perception.transforms.preprocess import Preprocess


@BACKBONES.register_module()
class TableTransformer(TableBackbone):
    """Encoder of tables (B, N): one token a cell and a class token, see ``perception.layers.table_tokens``.

    Args:
        embed_dim: width D of the tokens.
        depth: number of blocks.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_ratio: hidden width of the MLPs over D.
        drop_rate: dropout after attention and in the MLPs.
        embed_drop_rate: dropout of the tokens before the blocks.
        init_std: standard deviation of the weights at the start. The published 0.02 is for a width of 512; see
            ``TableImageEncoder``.
        preprocess: a ``TableImagePreprocess``, whose columns and vocabularies the encoder is made for. It must be
            given, but as the branch of a ``TableImageEncoder``, which gives its own.

    Feature of ``encode``: ``cls`` (B, D), the class token after the last block.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        depth: int = 4,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        embed_drop_rate: float = 0.0,
        init_std: float = 0.02,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        super().__init__(preprocess)
        self.embed_dims, self.depth = embed_dim, depth
        self.tokens = TableTokens(self.categories, self.continuous, embed_dim, embed_drop_rate)
        self.transformer = TableBlocks(embed_dim, depth, num_heads, mlp_ratio, drop_rate)
        init_table_tokens(self.tokens, init_std)
        self.transformer.apply(partial(init_normal, std=init_std))

    def cells(self, table: Tensor, missing: Tensor | None = None) -> Tensor:
        """Tokens (B, N + 1, D) of cells (B, N), class token first; those ``missing`` (B, N) bool are hidden."""
        # A complete table takes the very path of tables without holes.
        hidden = missing if missing is not None and bool(missing.any()) else None
        return self.transformer(self.tokens(table, hidden), hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Complete tables (B, N) -> their tokens (B, N + 1, D), alone in a tuple."""
        return (self.cells(x),)

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """The class token."""
        return ("cls",)

    def pooled(self, table: Tensor, missing: Tensor) -> Tensor:
        """Class token (B, D) of preprocessed cells (B, N)."""
        return self.cells(table, missing)[:, 0]

    def layer_count(self) -> int:
        """Tokens 0, block k is k + 1, then the head."""
        return self.depth + 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter."""
        match = re.match(r"transformer\.blocks\.(\d+)\.", name)
        return int(match[1]) + 1 if match else 0

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        faults = list(whole_number_faults(cfg, ("embed_dim", "depth", "num_heads")))
        yield from faults
        if not faults and cfg["embed_dim"] % cfg["num_heads"]:
            yield "num_heads", f"does not divide embed_dim = {cfg['embed_dim']}"
        if not (isinstance(cfg["mlp_ratio"], (int, float)) and cfg["mlp_ratio"] > 0):
            yield "mlp_ratio", "must be positive"
        for key in ("drop_rate", "embed_drop_rate"):
            if not (isinstance(cfg[key], (int, float)) and 0 <= cfg[key] < 1):
                yield key, "must lie in [0, 1)"
        yield from init_std_faults(cfg)
