"""Spatiotemporal MAE ("Masked Autoencoders As Spatiotemporal Learners", Feichtenhofer et al., 2022).

Random cubes are hidden, no tubes; positions are learned, place plus time; the loss is the mean over clips and hidden
cubes of the mean squared error. The defaults are those of "Self-supervised learning of video representations from a
child's perspective" (2024): values of the normalised clip as targets, all frames predicted. The first paper's own
recipe is ``target='joint', predict_frames=8``. Parameters are named as in its repository, mae_st.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.video_vit import VideoViT
from perception.layers.linear import Linear
from perception.layers.transformer import LAYER_NORM_EPS, Block, init_transformer
from perception.layers.video_tokens import separable_positions
from perception.pretext.masked_video import MaskedVideo
from perception.registry import PRETEXTS


@PRETEXTS.register_module()
class SpatiotemporalMAE(MaskedVideo):
    """Masked autoencoding of clips with learned positions and a class token in the decoder; see ``MaskedVideo``.

    The class token of the encoder, where there is one, is dropped before the decoder, which has its own.
    """

    name: ClassVar[str] = "spatiotemporal_mae"
    decoder_cls_token: nn.Parameter
    decoder_pos_embed_class: nn.Parameter
    decoder_pos_embed_spatial: nn.Parameter
    decoder_pos_embed_temporal: nn.Parameter

    def __init__(
        self,
        mask: str = "random",
        target: str = "raw",
        decoder_dim: int = 512,
        decoder_num_heads: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(mask, target, decoder_dim, decoder_num_heads, **options)

    def build_decoder(self, vit: VideoViT, values: int) -> None:
        """Decoder, its tokens and its learned positions."""
        dim = self.decoder_dim
        self.prefix_tokens = vit.prefix_tokens
        slots, rows, columns = vit.grid
        self.decoder_embed = Linear(vit.embed_dims, dim)
        for name, count in (
            ("mask_token", 1),
            ("decoder_cls_token", 1),
            ("decoder_pos_embed_class", 1),
            ("decoder_pos_embed_spatial", rows * columns),
            ("decoder_pos_embed_temporal", slots),
        ):
            start = nn.init.trunc_normal_(torch.empty(1, count, dim), std=0.02)
            self.register_parameter(name, nn.Parameter(start))
        self.decoder_blocks = nn.ModuleList(
            Block(dim, self.decoder_num_heads, self.decoder_mlp_ratio) for _ in range(self.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = Linear(dim, values)
        self.apply(init_transformer)

    def decoder_input(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's class token takes the place of the encoder's."""
        visible = self.decoder_embed(latent[:, self.prefix_tokens :])
        token = self.decoder_cls_token + self.decoder_pos_embed_class
        return token.expand(len(visible), -1, -1), visible

    def decoder_positions(self) -> Tensor:
        """Place plus time."""
        return separable_positions(self.decoder_pos_embed_spatial, self.decoder_pos_embed_temporal)

    def decoder_parts(self) -> tuple[nn.ModuleList, nn.LayerNorm, nn.Linear]:
        """Blocks, norm and projection."""
        return self.decoder_blocks, self.decoder_norm, self.decoder_pred
