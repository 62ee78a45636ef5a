"""Masked autoencoder ("Masked Autoencoders Are Scalable Vision Learners", He et al., CVPR 2022).

The encoder sees a random quarter of the patches; a light decoder, given a learned mask token for each of the others,
regresses their pixels:

    loss = sum_{removed patches} mean_c (pred - target)^2 / number of removed patches.

In training the decoder runs in the order [class, kept, removed] instead of un-shuffling (attention does not depend on
the order, and every token carries its own position), and the last decoder block, the projection to pixels and the
targets are computed for the removed patches only, for the loss reads nothing else. ``reconstruct`` gives the paper's
full outputs; tests hold both to the same loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.vit import ViT
from perception.errors import ConfigError, Fault, check_arguments
from perception.layers.eval_mode import eval_mode
from perception.layers.linear import Linear
from perception.layers.patches import (
    RandomMask,
    kept_patches,
    patchify,
    random_masking,
    take_tokens,
    unpatchify,
)
from perception.layers.positions import sincos_2d
from perception.layers.transformer import LAYER_NORM_EPS, Block, init_transformer
from perception.losses.masked_pixels import masked_pixel_loss, normalize_patches, patch_statistics
from perception.pretext.base import Pretext
from perception.pretext.pictures import tile
from perception.registry import PRETEXTS
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.preprocess import Batch


@PRETEXTS.register_module()
class MAE(Pretext):
    """Masked autoencoding of images.

    Args:
        mask_ratio: share of removed patches; ``int(L * (1 - mask_ratio))`` are kept.
        norm_pix: regress pixels normalised by the mean and unbiased variance of their own patch.
        decoder_dim: width Dd of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: attention heads of a decoder block.
        decoder_mlp_ratio: hidden width of the decoder's MLPs over Dd.
        picture_count: rows of the reconstruction picture.
    """

    decoder_embed: nn.Linear
    decoder_blocks: nn.ModuleList
    decoder_norm: nn.LayerNorm
    decoder_pred: nn.Linear
    mask_token: nn.Parameter
    decoder_pos_embed: Tensor

    def __init__(
        self,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        decoder_mlp_ratio: float = 4.0,
        picture_count: int = 8,
    ) -> None:
        check_arguments("model.pretexts.mae", self.check_config, locals())
        super().__init__()
        self.mask_ratio = mask_ratio
        self.norm_pix = norm_pix
        self.decoder_dim = decoder_dim
        self.decoder_depth = decoder_depth
        self.decoder_num_heads = decoder_num_heads
        self.decoder_mlp_ratio = decoder_mlp_ratio
        self.picture_count = picture_count

    def attach(self, backbone: Backbone) -> None:
        """Build the decoder for the width, the patches and the grid of ``backbone``."""
        backbone = _require_vit(backbone)
        if kept_patches(backbone.num_patches, self.mask_ratio) < 1:
            text = f"keeps none of the {backbone.num_patches} patches"
            raise ConfigError([Fault("model.pretexts.mae.mask_ratio", self.mask_ratio, text)])
        self.patch_size, self.grid = backbone.patch_size, backbone.grid
        self.prefix_tokens = backbone.prefix_tokens
        dim = self.decoder_dim
        self.decoder_embed = Linear(backbone.embed_dims, dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.register_buffer("decoder_pos_embed", sincos_2d(dim, self.grid))
        self.decoder_blocks = nn.ModuleList(
            Block(dim, self.decoder_num_heads, self.decoder_mlp_ratio) for _ in range(self.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = Linear(dim, self.patch_size[0] * self.patch_size[1] * backbone.in_channels)
        self.apply(init_transformer)

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` of ``batch['image']``, normalised float (B, C, H, W)."""
        images = batch["image"]
        vit = self._checked(backbone, images)
        mask = random_masking(self.draw_noise(images), self.mask_ratio)
        latent = vit.forward_tokens(images, mask.keep)
        if mask.removed.shape[1] == 0:
            return {"loss": latent.sum() * 0.0}
        pred = self._decode_removed(latent, mask)
        with torch.no_grad():
            target = self._target(take_tokens(patchify(images, self.patch_size), mask.removed))
        return {"loss": (pred.float() - target).square().mean()}

    def draw_noise(self, images: Tensor) -> Tensor:
        """Uniform noise (B, L) that decides which patches are removed."""
        return torch.rand(len(images), self.grid[0] * self.grid[1], device=images.device)

    def _target(self, patches: Tensor) -> Tensor:
        patches = patches.float()
        return normalize_patches(patches) if self.norm_pix else patches

    def _shuffled_tokens(self, latent: Tensor, mask: RandomMask) -> Tensor:
        """Decoder input (B, P + L, Dd) in the order [class, kept, removed], with positions."""
        visible = self.decoder_embed(latent)
        positions = self.decoder_pos_embed
        prefix, kept = visible[:, : self.prefix_tokens], visible[:, self.prefix_tokens :]
        removed = self.mask_token + take_tokens(positions, mask.removed)
        parts = [kept + take_tokens(positions, mask.keep), removed]
        dtype = parts[0].dtype
        return torch.cat([prefix.to(dtype), *(part.to(dtype) for part in parts)], dim=1)

    def _decode_removed(self, latent: Tensor, mask: RandomMask) -> Tensor:
        """Predicted pixels (B, L - K, p*p*C) of the removed patches, in the order of ``mask.removed``."""
        tokens = self._shuffled_tokens(latent, mask)
        count = mask.removed.shape[1]
        for block in self.decoder_blocks[:-1]:
            tokens = block(tokens)
        tokens = self.decoder_blocks[-1](tokens, last=count)
        return self.decoder_pred(self.decoder_norm(tokens))

    def reconstruct(self, backbone: Backbone, images: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """All outputs of the paper's model.

        Args:
            backbone: the encoder.
            images: (B, C, H, W) normalised.
            noise: (B, L) uniform numbers that decide the mask; drawn when not given.

        Returns:
            ``loss`` scalar; ``pred`` (B, L, p*p*C), for ALL patches in row-major order; ``mask`` (B, L), 1 = removed;
            ``ids_restore`` (B, L); ``latent`` (B, P + K, D).
        """
        vit = self._checked(backbone, images)
        mask = random_masking(self.draw_noise(images) if noise is None else noise, self.mask_ratio)
        latent = vit.forward_tokens(images, mask.keep)
        tokens = self._shuffled_tokens(latent, mask)
        for block in self.decoder_blocks:
            tokens = block(tokens)
        pred = self.decoder_pred(self.decoder_norm(tokens[:, self.prefix_tokens :]))
        pred = take_tokens(pred, mask.restore)
        target = self._target(patchify(images, self.patch_size))
        loss = masked_pixel_loss(pred, target, mask.mask)
        return {"loss": loss, "pred": pred, "mask": mask.mask, "ids_restore": mask.restore, "latent": latent}

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``mae_reconstruction``: rows of original, masked, reconstruction, and reconstruction with visible patches.

        The mask of a picture is always the same, so that pictures of a run can be compared.
        """
        record = backbone.preprocess
        if not isinstance(record, ImagePreprocess):
            raise ConfigError(f"MAE pictures need an ImagePreprocess record, not {type(record).__name__}")
        images = batch["image"][: self.picture_count]
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(len(images), self.grid[0] * self.grid[1], generator=generator).to(images.device)
        with eval_mode(self, backbone):
            out = self.reconstruct(backbone, images, noise)
        patches = patchify(images, self.patch_size)
        pred = out["pred"].float()
        if self.norm_pix:
            mean, scale = patch_statistics(patches)
            pred = pred * scale + mean
        removed = out["mask"][..., None].bool()
        grey = patches.new_zeros(())  # the mean of the data set
        columns = [patches, torch.where(removed, grey, patches), pred, torch.where(removed, pred, patches)]
        pixels = [record.denormalize(unpatchify(column, self.patch_size, self.grid)).cpu() for column in columns]
        return {"mae_reconstruction": tile(torch.stack(pixels, dim=1).numpy())}

    def _checked(self, backbone: Backbone, images: Tensor) -> ViT:
        vit = _require_vit(backbone)
        if vit.grid_of(images) != self.grid:
            size = tuple(images.shape[-2:])
            raise ValueError(f"MAE was attached for a grid of {self.grid} patches, not for images of {size} pixels")
        return vit

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints, known once a backbone is attached."""
        patches = self.grid[0] * self.grid[1]
        kept = kept_patches(patches, self.mask_ratio)
        return {"patches that the encoder sees": f"{kept} of {patches}"}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        if not (isinstance(cfg["mask_ratio"], (int, float)) and 0 < cfg["mask_ratio"] < 1):
            yield "mask_ratio", "must lie in (0, 1)"
        for key in ("decoder_dim", "decoder_depth", "decoder_num_heads"):
            if not isinstance(cfg[key], int) or cfg[key] < 1:
                yield key, "must be a whole number of at least 1"
                return
        if cfg["decoder_dim"] % cfg["decoder_num_heads"]:
            yield "decoder_num_heads", f"does not divide decoder_dim = {cfg['decoder_dim']}"
        if cfg["decoder_dim"] % 4:
            yield "decoder_dim", "must be a multiple of 4 for its sin-cos positions"
        if not (isinstance(cfg["decoder_mlp_ratio"], (int, float)) and cfg["decoder_mlp_ratio"] > 0):
            yield "decoder_mlp_ratio", "must be positive"


def _require_vit(backbone: Backbone) -> ViT:
    if not isinstance(backbone, ViT):
        raise ConfigError(f"MAE needs a backbone that can skip patches, such as ViT, not {type(backbone).__name__}")
    return backbone
