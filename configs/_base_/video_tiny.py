"""A small ViT for clips of 8 frames of 32 x 32 pixels, a small decoder for its masks, and how both are pre-trained."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_record = dict(
    type="VideoPreprocess",
    size=(32, 32),
    frames=8,
    stride=1,
    mean=(0.521, 0.521, 0.521),  # of the training clips of MovingDigits with its default texture
    std=(0.238, 0.238, 0.238),
)
_encoder = dict(
    type="VideoViT",
    image_size=32,
    frames=8,
    patch_size=8,
    tubelet=2,  # 64 cubes
    embed_dim=128,
    depth=4,
    num_heads=4,
    mlp_ratio=2.0,
    preprocess=_record,
)
_masks = dict(
    type="VideoMAE",
    target="raw",
    decoder_dim=64,
    decoder_depth=1,
    decoder_num_heads=2,
    decoder_mlp_ratio=2.0,
)
_optimiser = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
)
