"""VideoMAE ("VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training", 2022).

Tubes hide nine tenths of the places, the same ones in every time slot; a small decoder regresses the pixels of hidden
cubes, each cube normalised per channel:

    loss = mean over clips, hidden cubes and values of (pred - target)^2.

``decoder_mask_ratio`` switches on the decoder masking of VideoMAE V2 (2023). Parameters are named as in VideoMAE's
repository; ``perception.backbones.video_state`` converts both ways.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.video_vit import VideoViT
from perception.layers.linear import Linear
from perception.layers.transformer import LAYER_NORM_EPS, Block, init_transformer
from perception.layers.video_tokens import flat_sinusoid
from perception.pretext.masked_video import MaskedVideo
from perception.registry import PRETEXTS


class CubeDecoder(nn.Module):
    """The modules of the decoder; biases as in the encoder, none for keys."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float, values: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, qkv_bias="qv") for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = Linear(dim, values)


@PRETEXTS.register_module()
class VideoMAE(MaskedVideo):
    """Masked autoencoding of clips with fixed positions and a decoder without a class token; see ``MaskedVideo``."""

    name: ClassVar[str] = "video_mae"
    decoder_pos_embed: Tensor

    def __init__(
        self,
        mask: str = "tube",
        target: str = "channel",
        decoder_dim: int = 384,
        decoder_num_heads: int = 6,
        **options: Any,
    ) -> None:
        super().__init__(mask, target, decoder_dim, decoder_num_heads, **options)

    def build_decoder(self, vit: VideoViT, values: int) -> None:
        """Decoder, mask token and the decoder's own table of positions."""
        dim = self.decoder_dim
        self.prefix_tokens = vit.prefix_tokens
        self.encoder_to_decoder = Linear(vit.embed_dims, dim, bias=False)
        # Cut at one standard deviation, as VideoMAE does.
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02, a=-0.02, b=0.02))
        self.register_buffer("decoder_pos_embed", flat_sinusoid(vit.num_cubes, dim), persistent=False)
        self.decoder = CubeDecoder(dim, self.decoder_depth, self.decoder_num_heads, self.decoder_mlp_ratio, values)
        self.apply(init_transformer)

    def decoder_input(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """A class token of the encoder, which VideoMAE lacks, passes without a position."""
        tokens = self.encoder_to_decoder(latent)
        return tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]

    def decoder_positions(self) -> Tensor:
        """The fixed table."""
        return self.decoder_pos_embed

    def decoder_parts(self) -> tuple[nn.ModuleList, nn.LayerNorm, nn.Linear]:
        """Blocks, norm and head."""
        return self.decoder.blocks, self.decoder.norm, self.decoder.head
