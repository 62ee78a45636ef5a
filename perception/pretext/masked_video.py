"""What masked autoencoders of clips share: masking, targets, the loss over hidden cubes, strips and films.

The encoder sees the visible cubes alone; the decoder sees them, then a mask token for every cube that it is asked for,
each with its own position, so that nothing has to be un-shuffled. Its last block, the projection to pixels and the
targets are computed for the cubes asked for only. ``reconstruct`` gives predictions of all cubes; tests hold both to
the same loss.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.video_vit import VideoViT
from perception.errors import ConfigError, DataError, Fault, check_arguments, not_among
from perception.layers.eval_mode import eval_mode
from perception.layers.linear import linear
from perception.layers.patches import take_tokens
from perception.layers.video_masks import (
    MASKS,
    CubeMask,
    kept_places,
    mask_cubes,
    mask_from_bool,
    running_cells,
    show_ends,
)
from perception.layers.video_tokens import Sizes, cut_cubes, join_cubes
from perception.losses.masked_cubes import (
    TARGETS,
    cube_statistics,
    cube_targets,
    masked_cube_loss,
    motion_of,
    motion_weights,
)
from perception.pretext.base import Pretext
from perception.pretext.video_pictures import attention_over_time, strips_and_film
from perception.transforms.preprocess import Batch
from perception.transforms.video_preprocess import VideoPreprocess

NORMALISED = ("channel", "joint")


class MaskedVideo(Pretext):
    """Base of the masked autoencoders of clips; a subclass brings the decoder.

    Args:
        mask: ``tube``, ``random`` (or ``agnostic``), ``shuffle``, ``temporal``, ``center`` (or ``boundary``).
        target: ``channel``, ``joint``, ``raw`` or ``unit``; see ``perception.losses.masked_cubes``.
        decoder_dim: width Dd of the decoder.
        decoder_num_heads: attention heads of a decoder block.
        decoder_depth: blocks of the decoder.
        decoder_mlp_ratio: hidden width of the decoder's MLPs over Dd.
        mask_ratio: share of hidden cubes.
        predict_frames: frames of the clip that are predicted, spread evenly; ``None`` predicts all.
        decoder_mask_ratio: share of cubes that the decoder leaves out, by running cells (VideoMAE V2, 2023): 0, 0.25,
            0.5 or 0.75. As there, visible cubes may be among the others; the loss leaves them out.
        motion_weight: 0 weighs all hidden cubes alike, 1 by how much moves in them; an option of ours.
        log_interpolation: every that many steps, log ``interpolation_mse`` and ``linear_blend_mse`` of the batch: see
            ``interpolation_errors``; 0 is never.
        picture_count: clips in the pictures.
    """

    name: ClassVar[str]
    mask_token: nn.Parameter
    frame_ids: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mask: str,
        target: str,
        decoder_dim: int,
        decoder_num_heads: int,
        decoder_depth: int = 4,
        decoder_mlp_ratio: float = 4.0,
        mask_ratio: float = 0.9,
        predict_frames: int | None = None,
        decoder_mask_ratio: float = 0.0,
        motion_weight: float = 0.0,
        log_interpolation: int = 0,
        picture_count: int = 2,
    ) -> None:
        check_arguments(f"model.pretexts.{self.name}", self.check_config, locals())
        super().__init__()
        self.mask, self.mask_ratio = mask, mask_ratio
        self.target = target
        self.predict_frames = predict_frames
        self.decoder_dim, self.decoder_depth = decoder_dim, decoder_depth
        self.decoder_num_heads, self.decoder_mlp_ratio = decoder_num_heads, decoder_mlp_ratio
        self.decoder_mask_ratio = decoder_mask_ratio
        self.motion_weight = motion_weight
        self.log_interpolation = log_interpolation
        self.picture_count = picture_count
        self.step = 0

    def attach(self, backbone: Backbone) -> None:
        """Build the decoder for the width, the cubes and the grid of ``backbone``.

        Raises:
            ConfigError: another kind of backbone, or sizes that do not go together.
        """
        vit = require_video_vit(backbone)
        self.cube, self.grid, self.frames = vit.cube, vit.grid, vit.frames
        self._check_sizes()
        count = self.predict_frames or self.frames
        self.out_cube: Sizes = (count // self.grid[0], *self.cube[1:])
        chosen = torch.linspace(0, self.frames - 1, count).long() if count < self.frames else None
        self.register_buffer("frame_ids", chosen, persistent=False)
        mean, std = _record(vit).statistics()
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("std", std.float(), persistent=False)
        self.build_decoder(vit, self.out_cube[0] * self.cube[1] * self.cube[2] * len(mean))

    def _check_sizes(self) -> None:
        faults = []

        def add(key: str, text: str) -> None:
            faults.append(Fault(f"model.pretexts.{self.name}.{key}", getattr(self, key), text))

        length = math.prod(self.grid)
        kept = kept_places(self.mask, self.grid, self.mask_ratio)
        if not 0 < kept < length:
            add("mask_ratio", f"keeps {kept} of the {length} cubes")
        if self.predict_frames and (self.predict_frames > self.frames or self.predict_frames % self.grid[0]):
            add("predict_frames", f"must be a multiple of the {self.grid[0]} time slots, and at most {self.frames}")
        if self.decoder_mask_ratio and (self.grid[1] % 2 or self.grid[2] % 2):
            add("decoder_mask_ratio", f"needs an even number of rows and columns of cubes, not {self.grid[1:]}")
        if self.log_interpolation and self.grid[0] < 3:
            add("log_interpolation", f"needs at least 3 time slots, not {self.grid[0]}: something has to lie between")
        if faults:
            raise ConfigError(faults)

    @abstractmethod
    def build_decoder(self, vit: VideoViT, values: int) -> None:
        """Make the decoder, which gives ``values`` numbers for a cube."""

    @abstractmethod
    def decoder_input(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder output (B, P + K, D) -> tokens in front (B, P', Dd), and visible cubes (B, K, Dd)."""

    @abstractmethod
    def decoder_positions(self) -> Tensor:
        """Positions (1, L, Dd) of all cubes."""

    @abstractmethod
    def decoder_parts(self) -> tuple[nn.ModuleList, nn.LayerNorm, nn.Linear]:
        """Blocks, norm and projection to pixels."""

    def before_step(self, step: int, total_steps: int) -> None:
        """Remember the step, for what is logged now and then."""
        self.step = step

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` of ``batch['video']``, normalised float (B, C, T, H, W)."""
        clips = batch["video"]
        vit = self.checked(backbone, clips)
        mask = mask_cubes(self.mask, self.draw_noise(clips), self.grid, self.mask_ratio)
        found = {"loss": self.loss_of(vit, clips, mask)}
        if self.log_interpolation and self.step % self.log_interpolation == 0:
            model, blend = interpolation_errors(self, vit, clips)
            found |= {"interpolation_mse": model.mean(), "linear_blend_mse": blend.mean()}
        return found

    def loss_of(self, vit: VideoViT, clips: Tensor, mask: CubeMask) -> Tensor:
        """Loss over the hidden cubes of clips (B, C, T, H, W)."""
        latent = vit.forward_tokens(clips, mask.keep)
        wanted, weights = mask.hidden, None
        if self.decoder_mask_ratio:
            start = torch.randint(4, (len(clips),), device=clips.device)
            wanted = running_cells(start, self.grid, self.decoder_mask_ratio)
            weights = mask.mask.gather(1, wanted).float()
        if self.motion_weight:
            moving = motion_weights(motion_of(clips, self.cube, wanted), self.motion_weight)
            weights = moving if weights is None else weights * moving
        pred = self.decode(latent, mask.keep, wanted, channels_first=True)
        with torch.no_grad():
            target = self.targets(self.pixels(clips, wanted))
        return masked_cube_loss(pred, target, weights)

    def draw_noise(self, clips: Tensor) -> Tensor:
        """Uniform noise (B, L) that decides which cubes are hidden."""
        return torch.rand(len(clips), math.prod(self.grid), device=clips.device)

    def decode(self, latent: Tensor, keep: Tensor, wanted: Tensor, channels_first: bool = False) -> Tensor:
        """Predictions (B, M, values) of the cubes ``wanted`` (B, M), in that order, from those in ``keep`` (B, K).

        The values of a cube are laid out as (frame, row, column, channel), or with the channel first: rows of pixels
        of one channel are much faster to normalise.
        """
        tokens = self._sequence(latent, keep, wanted)
        blocks, norm, head = self.decoder_parts()
        for block in blocks[:-1]:
            tokens = block(tokens)
        tokens = norm(blocks[-1](tokens, last=wanted.shape[1]))
        if not channels_first:
            return head(tokens)
        weight, bias = (part.unflatten(0, (-1, len(self.mean))).transpose(0, 1) for part in (head.weight, head.bias))
        return linear(tokens, weight.flatten(0, 1), bias.flatten(0, 1))

    def _sequence(self, latent: Tensor, keep: Tensor, wanted: Tensor) -> Tensor:
        prefix, visible = self.decoder_input(latent)
        positions = self.decoder_positions()
        asked = self.mask_token + take_tokens(positions, wanted)
        visible = visible + take_tokens(positions, keep)
        return torch.cat([prefix.to(visible.dtype), visible, asked.to(visible.dtype)], dim=1)

    def pixels(self, clips: Tensor, ids: Tensor | None = None) -> Tensor:
        """Pixels (B, K, C, P) of the cubes ``ids``, or of all, of the frames that are predicted."""
        chosen = clips if self.frame_ids is None else clips[:, :, self.frame_ids]
        return cut_cubes(chosen, self.out_cube, ids, channels_first=True).unflatten(-1, (clips.shape[1], -1))

    def targets(self, pixels: Tensor) -> Tensor:
        """What is regressed of the cubes ``pixels`` (B, K, C, P): (B, K, C*P) float32."""
        return cube_targets(pixels, self.target, self.mean, self.std)

    def values_of(self, pred: Tensor, pixels: Tensor) -> Tensor:
        """Predictions (B, K, P*C), channel last, as values of the normalised clip (B, K, C, P).

        Of normalised targets the mean and the scale are lost: they are taken from the TRUE cubes ``pixels``.
        """
        shift, scale = cube_statistics(pixels.float(), self.target, self.mean, self.std)
        return self._channel_first(pred.float()) * scale + shift

    def _channel_first(self, pred: Tensor) -> Tensor:
        return pred.unflatten(-1, (-1, len(self.mean))).transpose(-1, -2)

    def reconstruct(self, backbone: Backbone, clips: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """All outputs.

        Args:
            backbone: the encoder.
            clips: (B, C, T, H, W) normalised.
            mask: (B, L) bool, True where hidden; drawn when not given.

        Returns:
            ``loss`` scalar, the plain mean over hidden cubes; ``pred`` (B, L, values) of ALL cubes in the order of the
            grid, values as (frame, row, column, channel); ``mask`` (B, L) bool; ``ids_restore`` (B, L); ``latent``
            (B, P + K, D).
        """
        vit = self.checked(backbone, clips)
        drawn = mask_cubes(self.mask, self.draw_noise(clips), self.grid, self.mask_ratio) if mask is None else None
        split = drawn or mask_from_bool(mask)  # type: ignore[arg-type]  # one of the two is given
        latent = vit.forward_tokens(clips, split.keep)
        tokens = self._sequence(latent, split.keep, split.hidden)
        blocks, norm, head = self.decoder_parts()
        for block in blocks:
            tokens = block(tokens)
        pred = take_tokens(head(norm(tokens[:, tokens.shape[1] - split.length :])), split.restore)
        hidden = self._channel_first(take_tokens(pred, split.hidden)).flatten(-2)
        loss = masked_cube_loss(hidden, self.targets(self.pixels(clips, split.hidden)))
        return {"loss": loss, "pred": pred, "mask": split.mask, "ids_restore": split.restore, "latent": latent}

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """A strip and a film of the original, what the encoder sees, and the reconstruction; attention over time.

        In ``..._strips`` every clip has these three rows, a column is a frame; ``..._film`` (F, H, W, 3) shows them
        side by side. Visible cubes are pasted into the reconstruction. Where targets are normalised, the reconstruction
        uses the TRUE mean and deviation of every cube, so that it always looks right; the names then say
        ``true-statistics``. The mask is the same every time, so that pictures of a run can be compared.
        """
        clips = batch["video"][: self.picture_count]
        noise = torch.rand(len(clips), math.prod(self.grid), generator=torch.Generator().manual_seed(0)).to(
            clips.device
        )
        mask = mask_cubes(self.mask, noise, self.grid, self.mask_ratio).mask
        out = evaluated(self, backbone, clips, mask)
        pixels = self.pixels(clips)
        hidden = mask[:, :, None, None]
        filled = torch.where(hidden, self.values_of(out["pred"], pixels), pixels)
        grey = pixels.new_zeros(())  # the mean of the data set
        shown = torch.stack([pixels, torch.where(hidden, grey, pixels), filled], dim=1).flatten(0, 1)
        shown = shown.transpose(-1, -2).flatten(2)
        record = _record(require_video_vit(backbone))
        films = record.denormalize(join_cubes(shown, self.out_cube, self.grid)).cpu().numpy()  # (3B, C, F, H, W)
        films = films.transpose(0, 2, 1, 3, 4)
        strips, film = strips_and_film(films.reshape(len(clips), 3, *films.shape[1:]))
        name = f"{self.name}_true-statistics" if self.target in NORMALISED else self.name
        looks = attention_over_time(require_video_vit(backbone), batch, self.picture_count)
        return {f"{name}_strips": strips, f"{name}_film": film, **looks}

    def checked(self, backbone: Backbone, clips: Tensor) -> VideoViT:
        """``backbone``, if it and the clips are those that this was attached for.

        Raises:
            DataError: clips of another length or size.
        """
        vit = require_video_vit(backbone)
        size = tuple(clips.shape[-3:])
        if size != (self.frames, *vit.image_size):
            raise DataError(
                f"{self.name} was built for frames={self.frames} and image_size={vit.image_size}, not for clips of "
                f"{size} (frames, height, width): give the data set frames={self.frames}, size={vit.image_size}"
            )
        return vit

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints, known once a backbone is attached."""
        seen = f"{kept_places(self.mask, self.grid, self.mask_ratio)} of {math.prod(self.grid)}"
        return {"cubes that the encoder sees": seen}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        for key, choices in (("mask", MASKS), ("target", TARGETS)):
            if cfg[key] not in choices:
                yield key, not_among(cfg[key], choices)
        if not (isinstance(cfg["mask_ratio"], (int, float)) and 0 < cfg["mask_ratio"] < 1):
            yield "mask_ratio", "must lie in (0, 1)"
        for key in ("decoder_dim", "decoder_depth", "decoder_num_heads"):
            if not isinstance(cfg[key], int) or cfg[key] < 1:
                yield key, "must be a whole number of at least 1"
                return
        if cfg["decoder_dim"] % cfg["decoder_num_heads"]:
            yield "decoder_num_heads", f"does not divide decoder_dim = {cfg['decoder_dim']}"
        if not (isinstance(cfg["decoder_mlp_ratio"], (int, float)) and cfg["decoder_mlp_ratio"] > 0):
            yield "decoder_mlp_ratio", "must be positive"
        if cfg["decoder_mask_ratio"] not in (0, 0.25, 0.5, 0.75):
            yield "decoder_mask_ratio", "must be 0, 0.25, 0.5 or 0.75: running cells have four places"
        if not 0 <= cfg["motion_weight"] <= 1:
            yield "motion_weight", "must lie in [0, 1]"
        if cfg["predict_frames"] is not None and cfg["predict_frames"] < 1:
            yield "predict_frames", "must be positive, or None for all"
        if cfg["log_interpolation"] < 0:
            yield "log_interpolation", "must not be negative"
        elif cfg["log_interpolation"] and cfg["target"] in NORMALISED:
            yield "log_interpolation", "needs target='raw' or 'unit': normalised pixels cannot be held against a blend"


@torch.no_grad()
def evaluated(pretext: MaskedVideo, backbone: Backbone, clips: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """``pretext.reconstruct`` in eval mode; the modes are left as they were found."""
    with eval_mode(pretext, backbone):
        return pretext.reconstruct(backbone, clips, mask)


@torch.no_grad()
def interpolation_errors(
    pretext: MaskedVideo, backbone: Backbone, clips: Tensor, ends: int = 1
) -> tuple[Tensor, Tensor]:
    """How well the middle of clips is filled in, against fading from the last frame before to the first one after it.

    Args:
        pretext: trained with ``target='raw'`` or ``'unit'``.
        backbone: the encoder that it was trained with.
        clips: (B, C, T, H, W) normalised.
        ends: time slots that are visible at either end.

    Returns:
        Mean squared errors of pixels in [0, 1] over the hidden frames, of the model and of the blend: two of (B,).

    Raises:
        ConfigError: the targets are normalised, or nothing would be hidden.
    """
    if pretext.target in NORMALISED:
        raise ConfigError(f"target={pretext.target!r} leaves out the mean of every cube: there is no interpolation")
    if pretext.grid[0] <= 2 * ends:
        raise ConfigError(f"{ends} slots at either end of {pretext.grid[0]} leave nothing to interpolate")
    mask = show_ends(len(clips), pretext.grid, ends, clips.device)
    out = evaluated(pretext, backbone, clips, mask.mask)
    true = pretext.pixels(clips, mask.hidden).float()
    first, last = ends * pretext.cube[0] - 1, clips.shape[2] - ends * pretext.cube[0]
    share = ((torch.arange(clips.shape[2], device=clips.device) - first) / (last - first)).clamp(0, 1)
    share = share[:, None, None]
    blend = clips[:, :, first, None] * (1 - share) + clips[:, :, last, None] * share
    filled = pretext.values_of(take_tokens(out["pred"], mask.hidden), true)
    model_error, blend_error = (
        ((found - true) * pretext.std[:, None]).square().mean(dim=(1, 2, 3))
        for found in (filled, pretext.pixels(blend, mask.hidden).float())
    )
    return model_error, blend_error


def require_video_vit(backbone: Backbone) -> VideoViT:
    """``backbone``, if it can skip cubes.

    Raises:
        ConfigError: it is of another kind.
    """
    if not isinstance(backbone, VideoViT):
        raise ConfigError(
            f"masked video needs a backbone that can skip cubes, such as VideoViT, not {type(backbone).__name__}"
        )
    return backbone


def _record(vit: VideoViT) -> VideoPreprocess:
    if not isinstance(vit.preprocess, VideoPreprocess):
        raise ConfigError(f"masked video needs a VideoPreprocess record, not {type(vit.preprocess).__name__}")
    return vit.preprocess
