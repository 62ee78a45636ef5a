"""Images as sequences of patches, and random subsets of them. Pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def patchify(images: Tensor, patch: tuple[int, int], channels_first: bool = False) -> Tensor:
    """Cut images into patches.

    Args:
        images: (B, C, H, W).
        patch: (p, q) rows and columns of a patch in pixels.
        channels_first: lay a patch out as (channel, row, column), the order of convolution weights, instead of
            (row, column, channel).

    Returns:
        (B, L, p*q*C), patches in row-major order.
    """
    batch, channels, height, width = images.shape
    if height % patch[0] or width % patch[1]:
        raise ValueError(f"image of {height} x {width} is not divisible by patches of {patch[0]} x {patch[1]}")
    rows, columns = height // patch[0], width // patch[1]
    blocks = images.reshape(batch, channels, rows, patch[0], columns, patch[1])
    blocks = blocks.permute((0, 2, 4, 1, 3, 5) if channels_first else (0, 2, 4, 3, 5, 1))
    return blocks.reshape(batch, rows * columns, -1)


def unpatchify(patches: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Inverse of ``patchify``: (B, L, p*q*C) with L = rows * columns of ``grid`` -> (B, C, H, W)."""
    batch, length, values = patches.shape
    if length != grid[0] * grid[1]:
        raise ValueError(f"{length} patches do not fill a grid of {grid[0]} x {grid[1]}")
    channels = values // (patch[0] * patch[1])
    blocks = patches.reshape(batch, *grid, *patch, channels).permute(0, 5, 1, 3, 2, 4)
    return blocks.reshape(batch, channels, grid[0] * patch[0], grid[1] * patch[1])


def take_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens (B, L, D), or (1, L, D) shared by all samples, at ``ids`` (B, K) -> (B, K, D)."""
    length, dim = tokens.shape[1:]
    if tokens.shape[0] == 1:
        return F.embedding(ids, tokens[0])
    # Whole rows of one table: several times faster than gather, which is told every single element.
    starts = torch.arange(0, len(ids) * length, length, device=ids.device)[:, None]
    return tokens.reshape(-1, dim).index_select(0, (ids + starts).flatten()).view(*ids.shape, dim)


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
