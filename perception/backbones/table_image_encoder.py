"""An image and a table encoder with a multimodal interaction module on top.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.backbones.table_base import TableImageBackbone
from perception.backbones.table_transformer import TableTransformer
from perception.backbones.token_encoder import init_std_faults, whole_number_faults
from perception.errors import ConfigError, Fault, check_arguments
from perception.layers.table_interaction import TableImageInteraction
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess

# Modules of the public weights (siyi-wind/TIP), and ours.
_PUBLIC_MODULES = {
    "encoder_imaging.": "image_backbone.",
    "encoder_tabular.transformer_blocks.": "table_backbone.transformer.blocks.",
    "encoder_tabular.cat_embedding.": "table_backbone.tokens.cat_embed.",
    "encoder_tabular.con_proj.": "table_backbone.tokens.con_proj.",
    "encoder_tabular.cls_token": "table_backbone.tokens.cls_token",
    "encoder_tabular.mask_special_token": "table_backbone.tokens.mask_token",
    "encoder_tabular.column_embedding.": "table_backbone.tokens.column_embed.",
    "encoder_tabular.norm.": "table_backbone.tokens.norm.",
    "encoder_multimodal.image_proj.": "interaction.image_proj.",
    "encoder_multimodal.image_norm.": "interaction.image_norm.",
    "encoder_multimodal.tabular_proj.": "interaction.table_proj.",
    "encoder_multimodal.transformer_blocks.": "interaction.blocks.",
    "encoder_multimodal.norm.": "interaction.norm.",
}


@BACKBONES.register_module()
class TableImageEncoder(TableImageBackbone):
    """TIP's encoder: table tokens that read image tokens, and the class token of the table as the joint feature.

    Without a table all cells count as missing. Without an image, or in rows of ``image_missing``, the cross-attention
    adds nothing.

    Args:
        image_backbone: config of any backbone of images; its tokens (``Backbone.token_features``) are read.
        table_backbone: config of a ``TableTransformer``.
        preprocess: a ``TableImagePreprocess``.
        embed_dim: width D of the interaction; ``None`` is the table's.
        depth: blocks of the interaction.
        num_heads: attention heads of a block.
        mlp_ratio: hidden width of the MLPs over D.
        init_std: standard deviation of the weights of the interaction at the start; the table branch has its own.

    Public weights of TIP load by ``init_from`` an export of tools/convert_weights.py; they were trained without any
    normalisation of images (``mean=(0, 0, 0), std=(1, 1, 1)``).
    """

    table_backbone: TableTransformer

    def __init__(
        self,
        image_backbone: Mapping[str, Any],
        table_backbone: Mapping[str, Any],
        preprocess: Preprocess | dict[str, Any],
        embed_dim: int | None = None,
        depth: int = 4,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        init_std: float = 0.02,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        super().__init__(image_backbone, table_backbone, preprocess)
        table = self.table_backbone.embed_dims
        self.embed_dims, self.depth = embed_dim or table, depth
        if self.embed_dims % num_heads:
            text = f"does not divide the width of the interaction, {self.embed_dims}"
            raise ConfigError([Fault("model.backbone.num_heads", num_heads, text)])
        self.interaction = TableImageInteraction(
            self.image_backbone.token_dims, table, self.embed_dims, depth, num_heads, mlp_ratio, init_std
        )

    def parts(self, batch: Batch, features: Sequence[str]) -> dict[str, Tensor]:
        """Those of ``multimodal``, ``image`` and ``table`` that are asked for, or more."""
        found: dict[str, Tensor] = {}
        tokens = cells = None
        joint = "multimodal" in features
        if "image" in features or (joint and self.image_of(batch) is not None):
            tokens, found["image"] = self.image_tokens(batch)
        if "table" in features or joint:
            rows = len(tokens) if tokens is not None and joint and "table" not in features else None
            cells = self.table_backbone.cells(*self.table_of(batch, rows))
            found["table"] = cells[:, 0]
        if joint:
            assert cells is not None
            found["multimodal"] = self.join(cells, tokens, batch)[:, 0]
        return found

    def join(self, cells: Tensor, tokens: Tensor | None, batch: Batch, all_rows: bool = False) -> Tensor:
        """Joint tokens (B, 1 or N + 1, D) of table tokens (B, N + 1, Dt) and image tokens (B, T, C) of a batch."""
        missing = batch.get("image_missing")
        present = None if missing is None else ~missing.to(cells.device)
        rows = None if all_rows else torch.zeros(len(cells), 1, dtype=torch.long, device=cells.device)
        return self.interaction(cells, tokens, rows, present)

    @torch.no_grad()
    def attention(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the joint class token looks at in a preprocessed batch, block by block, as means over heads.

        Returns:
            (depth, B, N) over the columns, each row less what goes to the class token itself, and (depth, B, T) over
            the tokens of the image.
        """
        tokens, _ = self.image_tokens(batch)
        cells = self.table_backbone.cells(*self.table_of(batch, len(tokens)))
        own, other = self.interaction.attention(cells, tokens)
        return own[..., 1:], other

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Public weights of TIP under our names, their heads left out; and what the branches convert."""
        if any(key.startswith("encoder_tabular.") for key in state):
            found = {}
            for key, value in state.items():
                place = next((old for old in _PUBLIC_MODULES if key.startswith(old)), None)
                if place is not None:
                    found[_PUBLIC_MODULES[place] + key[len(place) :]] = value
            state = found
        return super().adapt_state(state)

    def _fused_layers(self) -> int:
        return self.depth

    def _fused_layer(self, name: str) -> int:
        match = re.match(r"interaction\.blocks\.(\d+)\.", name)
        return int(match[1]) if match else self.depth - 1 if name.startswith("interaction.norm") else 0

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        yield from super().check_config(cfg)
        yield from whole_number_faults(cfg, ("depth", "num_heads"))
        if cfg["embed_dim"] is not None:
            yield from whole_number_faults(cfg, ("embed_dim",))
        if not (isinstance(cfg["mlp_ratio"], (int, float)) and cfg["mlp_ratio"] > 0):
            yield "mlp_ratio", "must be positive"
        yield from init_std_faults(cfg)
        table: Any = BACKBONES.get(str((cfg["table_backbone"] or {}).get("type")))
        if table is not None and not issubclass(table, TableTransformer):
            yield "table_backbone", "needs a TableTransformer: the interaction reads the tokens of its cells"
