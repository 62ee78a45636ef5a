"""Images as sequences of patches, and random subsets of them. Pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def _blocks(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """View of (B, C, H, W) as (B, C, H/p, p, W/q, q)."""
    batch, channels, height, width = images.shape
    if height % patch[0] or width % patch[1]:
        raise ValueError(f"image of {height} x {width} is not divisible by patches of {patch[0]} x {patch[1]}")
    return images.reshape(batch, channels, height // patch[0], patch[0], width // patch[1], patch[1])


def patchify(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, L, p*q*C): patches in row-major order, each laid out (row, column, channel)."""
    blocks = _blocks(images, patch).permute(0, 2, 4, 3, 5, 1)
    return blocks.reshape(blocks.shape[0], blocks.shape[1] * blocks.shape[2], -1)


def unpatchify(patches: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Inverse of ``patchify``: (B, L, p*q*C) with L = rows * columns of ``grid`` -> (B, C, H, W)."""
    batch, length, values = patches.shape
    if length != grid[0] * grid[1]:
        raise ValueError(f"{length} patches do not fill a grid of {grid[0]} x {grid[1]}")
    channels = values // (patch[0] * patch[1])
    blocks = patches.reshape(batch, *grid, *patch, channels).permute(0, 5, 1, 3, 2, 4)
    return blocks.reshape(batch, channels, grid[0] * patch[0], grid[1] * patch[1])


def gather_patches(images: Tensor, patch: tuple[int, int], ids: Tensor, channels_first: bool = False) -> Tensor:
    """The patches at ``ids``, without touching the pixels of the others.

    Args:
        images: (B, C, H, W).
        patch: (rows, columns) of a patch in pixels.
        ids: (B, K) row-major positions of the wanted patches.
        channels_first: lay a patch out as (channel, row, column), the order of convolution weights, instead of
            (row, column, channel).

    Returns:
        (B, K, p*q*C), in the order of ``ids``.
    """
    order = (0, 2, 4, 1, 3, 5) if channels_first else (0, 2, 4, 3, 5, 1)
    blocks = _blocks(images, patch).permute(order)  # (B, h, w, one patch), a view
    columns = blocks.shape[2]
    sample = torch.arange(len(ids), device=ids.device)[:, None]
    return blocks[sample, ids // columns, ids % columns].flatten(2)


def take_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens (B, L, D) or (1, L, D) at ``ids`` (B, K) -> (B, K, D); a leading one is shared by all samples."""
    if tokens.shape[0] == 1:
        return tokens[0][ids]
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


@dataclass(frozen=True)
class RandomMask:
    """A random split of patches into kept and removed ones, kept first.

    Attributes:
        keep: (B, K) ids of the kept patches, ordered by their noise.
        removed: (B, L - K) ids of the removed patches, ordered by their noise.
        restore: (B, L) rank of each patch, which un-shuffles ``[keep, removed]``.
        mask: (B, L) float, 1 where removed.
    """

    keep: Tensor
    removed: Tensor
    restore: Tensor
    mask: Tensor


def random_masking(noise: Tensor, mask_ratio: float) -> RandomMask:
    """Keep the ``int(L * (1 - mask_ratio))`` patches of least noise.

    Args:
        noise: (B, L), independent uniform numbers.
        mask_ratio: share of removed patches in [0, 1).
    """
    count = kept_patches(noise.shape[1], mask_ratio)
    shuffle = noise.argsort(dim=1)
    restore = shuffle.argsort(dim=1)
    return RandomMask(shuffle[:, :count], shuffle[:, count:], restore, (restore >= count).to(noise.dtype))


def kept_patches(length: int, mask_ratio: float) -> int:
    """``int(L * (1 - mask_ratio))``, truncating as in the paper's code: L = 196 at 0.75 gives 49."""
    return int(length * (1 - mask_ratio))
