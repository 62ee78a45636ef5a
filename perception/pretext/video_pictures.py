"""Pictures of what an encoder of clips looks at, frame by frame."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.backbones.video_vit import VideoViT
from perception.errors import ConfigError
from perception.losses.masked_cubes import motion_of
from perception.pretext.pictures import colour, three_band, tile
from perception.transforms.preprocess import Batch
from perception.transforms.video_preprocess import VideoPreprocess

SHOWN_FRAMES = 8  # columns of a strip


@torch.no_grad()
def attention_over_time(vit: VideoViT, batch: Batch, count: int = 2) -> dict[str, np.ndarray]:
    """Where the last block of an encoder looks, the mean over its heads, laid over the frames.

    Every clip has three rows, a column is a frame: the clip; where its pooled feature looks, which is the class token
    or, without one, the mean over all cubes; where the one cube looks that most moves in, framed in white. Colours go
    from dark blue, nothing, to yellow, the most in any frame of the row, so that frames can be compared.

    Args:
        vit: the encoder; its mode is left as it is.
        batch: preprocessed, with ``video``.
        count: clips to show, the first ones.

    Returns:
        ``attention_strips`` uint8 (H, W, 3), and ``attention_film`` uint8 (T, H, W, 3) with the rows side by side.

    Raises:
        ConfigError: the encoder's record cannot turn clips back into pixels.
    """
    if not isinstance(vit.preprocess, VideoPreprocess):
        raise ConfigError(f"pictures need a VideoPreprocess record, not {type(vit.preprocess).__name__}")
    clips = batch["video"][:count]
    grid = vit.grid_of(clips)
    # One clip at a time: the weights of a large clip are many.
    weights = torch.cat([vit.attention(clip[None]).float().cpu() for clip in clips])
    asked, first = _most_moving(clips, vit).cpu(), vit.prefix_tokens
    whole = weights[:, 0] if first else weights.mean(dim=1)
    single = weights[torch.arange(len(clips)), asked + first]
    maps = torch.stack([whole, single], dim=1)[:, :, first:].unflatten(2, grid)  # (n, 2, slots, rows, columns)
    shown = three_band(vit.preprocess.denormalize(clips).cpu().transpose(1, 2).numpy())  # (n, T, 3, H, W)
    lit = np.stack([overlaid(shown, maps[:, row]) for row in range(2)], axis=1)
    _frame(lit[:, 1], np.stack(np.unravel_index(asked.numpy(), grid), axis=1), vit.cube)
    rows = np.concatenate([shown[:, None], lit], axis=1)  # (n, 3, T, 3, H, W)
    strips, film = strips_and_film(rows)
    return {"attention_strips": strips, "attention_film": film}


def strips_and_film(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Films (n, R, T, C, H, W) uint8 as a picture, and as one film.

    In the strips (H', W', 3) every one of the R films of the n clips is a row, and evenly spaced frames are columns;
    the film (T, H'', W'', 3) has the R films of a clip side by side.
    """
    columns = np.linspace(0, rows.shape[2] - 1, min(SHOWN_FRAMES, rows.shape[2])).round().astype(int)
    strips = tile(rows[:, :, columns].reshape(-1, len(columns), *rows.shape[3:]))
    return strips, np.stack([tile(rows[:, :, frame]) for frame in range(rows.shape[2])])


def overlaid(clips: np.ndarray, weights: Tensor) -> np.ndarray:
    """Frames, half of them the colour of the weight of their cube.

    Args:
        clips: uint8 (n, T, 3, H, W).
        weights: (n, slots, rows, columns), not negative; dark blue is 0, yellow the largest of a clip.

    Returns:
        uint8 (n, T, 3, H, W).
    """
    share = weights.float().cpu() / weights.float().cpu().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    whole = F.interpolate(share[:, None], size=(clips.shape[1], *clips.shape[3:]), mode="nearest")[:, 0]
    colours = colour(whole.numpy(), 0.0, 1.0).transpose(0, 1, 4, 2, 3)
    grey = clips.mean(axis=2, keepdims=True)
    return (0.5 * grey + 0.5 * colours).round().astype(np.uint8)


def _most_moving(clips: Tensor, vit: VideoViT) -> Tensor:
    """Number (n,) of the cube of every clip whose pixels change most; 0 in clips of one frame."""
    if clips.shape[2] < 2:
        return torch.zeros(len(clips), dtype=torch.long)
    length = math.prod(vit.grid_of(clips))
    every = torch.arange(length, device=clips.device).expand(len(clips), -1)
    return motion_of(clips, vit.cube, every).argmax(dim=1)


def _frame(clips: np.ndarray, places: np.ndarray, cube: tuple[int, int, int]) -> None:
    """Draw a white line inside the edge of the cube at ``places`` (n, 3) of every clip (n, T, 3, H, W)."""
    for clip, (slot, row, column) in zip(clips, places * np.array(cube), strict=True):
        part = clip[slot : slot + cube[0], :, row : row + cube[1], column : column + cube[2]]
        part[..., [0, -1], :] = 255
        part[..., :, [0, -1]] = 255
