"""Encoders of a few thousand weights that the tests of views and texts share."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from perception.backbones.base import Backbone
from perception.backbones.clip import CLIP
from perception.backbones.vit import ViT

SIZE, LOCAL, PATCH = 16, 8, 4
RECORD = dict(size=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
TEXTS = ["a river", "two planes on a runway", "a river", "green trees", "bare land"]


class TwoTowers(Backbone):
    """The least that a dual encoder must have: linear towers, a scale, and dropout that a teacher must not draw."""

    modality = "image"
    derived_features: ClassVar = {"projected": "pooled"}
    unused_by_encode = ("words", "logit_scale")

    def __init__(self, dropout: float = 0.0):
        super().__init__(dict(type="ImageTextPreprocess", tokenizer=dict(type="ByteTokenizer"), **RECORD))
        self.embed_dims = 6
        self.trunk = nn.Sequential(nn.Conv2d(3, 10, 3, stride=2), nn.BatchNorm2d(10), nn.GELU(), nn.Dropout(dropout))
        self.proj = nn.Linear(10, 6, bias=False)
        self.words = nn.EmbeddingBag(258, 6, mode="sum")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x):
        return (self.trunk(x),)

    @classmethod
    def feature_choices(cls):
        return ("projected", "pooled")

    def feature_dims(self, feature=None):
        return 10 if feature == "pooled" else 6

    def encode(self, batch, feature=None):
        self.calls.append(tuple(batch["image"].shape))
        pooled = self.trunk(batch["image"]).mean(dim=(2, 3))
        return pooled if feature == "pooled" else self.proj(pooled)

    def derive(self, feature, source):
        return self.proj(source)

    def encode_text(self, batch):
        return self.words(batch["text"], per_sample_weights=batch["text_mask"].float())

    def clamp_logit_scale(self):
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(100))


def tiny_clip(seed: int = 0, **changes) -> CLIP:
    """``changes`` are open_clip's keys of the model."""
    torch.manual_seed(seed)
    model = dict(
        embed_dim=12,
        vision_cfg=dict(image_size=SIZE, patch_size=PATCH, layers=2, width=16, head_width=8),
        text_cfg=dict(layers=1, width=16, heads=2),
    )
    record = dict(type="ImageTextPreprocess", tokenizer=dict(type="ByteTokenizer", context_length=32), **RECORD)
    return CLIP(model={**model, **changes}, preprocess=record)


def tiny_vit(seed: int = 0, **changes) -> ViT:
    torch.manual_seed(seed)
    sizes = dict(image_size=SIZE, patch_size=PATCH, embed_dim=16, depth=2, num_heads=2)
    return ViT(**{**sizes, "preprocess": dict(type="ImagePreprocess", **RECORD), **changes})


def raw_batch(count: int = 5, global_views: int = 2, local_views: int = 3, texts: bool = True, seed: int = 0):
    """A batch as MultiCrop and PickCaption leave it."""
    generator = torch.Generator().manual_seed(seed)

    def images(size):
        return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)

    views = [images(SIZE) for _ in range(global_views)] + [images(LOCAL) for _ in range(local_views)]
    batch = {"image": views[0], "views": views, "index": torch.arange(count)}
    return {**batch, "text": TEXTS[:count], "language": ["en"] * count} if texts else batch
