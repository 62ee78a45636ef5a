"""Vision transformer ("An Image is Worth 16x16 Words", Dosovitskiy et al., 2021) that can skip hidden patches.

Parameters are named as in timm's ``VisionTransformer``, so public weights load without a converter. Positions are
MAE's fixed sin-cos table or learned; either is resampled when the input or a checkpoint has another grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.token_encoder import TokenEncoder, trunk_faults, whole_number_faults
from perception.errors import check_arguments
from perception.layers.linear import linear
from perception.layers.patches import patchify, take_tokens
from perception.layers.positions import guess_grid, resample_positions, sincos_2d
from perception.layers.transformer import init_transformer
from perception.registry import BACKBONES
from perception.transforms.preprocess import Preprocess

POSITIONS = ("sincos", "learned")


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """``n`` -> ``(n, n)``; a sequence of two stays."""
    if isinstance(value, int):
        return value, value
    rows, columns = value
    return int(rows), int(columns)


class PatchEmbed(nn.Module):
    """Linear embedding of patches. The weight is a convolution's, as in timm."""

    def __init__(self, patch_size: tuple[int, int], in_channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.data.view(dim, -1))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, L, D), or (B, K, D) of the patches ``keep`` (B, K) alone."""
        if keep is None:
            return self.proj(x).flatten(2).transpose(1, 2)
        patches = take_tokens(patchify(x, self.patch_size, channels_first=True), keep)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


@BACKBONES.register_module()
class ViT(TokenEncoder):
    """Plain vision transformer.

    Args:
        image_size: height and width, or one number for a square, that the positions are made for. Other sizes work:
            the positions are then resampled.
        patch_size: rows and columns of a patch in pixels, or one number.
        in_channels: image channels C.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: bias of the query, key and value projections.
        drop_rate: dropout of tokens, attention outputs and MLPs.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
        class_token: prepend a learned token (without a position when ``position='sincos'``).
        position: ``'sincos'`` (fixed, MAE) or ``'learned'``.
        out_indices: blocks (from 0; negative counts from the end) whose maps ``forward`` returns. The map of the last
            block has passed the final norm.
        preprocess: Preprocess record; ``None`` is ImageNet's RGB statistics at ``image_size``.

    Pooled features of ``encode``: ``gap`` mean of the patch tokens after the final norm; ``cls`` class token after it;
    ``norm-gap`` final norm of the mean of the patch tokens (MAE's fine-tuning); ``block-k`` mean of the patch tokens
    after block ``k`` (from 0), later blocks are not computed.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        class_token: bool = True,
        position: str = "sincos",
        out_indices: Sequence[int] = (-1,),
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        if preprocess is None:
            preprocess = {"type": "ImagePreprocess", "size": pair(image_size)}
        super().__init__(preprocess)
        self.image_size, self.patch_size = pair(image_size), pair(patch_size)
        self.grid = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        self.in_channels = in_channels
        self.out_indices = tuple(sorted(i % depth for i in out_indices))
        self.strides = (self.patch_size[0],) * len(self.out_indices)
        self.prefix_tokens = int(class_token)

        self.patch_embed = PatchEmbed(self.patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim) * 0.02) if class_token else None
        self.pos_embed: Tensor
        if position == "sincos":
            # Not a parameter: nothing may train it, and it needs no optimiser state.
            self.register_buffer("pos_embed", sincos_2d(embed_dim, self.grid, self.prefix_tokens))
        else:
            tokens = self.prefix_tokens + self.num_patches
            self.pos_embed = nn.Parameter(torch.randn(1, tokens, embed_dim) * 0.02)
        self.pos_drop = nn.Dropout(drop_rate)
        self.build_trunk(embed_dim, depth, num_heads, mlp_ratio, qkv_bias, drop_rate, drop_path_rate)
        self.blocks.apply(init_transformer)

    @property
    def num_patches(self) -> int:
        """Patches L of an image of ``image_size``."""
        return self.grid[0] * self.grid[1]

    def grid_of(self, x: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches of an input (B, C, H, W).

        Raises:
            ValueError: the input is not divisible by the patch size.
        """
        height, width = x.shape[-2:]
        if height % self.patch_size[0] or width % self.patch_size[1]:
            raise ValueError(f"input of {height} x {width} pixels is not divisible by patches of {self.patch_size}")
        return height // self.patch_size[0], width // self.patch_size[1]

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedded patches with positions, class token first: (B, C, H, W) -> (B, P + L or K, D)."""
        positions = resample_positions(self.pos_embed, self.grid, self.grid_of(x), self.prefix_tokens)
        prefix, positions = positions[:, : self.prefix_tokens], positions[:, self.prefix_tokens :]
        patches = self.patch_embed(x, keep)
        patches = patches + (positions if keep is None else take_tokens(positions, keep))
        if self.cls_token is not None:
            cls = (self.cls_token + prefix).to(patches.dtype).expand(len(patches), -1, -1)
            patches = torch.cat([cls, patches], dim=1)
        return self.pos_drop(patches)

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints."""
        rows, columns = self.grid
        extra = f" + {self.prefix_tokens}" if self.prefix_tokens else ""
        return {"tokens": f"{rows} x {columns}{extra} = {self.prefix_tokens + self.num_patches}"}

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Resample the positions in ``state`` to this grid; everything else is passed on."""
        positions = state.get("pos_embed")
        if positions is None or positions.ndim != 3 or positions.shape[-1] != self.embed_dims:
            return state
        count = positions.shape[1] - self.prefix_tokens
        if count < 1 or count == self.num_patches:
            return state
        source = guess_grid(count, self.grid)
        return {**state, "pos_embed": resample_positions(positions, source, self.grid, self.prefix_tokens)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = prefix + "pos_embed"
        if key in state_dict:
            # state_dict is torch's own shallow copy, so the caller's stays as it is.
            state_dict[key] = self.adapt_state({"pos_embed": state_dict[key]})["pos_embed"]
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def patch_of(cls, cfg: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of a patch."""
        return pair(cfg["patch_size"])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        sizes = {}
        for key in ("image_size", "patch_size"):
            try:
                sizes[key] = pair(cfg[key])
            except (TypeError, ValueError):
                yield key, "must be a number of pixels or a pair (rows, columns)"
                continue
            if min(sizes[key]) < 1:
                yield key, "must be positive"
                del sizes[key]
        unusable = list(whole_number_faults(cfg, ("in_channels", "embed_dim", "depth", "num_heads")))
        if unusable:
            yield from unusable
            return
        if len(sizes) == 2 and any(s % p for s, p in zip(sizes["image_size"], sizes["patch_size"], strict=True)):
            yield "image_size", f"is not divisible by patch_size = {cfg['patch_size']!r}"
        if cfg["position"] not in POSITIONS:
            yield "position", f"must be one of {', '.join(POSITIONS)}"
        elif cfg["position"] == "sincos" and cfg["embed_dim"] % 4:
            yield "embed_dim", "must be a multiple of 4 for position='sincos'"
        yield from trunk_faults(cfg)
        yield from _check_record(cfg, sizes.get("image_size"))


def _check_record(cfg: dict[str, Any], image_size: tuple[int, int] | None) -> Iterable[tuple[str, str]]:
    """Agreement of the Preprocess record with the network."""
    record = cfg["preprocess"]
    if record is None:
        if cfg["in_channels"] != 3:
            yield "preprocess", f"must be given for in_channels = {cfg['in_channels']}: the default record is for RGB"
        return
    values = record.record() if isinstance(record, Preprocess) else record
    mean, size = values.get("mean"), values.get("size")
    if isinstance(mean, (list, tuple)) and len(mean) != cfg["in_channels"]:
        yield "preprocess", f"has {len(mean)} band means, but in_channels = {cfg['in_channels']}"
    if size is not None and image_size is not None and pair(size) != image_size:
        yield "preprocess", f"makes images of {pair(size)}, but image_size = {cfg['image_size']!r}"
