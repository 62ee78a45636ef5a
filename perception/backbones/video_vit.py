"""Video vision transformer of VideoMAE (2022) and the spatiotemporal MAE (2022): joint attention over all cubes.

Parameters are named as in VideoMAE's repository, so public weights load; ``video_state`` knows the other dialects.
Hidden cubes are never touched: not even their pixels are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.token_encoder import TokenEncoder, trunk_faults, whole_number_faults
from perception.backbones.video_state import fit_biases, to_official
from perception.backbones.vit import pair
from perception.errors import check_arguments, not_among
from perception.layers.patches import take_tokens
from perception.layers.positions import guess_grid, resample_positions
from perception.layers.transformer import init_transformer
from perception.layers.video_tokens import (
    CubeEmbed,
    Sizes,
    cube_grid,
    flat_sinusoid,
    resample_time,
    separable_positions,
)
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess
from perception.transforms.video_preprocess import STILL

POSITIONS = ("sinusoid", "separable")
BIASES = (True, False, "qv")
STARTS = ("xavier", "normal")
_SPACE, _TIME = "pos_embed_spatial", "pos_embed_temporal"


@BACKBONES.register_module()
class VideoViT(TokenEncoder):
    """Plain vision transformer over the cubes of a clip.

    Args:
        image_size: height and width, or one number for a square, that the positions are made for.
        frames: frames T that they are made for. Other sizes and lengths work: a sinusoid is made anew, learned
            positions are interpolated, space and time for themselves.
        patch_size: rows and columns of a cube in pixels, or one number.
        tubelet: frames of a cube.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: ``'qv'`` (VideoMAE: none for keys), ``True`` or ``False``.
        drop_rate: dropout of tokens, attention outputs and MLPs.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
        class_token: prepend a learned token; with separable positions it has one of its own.
        position: ``'sinusoid'``, fixed, over the flattened index (VideoMAE), or ``'separable'``, learned, place plus
            time (spatiotemporal MAE).
        init: start of the linear maps: ``'xavier'`` (pre-training) or ``'normal'``, truncated, 0.02 (fine-tuning).
        out_indices: blocks (from 0; negative counts from the end) whose maps ``forward`` returns.
        preprocess: Preprocess record; ``None`` is ImageNet's statistics at ``image_size`` and ``frames``.

    Pooled features of ``encode``: ``gap`` mean of the tokens after the final norm; ``mean`` mean of the tokens without
    that norm (VideoMAE's fine-tuning, with ``norm='layer'`` in the Classifier); ``norm-gap`` final norm of that mean;
    ``cls`` class token after the norm; ``change`` mean over places of the deviation over time of the tokens after the
    norm, for labels that are motions, which a mean over time hides; ``block-k`` mean after block ``k`` (from 0), later
    blocks are not computed.
    """

    modality: ClassVar[str] = "video"
    pos_embed: Tensor

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        frames: int = 16,
        patch_size: int | Sequence[int] = 16,
        tubelet: int = 2,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool | str = "qv",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        class_token: bool = False,
        position: str = "sinusoid",
        init: str = "xavier",
        out_indices: Sequence[int] = (-1,),
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        if preprocess is None:
            preprocess = {"type": "VideoPreprocess", "size": pair(image_size), "frames": frames}
        super().__init__(preprocess)
        self.image_size, self.frames = pair(image_size), frames
        self.cube: Sizes = (tubelet, *pair(patch_size))
        self.grid = cube_grid((frames, *self.image_size), self.cube)
        self.position = position
        self.out_indices = tuple(sorted(i % depth for i in out_indices))
        self.strides = (self.cube[1],) * len(self.out_indices)
        self.prefix_tokens = int(class_token)

        self.patch_embed = CubeEmbed(self.cube, len(self.preprocess.record()["mean"]), embed_dim)
        self.cls_token = nn.Parameter(_small(embed_dim)) if class_token else None
        slots, rows, columns = self.grid
        if position == "sinusoid":
            # Follows from the sizes: no file holds it, and nothing may train it.
            self.register_buffer("pos_embed", flat_sinusoid(self.num_cubes, embed_dim), persistent=False)
        else:
            self.pos_embed_spatial = nn.Parameter(_small(embed_dim, rows * columns))
            self.pos_embed_temporal = nn.Parameter(_small(embed_dim, slots))
            if class_token:
                self.pos_embed_class = nn.Parameter(_small(embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        self.build_trunk(embed_dim, depth, num_heads, mlp_ratio, qkv_bias, drop_rate, drop_path_rate)
        self.blocks.apply(init_transformer if init == "xavier" else _init_normal)

    @property
    def num_cubes(self) -> int:
        """Cubes L of a clip of ``frames`` and ``image_size``."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    def grid_of(self, x: Tensor) -> Sizes:
        """(slots, rows, columns) of cubes of clips (B, C, T, H, W).

        Raises:
            ValueError: the clip is not divisible by the cube.
        """
        return cube_grid(tuple(x.shape), self.cube)

    def positions(self, grid: Sizes) -> Tensor:
        """Positions (1, L, D) of the cubes of ``grid``, time first."""
        if self.position == "sinusoid":
            if grid == self.grid:
                return self.pos_embed
            length = grid[0] * grid[1] * grid[2]
            return flat_sinusoid(length, self.embed_dims).to(self.pos_embed)
        space = resample_positions(self.pos_embed_spatial, self.grid[1:], grid[1:])
        return separable_positions(space, resample_time(self.pos_embed_temporal, grid[0]))

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedded cubes with positions, class token first: (B, C, T, H, W) -> (B, P + L or K, D)."""
        positions = self.positions(self.grid_of(x))
        cubes = self.patch_embed(x, keep)
        cubes = cubes + (positions if keep is None else take_tokens(positions, keep))
        if self.cls_token is not None:
            cls = self.cls_token + self.pos_embed_class if self.position == "separable" else self.cls_token
            cubes = torch.cat([cls.to(cubes.dtype).expand(len(cubes), -1, -1), cubes], dim=1)
        return self.pos_drop(cubes)

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features; ``block-k`` stands for any block k from 0."""
        return ("gap", "mean", "cls", "norm-gap", "change", "block-k")

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled embedding (B, D) of ``video`` of a preprocessed batch; see the class for the features."""
        if feature != "change":
            return super().encode(batch, feature)
        clips = batch[self.modality]
        cubes = self.forward_tokens(clips)[:, self.prefix_tokens :].unflatten(1, (self.grid_of(clips)[0], -1))
        # The eps keeps the slope finite where nothing changes.
        return (cubes.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=1)

    @staticmethod
    def has_final_norm(feature: str) -> bool:
        """Whether a pooled feature has passed the final norm."""
        return feature == "change" or TokenEncoder.has_final_norm(feature)

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """What needs no training: ``raw`` pixels on a 16 x 16 grey grid, their mean over time (``static``, which no
        motion can be read from), their standard deviation over time (``motion``), and both.
        """
        clips = batch[self.modality].float() + batch.get(STILL, 0.0)  # of the clips as they came
        grey = clips.mean(dim=1)
        small = torch.nn.functional.adaptive_avg_pool2d(grey, (min(16, grey.shape[2]), min(16, grey.shape[3])))
        static, motion = small.mean(dim=1).flatten(1), small.std(dim=1, unbiased=False).flatten(1)
        return {
            "raw": small.flatten(1),
            "static": static,
            "motion": motion,
            "static + motion": torch.cat([static, motion], dim=1),
        }

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints."""
        extra = f" + {self.prefix_tokens}" if self.prefix_tokens else ""
        sizes = " x ".join(map(str, self.grid))
        return {"tokens": f"{sizes}{extra} = {self.prefix_tokens + self.num_cubes}"}

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Other dialects in these names, and learned positions interpolated to this grid."""
        known = fit_biases(to_official(state), self.state_dict())
        rows, columns = self.grid[1:]
        if self.position != "separable":
            return known
        space, time = known.get(_SPACE), known.get(_TIME)
        if space is not None and space.ndim == 3 and space.shape[1] != rows * columns:
            source = guess_grid(space.shape[1], (rows, columns))
            known[_SPACE] = resample_positions(space, source, (rows, columns))
        if time is not None and time.ndim == 3:
            known[_TIME] = resample_time(time, self.grid[0])
        return known

    @classmethod
    def patch_of(cls, cfg: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of a cube."""
        return pair(cfg["patch_size"])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        unusable = list(whole_number_faults(cfg, ("frames", "tubelet", "embed_dim", "depth", "num_heads")))
        for key in ("image_size", "patch_size"):
            try:
                wrong = min(pair(cfg[key])) < 1
            except (TypeError, ValueError):
                wrong = True
            if wrong:
                unusable.append((key, "must be a positive number of pixels or a pair (rows, columns)"))
        if unusable:
            yield from unusable
            return
        if any(s % p for s, p in zip(pair(cfg["image_size"]), pair(cfg["patch_size"]), strict=True)):
            yield "image_size", f"is not divisible by patch_size = {cfg['patch_size']!r}"
        if cfg["frames"] % cfg["tubelet"]:
            yield "frames", f"is not divisible by tubelet = {cfg['tubelet']}"
        for key, choices in (("position", POSITIONS), ("qkv_bias", BIASES), ("init", STARTS)):
            if cfg[key] not in choices:
                yield key, not_among(cfg[key], choices)
        yield from trunk_faults(cfg)
        record = cfg["preprocess"]
        if record is not None:
            values = record.record() if isinstance(record, Preprocess) else record
            size, frames = values.get("size"), values.get("frames", 16)
            if size is not None and pair(size) != pair(cfg["image_size"]):
                yield "preprocess", f"makes clips of {pair(size)} pixels, but image_size = {cfg['image_size']!r}"
            if frames != cfg["frames"]:
                yield "preprocess", f"makes clips of {frames} frames, but frames = {cfg['frames']}"


def _small(dim: int, count: int = 1) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(1, count, dim), std=0.02)


@torch.no_grad()
def _init_normal(module: nn.Module) -> None:
    init_transformer(module)
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
