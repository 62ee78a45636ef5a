"""A plain convolutional network for small images.

"Striving for Simplicity: The All Convolutional Net", Springenberg et al., 2015: strided convolutions instead of
pooling, no fully connected layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, Fault, check_arguments, nearest
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess


@BACKBONES.register_module()
class ConvNet(Backbone):
    """Stages of a 3 x 3 convolution, batch norm and ReLU.

    Networks made for 224 pixels shrink an image four-fold before their first block; of a tile of 64 pixels that leaves
    little of the texture. This one keeps it, and costs little: 15 M multiplications at 64 pixels and default widths.

    Args:
        widths: channels of every stage.
        strides: down-sampling of every stage.
        in_channels: image channels C.
        out_indices: stages (from 0; negative counts from the end) whose maps ``forward`` returns.
        preprocess: Preprocess record; ``None`` is ImageNet's RGB statistics at 64 pixels.

    Pooled features of ``encode``: ``gap`` mean of the last map; ``stages`` means of the maps of all stages, one after
    the other; ``stage-k`` mean of the map of stage ``k`` (from 0), later stages are not computed.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        strides: Sequence[int] = (2, 2, 2, 2),
        in_channels: int = 3,
        out_indices: Sequence[int] = (-1,),
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        super().__init__(preprocess or {"type": "ImagePreprocess", "size": 64})
        self.widths, self.in_channels = tuple(widths), in_channels
        self.embed_dims = self.widths[-1]
        self.out_indices = tuple(sorted(i % len(widths) for i in out_indices))
        shrunk = [1]
        for stride in strides:
            shrunk.append(shrunk[-1] * stride)
        self.strides = tuple(shrunk[i + 1] for i in self.out_indices)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for before, width, stride in zip((in_channels, *self.widths), self.widths, strides, strict=False)
        )

    def maps(self, x: Tensor, count: int | None = None) -> list[Tensor]:
        """Maps of the first ``count`` stages, all by default: (B, C, H, W) -> (B, D_k, H / s_k, W / s_k) each."""
        # Convolutions of a CPU are faster on pixels whose channels lie together.
        x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for stage in self.stages[:count]:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps at ``out_indices``."""
        found = self.maps(x, self.out_indices[-1] + 1)
        return tuple(found[i] for i in self.out_indices)

    @property
    def token_dims(self) -> int:
        """Width of the deepest map of ``forward``."""
        return self.widths[self.out_indices[-1]]

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features; ``stage-k`` stands for any stage k from 0."""
        return ("gap", "stages", "stage-k")

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of a feature."""
        feature = feature or "gap"
        return sum(self.widths) if feature == "stages" else self.widths[self._last(feature)]

    def _last(self, feature: str) -> int:
        """Last stage that ``feature`` needs."""
        match = re.fullmatch(r"stage-(\d+)", feature)
        if match and int(match[1]) < len(self.widths):
            return int(match[1])
        known = ["gap", "stages", *(f"stage-{i}" for i in range(len(self.widths)))]
        if feature not in known:
            text = f"not a feature of this network of {len(self.widths)} stages; it has {', '.join(known)}"
            raise ConfigError([Fault("feature", feature, text, nearest(feature, known))])
        return len(self.widths) - 1

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled embedding (B, D) of ``batch['image']`` (B, C, H, W); see the class for the features."""
        feature = feature or "gap"
        found = self.maps(batch[self.modality], self._last(feature) + 1)
        pooled = [map_.mean((2, 3)) for map_ in (found if feature == "stages" else found[-1:])]
        return torch.cat(pooled, dim=1)

    def layer_count(self) -> int:
        """Stage k is k + 1; 0 and the last are empty: there is no embedding and no head."""
        return len(self.widths) + 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter."""
        match = re.match(r"stages\.(\d+)\.", name)
        return int(match[1]) + 1 if match else len(self.widths) + 1

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        for key in ("widths", "strides"):
            if not cfg[key] or any(not isinstance(v, int) or v < 1 for v in cfg[key]):
                yield key, "needs whole numbers of at least 1"
                return
        if len(cfg["strides"]) != len(cfg["widths"]):
            yield "strides", f"must be as many as widths, {len(cfg['widths'])}"
        if not isinstance(cfg["in_channels"], int) or cfg["in_channels"] < 1:
            yield "in_channels", "must be a whole number of at least 1"
        stages = len(cfg["widths"])
        if not cfg["out_indices"] or any(not -stages <= i < stages for i in cfg["out_indices"]):
            yield "out_indices", f"must name stages between {-stages} and {stages - 1}"
        record = cfg["preprocess"]
        values = record.record() if isinstance(record, Preprocess) else record
        if values is None and cfg["in_channels"] != 3:
            yield "preprocess", f"must be given for in_channels = {cfg['in_channels']}: the default record is for RGB"
        elif values and isinstance(values.get("mean"), (list, tuple)) and len(values["mean"]) != cfg["in_channels"]:
            yield "preprocess", f"has {len(values['mean'])} band means, but in_channels = {cfg['in_channels']}"
